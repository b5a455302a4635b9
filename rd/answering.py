"""Answering and scoring a split: what a run says to each context, and how likely it finds the gold reply."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rd.checkpoint import WEIGHTS
from rd.data.batch import Batch, in_order
from rd.data.corpus import Corpus, samples
from rd.data.text import tokenize
from rd.errors import UserError
from rd.files import crc32
from rd.generate import Decode, columns, generate, in_words
from rd.inputs import Inputs, prepare
from rd.kept import Kept, spreader
from rd.labels import EMOTIONS, INTENTS
from rd.run import Run, device

GREEDY = Decode()
PROTOCOL = 5255  # test samples of EMPATHETICDIALOGUES that the peers score


def split_inputs(run: Run, corpus: Corpus, split: str, annotations: Any = None) -> Inputs:
    """The examples of one split for a run. Raises UserError where the split is missing or the annotators are."""
    if split not in corpus.splits:
        raise UserError(f"--split {split}: the corpus has no such split; it has {', '.join(corpus.splits)}")
    if not samples(corpus.splits[split]):
        raise UserError(f"{corpus.name}: no listener turn to answer in its {split} split")
    if type(run.model).reads_annotations and annotations is None:
        raise UserError(f"{run.folder}: {run.name} reads ERA's tags and p_intent; the annotators are missing")
    if type(run.model).reads_knowledge and run.knowledge is None:
        raise UserError(f"{run.folder}: {run.name} reads knowledge, and none is given")
    return prepare(corpus, run.config, run.vocab, annotations, (split,), run.model.pieces, run.knowledge)


def check_protocol(corpus: Corpus, split: str) -> None:
    """Raises UserError where EMPATHETICDIALOGUES' test split has not as many samples as the protocol's."""
    count = len(samples(corpus.splits[split]))
    if corpus.name == "empathetic_dialogues" and split == "test" and count != PROTOCOL:
        raise UserError(f"{count} test samples, and the protocol's are {PROTOCOL}: check the files (rd data check)")


def begun(target: Path, run: Run, inputs: Inputs, *more: Any) -> Kept:
    """What of `target` has been computed already, by these weights of this data here. more: what else decides it."""
    weights = [run.folder / WEIGHTS]
    if where := run.described.get("annotators"):
        weights += sorted((run.folder / where).rglob(WEIGHTS))
    here = [torch.__version__, str(device()), torch.get_num_threads()]  # another may round otherwise
    return Kept(target, [run.described, inputs.corpus.sha256, [crc32(file) for file in weights], here, *more])


def answer(
    run: Run,
    inputs: Inputs,
    split: str,
    decode: Decode = GREEDY,
    size: int = 64,
    seed: int = 0,
    quiet: bool = False,
    kept: Kept | None = None,
) -> Iterator[dict[str, Any]]:
    """One record a sample, in order: id, reply, and where the model names them emotion, first and final intent.

    Of several processes each answers its share of the batches, and each has all records; each batch has chance of its
    own. kept: keeps the replies of finished batches, and knows those that were kept before (`begun`).
    """
    model = run.model.to(device())
    batches = in_order(inputs.examples[split], inputs.collate, size)
    shared = columns(model, decode)

    def records(number: int) -> list[dict[str, Any]]:
        generator = torch.Generator(device=device()).manual_seed(seed * 1_000_003 + number)
        ((batch, context, replies),) = generate(model, [batches[number].to(device())], decode, generator, shared)
        named, found = _named(context.notes), []
        for i, (key, ids) in enumerate(zip(batch.ids, replies, strict=True)):
            reply = " ".join(in_words(ids, run.vocab, batch.oov[i]))
            found.append({"id": key, "reply": reply, **{name: values[i] for name, values in named.items()}})
        return found

    made = spreader(kept, f"answers-{size}")(records, range(len(batches)), desc=f"answer {split}", disable=quiet)
    found = {row["id"]: row for rows in made for row in rows}
    return (found[example.id] for example in inputs.examples[split])


def _named(notes: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    found = {}
    for name, labels in (("emotion", EMOTIONS), ("first", INTENTS), ("action", INTENTS), ("final", INTENTS)):
        if name in notes:
            index = notes[name] if notes[name].dim() == 1 else notes[name].argmax(-1)
            found[name] = [labels[i] for i in index.tolist()]
    return found


def shareable(records: Iterable[dict[str, Any]], corpus: Corpus, run: int = 10) -> Iterator[dict[str, Any]]:
    """The records for samples.jsonl: a reply that repeats `run` words in a row of the corpus is null, and says so.

    EMPATHETICDIALOGUES may not be passed on, and a model can know a sentence by heart. The mini corpus is free.
    """
    known = set()
    if corpus.name != "mini":
        turns = {turn.text for split in corpus.splits.values() for dialogue in split for turn in dialogue.turns}
        known = {gram for text in turns for gram in _grams(" ".join(tokenize(text)), run)}
    for record in records:
        if known.isdisjoint(_grams(record["reply"], run)):
            yield record
        else:
            yield record | {"reply": None, "withheld": f"repeats {run} words in a row of the corpus"}


def _grams(text: str, run: int) -> Iterator[int]:
    words = re.findall(r"[a-z0-9']+", text)
    return (hash(tuple(words[i : i + run])) for i in range(len(words) - run + 1))


@torch.inference_mode()
def likelihoods(
    run: Run, inputs: Inputs, split: str, size: int = 64, kept: Kept | None = None
) -> dict[str, np.ndarray]:
    """Per sample, in order: nll (n,), words (n,) with EOS, and where named emotion (n, E), final and first (n, I).

    Of several processes each scores its share of the batches, and each has all rows. kept: as in `answer`.
    """
    model = run.model.to(device()).eval()

    def scores(batch: Batch) -> list[tuple[str, dict[str, Any]]]:
        nll, words, context = model.nll(batch.to(device()))
        named = {k: context.notes[k].float().tolist() for k in ("emotion", "first", "final") if k in context.notes}
        scored = {"nll": nll.tolist(), "words": words.tolist(), **named}
        return [(key, {k: v[i] for k, v in scored.items()}) for i, key in enumerate(batch.ids)]

    batches = in_order(inputs.examples[split], inputs.collate, size)
    done = spreader(kept, f"scores-{size}")(scores, batches, desc=f"score {split}")
    found = dict(pair for pairs in done for pair in pairs)
    rows = [found[example.id] for example in inputs.examples[split]]
    exact = {"nll": np.float64, "words": np.int64}
    return {name: np.array([row[name] for row in rows], exact.get(name, np.float32)) for name in rows[0]}
