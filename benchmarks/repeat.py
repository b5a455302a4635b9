"""Is the same training with the same seed the same? The spread of its weights and losses over a few repetitions.

    python benchmarks/repeat.py [--models NAME ...] [--steps N] [--times N]

On a CPU all are equal, bit for bit; on a GPU sums are made in no fixed order, and the spread is what this measures.
Data and models as in speed.py. A spread of weights is relative to how far training moved them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from speed import PLAIN, WHOLE
from synthetic import CACHED, build, synthetic, vocabulary

from rd.config import Config
from rd.data.batch import shuffled
from rd.prefetch import makers
from rd.provenance import provenance
from rd.run import MODELS
from rd.train import fit


def trained(name: str, config: Config, data: tuple, steps: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """All weights before and after so many steps (N,), float32 on the CPU, and the mean loss of the last ten steps."""
    model = build(name, config, data[1].vocab)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    settings = replace(config.train, steps=steps, patience=10**9, validate_every=10**9, save_every=10**9)

    def batches(epoch: int):
        return shuffled(*data, config.train.batch, 0, epoch)

    with tempfile.TemporaryDirectory() as out:
        more = {"progress": name, "log_every": 10, "workers": makers()}
        history = fit(model, batches, lambda _: {"score": 0.0}, settings, Path(out), **more)
    after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    loss = [sum(v for k, v in row.items() if k.startswith("loss/")) for row in history if "lr" in row][-1]
    return before.cpu(), after.cpu(), loss


def spread(name: str, steps: int, times: int, config: Config = CACHED, words: int = 0) -> dict[str, float | str]:
    """A row: how far repetitions lie apart, at most and on average."""
    data = synthetic(10 * config.train.batch, vocabulary(words) if words else vocabulary(), config.model.bert_width)
    befores, afters, losses = zip(*(trained(name, config, data, steps) for _ in range(times)), strict=True)
    moved = (afters[0] - befores[0]).abs().mean()
    apart = [(after - afters[0]).abs() for after in afters[1:]]
    return {
        "model": name,
        "steps": steps,
        "times": times,
        "greatest difference of a weight": max(x.max().item() for x in apart),
        "mean difference / mean movement": max((x.mean() / moved).item() for x in apart),
        "loss": losses[0],
        "spread of the loss": max(losses) - min(losses),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=[PLAIN, WHOLE])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    if given.steps < 10 or given.steps % 10 or given.times < 2:
        parser.error("--steps must be a multiple of 10, --times at least 2")
    facts = provenance()
    print(f"{facts['hardware']}, {facts['threads']} threads, code {facts['code']}, {facts['date']}")
    print(pd.DataFrame([spread(name, given.steps, given.times) for name in given.models]).to_string(index=False))


if __name__ == "__main__":
    main()
