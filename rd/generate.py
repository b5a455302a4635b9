"""Greedy, beam and top-k/top-p decoding, batched, with a key-value cache. Knows `Responder`, no model by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rd.blocks.output import Columns
from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.errors import UserError
from rd.responder import Context, Decoding, Responder
from rd.step import autocast

# never said: they are no words of a reply
SILENT = [Vocabulary.PAD, Vocabulary.UNK, Vocabulary.BOS, Vocabulary.CTX]


@dataclass(frozen=True)
class Decode:
    """How to decode. The reported setting is greedy with at most 50 words (protocol)."""

    method: str = "greedy"  # "greedy" | "beam" | "sample"
    steps: int = 50
    beams: int = 4
    length_penalty: float = 1.0  # score = log p / words ** penalty
    top_k: int = 0  # 0: off
    top_p: float = 0.9
    temperature: float = 1.0
    precision: str = "fp32"  # "fp32" (all reported replies) | "bf16": faster; one reply in ten differs


def columns(model: Responder, decode: Decode) -> Columns | None:
    """What `generate` can be given, to use it for many calls: valid until a weight changes."""
    with _precision(decode, model.bias.device):
        return model.columns()


def generate(
    model: Responder,
    batches: Iterable[Batch],
    decode: Decode | None = None,
    generator: torch.Generator | None = None,
    shared: Columns | None = None,
) -> Iterable[tuple[Batch, Context, list[list[int]]]]:
    """For every batch: the batch without its labels, what the model made of it, and the replies as extended ids.

    shared: the model's `columns`, else made here. Raises UserError for an unknown method or precision.
    """
    methods = {"greedy": _one_by_one, "sample": _one_by_one, "beam": _beam}
    decode = decode or Decode()
    if decode.method not in methods:
        raise UserError(f"--decode {decode.method}: no such method; choose one of {', '.join(methods)}")
    if decode.precision not in ("fp32", "bf16"):
        raise UserError(f"--precision {decode.precision}: no such precision; choose fp32 or bf16")
    model.eval()
    shared = shared or columns(model, decode)
    for batch in batches:
        batch = batch.unlabelled()
        with _precision(decode, batch.source.device):
            context = model.encode(batch)
            state = model.start(batch, context, shared)
            replies = methods[decode.method](model, batch, state, decode, generator)
        yield batch, context, replies


@contextmanager
def _precision(decode: Decode, device: torch.device) -> Iterator[None]:
    low = decode.precision == "bf16"  # autocast keeps the weights it has cast, but not in inference mode
    with torch.no_grad() if low else torch.inference_mode(), autocast(decode.precision, device):
        yield


def in_words(ids: list[int], vocab: Vocabulary, oov: list[str]) -> list[str]:
    """Extended ids to words; ids >= V are words of the context that V lacks."""
    return [oov[i - len(vocab)] if i >= len(vocab) else vocab.words[i] for i in ids]


def _next(model: Responder, words: Tensor, state) -> Tensor:
    """(B,) -> probabilities (B, X) of the next word; 0 also for words that only another sample's context has."""
    probs = model.step(words, state)
    probs[:, SILENT] = 0.0
    return probs


def _one_by_one(model: Responder, batch: Batch, state: Decoding, decode: Decode, generator) -> list[list[int]]:
    """Greedy or sampled. Finished rows leave the batch, a fifth at a time: the last long reply does not pay for all."""
    replies: list[list[int]] = [[] for _ in batch.ids]
    alive = torch.arange(len(replies), device=batch.source.device)
    going = torch.ones_like(alive, dtype=torch.bool)
    words = torch.full_like(alive, Vocabulary.BOS)
    for _ in range(decode.steps):
        probs = _next(model, words, state)  # greedy needs no logarithm of all of them
        words = probs.argmax(-1) if decode.method == "greedy" else _sample(probs.log(), decode, generator)
        going &= words != Vocabulary.EOS
        for row, word, open_ in zip(alive.tolist(), words.tolist(), going.tolist(), strict=True):
            if open_:
                replies[row].append(word)
        if not going.any():
            break
        if going.float().mean() < 0.8:  # to pick rows copies every cache: not at each reply's end
            keep = going.nonzero()[:, 0]
            alive, words, going, state = alive[keep], words[keep], going[keep], state.rows(keep)
    return replies


def _sample(log_probs: Tensor, decode: Decode, generator: torch.Generator | None) -> Tensor:
    """Top-k, then nucleus (Holtzman et al. 2020): (B, X) -> (B,)."""
    scores, index = (log_probs / decode.temperature).sort(-1, descending=True)
    probs = scores.softmax(-1)
    if decode.top_k:
        probs[:, decode.top_k :] = 0
        probs /= probs.sum(-1, keepdim=True)
    before = probs.cumsum(-1) - probs  # the smallest set of at least top_p; the best word always stays
    probs[:, 1:][before[:, 1:] >= decode.top_p] = 0
    return index.gather(-1, torch.multinomial(probs, 1, generator=generator))[:, 0]


def _beam(model: Responder, batch: Batch, state: Decoding, decode: Decode, generator) -> list[list[int]]:
    """Beam search; every sample's beams are neighbours in the batch. Ended ones rank by log p / words^penalty."""
    samples, width = len(batch.ids), decode.beams
    device = batch.source.device
    state = state.rows(torch.arange(samples, device=device).repeat_interleave(width))
    scores = torch.full((samples, width), -torch.inf, device=device)
    scores[:, 0] = 0.0
    words = torch.full((samples * width,), Vocabulary.BOS, device=device)
    open_replies: list[list[int]] = [[] for _ in range(samples * width)]
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(samples)]
    for step in range(1, decode.steps + 1):
        log_probs = _next(model, words, state).log().unflatten(0, (samples, width))
        total = scores[..., None] + log_probs  # (samples, width, X)
        best, flat = total.flatten(1).topk(2 * width, -1)
        origin, word = flat // total.size(-1), flat % total.size(-1)
        picked = _advance(best.tolist(), origin.tolist(), word.tolist(), open_replies, ended, step, decode)
        rows = torch.tensor([[s * width + o for o, _, _ in beams] for s, beams in enumerate(picked)], device=device)
        words = torch.tensor([[w for _, w, _ in beams] for beams in picked], device=device).flatten()
        scores = torch.tensor([[v for _, _, v in beams] for beams in picked], device=device)
        open_replies = [[*open_replies[s * width + o], w] for s, beams in enumerate(picked) for o, w, _ in beams]
        state = state.rows(rows.flatten())
        if all(len(done) >= width for done in ended):
            break
    for s in range(samples):
        ended[s] += [
            (float(scores[s, b]) / step**decode.length_penalty, open_replies[s * width + b])
            for b in range(width)
            if len(ended[s]) < width
        ]
    return [max(done, key=lambda pair: pair[0])[1] for done in ended]


def _advance(best, origin, word, open_replies, ended, step, decode) -> list[list[tuple[int, int, float]]]:
    """Moves what ends among the best `width` to `ended`; returns what goes on, per sample: (origin, word, score)."""
    width, picked = decode.beams, []
    for s, candidates in enumerate(zip(best, origin, word, strict=True)):
        beams: list[tuple[int, int, float]] = []
        for rank, (value, o, w) in enumerate(zip(*candidates, strict=True)):
            if w == Vocabulary.EOS:
                if rank < width and len(ended[s]) < width and value > -math.inf:
                    ended[s].append((value / step**decode.length_penalty, open_replies[s * width + o]))
            elif len(beams) < width:
                beams.append((o, w, value))
        picked.append(beams)
    return picked
