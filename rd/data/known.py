"""What is known about the words of a context beside the dialogue: arrays of a sample, tensors of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from rd.data.corpus import Sample
from rd.data.text import Vocabulary


class Known(NamedTuple):
    """Of one sample as arrays, without B; of a batch as tensors. R: the relations of `rd.knowledge.knowledge`."""

    intensity: Any  # (B, L) emotional intensity of each context word, 0 to 1
    concepts: Any  # (B, C) word ids of concepts that the context calls up, 0 = none
    heads: Any  # (B, C) the place in the context, 0..L-1, of the word that called it up
    weights: Any  # (B, C) how strongly, 0 to 1
    commonsense: Any  # (B, R, P) word ids of what commonsense says of the speaker's last turn, 0 = none


class Knows(Protocol):
    """`rd.knowledge.knowledge.Knowledge`, as far as it is read here."""

    concepts: Mapping[str, Sequence[tuple[str, float]]]
    intensity: Mapping[str, float]
    commonsense: Any


def look_up(
    samples: Sequence[Sample], words: Sequence[Sequence[str]], vocab: Vocabulary, knowledge: Knows, most: int
) -> list[Known]:
    """For each sample, whose context words (cut to L) are given. most: concepts of a context, the strongest first.

    Nothing after the context is read. Words that the vocabulary lacks say nothing and are left out.
    """
    # the last even turn of a context is the speaker's
    queries = [(s.dialogue.id, s.context[(len(s.context) - 1) // 2 * 2].text) for s in samples]
    unique = list(dict.fromkeys(queries))
    said = dict(zip(unique, knowledge.commonsense(unique), strict=True))
    found = []
    for query, context in zip(queries, words, strict=True):
        called = _concepts(context, vocab, knowledge, most)
        relations = [[i for i in vocab.encode(relation) if i != Vocabulary.UNK] for relation in said[query]]
        phrases = np.zeros((len(relations), max(1, *map(len, relations))), dtype=np.int64)
        for row, ids in zip(phrases, relations, strict=True):
            row[: len(ids)] = ids
        intensity = np.array([knowledge.intensity.get(word, 0.0) for word in context], dtype=np.float32)
        found.append(Known(intensity, *called, phrases))
    return found


def _concepts(context: Sequence[str], vocab: Vocabulary, knowledge: Knows, most: int) -> tuple[np.ndarray, ...]:
    """Ids, places of their words and weights of the strongest concepts, each once; none that the context says."""
    best: dict[str, tuple[float, int]] = {}
    for place, word in enumerate(context):
        for concept, weight in knowledge.concepts.get(word, ()):
            if concept not in best or (weight, place) > best[concept]:
                best[concept] = (weight, place)
    said = set(context)
    kept = [(w, place, c) for c, (w, place) in best.items() if c not in said and c in vocab]
    kept = sorted(kept, key=lambda row: (-row[0], -row[1], row[2]))[:most]
    ids = vocab.encode([concept for _, _, concept in kept])
    columns = (ids, [place for _, place, _ in kept], [weight for weight, _, _ in kept])
    return tuple(np.array(column, dtype) for column, dtype in zip(columns, (np.int64, np.int64, np.float32)))


def together(rows: Sequence[Known], length: int) -> Known:
    """Samples to a batch whose contexts are padded to `length` words: tensors padded with 0."""

    def padded(arrays: Sequence[np.ndarray], *size: int) -> torch.Tensor:
        out = np.zeros((len(arrays), *size), dtype=arrays[0].dtype)
        for row, array in zip(out, arrays):
            row[tuple(slice(n) for n in array.shape)] = array
        return torch.from_numpy(out)

    concepts = max(1, *(len(row.concepts) for row in rows))
    phrase = max(row.commonsense.shape[1] for row in rows)
    relations = rows[0].commonsense.shape[0]
    return Known(
        padded([row.intensity for row in rows], length),
        padded([row.concepts for row in rows], concepts),
        padded([row.heads for row in rows], concepts),
        padded([row.weights for row in rows], concepts),
        padded([row.commonsense for row in rows], relations, phrase),
    )
