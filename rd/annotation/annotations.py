"""Everything a responder reads from the annotators: tags and h~ of each turn, p_intent of each sample, intent labels.

Train turns with reason labels get the tags of the fold that never saw them; h~ always comes from the one full ERA,
since the vector spaces of two ERAs do not agree. ERA learned the emotions of the dialogues with reason labels, so h~
tells them too well: a responder does not learn emotions from those (`seen`), if there are others. p_intent is
cross-fitted where the config says so: a predictor that saw each sample about once does not know it by heart.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rd.annotation.distil import is_trained, train_era, train_predictor, train_tagger
from rd.annotation.rows import fold_of, has_reasons
from rd.annotation.table1 import reference_table
from rd.config import AnnotatorConfig
from rd.data.corpus import Corpus, Dialogue, Sample, samples
from rd.data.store import FeatureStore
from rd.data.text import tokenize
from rd.errors import UserError
from rd.files import replace_file
from rd.labels import INTENTS
from rd.locks import locked
from rd.models.annotator import ERA
from rd.models.bert import load_bert
from rd.models.classifier import BertClassifier, predictor_row, tagger_row


@dataclass
class Annotations:
    """`lookup`, `priors`, `intents` and `reference` are what training reads."""

    store: FeatureStore  # every unique turn text: ERA's tags and h~
    fold_tags: tuple[FeatureStore, ...]  # out-of-fold tags of the train turns; empty: not cross-fitted
    fold: dict[str, int]  # train dialogue id -> its fold
    priors: dict[str, np.ndarray]  # sample id -> p_intent float32 (I,)
    intents: dict[str, str]  # sample id -> intent of the gold reply
    sources: dict[str, str]  # sample id -> "gold" | "tagger"
    reference: Tensor  # (E, I) bool, the derived Table 1
    seen: frozenset[str] = frozenset()  # train dialogues whose emotions ERA learned: not for the experts

    def lookup(self, sample: str, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tags uint8 (n,) and h~ float16 (n, Db) of a context turn of a sample. Raises KeyError for an unknown text."""
        tags, vectors = self.store.get(text)
        fold = self.fold.get(sample.rpartition(":")[0])
        if fold is not None and self.fold_tags and text in self.fold_tags[fold]:
            tags = self.fold_tags[fold].get(text)[0]
        return tags, vectors

    def intent(self, dialogue: str, turn: int) -> tuple[str, str]:
        """(intent label, source) of listener turn `turn` (0-based) of a dialogue."""
        return self.intents[f"{dialogue}:{turn + 1}"], self.sources[f"{dialogue}:{turn + 1}"]


@dataclass
class Tagger:
    """The intent tagger and how it was told to read."""

    model: BertClassifier
    before: bool

    def intents(self, chosen: Sequence[Sample]) -> dict[str, str]:
        """Sample id -> intent of the target turn."""
        found = self.model.predict([tagger_row(s, self.before) for s in chosen]).argmax(-1)
        return {sample.id: INTENTS[i] for sample, i in zip(chosen, found)}


@dataclass
class Annotators:
    """The full models, for dialogues that are in no store."""

    era: ERA
    tagger: Tagger
    predictor: BertClassifier

    def lookup(self, sample: str, text: str) -> tuple[np.ndarray, np.ndarray]:
        """As `Annotations.lookup`, computed now."""
        return self.era.annotate([tokenize(text)])[0]

    def priors(self, chosen: Sequence[Sample]) -> dict[str, np.ndarray]:
        """Sample id -> p_intent float32 (I,), from the contexts alone."""
        return dict(zip((s.id for s in chosen), self.predictor.predict([predictor_row(s) for s in chosen])))


def annotate_corpus(
    corpus: Corpus,
    settings: AnnotatorConfig,
    out: str | Path,
    extra: Sequence[tuple[str, str]] = (),
    crossfit: bool = True,
    load=load_bert,
) -> Annotations:
    """Train what is not trained yet under `out`, annotate what is not annotated yet, and open it all.

    extra: EmpatheticIntents rows for the tagger. crossfit=False leaves the folds out (a comparison, not the default).
    Raises UserError for scope "context", where one text has other vectors in each dialogue.
    """
    if settings.scope != "turn":
        raise UserError('annotators.scope: features are kept by turn text; use "turn" (the rule) to train a responder')
    out = Path(out)
    everything = [dialogue for split in corpus.splits.values() for dialogue in split]
    era = train_era(corpus, settings, out, load=load)
    store = FeatureStore.build(out / "features", weights(out / "era"), *_era_job(era, everything, everything))
    del era
    intents, sources = label_intents(corpus, settings, out, extra, load)
    predictor = train_predictor(corpus, settings, out, intents, load=load)
    fold = {d.id: fold_of(d.id, settings.folds) for d in corpus.splits["train"]}
    held = [d for split, part in corpus.splits.items() if split != "train" for d in part]
    priors = _priors(predictor, held, out / "predictor" / "priors.npz")
    priors |= _priors(predictor, corpus.splits["train"], out / "predictor" / "priors-train.npz")
    fold_tags = []
    for f in range(settings.folds if crossfit else 0):
        mine = [d for d in corpus.splits["train"] if fold[d.id] == f]
        era = train_era(corpus, settings, out, fold=f, load=load)
        # only turns with reason labels were learned from: the full ERA has not seen the tags of the others
        learned = [d for d in mine if has_reasons(d)]
        job = _era_job(era, learned, learned, vectors=False)
        fold_tags.append(FeatureStore.build(out / "features", weights(out / "era" / f"fold{f}"), *job))
        if settings.predictor_folds:
            predictor = train_predictor(corpus, settings, out, intents, fold=f, load=load)
            priors |= _priors(predictor, mine, out / "predictor" / f"fold{f}" / "priors.npz")
    return Annotations(
        store,
        tuple(fold_tags),
        fold,
        priors,
        intents,
        sources,
        torch.from_numpy(reference_table(corpus.splits["train"], intents)),
        _seen(corpus.splits["train"], settings),
    )


