"""Training rows of the annotators and their batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rd.data.corpus import Dialogue, Sample
from rd.data.text import tags_from_spans, words
from rd.labels import EMOTIONS, INTENTS
from rd.models.annotator import UNLABELLED, TurnBatch
from rd.models.bert import encode_words
from rd.models.classifier import Row

Labelled = tuple[Row, int, int]  # row, intent, emotion


@dataclass(frozen=True)
class Item:
    """One speaker turn for ERA; tags None: no reason labels."""

    id: str
    words: tuple[str, ...]
    tags: tuple[int, ...] | None
    emotion: int
    turn: int


def fold_of(dialogue: str, folds: int) -> int:
    """Fold of a dialogue, by the hash of its id."""
    return int(hashlib.sha256(dialogue.encode()).hexdigest()[:8], 16) % folds


def has_reasons(dialogue: Dialogue) -> bool:
    """Whether any turn has reason labels (an empty list is a label too)."""
    return any(turn.reasons is not None for turn in dialogue.turns)


def emotion_id(dialogue: Dialogue) -> int:
    """Index of the dialogue's emotion, UNLABELLED without one."""
    return EMOTIONS.index(dialogue.emotion) if dialogue.emotion else UNLABELLED


def labelled(row: Row, sample: Sample, intents: dict[str, str] | None = None) -> Labelled:
    """A row with its intent (from `intents`, else gold) and emotion as numbers."""
    intent = (intents or {}).get(sample.id) or sample.target.intent
    return row, INTENTS.index(intent) if intent else UNLABELLED, emotion_id(sample.dialogue)


def speaker_items(dialogues: Iterable[Dialogue]) -> list[Item]:
    """Every speaker turn that has a word, with its gold tags where it has them."""
    items = []
    for dialogue in dialogues:
        for place in range(0, len(dialogue.turns), 2):
            turn = dialogue.turns[place]
            found = words(turn.text)
            tags = None if turn.reasons is None else tuple(tags_from_spans(found, turn.reasons))
            texts = tuple(word.text for word in found)
            items.append(Item(f"{dialogue.id}:{place + 1}", texts, tags, emotion_id(dialogue), place))
    return [item for item in items if item.words]


def turn_batch(items: Sequence[Item], tokenizer: Any, max_subwords: int) -> TurnBatch:
    """Items to a batch. Rows of one dialogue share its number."""
    pieces = encode_words(tokenizer, [item.words for item in items], max_subwords)
    tags = torch.zeros(pieces.mask.shape, dtype=torch.long)
    for row, item in enumerate(items):
        tags[row, : len(item.tags or ())] = torch.tensor(item.tags or (), dtype=torch.long)
    dialogues = [item.id.rpartition(":")[0] for item in items]
    numbers = {key: n for n, key in enumerate(dict.fromkeys(dialogues))}
    return TurnBatch(
        [item.id for item in items],
        pieces,
        tags,
        torch.tensor([item.tags is not None for item in items]),
        torch.tensor([item.emotion for item in items]),
        torch.tensor([numbers[key] for key in dialogues]),
        torch.tensor([item.turn for item in items]),
    )


class Lazy(Sequence):
    """Batches made as they are asked for: rows of alike length, in random order, decided by (seed, epoch)."""

    def __init__(self, rows: Sequence, length: Callable, size: int, seed: int, epoch: int, make: Callable) -> None:
        self.rows, self.make = rows, make
        rng = np.random.default_rng([seed, epoch])
        lengths = np.array([length(row) for row in rows])
        order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(rows)) + rng.uniform(0, 2, len(rows)))
        self.order = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Any:
        return self.make([self.rows[j] for j in self.order[i]])
