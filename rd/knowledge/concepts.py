"""Emotional concepts from the train split: the substitute for ConceptNet, by normalised PMI (Bouma, GSCL 2009)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from rd.data.records import Dialogue
from rd.data.text import tokenize
from rd.knowledge.words import content
from rd.labels import EMOTIONS

LEAST = 5  # dialogues that hold a word, at least; ours: NPMI is large by chance where counts are small
TOGETHER = 5  # dialogues that hold both words, at least; ours: at 3 chance meetings come first


def pmi_concepts(
    train: Sequence[Dialogue],
    intensity: Mapping[str, float],
    per_word: int,
    least: int = LEAST,
    together: int = TOGETHER,
) -> dict[str, tuple[tuple[str, float], ...]]:
    r"""word a -> its `per_word` best concepts (b, weight), best first, ties by the alphabet; only weights above 0.

    $$ npmi(a, b) = \log \frac{p(a, b)}{p(a) p(b)} / -\log p(a, b) \qquad
       weight = \max(npmi(a, b), 0) \cdot \max(\eta(b), \max_e npmi(b, e), 0) $$

    p: shares of the dialogues that hold a content word (or both, or the word under emotion label e); eta: `intensity`,
    0 for words it lacks. So a concept is both near the word and emotional, the two terms by which KEMP (Li et al.,
    AAAI 2022, Sec. 3.1) ranks ConceptNet's neighbours; the labels find what the lexicon lacks ("funeral").
    Words of fewer than `least` dialogues are left out, and pairs of fewer than `together`.
    """
    held = [set(content(token for turn in dialogue.turns for token in tokenize(turn.text))) for dialogue in train]
    counts = Counter(word for words in held for word in words)
    names = sorted(word for word, count in counts.items() if count >= least)
    ids = {word: i for i, word in enumerate(names)}
    there = _table([sorted(ids[word] for word in words if word in ids) for words in held], len(names))
    label = _table([[EMOTIONS.index(d.emotion)] if d.emotion in EMOTIONS else [] for d in train], len(EMOTIONS))
    felt = np.array([intensity.get(word, 0.0) for word in names])
    words, _, told = _npmi(there, label, 1)
    np.maximum.at(felt, words, told)
    rows, columns, weights = _npmi(there, there, together)
    weights = np.round(weights * felt[columns], 9)  # equal in theory: equal here, whatever the machine
    kept = np.flatnonzero((rows != columns) & (weights > 0))
    kept = kept[np.lexsort((columns[kept], -weights[kept], rows[kept]))]
    graph: dict[str, list[tuple[str, float]]] = {}
    for row, column, weight in zip(rows[kept].tolist(), columns[kept].tolist(), weights[kept].tolist()):
        concepts = graph.setdefault(names[row], [])
        if len(concepts) < per_word:
            concepts.append((names[column], weight))
    return {word: tuple(concepts) for word, concepts in graph.items()}


def _table(rows: Sequence[Sequence[int]], width: int) -> sparse.csr_array:
    """Rows of column numbers -> 0/1 (rows, width)."""
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.fromiter((i for row in rows for i in row), np.int64, ends[-1])
    return sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(len(rows), width))


def _npmi(first: sparse.csr_array, second: sparse.csr_array, together: int) -> tuple[np.ndarray, ...]:
    """0/1 (N, V) and (N, U) -> (column of first, column of second, npmi) of the pairs seen together often enough."""
    total = first.shape[0]
    pairs = (first.T @ second).tocoo()
    often = (pairs.data >= together) & (pairs.data < total)  # seen together everywhere: tells nothing
    rows, columns, both = pairs.row[often], pairs.col[often], pairs.data[often]
    one, other = first.sum(0)[rows], second.sum(0)[columns]
    return rows, columns, np.log(both * total / (one * other)) / np.log(total / both)
