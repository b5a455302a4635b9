"""Training and answering at the paper's sizes, beside a naive reference in the same run: ratios, and their medians.

    python benchmarks/speed.py [--rounds N] [--steps N] [--threads N] [--models NAME ...] [--out FOLDER]

Each round measures the reference and ours one after the other, so that a busy moment of the machine meets both; a ratio
is one round's, the table holds the median and the range of all rounds. Data: random words shaped like
EMPATHETICDIALOGUES (contexts of 45 words on average, replies of 15, vocabulary 23,700), so no corpus is needed.

training    examples a second of `rd.train.fit`'s own loop (batching, bf16, clipping, fused AdamW; saving left out). The
            reference: random batches, fp32, every padded place through the output product, the mixture materialised.
answering   greedy replies of 20 words. The reference: one by one, no cache, all positions through the vocabulary.
reverse     eq. 7's whole chain, 1000 steps, both polarities, for 64 contexts, beside answering them with the default
            sampler (replies as long as the data's: EOS is given the probability that makes them so).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MethodType

import numpy as np
import pandas as pd
import torch
from naive import naive_greedy, naive_taught
from synthetic import CACHED, REPLY, build, synthetic, vocabulary
from torch import Tensor

from rd.config import Config
from rd.data.batch import STRIDE, Batch, Batches, shuffled
from rd.data.text import Vocabulary
from rd.generate import Decode, generate
from rd.prefetch import makers
from rd.provenance import provenance
from rd.publish import publish
from rd.responder import Responder
from rd.run import MODELS, device, save_json
from rd.train import fit

WARM_UP = 3  # steps that are not timed
LONG = 20  # words of a timed reply
SIZE = 64  # contexts answered at once
PLAIN, WHOLE = "transformer", "reflectdiffu"
Answer = Callable[[Sequence[Batch]], list[list[int]]]  # batches -> their replies


def training(name: str, config: Config, data: tuple, steps: int, naive: bool = False) -> float:
    """Examples per second, the first steps left out."""
    examples, collate = data
    size, whole = config.train.batch, steps + WARM_UP + 1
    if naive:
        order = np.random.default_rng(0).permutation(len(examples))
        cut = [order[i : i + size].tolist() for i in range(0, len(order) - size + 1, size)]
    else:
        cut = shuffled(examples, collate, size, 0, 0).order
    cut, began = [cut[i % len(cut)] for i in range(whole)], []
    batches = Batches(examples, collate, size, cut, 1 if naive else STRIDE)
    model = build(name, config, collate.vocab)
    model.register_forward_pre_hook(lambda *_: began.append(time.perf_counter()))  # the loop begins a step with it
    if naive:
        model.taught = MethodType(naive_taught, model)
    train = replace(config.train, steps=whole, precision="fp32" if naive else config.train.precision, patience=10**9)
    with tempfile.TemporaryDirectory() as out:
        more = {"progress": "naive" if naive else name, "workers": makers()}
        fit(model, lambda epoch: batches, lambda _: {"score": 0.0}, train, Path(out), **more)
    return sum(map(len, cut[WARM_UP : whole - 1])) / (began[whole - 1] - began[WARM_UP])


def answering(answer: Answer, batches: Sequence[Batch], words: int | None = LONG) -> float:
    """Replies a second. Raises ValueError where a reply has not just so many words (None: any number)."""
    answer(batches[:1])
    start = time.perf_counter()
    replies = answer(batches)
    seconds = time.perf_counter() - start
    if words is not None and {len(reply) for reply in replies} != {words}:
        raise ValueError(f"replies of {sorted({len(reply) for reply in replies})} words, not {words}")
    return len(replies) / seconds


def batches_of(data: tuple, count: int, size: int) -> list[Batch]:
    """The first `count` examples by length, in batches on the device."""
    examples, collate = data
    rows = sorted(examples[:count], key=lambda example: -len(example.source))
    return [collate(rows[i : i + size]).to(device()) for i in range(0, len(rows), size)]


def never_ending(model: Responder) -> Responder:
    """Never says EOS, by its bias."""
    model.bias.data[Vocabulary.EOS] = -1e9
    return model.to(device()).eval()


def ending(model: Responder) -> Responder:
    """Ends its replies at random after about 15 words: the argmax then falls where a trained model's would."""
    step, chance = model.step, torch.Generator().manual_seed(0)

    def once(words: Tensor, state) -> Tensor:
        probs = step(words, state)
        ends = torch.rand(len(words), generator=chance) < 1 / REPLY[0]
        probs[ends.to(probs.device), Vocabulary.EOS] = 2.0
        return probs

    model.step = once
    return model.to(device()).eval()


