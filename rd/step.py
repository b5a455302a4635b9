"""One step of training: this process' rows of a batch, the losses, the update; none where a loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rd.blocks.parts import part_of
from rd.processes import count, index


def own_part(order: Sequence, place: int) -> tuple[Any, tuple[int, int, int]]:
    """This process' rows of batch `place` of an epoch, and what `part_of` wants to know of them.

    A batch of fewer rows than there are processes goes to each of them whole.
    """
    rows = len(order.order[place]) if count() > 1 else 0
    if rows < count():
        return order[place], (rows, 0, 1)
    return order.part(place, index(), count()), (rows, index(), count())


def update(wrapped, batch, part, optimizer, rate, config, step, accelerator) -> dict[str, float]:
    """One update; returns the terms. If one, or the "gradient", is not finite, everything is left as it was.

    The terms come to the host once, at the end: nothing else waits for the device.
    """
    wrapped.train()
    buffers = [(buffer, buffer.clone()) for buffer in wrapped.buffers()]  # a forward may move them (MovingBaseline)
    with torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []), part_of(*part):
        torch.manual_seed((config.seed + 1009 * index()) * 1_000_003 + step)  # rows here draw what no others draw
        with autocast(config.precision, accelerator.device):
            terms = wrapped(batch)
    accelerator.backward(sum(term.float() for term in terms.values()))
    norm = accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)
    found = torch.stack([*(term.detach().float() for term in terms.values()), norm.float()])
    if count() > 1:  # the same everywhere but in batches that went to all whole; all must stop, or none
        torch.distributed.all_reduce(found)
        found /= count()
    *values, norm = found.tolist()
    values = dict(zip(terms, values, strict=True))
    if all(map(math.isfinite, values.values())) and not math.isfinite(norm):
        values["gradient"] = norm
    if all(map(math.isfinite, values.values())):
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        optimizer.step()
    else:
        for buffer, before in buffers:
            buffer.copy_(before)
    optimizer.zero_grad(set_to_none=True)
    return values


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Products in "bf16" or, with "fp32", as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled={"bf16": True, "fp32": False}[precision])
