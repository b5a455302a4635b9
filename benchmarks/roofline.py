"""How far the three largest operations of a training step are from what this machine can do.

    python benchmarks/roofline.py [--threads N] [--batch N] [--out FOLDER]

The limits are measured in the same run: the best of several square products (float32, bf16) and a copy of 512 MiB
(bytes read plus bytes written). The operations are those of the plain transformer's step at the paper's sizes, on
tensors of the shapes that its batches have; their share is of the seconds of a whole step of `rd.train.fit`. What is
left are many small operations, without a limit to hold them against: the layers, the embedding, clipping, the rest.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from speed import PLAIN, training
from synthetic import CACHED, WORDS, build, synthetic, vocabulary
from torch.nn import functional as F

from rd.blocks.pointer import GoldLogProbs
from rd.data.batch import Batch, shuffled
from rd.data.text import Vocabulary
from rd.memory import keep_freed_memory
from rd.provenance import provenance
from rd.publish import publish
from rd.responder import Responder
from rd.run import device, save_json

ROUNDS = 7


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The fastest of several times, after one that does not count."""
    best = float("inf")
    for i in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device().type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start) if i else best
    return best


def limits() -> dict[str, float]:
    """fp32 and bf16 products in GFLOP/s, a copy in GB/s."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rates = []
        for size in (1024, 2048, 4096):
            a = torch.randn(size, size, device=device()).to(dtype)
            rates.append(2 * size**3 / seconds(lambda a=a: a @ a, 3) / 1e9)
        found[name] = max(rates)
    source = torch.zeros(2**27, device=device())
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9
    return found


def operations(words: int, weights: list[int], config) -> list[tuple[str, str, float, Callable[[], object]]]:
    """(name, limit, GFLOP or GB, work) for M target words and the numbers of weights of each tensor."""
    width = config.model.width
    x = torch.randn(words, width, device=device(), dtype=torch.bfloat16)
    table = (0.05 * torch.randn(WORDS, width, device=device())).bfloat16()
    gold = torch.randint(WORDS, (words,), device=device())
    logits = F.linear(x, table)
    leaf = logits.detach().requires_grad_()
    parameters = [torch.nn.Parameter(torch.randn(n, device=device())) for n in weights]
    for p in parameters:
        p.grad = torch.randn_like(p)
    adam = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def product():
        return F.linear(x, table), logits @ table, logits.t() @ x

    def softmax():
        leaf.grad = None
        GoldLogProbs.apply(leaf, gold).mean().backward()

    return [
        ("output product and its two gradients (bf16)", "bf16", 3 * 2 * words * width * WORDS / 1e9, product),
        ("softmax over the vocabulary and its gradient (bf16)", "copy", 3 * 2 * words * WORDS / 1e9, softmax),
        ("AdamW (7 passes of float32)", "copy", 7 * 4 * sum(weights) / 1e9, adam.step),
    ]  # fmt: skip


def parts(model: Responder, batch: Batch) -> list[tuple[str, Callable[[], object]]]:
    """(name, work) of the rest of a step: what is as wide as the vocabulary only in the embedding."""
    (rows, places), embedding = batch.said, model.words.weight

    def layers():
        model.zero_grad(set_to_none=True)
        with torch.autocast(device().type, torch.bfloat16):
            context = model.encode(batch.unlabelled())
            embedded = model.embed_response(batch.target, plan=context.plan)
            keys = model.decoder.memory_keys(context.memory)
            states, read, looked, _ = model.decode(embedded, keys, context.mask)
            said = model.project(states[rows, places])
            gate = model.pointer.gate(states, read, embedded)
        (said.float().mean() + gate.mean() + looked.mean()).backward()

    def still():
        embedding.requires_grad_(False)
        layers()
        embedding.requires_grad_(True)

    def clip():
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)  # of the gradients that `layers` left

    return [
        ("encoder, decoder and gate, forward and backward (bf16)", still),
        ("gradients of the embedding: both places where words are read", layers),
        ("norm of the gradient", clip),
    ]


def measure(batch: int, steps: int = 30) -> tuple[pd.DataFrame, dict[str, float]]:
    """The table, and the limits."""
    keep_freed_memory()
    config, vocab = CACHED, vocabulary()
    data = synthetic(1600, vocab, config.model.bert_width)
    step = batch / training(PLAIN, config, data, steps)
    each = [int((b.target != Vocabulary.PAD).sum()) for b in shuffled(*data, batch, 0, 0)]
    weights = [p.numel() for p in build(PLAIN, config, vocab).parameters() if p.requires_grad]
    bounds, rows = limits(), []
    for name, limit, amount, work in operations(round(sum(each) / len(each)), weights, config):
        taken = seconds(work)
        rows.append(
            {
                "operation": name,
                "ms": 1e3 * taken,
                "% of a step": 100 * taken / step,
                "reached": amount / taken,
                "limit": bounds[limit],
                "unit": "GB/s" if limit == "copy" else "GFLOP/s",
                "% of the limit": 100 * amount / taken / bounds[limit],
            }
        )
    model = build(PLAIN, config, vocab).to(device()).train()
    middle = sorted(shuffled(*data, batch, 0, 0), key=lambda b: b.target.numel())[len(each) // 2].to(device())
    (layers, alone), (words, both), (norm, clip) = ((name, seconds(work)) for name, work in parts(model, middle))
    for name, taken in ((layers, alone), (words, both - alone), (norm, clip)):
        rows.append({"operation": name, "ms": 1e3 * taken, "% of a step": 100 * taken / step})
    rest = 1e3 * step - sum(row["ms"] for row in rows)
    rows.append(
        {
            "operation": "batches, loss, all else",
            "ms": rest,
            "% of a step": 100 * rest / (1e3 * step),
        }
    )
    return pd.DataFrame(rows), bounds | {"step_ms": 1e3 * step}


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    facts = provenance(load_before=round(os.getloadavg()[0], 2), batch=given.batch)
    table, bounds = measure(given.batch)
    notes = [
        f"{facts['hardware']}, {facts['threads']} threads, code {facts['code']}, {facts['date']}.",
        f"A step of the plain transformer, batch {given.batch}: {bounds['step_ms']:.0f} ms. Limits measured in this "
        f"run: fp32 {bounds['fp32']:.0f}, bf16 {bounds['bf16']:.0f} GFLOP/s, copy {bounds['copy']:.1f} GB/s.",
    ]
    print(publish(table, given.out, "roofline", "The largest operations of a training step", notes).read_text())
    save_json(
        given.out / "roofline.json",
        {"machine": facts, "limits": bounds, "rows": table.astype(object).fillna("").to_dict("records")},
    )


if __name__ == "__main__":
    main()
