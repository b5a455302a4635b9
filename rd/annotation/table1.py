"""Table 1 and Figure 3 derived: how often each intent answers each emotion in train (Sec. 3.3, B.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from rd.data.corpus import Dialogue, samples
from rd.labels import EMOTIONS, INTENTS, PRINTED_TABLE_1


def intent_counts(dialogues: Iterable[Dialogue], intents: Mapping[str, str] | None = None) -> np.ndarray:
    """Listener turns by emotion and intent, (E, I). `intents`: sample id -> label; gold labels without it."""
    counts = np.zeros((len(EMOTIONS), len(INTENTS)))
    for sample in samples(dialogues):
        label = sample.target.intent if intents is None else intents.get(sample.id)
        if sample.dialogue.emotion and label:
            counts[EMOTIONS.index(sample.dialogue.emotion), INTENTS.index(label)] += 1
    return counts


def intent_frequencies(dialogues: Iterable[Dialogue], intents: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Figure 3: relative frequency of the intents of each emotion; rows sum to 1; NaN for an emotion never seen."""
    return shares(intent_counts(dialogues, intents))


def shares(counts: np.ndarray) -> pd.DataFrame:
    """`intent_frequencies` of counts (E, I) that are there already."""
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(counts / counts.sum(1, keepdims=True), index=list(EMOTIONS), columns=list(INTENTS))


def reference_table(
    dialogues: Iterable[Dialogue], intents: Mapping[str, str] | None = None, top: int = 3
) -> np.ndarray:
    """The derived Table 1: each emotion's `top` commonest intents, (E, I) bool.

    Ties, and emotions never seen, go by the intents' overall frequency, then by their order in rd.labels.
    """
    counts = intent_counts(dialogues, intents)
    counts = counts + counts.sum(0) / (counts.sum() + 1)  # below 1: decides ties only
    best = np.argsort(-counts, axis=1, kind="stable")[:, :top]
    table = np.zeros(counts.shape, dtype=bool)
    np.put_along_axis(table, best, True, axis=1)
    return table


def top_intents(frequencies: pd.DataFrame, n: int = 3) -> dict[str, tuple[str, ...]]:
    """Emotion -> its n commonest intents, the commonest first; ties in the order of rd.labels."""
    order = np.argsort(-frequencies.fillna(0).to_numpy(), axis=1, kind="stable")[:, :n]
    return {emotion: tuple(INTENTS[i] for i in row) for emotion, row in zip(frequencies.index, order, strict=True)}


def compare_with_printed(frequencies: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """Derived beside printed, a row an emotion; `shared` counts intents in both. An emotion the paper omits says so."""
    printed: dict[str, list[str]] = {}
    for emotions, intents in PRINTED_TABLE_1:
        for emotion in emotions:
            printed.setdefault(emotion, []).extend(i for i in intents if i not in printed.get(emotion, []))
    rows = []
    for emotion, derived in top_intents(frequencies, n).items():
        shown = printed.get(emotion)
        rows.append(
            {
                "emotion": emotion,
                "derived": ", ".join(derived),
                "printed": ", ".join(shown) if shown else "not printed",
                "shared": len(set(derived) & set(shown)) if shown else None,
            }
        )
    return pd.DataFrame(rows).set_index("emotion")
