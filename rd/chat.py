"""One conversation with a run: what the listener marks, names, plans and says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rd.annotation.annotations import Annotators
from rd.annotation.view import view
from rd.answering import answer, split_inputs
from rd.data.corpus import Corpus, Dialogue, Turn, read_corpus, samples
from rd.data.records import MOST_TURNS, cut_text
from rd.data.text import spans_from_tags, words
from rd.errors import visible
from rd.generate import Decode
from rd.inputs import Inputs
from rd.labels import EMOTIONS, INTENTS
from rd.pipeline import open_annotators, own_knowledge
from rd.run import Run, device, load_run

NAMED = {"emotion": EMOTIONS, "first": INTENTS, "final": INTENTS}  # what a model may name, and out of what


@dataclass(frozen=True)
class Turned:
    """One exchange: the speaker's text, what the model made of it, its reply. None where it marks or names nothing."""

    text: str
    spans: list[tuple[int, int]] | None  # of the reasons, [start, end) in the text
    shares: dict[str, dict[str, float]]  # "emotion", "first", "final", where named: label -> probability, largest first
    reply: str

    @property
    def reasons(self) -> list[str] | None:
        """The marked phrases."""
        return None if self.spans is None else [self.text[start:end] for start, end in self.spans]

    @property
    def emotion(self) -> str | None:
        """The likeliest emotion."""
        return self._best("emotion")

    @property
    def first(self) -> str | None:
        """The first guess of the intent."""
        return self._best("first")

    @property
    def final(self) -> str | None:
        """The intent after the second look."""
        return self._best("final")

    def _best(self, name: str) -> str | None:
        return next(iter(self.shares.get(name, ())), None)


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
        """The speaker's next turn -> the listener's; both are kept."""
        turned = self.look(text)
        self.turns += [turned.text, turned.reply or "..."]
        del self.turns[: max(0, len(self.turns) - MOST_TURNS)]
        return turned

    def look(self, text: str) -> Turned:
        """What `say` would answer; nothing is kept. A text longer than any model reads is cut, with a warning."""
        text = cut_text("your turn", text.encode(errors="replace").decode())  # half a character becomes "?"
        turns = (*(Turn(t) for t in self.turns), Turn(text), Turn("..."))  # the last turn is to be found
        corpus = Corpus("chat", {"test": (Dialogue("chat", None, "", turns),)}, {}, {})
        # earlier listener turns are samples too: only the last is answered
        last = samples(corpus.splits["test"])[-1:]
        annotations = view(self.annotators, samples(corpus.splits["test"])) if self.annotators else None
        inputs = split_inputs(self.run, corpus, "test", annotations)
        inputs.examples["test"] = inputs.examples["test"][-1:]
        record = next(answer(self.run, inputs, "test", self.decode, quiet=True))
        return Turned(text, self._spans(text, last[0].id, annotations), shares(self.run, inputs), record["reply"])

    def _spans(self, text: str, sample: str, annotations: Any) -> list[tuple[int, int]] | None:
        if annotations is None:
            return None
        return spans_from_tags(words(text), annotations.lookup(sample, text)[0].tolist())


@torch.inference_mode()
def shares(run: Run, inputs: Inputs) -> dict[str, dict[str, float]]:
    """What the run names of the one test example: {"emotion": {label: probability, largest first}, ...}."""
    model = run.model.to(device()).eval()
    notes = model.encode(inputs.collate(inputs.examples["test"]).unlabelled().to(device())).notes
    found = {}
    for name, labels in NAMED.items():
        if name in notes:
            row = notes[name][0].float()
            row = row.exp() if name != "first" else row  # the first guess comes as probabilities
            found[name] = dict(sorted(zip(labels, row.tolist(), strict=True), key=lambda pair: -pair[1]))
    return found


def show(turned: Turned, emotions: int = 3) -> str:
    """Lines for the terminal: reasons, the likeliest emotions as bars, both intents, the reply."""
    marks = "not marked" if turned.spans is None else " | ".join(turned.reasons) or "none"
    lines = [("reasons", marks)]
    named = list(turned.shares.get("emotion", {}).items())[:emotions]
    bars = [f"{label:13}{'█' * round(20 * share):20} {share:4.0%}" for label, share in named] or ["not named"]
    lines += zip(["emotion", *[""] * (len(bars) - 1)], bars)
    for title, name in (("first intent", "first"), ("final intent", "final")):
        best = next(iter(turned.shares.get(name, {}).items()), None)
        lines.append((title, "not named" if best is None else f"{best[0]} ({best[1]:.0%})"))
    return "\n".join(f"{name:13}{visible(value)}" for name, value in [*lines, ("reply", turned.reply)])
