"""One loop that knows only `model(batch) -> named losses`.

Chance in step n comes from (seed, n) alone and the state is written atomically, so a run that was killed at any moment
and resumed ends with the weights of the uninterrupted one, bit for bit on CPU.

Where `accelerate launch` started several processes, each takes its rows of every batch: batches, steps and epochs are
the same for any number of them, and so is the loss (`rd.blocks.parts`). The main process writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from tqdm import tqdm

from rd.checkpoint import WEIGHTS, load_state, load_weights, save_state, save_weights
from rd.config import TrainConfig
from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import append, replace_text
from rd.memory import keep_freed_memory, return_freed_memory
from rd.prefetch import ahead
from rd.processes import bar, by_main, count, index
from rd.step import autocast, update


class TrainingError(UserError):
    """A loss was NaN or infinite; the state before that step is saved."""


def learning_rate(config: TrainConfig, step: int, width: int) -> float:
    """Rate of step 1, 2, ...: Noam (Vaswani et al. 2017, eq. 3) or linear warm-up and decay to zero."""
    warmup = max(config.warmup, 1)
    if config.schedule == "noam":
        return config.lr * width**-0.5 * min(step**-0.5, step * warmup**-1.5)
    return config.lr * min(step / warmup, max(0.0, (config.steps - step + 1) / max(config.steps - warmup, 1)))


def fit(
    model: nn.Module,
    batches: Callable[[int], Sequence],
    validate: Callable[[nn.Module], dict[str, float]],
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    progress: str = "train",
    log_every: int = 50,
    workers: int = 0,
) -> list[dict[str, Any]]:
    """Train to early stopping on validate()["score"] (lower is better) or config.steps; best weights end in `model`.

    Writes out/history.jsonl, out/best.safetensors and out/state.pt. Returns the history.
    workers: processes that make batches ahead (`rd.prefetch`).
    Raises TrainingError for a loss that is not finite, UserError where there is a run already and `resume` is off, and
    for batches that several processes cannot share.
    """
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    if not resume and (out / "state.pt").exists():
        raise UserError(f"{out}: a run lies here already; give --resume to go on with it, or another --out")
    several = count() > 1  # asked before the Accelerator is made: it joins the processes
    if several and not hasattr(batches(0), "part"):
        raise UserError(f"{out}: one process trains this; start it without a launcher")
    # "no": the precision is `autocast`'s; Accelerator's own is one for the whole process and stays on the model
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # ablations leave some out
    )
    groups = model.groups() if hasattr(model, "groups") else [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        groups, lr=0.0, betas=(0.9, config.beta2), eps=1e-9, weight_decay=config.weight_decay, fused=True
    )
    wrapped = accelerator.prepare_model(model, evaluation_mode=not several)  # True: it stays as it is
    optimizer = accelerator.prepare_optimizer(optimizer)
    state = {"step": 0, "best": math.inf, "stale": 0, "seconds": 0.0, "sums": {}}
    if resume and (out / "state.pt").exists():
        state |= _load(out / "state.pt", model, optimizer)
        if state["best"] < math.inf and not (out / WEIGHTS).exists():
            raise UserError(f"{out / WEIGHTS}: gone, and state.pt goes on after it; delete state.pt to train again")
    history = _History(out / "history.jsonl", state["step"], state["best"])
    width = getattr(getattr(model, "config", None), "width", 300)
    per_epoch, made, began = len(batches(0)), None, time.monotonic()
    shown = tqdm(total=config.steps, initial=state["step"], desc=progress, **bar())
    try:
        while state["step"] < config.steps and state["stale"] < config.patience:
            epoch, place = divmod(state["step"], per_epoch)
            if made is None or place == 0:
                made = ahead(batches(epoch), place, workers)
            batch, part = next(made)
            batch = batch.to(accelerator.device)
            rate = learning_rate(config, state["step"] + 1, width)
            terms = update(wrapped, batch, part, optimizer, rate, config, state["step"], accelerator)
            if bad := [name for name, value in terms.items() if not math.isfinite(value)]:
                by_main(lambda: _save(out / "state.pt", model, optimizer, state))
                raise TrainingError(f"step {state['step'] + 1}: loss {bad} is not finite; samples {batch.ids}")
            state["step"] += 1
            shown.update()
            for name, value in terms.items():
                state["sums"].setdefault(name, []).append(value)
            if state["step"] % log_every == 0:
                return_freed_memory()
                means = {name: sum(v) / len(v) for name, v in state["sums"].items()}
                history.add(step=state["step"], lr=rate, **{f"loss/{k}": v for k, v in means.items()})
                shown.set_postfix({k: f"{v:.3f}" for k, v in means.items()}, refresh=False)
                state["sums"] = {}
            last = state["step"] == config.steps
            if state["step"] % config.validate_every == 0 or last:
                _validate(model, validate, state, history, out, accelerator, config)
            if state["step"] % config.save_every == 0 or last:
                state["seconds"], began = state["seconds"] + time.monotonic() - began, time.monotonic()
                by_main(lambda: _save(out / "state.pt", model, optimizer, state))
    finally:  # Ctrl-C is a kill: the last state stands, for one taken in mid-step would be of no step
        shown.close()
    if (out / WEIGHTS).exists():
        load_weights(out / WEIGHTS, model)
    return history.rows


def _validate(model, validate, state, history, out, accelerator, config) -> None:
    model.eval()
    with torch.inference_mode(), autocast(config.precision, accelerator.device):
        found = validate(model)
    found = by_main(lambda: found)  # all must stop at one step
    history.add(step=state["step"], **{f"valid/{k}": v for k, v in found.items()})
    if found["score"] < state["best"]:
        state["best"], state["stale"] = found["score"], 0
        by_main(lambda: save_weights(out / WEIGHTS, model))
    else:
        state["stale"] += 1


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a history.jsonl, but for a torn last one; none where there is no file. Raises UserError."""
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        rows = [parse(line) for line in lines if line.endswith("}")]
        if not all(isinstance(row, dict) and type(row.get("step")) is int for row in rows):
            raise ValueError("a row without its step")
        if not all(isinstance(row.get("valid/score", 0.0), int | float) for row in rows):
            raise ValueError("a score that is no number")
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); take the broken line out") from None
    return rows


class _History:
    """JSON lines, by the main process; rows after the state's step are from a run that was killed and are dropped."""

    def __init__(self, path: Path, step: int, best: float) -> None:
        """best: the best validation that the state knows. Raises UserError for a history that lacks it."""
        rows = read_history(path) if step else []
        self.path, self.rows = path, [row for row in rows if row["step"] <= step]
        if best < math.inf and all(row.get("valid/score") != best for row in self.rows):
            what = "put the file back, or delete state.pt beside it to begin again"
            raise UserError(f"{path}: lacks the best validation of the {step} steps that are done; {what}")
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        by_main(lambda: replace_text(path, text))

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        if index() == 0:
            append(self.path, (json.dumps(row) + "\n").encode())


def _save(path: Path, model: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    save_state(path, {**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()})


def _load(path: Path, model: nn.Module, optimizer: Any) -> dict[str, Any]:
    whole = load_state(path)
    try:
        model.load_state_dict(whole.pop("model"))
        optimizer.load_state_dict(whole.pop("optimizer"))
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = (str(error).splitlines() or [""])[0][:100]
        raise UserError(f"{path}: of another model or version ({why}); give another --out, or delete it") from None
    return whole
