"""Looks inside a trained run on one split: RUN/diagnosis.json. Numbers only, no text of the corpus.

    python benchmarks/diagnose.py RUN --data FOLDER [--split valid]

replies    how many are different, how long, what share the commonest one has
reading    where the decoder looks while it writes the gold reply (last layer), and p_gen, by whether the next word
           stands in the context
routing    which expert answered, and how often it was right
diffusion  error of the predicted noise by level (1: as bad as guessing zero), distance of Emo_s from Q_s
policy     entropy over the reference intents (log 3 at most), actions, mean reward (eq. 9) of several ways to choose
intents    how the first and the final guesses spread, and what became of the first
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rd.answering import answer, split_inputs
from rd.blocks.experts import route
from rd.blocks.policy import reward
from rd.data.batch import UNLABELLED, Batch, in_order
from rd.data.text import Vocabulary
from rd.labels import INTENTS
from rd.pipeline import open_run
from rd.provenance import provenance
from rd.responder import Context, Responder
from rd.run import save_json

LEVELS = (10, 50, 100, 300, 900)
Pair = tuple[Batch, Context]


def replies(said: list[str]) -> dict[str, Any]:
    """Of all greedy replies."""
    counts = Counter(said)
    return {
        "n": len(said),
        "different": len(counts) / len(said),
        "words": sum(len(reply.split()) for reply in said) / len(said),
        "commonest": counts.most_common(1)[0][1] / len(said),
    }


def reading(model: Responder, pairs: Iterable[Pair]) -> dict[str, float]:
    """Mean attention on the memory's slots before the words, and on all words; mean p_gen."""
    looked, gates, inside = [], [], []
    for batch, context in pairs:
        start = torch.full_like(batch.target[:, :1], Vocabulary.BOS)
        embedded = model.embed_response(torch.cat([start, batch.target[:, :-1]], 1), plan=context.plan)
        keys = model.decoder.memory_keys(context.memory)
        states, read, weights, _ = model.decoder(embedded, keys, context.mask)
        real = batch.target != Vocabulary.PAD  # (B, T)
        slots = weights.size(2) - batch.source.size(1)
        looked.append(torch.cat([weights[..., :slots], weights[..., slots:].sum(-1, keepdim=True)], -1)[real])
        gates.append(model.pointer.gate(states, read, embedded).sigmoid()[real])
        inside.append((batch.target_ext[..., None] == batch.source_ext[:, None]).any(-1)[real])
    look, gate, known = torch.cat(looked).mean(0), torch.cat(gates), torch.cat(inside)
    found = {f"slot {i}": look[i].item() for i in range(len(look) - 1)} | {"words": look[-1].item()}
    return found | {"p_gen, word in context": gate[known].mean().item(), "p_gen, else": gate[~known].mean().item()}


def routing(batches: list[Batch], emotion: Tensor) -> dict[str, Any]:
    """Share and accuracy of each head."""
    way = route(torch.cat([batch.sentiment for batch in batches]))
    right = emotion.argmax(-1) == torch.cat([batch.emotion for batch in batches])
    sides = {"negative": way == -1, "both": way == 0, "positive": way == 1}
    return {
        k: {"share": m.float().mean().item(), "right": right[m].float().mean().item() if m.any() else None}
        for k, m in sides.items()
    }


def diffusion(model: Responder, split: Tensor, mimicked: Tensor, first: Tensor) -> dict[str, Any]:
    """Noise error by level and polarity; |Emo - Q| / |Q|. split, mimicked (2, n, D), first (n, I)."""
    chance, emu = torch.Generator().manual_seed(0), model.emu
    eps, found = torch.randn(split.shape, generator=chance), {}
    for level in LEVELS:
        n = torch.full((split.size(1),), level)
        guess = emu.denoiser(emu.diffusion.noise(split, n, eps), n, first)[0]
        found[f"noise error at {level}"] = (guess - eps).square().mean((1, 2)).tolist()
    moved = (mimicked - split).norm(dim=-1) / split.norm(dim=-1)
    return found | {"Emo against Q": moved.mean(1).tolist(), "spread of Emo": mimicked.std(1).mean(-1).tolist()}


def policy(model: Responder, notes: dict[str, Tensor]) -> dict[str, Any]:
    """Entropy, actions, rewards of the trained policy."""
    named = notes["emotion"].argmax(-1)
    felt, allowed = model.positive[named], model.sampling.reference[named]
    state = torch.where(felt[:, None], notes["mimicked"][0], notes["mimicked"][1])
    paid = reward(state[:, None], model.intents[None])  # (n, I)
    log_pi, mu = notes["log_pi"], notes["mu"]
    return {
        "entropy": -(log_pi.exp() * log_pi).sum(-1).mean().item(),
        "actions": _shares(notes["action"]),
        "reward": {
            "best of the three": paid.masked_fill(~allowed, -1).max(-1).values.mean().item(),
            "policy": (log_pi.exp() * paid).sum(-1).mean().item(),
            "behaviour": (mu * paid).sum(-1).mean().item(),
            "uniform": ((paid * allowed).sum(-1) / allowed.sum(-1)).mean().item(),
        },
    }


def intents(notes: dict[str, Tensor], gold: Tensor) -> dict[str, Any]:
    """How first and final guesses spread; what became of the first, where there is a label."""
    first, final, known = notes["first"].argmax(-1), notes["final"].argmax(-1), gold != UNLABELLED
    before, after = (first == gold)[known], (final == gold)[known]
    fate = {"kept right": before & after, "corrected": ~before & after, "broken": before & ~after}
    return {
        "first": _shares(first),
        "final": _shares(final),
        "kept": (first == final).float().mean().item(),
        "fate": {name: which.float().mean().item() for name, which in fate.items()},
    }


def _shares(index: Tensor) -> dict[str, float]:
    counts = torch.bincount(index, minlength=len(INTENTS)) / len(index)
    return {name: round(share, 4) for name, share in zip(INTENTS, counts.tolist(), strict=True)}


@torch.inference_mode()
def diagnose(folder: str, data: str, split: str) -> dict[str, Any]:
    """All of the parts that the model has."""
    run, corpus, annotations = open_run(folder, data, split)
    inputs, model = split_inputs(run, corpus, split, annotations), run.model.eval()
    batches = list(in_order(inputs.examples[split], inputs.collate, 64))
    contexts = [model.encode(batch.unlabelled()) for batch in batches]
    found: dict[str, Any] = {"split": split, "reading": reading(model, zip(batches, contexts, strict=True))}
    found["replies"] = replies([record["reply"] for record in answer(run, inputs, split)])
    side = {"split", "mimicked"}  # (2, B, D): the batch is their second dimension
    names = contexts[0].notes.keys()
    notes = {name: torch.cat([c.notes[name] for c in contexts], int(name in side)) for name in names}
    if "emotion" in notes:
        found["routing"] = routing(batches, notes["emotion"])
        found["intents"] = intents(notes, torch.cat([batch.intent for batch in batches]))
    if "mimicked" in notes:
        found["diffusion"] = diffusion(model, notes["split"], notes["mimicked"], notes["first"])
    if "log_pi" in notes and "mimicked" in notes:
        found["policy"] = policy(model, notes)
    return found | {"provenance": provenance(config=run.described["digest"], data=corpus.sha256)}


def main() -> None:
    """Diagnose one run and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", default="")
    parser.add_argument("--split", default="valid")
    given = parser.parse_args()
    target = Path(given.run) / "diagnosis.json"
    save_json(target, diagnose(given.run, given.data, given.split))
    print(target.read_text())


if __name__ == "__main__":
    main()
