"""Distillation: ERA, intent tagger and intent predictor trained on gold labels (spec 1, 2, 5).

Cross-fitting: fold f's models never saw fold f's dialogues, and only they tag them. Dialogues outside the train split
get the full models. A stage whose metrics.json exists is not trained again; one that was cut off goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from rd.annotation.quality import intent_quality, reason_quality
from rd.config import AnnotatorConfig, TrainConfig
from rd.data.corpus import Corpus, Dialogue, Sample, samples
from rd.data.text import tags_from_spans, words
from rd.labels import EMOTIONS, INTENTS
from rd.models.annotator import ERA, UNLABELLED, TurnBatch
from rd.models.bert import encode_words, load_bert
from rd.models.classifier import BertClassifier, Row, predictor_row, tagger_row
from rd.train import fit

Labelled = tuple[Row, int, int]  # row, intent, emotion
Load = Callable[[str], tuple[Any, Any]]


@dataclass(frozen=True)
class Item:
    """One speaker turn for ERA."""

    id: str
    words: tuple[str, ...]
    tags: tuple[int, ...] | None
    emotion: int
    turn: int


def fold_of(dialogue: str, folds: int) -> int:
    """Fold of a dialogue, by the hash of its id."""
    return int(hashlib.sha256(dialogue.encode()).hexdigest()[:8], 16) % folds


def emotion_id(dialogue: Dialogue) -> int:
    """Index of the dialogue's emotion, UNLABELLED without one."""
    return EMOTIONS.index(dialogue.emotion) if dialogue.emotion else UNLABELLED


def speaker_items(dialogues: Iterable[Dialogue]) -> list[Item]:
    """Every speaker turn, with its gold tags where it has them."""
    items = []
    for dialogue in dialogues:
        for i, turn in enumerate(dialogue.turns[::2]):
            found = words(turn.text)
            tags = None if turn.reasons is None else tuple(tags_from_spans(found, turn.reasons))
            texts = tuple(word.text for word in found)
            items.append(Item(f"{dialogue.id}:{2 * i + 1}", texts, tags, emotion_id(dialogue), 2 * i))
    return items


def turn_batch(items: Sequence[Item], tokenizer: Any, max_subwords: int) -> TurnBatch:
    """Items to a batch. Rows of one dialogue share its number."""
    pieces = encode_words(tokenizer, [item.words for item in items], max_subwords)
    tags = torch.zeros(pieces.mask.shape, dtype=torch.long)
    for row, item in enumerate(items):
        tags[row, : len(item.tags or ())] = torch.tensor(item.tags or (), dtype=torch.long)
    numbers = {key: n for n, key in enumerate(dict.fromkeys(item.id.rpartition(":")[0] for item in items))}
    return TurnBatch(
        [item.id for item in items],
        pieces,
        tags,
        torch.tensor([item.tags is not None for item in items]),
        torch.tensor([item.emotion for item in items]),
        torch.tensor([numbers[item.id.rpartition(":")[0]] for item in items]),
        torch.tensor([item.turn for item in items]),
    )


class Lazy(Sequence):
    """Batches made as they are asked for: rows of alike length, in random order, the same for the same (seed, epoch)."""

    def __init__(self, rows: Sequence, length: Callable, size: int, seed: int, epoch: int, make: Callable) -> None:
        self.rows, self.make = rows, make
        rng = np.random.default_rng([seed, epoch])
        noisy = np.array([length(row) for row in rows]) * rng.uniform(0.9, 1.1, len(rows)) + rng.uniform(0, 2, len(rows))
        order = np.argsort(noisy)
        self.order = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Any:
        return self.make([self.rows[j] for j in self.order[i]])


def stage(
    model: torch.nn.Module,
    batches: Callable[[int], Sequence],
    validate: Callable[[Any], dict[str, float]],
    config: TrainConfig,
    folder: Path,
    settings: AnnotatorConfig,
    quality: Callable[[Any], dict[str, Any]],
) -> Any:
    """Train `model` into `folder`, or load what lies there finished. metrics.json is written last: it marks the end."""
    if (folder / "metrics.json").exists():
        model.load_state_dict(load_file(folder / "best.safetensors"))
        return model.eval()
    model.bert.get_input_embeddings().weight.requires_grad_(False)  # half the weights; few steps hardly move them
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"train": asdict(config), "annotators": asdict(settings)}, indent=1))
    fit(model, batches, validate, config, folder, resume=True, progress=str(folder.name))
    measured = json.dumps(quality(model), indent=1)
    (folder / ".metrics").write_text(measured + "\n")
    (folder / ".metrics").rename(folder / "metrics.json")
    (folder / "state.pt").unlink(missing_ok=True)
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


