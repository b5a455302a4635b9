"""Distillation: ERA, intent tagger and intent predictor trained on gold labels (spec 1, 2, 5).

Cross-fitting: fold f's models never saw fold f's dialogues, and only they tag them. Dialogues outside the train split
get the full models. A stage whose metrics.json exists is not trained again; one that was cut off goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rd.annotation.quality import intent_quality, reason_quality
from rd.annotation.rows import Labelled, Lazy, fold_of, labelled, speaker_items, turn_batch
from rd.checkpoint import WEIGHTS, load_weights
from rd.config import AnnotatorConfig, TrainConfig
from rd.data.corpus import Corpus, Dialogue, samples
from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import replace_text
from rd.labels import INTENTS
from rd.locks import locked
from rd.models.annotator import ERA, UNLABELLED
from rd.models.bert import load_bert
from rd.models.classifier import BertClassifier, Row, predictor_row, tagger_row
from rd.train import fit

# The settings that decide each annotator's weights, beside its TrainConfig.
ERA_FIELDS = ("bert", "scope", "folds", "attention", "crf", "residual", "era_emotion", "max_subwords")
TAGGER_FIELDS = ("bert", "max_subwords", "tagger_before", "tagger_extra")
PREDICTOR_FIELDS = ("bert", "folds", "predictor_subwords", "predictor_emotion")
Load = Callable[[str], tuple[Any, Any]]


def train_era(
    corpus: Corpus, settings: AnnotatorConfig, out: Path, fold: int | None = None, load: Load = load_bert
) -> ERA:
    """ERA on the train dialogues with reason labels, into out/era or out/era/fold<f>.

    It learns their emotions too, and no other's: h~ of all other dialogues is clean for the experts that learn from it.
    """
    config = _fold_config(settings.era, settings, fold)
    tokenizer, bert = load(settings.bert)
    model = _seeded(lambda: new_era(settings, tokenizer, bert), config.seed)
    folder = _folder(out, "era", fold)
    made = _made(config, settings, ERA_FIELDS, corpus)
    if _finished(folder, made):
        return _loaded(model, folder)
    tagged = [item for item in speaker_items(_outside(corpus, settings, fold)) if item.tags is not None]
    gold = {
        split: [item for item in speaker_items(corpus.splits.get(split, ())) if item.tags is not None]
        for split in _measured(fold)
    }

    if not tagged:
        raise UserError(f"{corpus.name}: no train dialogue has reason labels, and ERA learns from them")

    def make(chosen: list) -> Any:
        return turn_batch(chosen, tokenizer, settings.max_subwords)

    def batches(epoch: int) -> Lazy:
        return Lazy(tagged, lambda item: len(item.words), config.batch, config.seed, epoch, make)

    def validate(model: ERA) -> dict[str, float]:
        found = reason_quality(model, gold["valid"], choose=True)  # best.safetensors keeps the threshold
        return {"score": 1 - found["f1"] + settings.era_emotion * (1 - found["emotion_accuracy"]), **found}

    return _stage(model, batches, validate, config, folder, made, gold, reason_quality)


def new_era(settings: AnnotatorConfig, tokenizer: Any, bert: Any) -> ERA:
    """An untrained ERA with the configured switches."""
    return ERA(
        tokenizer,
        bert,
        attention=settings.attention,
        crf=settings.crf,
        residual=settings.residual,
        scope=settings.scope,
        emotion_weight=settings.era_emotion,
        max_subwords=settings.max_subwords,
    )


def train_tagger(
    corpus: Corpus,
    settings: AnnotatorConfig,
    out: Path,
    extra: Sequence[tuple[str, str]] = (),
    load: Load = load_bert,
) -> BertClassifier:
    """Utterance -> intent, from the gold labels, into out/tagger.

    extra: (text, intent) rows of EmpatheticIntents, without texts of valid and test turns; used if tagger_extra is on.
    """

    def rows(split: str) -> list[Labelled]:
        return [labelled(tagger_row(s, settings.tagger_before), s) for s in samples(corpus.splits.get(split, ()))]

    more = [
        (Row(f"extra:{i}", ((text, 0),)), INTENTS.index(intent), UNLABELLED)
        for i, (text, intent) in enumerate(extra if settings.tagger_extra else ())
    ]
    gold = {split: rows(split) for split in _measured(None)}
    model = _seeded(lambda: _classifier(settings, load, settings.max_subwords, 0.0), settings.tagger.seed)
    made = _made(settings.tagger, settings, TAGGER_FIELDS, corpus)
    return _train_classifier(model, rows("train") + more, gold, settings.tagger, Path(out) / "tagger", made)


def train_predictor(
    corpus: Corpus,
    settings: AnnotatorConfig,
    out: Path,
    intents: dict[str, str],
    fold: int | None = None,
    load: Load = load_bert,
) -> BertClassifier:
    """Context -> next intent, into out/predictor or out/predictor/fold<f>.

    intents: sample id -> label of the train split's replies, gold or the tagger's. Valid and test measure on gold.
    """
    train = [labelled(predictor_row(s), s, intents) for s in samples(_outside(corpus, settings, fold))]
    gold = {
        split: [labelled(predictor_row(s), s) for s in samples(corpus.splits.get(split, ()))]
        for split in _measured(fold)
    }
    config = _fold_config(settings.predictor, settings, fold)
    sizes = (settings.predictor_subwords, settings.predictor_emotion)
    model = _seeded(lambda: _classifier(settings, load, *sizes), config.seed)
    made = _made(config, settings, PREDICTOR_FIELDS, corpus)
    return _train_classifier(model, train, gold, config, _folder(out, "predictor", fold), made)


def _classifier(settings: AnnotatorConfig, load: Load, max_subwords: int, emotion_weight: float) -> BertClassifier:
    return BertClassifier(*load(settings.bert), len(INTENTS), emotion_weight, max_subwords)


def _train_classifier(
    model: BertClassifier,
    train: list[Labelled],
    gold: dict[str, list[Labelled]],
    config: TrainConfig,
    folder: Path,
    made: dict[str, Any],
) -> BertClassifier:
    if _finished(folder, made):
        return _loaded(model, folder)
    train = [row for row in train if row[1] != UNLABELLED]
    if not train:
        raise UserError(f"{folder}: no train reply has an intent label to learn from")
    gold = {split: [row for row in rows if row[1] != UNLABELLED] for split, rows in gold.items()}

    def make(chosen: list[Labelled]) -> Any:
        return model.collate(*map(list, zip(*chosen)))

    def batches(epoch: int) -> Lazy:
        return Lazy(train, lambda row: row[0].size, config.batch, config.seed, epoch, make)

    def validate(model: BertClassifier) -> dict[str, float]:
        found = intent_quality(model, gold["valid"])
        return {"score": 1 - found["accuracy"], "accuracy": found["accuracy"], "kappa": found["kappa"]}

    return _stage(model, batches, validate, config, folder, made, gold, intent_quality)


def _stage(
    model: Any,
    batches: Callable[[int], Sequence],
    validate: Callable[[Any], dict[str, float]],
    config: TrainConfig,
    folder: Path,
    made: dict[str, Any],
    gold: dict[str, list],
    quality: Callable[[Any, list], dict[str, Any]],
) -> Any:
    """Train `model` into `folder`. metrics.json is written last: it marks the end."""
    with locked(folder):
        if _finished(folder, made):  # by a process that has just ended
            return _loaded(model, folder)
        model.bert.get_input_embeddings().weight.requires_grad_(False)  # half the weights; few steps hardly move them
        if (folder / "state.pt").exists():
            _same(folder, made)
        (folder / "metrics.json").unlink(missing_ok=True)  # of weights that are gone
        replace_text(folder / "config.json", json.dumps(made, indent=1) + "\n")
        fit(model, batches, validate, config, folder, resume=True, progress=folder.name)
        measured = {split: quality(model, rows) for split, rows in gold.items()}
        replace_text(folder / "metrics.json", json.dumps(measured, indent=1) + "\n")
        (folder / "state.pt").unlink(missing_ok=True)
    return model.eval()


def _made(config: TrainConfig, settings: AnnotatorConfig, names: Sequence[str], corpus: Corpus) -> dict[str, Any]:
    """What decides a stage's weights; kept in its config.json. data is {} where a stage is only read back."""
    own = {name: getattr(settings, name) for name in names}
    data = {file: digest for file, digest in corpus.sha256.items() if "test" not in file}  # test decides no weight
    return {"train": asdict(config), "annotator": own, "data": data}


