"""Speed of training and answering at the paper's sizes, beside a naive reference in the same run.

    python benchmarks/speed.py [--threads N] [--steps N] [--replies N] [--models NAME ...] [--out FILE.json]

Training: examples/s of `rd.train.fit`'s own loop (batching, bf16, clipping, fused AdamW; saving left out) at batch 32.
Answering: greedy replies/s at batch 64, 50 steps at most. Data: random words shaped like EMPATHETICDIALOGUES
(contexts of 45 words on average, replies of 15, vocabulary 23,700), so no corpus is needed.
The naive reference computes the same loss in the usual way: random batches, fp32, every padded place through the output
product, the mixture materialised B x T x X; it answers without a cache and keeps finished rows to the end.
Replies of untrained weights: EOS is given the probability that makes replies as long as the data's.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from torch import Tensor

from rd.config import PAPER, Config
from rd.data.batch import Batch, Batches, Collate, Example, shuffled
from rd.data.known import Known
from rd.data.text import Vocabulary
from rd.generate import SILENT, Decode, generate
from rd.knowledge.knowledge import RELATIONS
from rd.labels import EMOTIONS, INTENTS
from rd.provenance import provenance
from rd.responder import Context, Responder, copy_weights
from rd.run import MODELS
from rd.train import fit

WORDS = 23_700  # V of the peers
CONTEXT, REPLY = (45, 0.75, 4, 200), (15, 0.5, 2, 60)  # mean, spread of the log, least, most
CONCEPTS, PHRASE = PAPER.knowledge.most, PAPER.knowledge.phrase  # all full: the dearest case
WARM_UP = 3
CACHED = replace(PAPER, model=replace(PAPER.model, joint=False))  # the first stage: BERT is not run


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


# --- the naive reference ----------------------------------------------------------------------------------------------


def naive_taught(model: Responder, batch: Batch, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """`Responder.taught` with everything materialised: padded places, softmax, mixture (B, T, X)."""
    target, source = batch.target, batch.source_ext
    shifted = torch.cat([torch.full_like(target[:, :1], Vocabulary.BOS), target[:, :-1]], 1)
    embedded = model.embed_response(shifted, plan=context.plan)
    states, read, weights, _ = model.decode(
        embedded, model.decoder.memory_keys(context.memory), context.mask, experts=context.experts
    )
    gate = torch.sigmoid(model.pointer.gate(states, read, embedded))[..., None]  # (B, T, 1)
    said = gate * model.vocab_logits(states).softmax(-1)  # (B, T, V)
    extra = max(0, int(source.max()) + 1 - said.size(-1))
    copied = (1 - gate) * copy_weights(weights.flatten(0, 1), source.size(1)).view(*gate.shape[:2], -1)
    where = source[:, None].expand_as(copied)
    mixed = torch.nn.functional.pad(said, (0, extra)).scatter_add(-1, where, copied)  # (B, T, X)
    log_probs = mixed.clamp_min(1e-30).log().gather(-1, batch.target_ext[..., None])[..., 0]  # (B, T)
    rows, places = (target != Vocabulary.PAD).nonzero(as_tuple=True)
    return log_probs[rows, places], rows, weights


@torch.inference_mode()
def naive_greedy(model: Responder, batch: Batch, steps: int) -> list[list[int]]:
    """The whole prefix again at every step, finished rows kept."""
    context = model.encode(batch.unlabelled())
    said = torch.full((len(batch.ids), 1), Vocabulary.BOS)
    ended = torch.zeros(len(batch.ids), dtype=torch.bool)
    for _ in range(steps):
        known = said.masked_fill(said >= model.words.num_embeddings, Vocabulary.UNK)
        embedded = model.embed_response(known, plan=context.plan)
        states, read, weights, _ = model.decode(
            embedded, model.decoder.memory_keys(context.memory), context.mask, experts=context.experts
        )
        gate, logits = model.pointer.gate(states, read, embedded), model.vocab_logits(states)  # (B, T, V)
        copied = copy_weights(weights[:, -1], batch.source.size(1))
        probs = model.pointer.mixture(logits[:, -1], gate[:, -1], copied, batch.source_ext)
        probs[:, SILENT] = 0
        said = torch.cat([said, probs.argmax(-1, keepdim=True)], 1)
        ended |= said[:, -1] == Vocabulary.EOS
        if ended.all():
            break
    rows = said[:, 1:].tolist()
    return [row[: row.index(Vocabulary.EOS)] if Vocabulary.EOS in row else row for row in rows]


# --- measuring --------------------------------------------------------------------------------------------------------


class Timed:
    """The batches of an epoch; notes when each is asked for."""

    def __init__(self, batches: Batches, order: list[int]) -> None:
        self.batches, self.order, self.asked = batches, order, []

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Batch:
        self.asked.append(time.perf_counter())
        return self.batches[self.order[i]]


def build(name: str, config: Config, vocab: Vocabulary) -> Responder:
    """A model of random weights."""
    torch.manual_seed(0)
    return MODELS[name](config.model, torch.randn(len(vocab), config.model.width) * 0.3)


def training(name: str, config: Config, data: tuple, steps: int, naive: bool) -> float:
    """Examples per second, the first steps left out."""
    examples, collate = data
    size, whole = config.train.batch, steps + WARM_UP + 1
    if naive:
        order = np.random.default_rng(0).permutation(len(examples))
        cut = [order[i : i + size].tolist() for i in range(0, len(order) - size + 1, size)]
        batches = Batches(examples, collate, size, cut)
    else:
        batches = shuffled(examples, collate, size, 0, 0)
    timed = Timed(batches, [i % len(batches) for i in range(whole)])
    model = build(name, config, collate.vocab)
    if naive:
        model.taught = MethodType(naive_taught, model)
    train = replace(config.train, steps=whole, precision="fp32" if naive else config.train.precision, patience=10**9)
    with tempfile.TemporaryDirectory() as out:
        fit(model, lambda epoch: timed, lambda _: {"score": 0.0}, train, Path(out), progress="naive" if naive else name)
    taken = [len(batches.order[timed.order[i]]) for i in range(WARM_UP, whole - 1)]
    return sum(taken) / (timed.asked[whole - 1] - timed.asked[WARM_UP])


def answering(model: Responder, data: tuple, count: int, answer: Callable, size: int = 64) -> tuple[float, float]:
    """Replies per second at batch 64, and their mean length. Contexts of a batch are of like length."""
    examples, collate = data
    rows = sorted(examples[:count], key=lambda example: -len(example.source))
    batches = [collate(rows[i : i + size]) for i in range(0, len(rows), size)]
    answer(batches[-1])
    start = time.perf_counter()
    replies = [reply for batch in batches for reply in answer(batch)]
    return len(replies) / (time.perf_counter() - start), sum(map(len, replies)) / len(replies)


def speak(model: Responder) -> Responder:
    """Ends its replies at random after about 15 words: the argmax then falls where a trained model's would."""
    step, chance = model.step, torch.Generator().manual_seed(0)

    def ending(words: Tensor, state) -> Tensor:
        probs = step(words, state)
        probs[torch.rand(len(words), generator=chance) < 1 / REPLY[0], Vocabulary.EOS] = 2.0
        return probs

    model.step = ending
    return model.eval()


