"""`rd annotate`: dialogues in, the same lines with reasons or intents out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rd.annotation.annotations import load_annotators
from rd.annotation.llm import annotate_intents, annotate_reasons, client_from_environment
from rd.annotation.weak import PMILexicon, vader_votes, weak_tags
from rd.config import Config
from rd.data.corpus import Corpus, Dialogue, Turn, samples
from rd.data.jsonl import read_dialogue_lines, write_lines
from rd.data.text import spans_from_tags, tokenize, words
from rd.errors import UserError

WAYS = {"reasons": ("era", "gold", "weak", "llm"), "intents": ("tagger", "gold", "llm")}
Label = Callable[[list[str]], list[Any]]


def annotate_file(
    what: str, source: Path, out: Path, by: str | None, corpus: Corpus, config: Config, where: Path
) -> dict[str, Any]:
    """Add "reasons" ([start, end) offsets per speaker turn) or "intents" (per listener turn) to every line, and "by".

    by: "era" and "tagger" are the annotators in the folder `where`; "gold" looks the dialogue up in `corpus`; "weak"
    needs no labels; "llm" reads its server or model from the environment and is written as "llm:<model>". A label
    nobody could give is null.
    Returns what was done: dialogues, by, and an LLM's counts (asked, cached, retried, refused, gave up, not found).
    Raises UserError for bad input, for a way that does not fit, and where gold labels are missing.
    """
    by = by or WAYS[what][0]
    if by not in WAYS[what]:
        raise UserError(f"--by {by}: cannot name {what}; choose one of {', '.join(WAYS[what])}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: its folder is not there")
    rows = read_dialogue_lines(source)
    label, report = _labeller(what, by, corpus, config, where, out)
    by += f":{os.environ['RD_LLM_MODEL']}" if by == "llm" else ""
    labelled = [row | {what: label(row["dialogue"]), "by": by} for row in rows]
    write_lines(out, labelled)
    return {"dialogues": len(rows), "by": by, **report}


def _labeller(what: str, by: str, corpus: Corpus, config: Config, where: Path, out: Path) -> tuple[Label, dict]:
    if by == "gold":
        return _gold(what, corpus), {}
    if by == "weak":
        return _weak(corpus), {}
    if by == "llm":
        client = client_from_environment(out.with_suffix(".cache.jsonl"))
        ask = annotate_reasons if what == "reasons" else annotate_intents
        return lambda turns: ask(turns, client), client.report
    annotators = load_annotators(config.annotators, where)
    if what == "intents":
        return lambda turns: _tagged(turns, annotators, config), {}

    def reasons(turns: list[str]) -> list[Any]:
        found = [words(turn) for turn in turns[::2]]
        marked = annotators.era.annotate([[word.text for word in turn] for turn in found])
        return [spans_from_tags(turn, tags.tolist()) for turn, (tags, _) in zip(found, marked, strict=True)]

    return reasons, {}


def _tagged(turns: list[str], annotators: Any, config: Config) -> list[str]:
    every = samples([Dialogue("own", None, "", tuple(Turn(text) for text in turns))])
    named = annotators.tagger.intents(every) if every else {}
    return [named[sample.id] for sample in every]


def _gold(what: str, corpus: Corpus) -> Label:
    """Labels of the corpus' dialogues, found by their exact turns."""
    known = {tuple(t.text for t in d.turns): d for split in corpus.splits.values() for d in split}

    def label(turns: list[str]) -> list[Any]:
        dialogue = known.get(tuple(turns))
        if dialogue is None:
            raise UserError(
                f"--by gold: a dialogue is not in the corpus {corpus.name}: {turns[0][:40]!r}; use another way"
            )
        if what == "reasons":
            return [None if t.reasons is None else [list(span) for span in t.reasons] for t in dialogue.turns[::2]]
        return [turn.intent for turn in dialogue.turns[1::2]]

    return label


def weak_voters(corpus: Corpus) -> list:
    """VADER and the PMI lexicon of the train split's speaker turns. Raises UserError where there are none to count."""
    told = [(turn.text, d.emotion) for d in corpus.splits.get("train", ()) if d.emotion for turn in d.turns[::2]]
    if not told:
        raise UserError("--by weak: the corpus has no train split with emotions to count words on; give another --data")
    texts, emotions = zip(*told, strict=True)
    return [vader_votes(), PMILexicon().fit([tokenize(text) for text in texts], emotions).votes()]


def _weak(corpus: Corpus) -> Label:
    voters = weak_voters(corpus)

    def label(turns: list[str]) -> list[Any]:
        found = [words(turn) for turn in turns[::2]]
        return [spans_from_tags(turn, weak_tags([word.text for word in turn], voters)) for turn in found]

    return label
