"""The ways to get labels: gold, ERA and the tagger, weak votes, a language model. Each labels block after block."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from rd.annotation.annotations import load_era, load_tagger, weights
from rd.annotation.blocks import Block
from rd.annotation.llm import annotate_intents, annotate_reasons, asked, client_from_environment
from rd.annotation.llm_backends import by_server
from rd.annotation.weak import PMILexicon, vader_votes, weak_tags
from rd.annotation.workers import in_order
from rd.config import Config
from rd.data.corpus import Corpus, Dialogue, Turn, samples
from rd.data.text import spans_from_tags, tokenize, words
from rd.errors import UserError
from rd.memory import few_kernels, return_freed_memory

WAYS = {"reasons": ("era", "gold", "weak", "llm"), "intents": ("tagger", "gold", "llm")}
PATIENCE = 20  # answers in a row that a server may owe before we stop: the rest would be nulls
Dialogues = list[list[str]]
Labelled = Iterator[tuple[Block, list[Any]]]


class Desk(Protocol):
    """What annotating needs of `rd.pipeline.Pipeline`; the corpus is read where a way asks for it."""

    corpus: Corpus
    config: Config
    annotators_folder: Path


@dataclass(frozen=True)
class Way:
    """How blocks get their labels."""

    by: str  # written into each line
    label: Callable[[Iterable[Block]], Labelled]
    made_of: dict[str, Any]  # digests of all that decides a label
    report: dict[str, Any]  # counts, once the work is done


def choose(by: str | None, what: str, desk: Desk, cache: Path, at_once: int) -> Way:
    """The way named `by`, ready to work; None: the first of WAYS[what].

    cache: the file of a language model's answers; at_once: requests to a server. Raises UserError for a way that does
    not fit, annotators that are not trained, a corpus or a language model that is not there.
    """
    way = by or WAYS[what][0]
    if way not in WAYS[what]:
        raise UserError(f"--by {way}: cannot name {what}; choose one of {', '.join(WAYS[what])}")
    if way == "llm":
        return _by_llm(what, cache, at_once)
    if way in ("gold", "weak"):
        label = _gold(what, desk.corpus) if way == "gold" else _weak(desk.corpus)
        made_of = {"corpus": _digest(desk.corpus.sha256)}
    else:
        label = _tidy((_by_era if way == "era" else _by_tagger)(desk))
        folder = desk.annotators_folder / way
        made_of = {"weights": weights(folder), "annotator": _digest((folder / "config.json").read_text())}

    def each(blocks: Iterable[Block]) -> Labelled:
        for block in blocks:
            yield block, label([row["dialogue"] for row in block.rows]) if block.rows else []

    return Way(way, each, made_of, {})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _tidy(label: Callable[[Dialogues], list[Any]]) -> Callable[[Dialogues], list[Any]]:
    """label, with memory kept flat: each batch of BERT has a shape of its own, and they would add up to gigabytes."""
    few_kernels()
    blocks = count(1)

    def tidied(dialogues: Dialogues) -> list[Any]:
        found = label(dialogues)
        if next(blocks) % 8 == 0:
            return_freed_memory()
        return found

    return tidied


def _by_llm(what: str, cache: Path, at_once: int) -> Way:
    """Dialogues are asked about several at a time; of a local model, which is one already, one at a time."""
    client, model = client_from_environment(cache), os.environ["RD_LLM_MODEL"]
    ask = annotate_reasons if what == "reasons" else annotate_intents
    if served := by_server(model):
        client.patience = PATIENCE

    def label(row: dict[str, Any]) -> Any:
        return ask(row["dialogue"], client)

    def each(blocks: Iterable[Block]) -> Labelled:
        return in_order(label, blocks, at_once if served else 1)

    return Way(f"llm:{model}", each, {"prompt": _digest(asked(what))}, client.report)


def _by_era(desk: Desk) -> Callable[[Dialogues], list[Any]]:
    era = load_era(desk.config.annotators, desk.annotators_folder)

    def label(dialogues: Dialogues) -> list[Any]:
        found = [[words(turn) for turn in turns[::2]] for turns in dialogues]
        # not `annotate`: its vectors of a block of long turns would fill the memory
        chances, _ = era.predict([[word.text for word in turn] for turns in found for turn in turns])
        marked = (chance > float(era.threshold) for chance in chances)
        return [[spans_from_tags(turn, next(marked).tolist()) for turn in turns] for turns in found]

    return label


def _by_tagger(desk: Desk) -> Callable[[Dialogues], list[Any]]:
    tagger = load_tagger(desk.config.annotators, desk.annotators_folder)

    def label(dialogues: Dialogues) -> list[Any]:
        own = [Dialogue(str(i), None, "", tuple(map(Turn, turns))) for i, turns in enumerate(dialogues)]
        every = samples(own, protocol=False)
        named = tagger.intents(every) if every else {}
        return [[named[f"{d.id}:{place + 1}"] for place in range(1, len(d.turns), 2)] for d in own]

    return label


def _gold(what: str, corpus: Corpus) -> Callable[[Dialogues], list[Any]]:
    """Labels of the corpus' dialogues, found by their exact turns."""
    known = {tuple(t.text for t in d.turns): d for split in corpus.splits.values() for d in split}

    def one(turns: list[str]) -> list[Any]:
        dialogue = known.get(tuple(turns))
        if dialogue is None:
            raise UserError(
                f"--by gold: a dialogue is not in the corpus {corpus.name}: {turns[0][:40]!r}; use another way"
            )
        if what == "reasons":
            return [None if t.reasons is None else [list(span) for span in t.reasons] for t in dialogue.turns[::2]]
        return [turn.intent for turn in dialogue.turns[1::2]]

    return lambda dialogues: list(map(one, dialogues))


def weak_voters(corpus: Corpus) -> list:
    """VADER and the PMI lexicon of the train split's speaker turns. Raises UserError where there are none to count."""
    told = [(turn.text, d.emotion) for d in corpus.splits.get("train", ()) if d.emotion for turn in d.turns[::2]]
    if not told:
        raise UserError("--by weak: the corpus has no train split with emotions to count words on; give another --data")
    texts, emotions = zip(*told, strict=True)
    return [vader_votes(), PMILexicon().fit([tokenize(text) for text in texts], emotions).votes()]


def _weak(corpus: Corpus) -> Callable[[Dialogues], list[Any]]:
    voters = weak_voters(corpus)

    def one(turns: list[str]) -> list[Any]:
        found = [words(turn) for turn in turns[::2]]
        return [spans_from_tags(turn, weak_tags([word.text for word in turn], voters)) for turn in found]

    return lambda dialogues: list(map(one, dialogues))