def train_era(
    corpus: Corpus, settings: AnnotatorConfig, out: Path, fold: int | None = None, load: Load = load_bert
) -> ERA:
    """ERA on the train split. The full one also learns the emotion of unlabelled turns, each labelled turn's thrice."""
    tokenizer, bert = load(settings.bert)
    config = _fold_config(settings.era, settings, fold)
    switches = dict(attention=settings.attention, crf=settings.crf, residual=settings.residual, scope=settings.scope)
    sizes = dict(emotion_weight=settings.era_emotion, max_subwords=settings.max_subwords)
    model = _seeded(lambda: ERA(tokenizer, bert, **switches, **sizes), config.seed)
    folder = _folder(out, "era", fold)
    if (folder / "metrics.json").exists():
        return stage(model, None, None, config, folder, settings, None)
    items = [item for item in speaker_items(_outside(corpus, settings, fold)) if item.words]
    tagged = [item for item in items if item.tags is not None]
    rest = [item for item in items if item.tags is None] if fold is None and settings.era_emotion else []

    def batches(epoch: int) -> Lazy:
        rows = tagged + rest[epoch % 3 :: 3]
        make = lambda chosen: turn_batch(chosen, tokenizer, settings.max_subwords)  # noqa: E731
        return Lazy(rows, lambda item: len(item.words), config.batch, config.seed, epoch, make)

    def validate(model: ERA) -> dict[str, float]:
        found = reason_quality(model, gold["valid"])
        return {"score": 1 - found["f1"] + settings.era_emotion * (1 - found["emotion_accuracy"]), **found}

    gold = {
        split: [item for item in speaker_items(corpus.splits.get(split, ())) if item.tags is not None]
        for split in _measured(fold)
    }
    quality = lambda model: {split: reason_quality(model, rows) for split, rows in gold.items()}  # noqa: E731
    return stage(model, batches, validate, config, folder, settings, quality)


def train_tagger(
    corpus: Corpus,
    settings: AnnotatorConfig,
    out: Path,
    extra: Sequence[tuple[str, str]] = (),
    load: Load = load_bert,
) -> BertClassifier:
    """Utterance -> intent. extra: (text, intent) rows of EmpatheticIntents, without texts of valid and test turns."""
    train = [labelled(tagger_row(s, settings.tagger_before), s) for s in samples(corpus.splits["train"])]
    train = [row for row in train if row[1] != UNLABELLED]
    if settings.tagger_extra:
        train += [
            (Row(f"extra:{i}", ((text, 0),)), INTENTS.index(intent), UNLABELLED) for i, (text, intent) in enumerate(extra)
        ]
    gold = {
        split: [labelled(tagger_row(s, settings.tagger_before), s) for s in samples(corpus.splits.get(split, ()))]
        for split in ("valid", "test")
    }
    model = lambda: build_classifier(settings, load, settings.max_subwords, 0.0)  # noqa: E731
    return _classifier(model, train, gold, settings.tagger, Path(out) / "tagger", settings)


def train_predictor(
    corpus: Corpus,
    settings: AnnotatorConfig,
    out: Path,
    intents: dict[str, str],
    fold: int | None = None,
    load: Load = load_bert,
) -> BertClassifier:
    """Context -> next intent. intents: sample id -> label of the train split, gold or the tagger's."""
    train = [labelled(predictor_row(s), s, intents) for s in samples(_outside(corpus, settings, fold))]
    train = [row for row in train if row[1] != UNLABELLED]
    gold = {
        split: [labelled(predictor_row(s), s) for s in samples(corpus.splits.get(split, ()))]
        for split in _measured(fold)
    }
    config = _fold_config(settings.predictor, settings, fold)
    model = lambda: build_classifier(settings, load, settings.predictor_subwords, settings.predictor_emotion)  # noqa: E731
    return _classifier(model, train, gold, config, _folder(out, "predictor", fold), settings)


def labelled(row: Row, sample: Sample, intents: dict[str, str] | None = None) -> Labelled:
    """A row with its intent (from `intents`, else gold) and emotion as numbers."""
    intent = (intents or {}).get(sample.id) or sample.target.intent
    return row, INTENTS.index(intent) if intent else UNLABELLED, emotion_id(sample.dialogue)


def build_classifier(
    settings: AnnotatorConfig, load: Load, max_subwords: int, emotion_weight: float
) -> BertClassifier:
    """A new nine-way classifier on the configured encoder."""
    return BertClassifier(*load(settings.bert), len(INTENTS), emotion_weight, max_subwords)


def _classifier(
    build: Callable[[], BertClassifier],
    train: list[Labelled],
    gold: dict[str, list[Labelled]],
    config: TrainConfig,
    folder: Path,
    settings: AnnotatorConfig,
) -> BertClassifier:
    model = _seeded(build, config.seed)
    gold = {split: [row for row in rows if row[1] != UNLABELLED] for split, rows in gold.items()}

    def batches(epoch: int) -> Lazy:
        make = lambda chosen: model.collate(*map(list, zip(*chosen)))  # noqa: E731
        size = lambda row: sum(len(text) for text, _ in row[0].segments)  # noqa: E731
        return Lazy(train, size, config.batch, config.seed, epoch, make)

    def validate(model: BertClassifier) -> dict[str, float]:
        found = intent_quality(model, gold["valid"])
        return {"score": 1 - found["accuracy"], "accuracy": found["accuracy"], "kappa": found["kappa"]}

    quality = lambda model: {split: intent_quality(model, rows) for split, rows in gold.items()}  # noqa: E731
    return stage(model, batches, validate, config, folder, settings, quality)
