"""How good annotators are against gold labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rd.labels import INTENTS


def runs(tags: Sequence[int]) -> list[tuple[int, int]]:
    """[start, end) of each run of 1s."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], np.asarray(tags, dtype=int), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def tag_scores(found: Sequence[Sequence[int]], gold: Sequence[Sequence[int]]) -> dict[str, float]:
    """Word precision, recall, F1 for <em>, and phrase F1: a phrase is right if it shares a word with one opposite."""
    flat, true = (np.concatenate([np.asarray(t, dtype=int) for t in (*side, ())]) for side in (found, gold))
    hits = int((flat & true).sum())
    precision, recall = hits / max(int(flat.sum()), 1), hits / max(int(true.sum()), 1)
    touched, phrases = [0, 0], [0, 0]
    for pair in zip(found, gold, strict=True):
        for side in (0, 1):
            spans = runs(pair[side])
            phrases[side] += len(spans)
            touched[side] += sum(any(pair[1 - side][a:b]) for a, b in spans)
    share = [t / max(n, 1) for t, n in zip(touched, phrases)]
    return {"precision": precision, "recall": recall, "f1": _f1(precision, recall), "phrase_f1": _f1(*share)}


def best_threshold(chances: Sequence[np.ndarray], gold: Sequence[Sequence[int]]) -> float:
    """The cut of P(em) with the best word F1, from .2, .225, ..., .6."""
    p, true = np.concatenate(chances), np.concatenate([np.asarray(tags, dtype=bool) for tags in gold])
    cuts = np.arange(0.2, 0.6125, 0.025)
    return float(max(cuts, key=lambda cut: 2 * ((p > cut) & true).sum() / max((p > cut).sum() + true.sum(), 1)))


def reason_quality(model: Any, items: Sequence[Any], choose: bool = False) -> dict[str, float]:
    """`tag_scores` of ERA on items with gold tags, and its emotion head's accuracy: by turn, and on first turns.

    choose: first set the model's threshold to the best one on these items (valid only).
    """
    if not items:
        return {"n": 0, "f1": 0.0, "emotion_accuracy": 0.0}
    chances, emotions = model.predict([item.words for item in items])
    if choose:
        model.threshold.fill_(best_threshold(chances, [item.tags for item in items]))
    tags = [p > float(model.threshold) for p in chances]
    right = emotions.argmax(-1) == np.array([item.emotion for item in items])
    first = np.array([item.turn == 0 for item in items])
    return {
        "n": len(items),
        "threshold": float(model.threshold),
        **tag_scores(tags, [item.tags for item in items]),
        "emotion_accuracy": float(right.mean()),
        "emotion_accuracy_first": float(right[first].mean()) if first.any() else 0.0,
    }


def intent_quality(model: Any, rows: Sequence[tuple[Any, int, int]]) -> dict[str, Any]:
    """Accuracy, Cohen's kappa and the confusion matrix [gold][found] of a classifier on (row, intent, emotion) rows."""
    if not rows:
        return {"n": 0, "accuracy": 0.0, "kappa": 0.0}
    found, gold = model.predict([row for row, _, _ in rows]).argmax(-1), np.array([label for _, label, _ in rows])
    table = np.zeros((len(INTENTS), len(INTENTS)), dtype=int)
    np.add.at(table, (gold, found), 1)
    right, chance = (found == gold).mean(), float(table.sum(0) @ table.sum(1)) / len(rows) ** 2
    return {
        "n": len(rows),
        "accuracy": float(right),
        "kappa": float((right - chance) / (1 - chance)) if chance < 1 else 1.0,
        "confusion": table.tolist(),
    }


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / max(precision + recall, 1e-12)
