"""Knowledge by its settings: the real files where they are named, what the train split tells where they are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rd.config import KnowledgeConfig
from rd.data.records import Corpus, Dialogue
from rd.data.text import tokenize
from rd.errors import UserError
from rd.knowledge.comet import Comet
from rd.knowledge.concepts import pmi_concepts
from rd.knowledge.files import CONCEPTNET, NRC_VAD, read_conceptnet, read_vad, stamp
from rd.knowledge.knowledge import Knowledge
from rd.knowledge.neighbours import Neighbours
from rd.knowledge.remembered import Graph, Remembered, remembered_graph
from rd.knowledge.words import vader_intensity

FORMAT = 2  # of the stored files, and of the rules that made them: raise it when one changes


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
    files = _stamps(settings)
    intensity = vader_intensity() if settings.intensity == "vader" else read_vad(settings.intensity)

    def graph() -> Graph:
        if settings.concepts == "pmi":
            return pmi_concepts(train, intensity, settings.per_word)
        known = {token for dialogue in train for turn in dialogue.turns for token in tokenize(turn.text)}
        return read_conceptnet(settings.concepts, intensity, settings.per_word, known)

    key = _key(split, files["concepts"], files["intensity"], settings.per_word)
    concepts = remembered_graph(folder / f"concepts-{key}.json", graph)
    commonsense = _commonsense(train, split, files["commonsense"], settings, folder)
    sources = _sources(settings)
    sources["concepts"] += f", {len(concepts)} words"
    return Knowledge(concepts, intensity, commonsense, sources)


def _commonsense(
    train: Sequence[Dialogue], split: str, source: Any, settings: KnowledgeConfig, folder: Path
) -> Remembered:
    if settings.commonsense == "neighbours":
        key = _key(split, source, settings.neighbours, settings.phrase)
        make, own = partial(Neighbours, train, settings.neighbours, settings.phrase), {each.id for each in train}
    else:
        key = _key(source, settings.phrase)
        make, own = partial(Comet, settings.commonsense, settings.phrase), set()
    found = Remembered(folder / f"commonsense-{key}.jsonl", make, own)
    if settings.commonsense != "neighbours" and not found.file.is_file():
        found.answer  # noqa: B018  a model that is not there is told now, not in the middle of the work
    return found


def _stamps(settings: KnowledgeConfig) -> dict[str, Any]:
    """What the stored results of each kind depend on: the name of a substitute or a model, or the stamp of a file."""
    concepts, intensity, commonsense = settings.concepts, settings.intensity, settings.commonsense
    stored = commonsense != "neighbours" and Path(commonsense).exists()
    return {
        "concepts": concepts if concepts == "pmi" else stamp(concepts, CONCEPTNET),
        "intensity": intensity if intensity == "vader" else stamp(intensity, NRC_VAD),
        "commonsense": stamp(commonsense, "its authors") if stored else commonsense,
    }


def _sources(settings: KnowledgeConfig) -> dict[str, str]:
    """Where each kind is from, for the tables."""
    ours = {
        "pmi": "PMI graph of the train split",
        "vader": "VADER",
        "neighbours": "nearest neighbours in the train split (a stand-in for COMET)",
    }
    name = Path(settings.commonsense).name if Path(settings.commonsense).exists() else settings.commonsense
    return {
        "concepts": ours.get(settings.concepts) or f"ConceptNet 5.7 ({_file(settings.concepts)})",
        "intensity": ours.get(settings.intensity) or f"NRC-VAD ({_file(settings.intensity)})",
        "commonsense": ours.get(settings.commonsense, f"COMET ({name})"),
    }


def _file(path: str) -> str:
    return f"{Path(path).name}, {Path(path).stat().st_size} bytes"


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:16]


def _digest(train: Sequence[Dialogue]) -> str:
    """Hash of all that the substitutes read: ids, emotions, situations and turns."""
    found = hashlib.sha256()
    for dialogue in train:
        row = [dialogue.id, dialogue.emotion, dialogue.prompt, *(turn.text for turn in dialogue.turns)]
        found.update(json.dumps(row).encode() + b"\n")
    return found.hexdigest()
