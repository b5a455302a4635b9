"""Two labellings of the same turns compared: an annotator with gold, or two annotators with each other.

Agreement and kappa are what the label files state for two annotators; precision, recall and F1 take the second
labelling as the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix

from rd.annotation.quality import tag_scores
from rd.labels import INTENTS


def reason_agreement(found: Sequence[Sequence[int]], gold: Sequence[Sequence[int]]) -> dict[str, float]:
    """n (words), agreement, kappa (Cohen 1960), and `tag_scores`: tags 0/1 of each turn's words, turns in one order.

    Raises ValueError where a turn has another number of tags in each, or there is no word at all.
    """
    pairs = [pair for turn in zip(found, gold, strict=True) for pair in zip(*turn, strict=True)]
    if not pairs:
        raise ValueError("no words to compare")
    ours, theirs = np.array(pairs, dtype=int).T  # (words,) each
    return {"n": len(pairs), **agreement(ours, theirs, [0, 1]), **tag_scores(found, gold)}


def intent_agreement(found: Sequence[str], gold: Sequence[str]) -> tuple[dict[str, float], pd.DataFrame]:
    """({n, agreement, kappa}, confusion (I, I): gold in rows, found in columns), in the order of rd.labels.

    Raises ValueError on unequal numbers, none at all, or a label that is none of the nine.
    """
    strange = sorted({*found, *gold} - set(INTENTS))
    if len(found) != len(gold) or not gold or strange:
        raise ValueError(f"{len(found)} and {len(gold)} intents, unknown {strange}: give equal numbers of the nine")
    table = confusion_matrix(gold, found, labels=INTENTS)
    return {"n": len(gold), **agreement(found, gold, INTENTS)}, pd.DataFrame(table, list(INTENTS), list(INTENTS))


def agreement(found: Sequence, gold: Sequence, labels: Sequence) -> dict[str, float]:
    """agreement and kappa of two labellings of the same things."""
    same = float(accuracy_score(gold, found))
    # One label throughout leaves nothing to chance: kappa is 0/0 there, and 1 is what equal labellings deserve.
    if len({*found, *gold}) == 1:
        return {"agreement": same, "kappa": 1.0}
    return {"agreement": same, "kappa": float(cohen_kappa_score(gold, found, labels=list(labels)))}
