"""Annotations of any samples by the full annotators, computed now: one's own dialogues, a chat, a single split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rd.annotation.annotations import Annotators
from rd.data.corpus import Sample
from rd.data.text import tokenize


@dataclass(frozen=True)
class View:
    """What a responder reads to answer: as `Annotations`, without labels."""

    found: dict[str, tuple[np.ndarray, np.ndarray]]
    priors: dict[str, np.ndarray]
    intents: None = None
    seen: frozenset[str] = frozenset()

    def lookup(self, sample: str, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tags uint8 (n,) and h~ float16 (n, Db) of a context turn."""
        return self.found[text]


def view(annotators: Annotators, chosen: Sequence[Sample]) -> View:
    """ERA's tags and vectors of all context turns, p_intent of all samples. No reply is read."""
    texts = list(dict.fromkeys(turn.text for sample in chosen for turn in sample.context))
    found = annotators.era.annotate([tokenize(text) for text in texts])
    return View(dict(zip(texts, found, strict=True)), annotators.priors(chosen))