def cached(model: Responder, decode: Decode) -> Callable[[Batch], list[list[int]]]:
    """The package's greedy decoding."""
    return lambda batch: next(iter(generate(model, [batch], decode)))[2]


def measure(
    steps: int, replies: int, models: Sequence[str], config: Config = CACHED, words: int = WORDS
) -> dict[str, dict[str, float]]:
    """All figures, by model."""
    vocab = Vocabulary([*Vocabulary.build([]).words, *(f"w{i}" for i in range(words - 5))])
    data = synthetic(max(50 * config.train.batch, replies), vocab, config.model.bert_width)
    found = {}
    for name in models:
        ours, naive = (
            training(name, config, data, n, slow) for n, slow in ((steps, False), (max(2, steps // 4), True))
        )
        model = speak(build(name, config, vocab))
        said, length = answering(model, data, replies, cached(model, Decode()))
        few = max(1, replies // 8)
        plain, _ = answering(model, data, few, lambda batch, model=model: naive_greedy(model, batch, 50))
        found[name] = {
            "training_examples_per_second": ours,
            "training_examples_per_second_naive": naive,
            "training_ratio": ours / naive,
            "replies_per_second": said,
            "replies_per_second_naive": plain,
            "replies_ratio": said / plain,
            "mean_reply_words": length,
        }
    return found


def main() -> None:
    """Measure, print, and perhaps write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=60, help="timed training steps")
    parser.add_argument("--replies", type=int, default=512)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["transformer", "reflectdiffu"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    facts = provenance(load_before=os.getloadavg()[0])
    found = {"machine": facts, "models": measure(given.steps, given.replies, given.models)}
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
