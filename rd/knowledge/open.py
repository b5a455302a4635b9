"""Knowledge by its settings: the real files where they are named, what the train split tells where they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rd.config import KnowledgeConfig
from rd.data.records import Corpus, Dialogue
from rd.errors import UserError
from rd.knowledge.concepts import pmi_concepts
from rd.knowledge.knowledge import Knowledge
from rd.knowledge.neighbours import Neighbours
from rd.knowledge.remembered import Remembered, remembered_graph
from rd.knowledge.words import vader_intensity

FORMAT = 1  # of the stored files, and of the rules that made them: raise it when one changes


def open_knowledge(corpus: Corpus, settings: KnowledgeConfig, folder: str | Path) -> Knowledge:
    """Knowledge for the models of a corpus. Valid and test are never read.

    folder: keeps the graph of concepts and every answer; the names of its files hash the train split, the settings
    that matter and each source's size and time, so a stale one is never opened, and a damaged one is made again.
    Raises UserError for a corpus without a train split, and for a source that is named and absent or broken.
    """
    train = corpus.splits.get("train", ())
    if not train:
        raise UserError("knowledge: the corpus has no train split to compute it from; give the folder of train.csv")
    folder, split = Path(folder), _digest(train)
    intensity = vader_intensity()
    key = _key(split, settings.concepts, settings.intensity, settings.per_word)
    concepts = remembered_graph(
        folder / f"concepts-{key}.json", lambda: pmi_concepts(train, intensity, settings.per_word)
    )
    key = _key(split, settings.commonsense, settings.neighbours, settings.phrase)
    commonsense = Remembered(
        folder / f"commonsense-{key}.jsonl",
        lambda: Neighbours(train, settings.neighbours, settings.phrase),
        own={dialogue.id for dialogue in train},
    )
    sources = {
        "concepts": "PMI graph of the train split",
        "intensity": "VADER",
        "commonsense": "nearest neighbours in the train split (a stand-in for COMET)",
    }
    return Knowledge(concepts, intensity, commonsense, sources)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:16]


def _digest(train: Sequence[Dialogue]) -> str:
    """Hash of all that the substitutes read: ids, emotions, situations and turns."""
    found = hashlib.sha256()
    for dialogue in train:
        row = [dialogue.id, dialogue.emotion, dialogue.prompt, *(turn.text for turn in dialogue.turns)]
        found.update(json.dumps(row).encode() + b"\n")
    return found.hexdigest()