def cached(model: Responder, decode: Decode) -> Answer:
    """The package's greedy decoding."""
    return lambda batches: [reply for _, _, replies in generate(model, batches, decode) for reply in replies]


def uncached(model: Responder) -> Answer:
    """The reference's."""
    return lambda batches: [reply for batch in batches for reply in naive_greedy(model, batch, LONG)]


@torch.inference_mode()
def reverse(model: Responder, batch: Batch) -> float:
    """Seconds of eq. 7's chain from pure noise, both polarities, as answers draw its noise: once for all rows."""
    unit, notes = model.emu, model.encode(batch.unlabelled()).notes
    predict = unit.denoiser.predictor(notes["first"].float(), unit.diffusion.steps)
    x = torch.randn_like(notes["split"])
    start = time.perf_counter()
    unit.diffusion.ddpm(x, unit.diffusion.steps - 1, predict, shared=True)
    return time.perf_counter() - start


def one_round(steps: int, models: Sequence[str], data: tuple, config: Config) -> Iterable[dict]:
    """All figures once: what, reference, ours (per second), ratio."""

    def row(what: str, reference: float, ours: float, against: str = "naive") -> dict:
        return {"what": what, "against": against, "reference": reference, "ours": ours, "ratio": ours / reference}

    few = max(2, steps // 5)
    speeds = {}
    for size in (32, 16):
        sized = replace(config, train=replace(config.train, batch=size))
        naive = training(PLAIN, sized, data, few, naive=True)
        speeds[size] = training(PLAIN, sized, data, steps)
        yield row(f"{PLAIN}: training, batch {size}", naive, speeds[size])
    for name in models:
        ours = training(name, config, data, steps)
        yield row(f"{name}: training, batch 32", training(PLAIN, config, data, steps), ours, PLAIN)
    for name in (PLAIN, WHOLE):
        model = never_ending(build(name, config, data[1].vocab))
        slow = answering(uncached(model), batches_of(data, 6, 1))
        for precision in ("fp32", "bf16"):
            answer, what = cached(model, Decode(steps=LONG, precision=precision)), f"{name}: answering in {precision}"
            yield row(f"{what}, one by one", slow, answering(answer, batches_of(data, 24, 1)))
            yield row(f"{what}, batch 64", slow, answering(answer, batches_of(data, 256, SIZE)))
    model = ending(build(WHOLE, config, data[1].vocab))
    (batch,) = batches_of(data, SIZE, SIZE)
    reply = 1 / answering(cached(model, Decode()), [batch] * 3, None) * SIZE
    chain = min(reverse(model, batch) for _ in range(2))
    yield row("1000 reverse steps, batch 64 (times a second)", 1 / reply, 1 / chain, "answering that batch")


def measure(rounds: int, steps: int, models: Sequence[str], config: Config = CACHED, words: int = 0) -> pd.DataFrame:
    """What, against what, medians of both and of the ratio, its least and greatest."""
    vocab = vocabulary(words) if words else vocabulary()
    data = synthetic(max(50 * config.train.batch, 512), vocab, config.model.bert_width)
    found: dict[tuple[str, str], list[dict]] = {}
    for _ in range(rounds):
        for row in one_round(steps, models, data, config):
            found.setdefault((row["what"], row["against"]), []).append(row)
    rows = []
    for (what, against), each in found.items():
        ratios = [row["ratio"] for row in each]
        middle = {key: statistics.median(row[key] for row in each) for key in ("reference", "ours", "ratio")}
        rows.append({"what": what, "against": against, **middle, "least": min(ratios), "most": max(ratios)})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="timed training steps of a round")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=[m for m in MODELS if m != PLAIN])
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    facts = provenance(load_before=round(os.getloadavg()[0], 2), rounds=given.rounds, steps=given.steps)
    table = measure(given.rounds, given.steps, given.models)
    notes = [
        f"{facts['hardware']}, {facts['threads']} threads, code {facts['code']}, {facts['date']}; medians of "
        f"{given.rounds} rounds; least and most: of the ratio.",
        "naive: padded, mixture materialised, fp32; answers one by one without a cache. Answers have 20 words.",
    ]
    print(publish(table, given.out, "speed", "Speed, per second", notes).read_text())
    save_json(given.out / "speed.json", {"machine": facts, "rows": table.to_dict("records")})


if __name__ == "__main__":
    main()
