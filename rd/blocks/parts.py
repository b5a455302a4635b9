r"""A batch whose rows lie on several processes: its means, and its rows together.

A loss is a mean over all words, rows or pairs of a batch. Where each of n processes holds a part of the rows, a mean of
the parts' means would weigh a word by the part in which it stands. So sums are taken over all processes and pairs are
made of all rows: every process has the same loss L of the whole batch. Data-parallel training then averages the n
gradients, so what came from a process' own rows x_p counts n times on its way back:

$$ \frac{1}{n} \sum_p n\, \frac{\partial L}{\partial x_p}\, \frac{\partial x_p}{\partial \theta} $$

Outside `part_of` there is one process, and all this is a plain mean. No call waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_PART: ContextVar[tuple[int, int, int]] = ContextVar("part", default=(0, 0, 1))


@contextmanager
def part_of(rows: int, index: int, count: int) -> Iterator[None]:
    """Within: this process holds rows index, index + count, ... of a batch of `rows`, and `count` others the rest."""
    token = _PART.set((rows, index, count))
    try:
        yield
    finally:
        _PART.reset(token)


def parts() -> int:
    """How many processes hold parts of the batch."""
    return _PART.get()[2]


def total(x: Tensor) -> Tensor:
    """Sum of the processes' x, of any shape."""
    return x if parts() == 1 else _Total.apply(x, parts())


def ratio(sums: Tensor, count: Tensor) -> Tensor:
    """sums (...) / count (scalar), each of the whole batch; where the count is 0, sums."""
    if parts() == 1:
        return sums / count.clamp_min(1)
    both = total(torch.cat([sums.float().reshape(-1), count.float().reshape(1)]))
    return both[:-1].view(sums.shape) / both[-1].clamp_min(1)


def mean(x: Tensor, *dim: int | tuple[int, ...]) -> Tensor:
    """x.mean(*dim) over the rows of the whole batch, which are among the dimensions that go."""
    if parts() == 1:
        return x.mean(*dim)
    sums = x.float().sum(*dim)
    return ratio(sums, torch.full((), x.numel() // sums.numel(), device=x.device))


def everyone(x: Tensor) -> Tensor:
    """x (B', ...), this process' rows -> (B, ...), those of all; an order of its own, the same for every tensor."""
    if parts() == 1:
        return x
    if x.dtype == torch.bool:
        return _Everyone.apply(x.byte(), *_PART.get()).bool()
    return _Everyone.apply(x, *_PART.get())


@torch.no_grad()
def largest(x: Tensor) -> Tensor:
    """Maximum of the processes' x, of any shape; no gradient."""
    if parts() > 1:
        x = x.clone()
        dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, count):
        ctx.count, x = count, x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, slope):
        return slope * ctx.count, None


class _Everyone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rows, index, count):
        sizes = [len(range(i, rows, count)) for i in range(count)]
        ctx.own, ctx.count = slice(sum(sizes[:index]), sum(sizes[: index + 1])), count
        padded = x.new_zeros(sizes[0], *x.shape[1:])  # parts of one size alone can be gathered
        padded[: len(x)] = x
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx, slope):
        return slope[ctx.own] * ctx.count, None, None, None