def _finished(folder: Path, made: dict[str, Any]) -> bool:
    """Whether a finished stage lies in `folder`. Raises UserError if it was made otherwise (settings, data)."""
    if is_trained(folder):
        _same(folder, made)
    return is_trained(folder)


def is_trained(folder: Path) -> bool:
    """Whether a stage was finished in `folder`: a fresh clone has its figures and not its weights."""
    return all((folder / name).is_file() for name in ("metrics.json", WEIGHTS))


def _same(folder: Path, made: dict[str, Any]) -> None:
    try:
        before = dict(parse((folder / "config.json").read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder}/config.json: damaged ({error}); delete {folder} to train it again") from None
    if any(before.get(part) != made[part] for part in ("train", "annotator")):
        raise UserError(f"{folder}/config.json: trained with other settings; give another folder or delete this one")
    if made["data"] and before.get("data") != made["data"]:
        raise UserError(f"{folder}/config.json: trained on other data; give another folder or delete this one")


def _loaded(model: Any, folder: Path) -> Any:
    load_weights(folder / WEIGHTS, model)
    return model.eval()


def _folder(out: Path, name: str, fold: int | None) -> Path:
    return Path(out) / name if fold is None else Path(out) / name / f"fold{fold}"


def _fold_config(config: TrainConfig, settings: AnnotatorConfig, fold: int | None) -> TrainConfig:
    if fold is None:
        return config
    steps = max(1, int(config.steps * settings.fold_share))
    return replace(config, steps=steps, validate_every=steps, warmup=min(config.warmup, steps // 5))


def _measured(fold: int | None) -> tuple[str, ...]:
    return ("valid", "test") if fold is None else ("valid",)


def _outside(corpus: Corpus, settings: AnnotatorConfig, fold: int | None) -> list[Dialogue]:
    """The train dialogues that a model may learn from."""
    return [d for d in corpus.splits["train"] if fold is None or fold_of(d.id, settings.folds) != fold]


def _seeded(make: Callable[[], Any], seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
