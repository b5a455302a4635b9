"""One conversation with a run: what the listener marks, names, plans and says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rd.annotation.annotations import Annotators
from rd.annotation.view import view
from rd.data.corpus import Corpus, Dialogue, Turn, read_corpus, samples
from rd.data.text import spans_from_tags, words
from rd.evaluation import answer, split_inputs
from rd.generate import Decode
from rd.pipeline import open_annotators, own_knowledge
from rd.run import Run, load_run


@dataclass(frozen=True)
class Turned:
    """One exchange. Names are None where the model does not name them."""

    reasons: list[str] | None
    emotion: str | None
    first: str | None
    final: str | None
    reply: str


@dataclass
class Chat:
    """`say` answers with the whole conversation so far as the context. Raises UserError for a folder that is no run.

    data: the corpus that the run was trained on; read only where its model looks things up there.
    """

    folder: str | Path
    turns: list[str] = field(default_factory=list)
    decode: Decode = Decode()
    data: str = ""
    run: Run = field(init=False)
    annotators: Annotators | None = field(init=False)

    def __post_init__(self) -> None:
        self.run = load_run(self.folder)
        self.annotators = open_annotators(self.run)
        if type(self.run.model).reads_knowledge:
            self.run = replace(self.run, knowledge=own_knowledge(self.run, read_corpus(self.data or None)))

    def say(self, text: str) -> Turned:
        """The speaker's next turn -> the listener's."""
        self.turns.append(text)
        asked = Dialogue(
            "chat", None, "", (*(Turn(t) for t in self.turns), Turn("..."))
        )  # the last turn is to be found
        corpus = Corpus("chat", {"test": (asked,)}, {}, {})
        # earlier listener turns are samples too: only the last is answered
        last = samples(corpus.splits["test"])[-1:]
        annotations = view(self.annotators, samples(corpus.splits["test"])) if self.annotators else None
        inputs = split_inputs(self.run, corpus, "test", annotations)
        inputs.examples["test"] = inputs.examples["test"][-1:]
        record = next(answer(self.run, inputs, "test", self.decode, quiet=True))
        self.turns.append(record["reply"] or "...")
        named = {name: record.get(name) for name in ("emotion", "first", "final")}
        return Turned(self._reasons(text, last[0].id, annotations), reply=record["reply"], **named)

    def _reasons(self, text: str, sample: str, annotations) -> list[str] | None:
        if annotations is None:
            return None
        found = spans_from_tags(words(text), annotations.lookup(sample, text)[0].tolist())
        return [text[start:end] for start, end in found]


def show(turned: Turned) -> str:
    """Five lines for the terminal."""
    rows = {
        "reasons": "not marked" if turned.reasons is None else " | ".join(turned.reasons) or "none",
        "emotion": turned.emotion or "not named",
        "first intent": turned.first or "not named",
        "final intent": turned.final or "not named",
        "reply": turned.reply,
    }
    return "\n".join(f"{name:13}{value}" for name, value in rows.items())
