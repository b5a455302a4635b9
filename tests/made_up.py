"""Made-up dialogues, batches and tiny models for the tests of responders. Nothing here comes from a corpus."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_bert import random_bert
from torch import Tensor, nn

from rd.config import DiffusionConfig, ModelConfig, TrainConfig
from rd.data.batch import Annotate, Batch, Collate, Example, encode, shuffled
from rd.data.corpus import Dialogue, Sample, Turn
from rd.data.text import Vocabulary, tokenize
from rd.knowledge.knowledge import RELATIONS, Knowledge
from rd.labels import EMOTIONS, INTENTS
from rd.models.annotator import ERA
from rd.responder import Responder
from rd.run import MODELS

KNOWN = "i you the a dog cat rain sun lost found my your was is very so happy sad why did that hope fine .".split()
NAMES = "quillon bastra merivo tandek vupola".split()  # the vocabulary lacks them: they can only be copied
VOCAB = Vocabulary.build([KNOWN])
BERT = 8  # Db
PIECES = ERA(*random_bert(BERT)).pieces

# Every model of the tables, and the four ablations: the contract holds for each. A baseline is added by its name.
CASES: dict[str, dict] = {
    "transformer": {},
    "mtrs": {},
    "mime": {},
    "case": {},
    "kemp": {},
    "moel": {},
    "cab": {},
    "empdg": {},
    "reflectdiffu": {},
    "reflectdiffu without era": {"era": False},
    "reflectdiffu without experts": {"experts": False},
    "reflectdiffu without intent_twice": {"intent_twice": False},
    "reflectdiffu without emu": {"emu": False},
    "reflectdiffu with BERT": {"joint": True},
    "reflectdiffu, intent in the memory": {"intent_place": "memory"},
}


def model_config(**changes) -> ModelConfig:
    """Sizes at which a step takes milliseconds."""
    diffusion = DiffusionConfig(steps=20, beta_first=1e-3, beta_last=0.3, start=6, chain_steps=2, latent=4)
    small = ModelConfig(width=12, heads=2, layers=2, ffn=16, dropout=0.1, bert_width=BERT, diffusion=diffusion)
    return replace(small, **changes)


def tiny(case: str, seed: int = 0, vocab: Vocabulary = VOCAB, **changes) -> Responder:
    """The model of CASES[case] with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = model_config(**{**CASES[case], **changes})
        extra = {"era": ERA(*random_bert(BERT))} if config.joint else {}
        return MODELS[case.replace(",", "").split()[0]](config, torch.randn(len(vocab), config.width), **extra)


def train_config(**changes) -> TrainConfig:
    """Twelve steps in fp32."""
    small = TrainConfig(batch=4, steps=12, warmup=6, precision="fp32", validate_every=4, save_every=3, patience=100)
    return replace(small, **changes)


def dialogues(count: int, seed: int = 0) -> list[Dialogue]:
    """Dialogues of two or four turns of random words; some turns hold a name."""
    chance = random.Random(seed)

    def turn(i: int) -> Turn:
        words = chance.choices(KNOWN, k=chance.randint(2, 7))
        if chance.random() < 0.4:
            words.insert(chance.randrange(len(words)), chance.choice(NAMES))
        return Turn(" ".join(words), intent=chance.choice(INTENTS) if i % 2 else None)

    def dialogue(i: int) -> Dialogue:
        return Dialogue(f"d{i}", chance.choice(EMOTIONS[:4]), "", tuple(map(turn, range(chance.choice((2, 4))))))

    return [dialogue(i) for i in range(count)]


def annotate(sample: str, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Tags and vectors h~ of a turn's words: chance that depends on the text alone."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    words = len(tokenize(text))
    return rng.integers(0, 2, words), rng.normal(size=(words, BERT)).astype(np.float16)


def sentiment(text: str) -> float:
    """Positive, negative or neutral by a hash of the text."""
    return (zlib.crc32(text.encode()) % 3 - 1) * 0.7


def commonsense(queries: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, ...], ...]]:
    """Words of each relation, and of some none: chance that depends on the text alone."""

    def said(text: str) -> tuple[tuple[str, ...], ...]:
        rng = random.Random(text)
        return tuple(tuple(rng.choices(KNOWN, k=rng.randint(0, 3))) for _ in RELATIONS)

    return [said(text) for _, text in queries]


def knowledge() -> Knowledge:
    """Two or no concepts a word, and the intensity of every second."""
    rng = random.Random(0)
    concepts = {w: tuple((c, rng.random()) for c in rng.sample(KNOWN, 2)) for w in KNOWN if rng.random() < 0.5}
    return Knowledge(concepts, {word: rng.random() for word in KNOWN[::2]}, commonsense, {})


def examples(count: int, seed: int = 0, max_context: int = 200) -> list[Example]:
    """One example a dialogue: its last listener turn, or the one before, which has a speaker's turn after it."""
    chosen = [
        (d, len(d.turns) - (3 if len(d.turns) > 2 and i % 3 == 2 else 1)) for i, d in enumerate(dialogues(count, seed))
    ]
    samples = [Sample(f"{d.id}:{turn + 1}", d, turn) for d, turn in chosen]
    rng = np.random.default_rng(seed)
    priors = {sample.id: rng.dirichlet(np.ones(len(INTENTS))).astype(np.float32) for sample in samples}
    return encode(samples, VOCAB, max_context, sentiment, priors=priors, knowledge=knowledge(), most=4)


def collate(lookup: Annotate | None = annotate) -> Collate:
    """Examples to a batch, with made-up annotations, and subwords for the models that run BERT."""
    return Collate(VOCAB, lookup, PIECES)


def batch(count: int = 6, seed: int = 0) -> Batch:
    """One batch of made-up samples."""
    return collate()(examples(count, seed))


def epochs(count: int = 20, size: int = 4, seed: int = 0) -> Callable[[int], object]:
    """What `fit` asks for: epoch -> batches."""
    every = examples(count)
    return lambda epoch: shuffled(every, collate(), size, seed, epoch)


def validate(model: nn.Module) -> dict[str, float]:
    """Nats per word on four samples training does not see."""
    nll, words, _ = model.nll(batch(4, seed=9))
    return {"score": float(nll.sum() / words.sum())}


def dense(log_probs: Tensor, target: Tensor) -> Tensor:
    """Flat log-probabilities of the gold words (M,) back in their places (B, T), 0 at padding."""
    out = torch.zeros(target.shape, dtype=log_probs.dtype)
    out[target != Vocabulary.PAD] = log_probs
    return out


def saved(folder: Path) -> dict[str, Tensor]:
    """All tensors of a run's state.pt by name: weights, buffers, moments of the optimiser."""
    whole = torch.load(folder / "state.pt", weights_only=True)
    moments = {f"{i}.{name}": value for i, slot in whole["optimizer"]["state"].items() for name, value in slot.items()}
    return {**whole["model"], **moments, "step": torch.tensor(whole["step"]), "best": torch.tensor(whole["best"])}
