"""Batches made ahead by other processes while the device works, in the memory from which a GPU fetches by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from rd.step import own_part

MOST = 4


def makers() -> int:
    """How many processes to make batches with: none without a GPU, for the cores are then taken."""
    return min(MOST, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0


class _Own(Sequence):
    """`own_part` of each batch of an epoch."""

    def __init__(self, order: Sequence) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[Any, tuple[int, int, int]]:
        return own_part(self.order, place)


def ahead(order: Sequence, place: int, workers: int) -> Iterator[tuple[Any, tuple[int, int, int]]]:
    """`own_part(order, i)` for i = place, place + 1, ...: the same whatever the number of workers, which are forked."""
    loader = DataLoader(
        _Own(order),
        batch_size=None,
        sampler=range(place, len(order)),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),  # else it would draw from the process' own chance
    )
    return iter(loader)


def _as_it_is(made: Any) -> Any:
    return made
