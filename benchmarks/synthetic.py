"""Random data shaped like EMPATHETICDIALOGUES, and models of random weights: speed needs no corpus and no training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rd.config import PAPER, Config
from rd.data.batch import Collate, Example
from rd.data.known import Known
from rd.data.text import Vocabulary
from rd.knowledge.knowledge import RELATIONS
from rd.labels import EMOTIONS, INTENTS
from rd.responder import Responder
from rd.run import MODELS

WORDS = 23_700  # V of the peers
CONTEXT, REPLY = (45, 0.75, 4, 200), (15, 0.5, 2, 60)  # mean, spread of the log, least, most
CONCEPTS, PHRASE = PAPER.knowledge.most, PAPER.knowledge.phrase  # all full: the dearest case
CACHED = replace(PAPER, model=replace(PAPER.model, joint=False))  # the first stage: BERT is not run


def vocabulary(words: int = WORDS) -> Vocabulary:
    """A vocabulary of `words` entries."""
    return Vocabulary([*Vocabulary.build([]).words, *(f"w{i}" for i in range(words - 5))])


def lengths(rng: np.random.Generator, count: int, shape: tuple[float, float, int, int]) -> np.ndarray:
    """Log-normal lengths of the given mean."""
    mean, spread, least, most = shape
    return rng.lognormal(np.log(mean) - spread**2 / 2, spread, count).round().clip(least, most).astype(int)


def synthetic(count: int, vocab: Vocabulary, width: int, seed: int = 0) -> tuple[list[Example], Collate]:
    """Examples of random words (frequent ones more often), with random tags, features and labels."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(10, len(vocab) + 5)
    frequency /= frequency.sum()
    bank = rng.normal(size=(4096, width)).astype(np.float16)
    known = {}

    def example(i: int, context: int, reply: int) -> Example:
        source = rng.choice(len(frequency), context, p=frequency) + 5
        source[rng.random(context) < 0.01] = Vocabulary.UNK
        words = tuple(f"name{j}" if w == Vocabulary.UNK else vocab.words[w] for j, w in enumerate(source))
        text = " ".join(words)
        known[text] = (rng.integers(0, 2, context), bank[rng.integers(0, len(bank), context)])
        target = rng.choice(len(frequency), reply, p=frequency) + 5
        return Example(
            id=str(i),
            texts=(text,),
            words=words,
            source=source,
            speaker=np.ones(context, dtype=bool),
            target_words=tuple(vocab.words[w] for w in target),
            emotion=int(rng.integers(len(EMOTIONS))),
            intent=int(rng.integers(len(INTENTS))),
            sentiment=float(rng.uniform(-1, 1)),
            after=target[:8],
            intent_prior=rng.dirichlet(np.ones(len(INTENTS))).astype(np.float32),
            known=Known(
                rng.random(context, np.float32) * (rng.random(context) < 0.2),
                rng.choice(len(frequency), CONCEPTS, p=frequency) + 5,
                rng.integers(0, context, CONCEPTS),
                rng.random(CONCEPTS, np.float32),
                rng.choice(len(frequency), (len(RELATIONS), PHRASE), p=frequency) + 5,
            ),
        )

    shapes = zip(lengths(rng, count, CONTEXT), lengths(rng, count, REPLY), strict=True)
    examples = [example(i, context, reply) for i, (context, reply) in enumerate(shapes)]
    return examples, Collate(vocab, lambda _, text: known[text])


def build(name: str, config: Config, vocab: Vocabulary) -> Responder:
    """A model of random weights."""
    torch.manual_seed(0)
    return MODELS[name](config.model, torch.randn(len(vocab), config.model.width) * 0.3)
