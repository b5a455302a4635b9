"""A run's training in two stages: with Noam's rate, then from the best weights on with a rate that falls to zero."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rd.checkpoint import WEIGHTS, load_weights
from rd.config import Config, TrainConfig
from rd.data.batch import Batch, in_order, shuffled
from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import replace_file, replace_text
from rd.inputs import Inputs
from rd.metrics import perplexity
from rd.prefetch import makers
from rd.processes import by_main, spread
from rd.responder import Responder
from rd.train import fit

FIRST = "first.safetensors"  # the first stage's best weights, while the last stage's lie in their place
FINAL = "final"  # folder of the last stage


def validator(inputs: Inputs, split: str = "valid", size: int = 64) -> Callable[[torch.nn.Module], dict[str, float]]:
    """PPL (protocol: macro) of a split, the score that early stopping watches, with whatever the model reports."""
    batches = in_order(inputs.examples[split], inputs.collate, size)

    def validate(model: Responder) -> dict[str, float]:
        model.eval()
        sums, lengths, hits = [], [], {}

        def score(batch: Batch) -> tuple[list, list, dict[str, list]]:
            batch = batch.to(next(model.parameters()).device)
            nll, words, context = model.nll(batch)
            named = {name: right.tolist() for name, right in model.hits(batch, context).items()}
            return nll.tolist(), words.tolist(), named

        for nll, words, named in spread(score, batches, disable=True):
            sums += nll
            lengths += words
            for name, right in named.items():
                hits.setdefault(name, []).extend(right)
        found = perplexity(sums, lengths)
        return {"score": found["ppl"], **found, **{name: 100 * sum(h) / len(h) for name, h in hits.items() if h}}

    return validate


def train_stages(
    model: Responder, inputs: Inputs, config: Config, out: Path, resume: bool, name: str, bert: bool
) -> dict[str, Any]:
    """Train into `out`; returns the steps taken and the best validation, whose weights end in out/best.safetensors.

    bert: the model's own BERT learns along in the last stage. With resume both stages go on where they stopped; where
    the first now went further, the last is made anew.
    """
    by_main(lambda: (out / FIRST).exists() and _copy(out / FIRST, out / WEIGHTS))
    model.joined = False
    first = _stage(model, inputs, config.train, out, resume, name)
    steps, best = first[-1]["step"], _best(first)
    if config.final.steps:
        by_main(lambda: _begin_final(out / FINAL, steps))
        model.joined = bert
        inputs.collate.pieces = model.pieces
        last = _stage(model, inputs, config.final, out / FINAL, resume, f"{name}, final stage")
        steps += last[-1]["step"]
        if _best(last)["valid/score"] < best["valid/score"]:
            best = _best(last)
            by_main(lambda: _copy(out / WEIGHTS, out / FIRST))
            by_main(lambda: _copy(out / FINAL / WEIGHTS, out / WEIGHTS))
        else:
            load_weights(out / WEIGHTS, model)
    return {"steps": steps, "best": best}


def _stage(model: Responder, inputs: Inputs, config: TrainConfig, out: Path, resume: bool, name: str) -> list[dict]:
    """One training to early stopping; returns its history."""

    def batches(epoch: int):
        return shuffled(inputs.examples["train"], inputs.collate, config.batch, config.seed, epoch)

    return fit(model, batches, validator(inputs), config, out, resume, progress=name, workers=makers())


def _begin_final(folder: Path, steps: int) -> None:
    """A last stage begun after other steps of the first is made anew. Raises UserError where nobody can tell."""
    begun = folder / "begun.json"
    try:
        known = parse(begun.read_text("utf-8")) if begun.exists() else None
    except ValueError as error:
        raise UserError(f"{begun}: damaged ({error}); delete {folder} to make the last stage anew") from None
    if known != {"after": steps}:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        replace_text(begun, json.dumps({"after": steps}))


def _best(history: list[dict[str, Any]]) -> dict[str, Any]:
    return min((row for row in history if "valid/score" in row), key=lambda row: row["valid/score"])


def _copy(source: Path, target: Path) -> None:
    replace_file(target, lambda beside: shutil.copyfile(source, beside))