def _seen(train: Sequence[Dialogue], settings: AnnotatorConfig) -> frozenset[str]:
    """Dialogues whose emotions ERA learned. None where it learned all: then nobody else would be left to learn from."""
    learned = [d.id for d in train if has_reasons(d)] if settings.era_emotion else []
    return frozenset(learned if len(learned) < len(train) else ())


def label_intents(
    corpus: Corpus, settings: AnnotatorConfig, out: str | Path, extra: Sequence[tuple[str, str]] = (), load=load_bert
) -> tuple[dict[str, str], dict[str, str]]:
    """Intent and its source ("gold" | "tagger") of every listener turn; the tagger is trained where it is missing."""
    tagger = train_tagger(corpus, settings, Path(out), extra, load)
    everything = [dialogue for split in corpus.splits.values() for dialogue in split]
    return _intents(tagger, everything, settings, Path(out) / "tagger")


def load_annotators(settings: AnnotatorConfig, out: str | Path, load=load_bert) -> Annotators:
    """The three finished full models under `out`. Raises UserError where one is missing."""
    nothing = Corpus("none", {"train": ()})
    return Annotators(
        load_era(settings, out, load),
        load_tagger(settings, out, load),
        train_predictor(nothing, settings, _trained(out, "predictor"), {}, load=load),
    )


def load_era(settings: AnnotatorConfig, out: str | Path, load=load_bert) -> ERA:
    """The finished ERA under `out`. Raises UserError where it is missing."""
    return train_era(Corpus("none", {"train": ()}), settings, _trained(out, "era"), load=load)


def load_tagger(settings: AnnotatorConfig, out: str | Path, load=load_bert) -> Tagger:
    """The finished intent tagger under `out`. Raises UserError where it is missing."""
    model = train_tagger(Corpus("none", {"train": ()}), settings, _trained(out, "tagger"), load=load)
    return Tagger(model, settings.tagger_before)


def _trained(out: str | Path, name: str) -> Path:
    """`out`, if a trained annotator of that name lies in it."""
    if not is_trained(Path(out) / name):
        raise UserError(f"{out}/{name}: this annotator is not trained; train a model with annotations first")
    return Path(out)


def weights(folder: Path) -> str:
    """SHA-256 of a model's weights."""
    return hashlib.sha256((folder / "best.safetensors").read_bytes()).hexdigest()


def _era_job(era: ERA, dialogues: Sequence[Dialogue], spoken: Sequence[Dialogue], vectors: bool = True):
    """(texts, encode) for `FeatureStore.build`. Without vectors only speaker turns are wanted."""
    speaker = {turn.text for d in spoken for turn in d.turns[::2]}
    texts = [turn.text for d in dialogues for turn in d.turns] if vectors else list(speaker)

    def encode(chunk: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        lists = [tokenize(text) for text in chunk]
        if not vectors:
            chances, cut = era.predict(lists)[0], float(era.threshold)
            return [((p > cut).astype(np.uint8), np.zeros((len(p), 0), np.float16)) for p in chances]
        found = era.annotate(lists)
        return [(tags * (text in speaker), h) for text, (tags, h) in zip(chunk, found)]

    return texts, encode


def _intents(
    tagger: BertClassifier, dialogues: Sequence[Dialogue], settings: AnnotatorConfig, folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Intent and source of every listener turn: gold where there is gold, else the tagger's."""
    chosen = samples(dialogues, protocol=False)
    intents = {s.id: s.target.intent for s in chosen if s.target.intent}
    missing = [s for s in chosen if not s.target.intent]
    rows = [tagger_row(s, settings.tagger_before) for s in missing]
    labels = _cached(tagger, rows, folder / "intents.npz", weights(folder)).argmax(-1)
    sources = dict.fromkeys(intents, "gold") | {s.id: "tagger" for s in missing}
    return intents | {s.id: INTENTS[i] for s, i in zip(missing, labels)}, sources


def _priors(predictor: BertClassifier, dialogues: Sequence[Dialogue], file: Path) -> dict[str, np.ndarray]:
    rows = [predictor_row(s) for s in samples(dialogues, protocol=False)]
    return dict(zip((row.id for row in rows), _cached(predictor, rows, file, weights(file.parent))))


def _cached(model: BertClassifier, rows: list, file: Path, key: str) -> np.ndarray:
    """model.predict(rows), kept in `file` for the same weights and rows."""
    key = hashlib.sha256(json.dumps([key, [[r.id, r.segments, r.turn] for r in rows]]).encode()).hexdigest()
    if (kept := _kept(file, key)) is not None:
        return kept
    with locked(file.parent, wait=True):
        if (kept := _kept(file, key)) is not None:  # by the process that was waited for
            return kept
        found = model.predict(rows)

        def write(beside: str) -> None:
            with open(beside, "wb") as target:
                np.savez(target, key=np.array(key), found=found)

        replace_file(file, write)
    return found


def _kept(file: Path, key: str) -> np.ndarray | None:
    """What `file` holds for `key`; None where it is absent, of another key, or damaged: numpy's zip files tell."""
    try:
        with np.load(file) as kept:
            return kept["found"] if str(kept["key"]) == key else None
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
