"""Batches made ahead by other processes while the device works, in the memory from which a GPU fetches by itself."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DataLoader

from rd.errors import UserError
from rd.step import own_part

MOST = 4
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG; source: sys/prctl.h


def makers() -> int:
    """How many processes to make batches with: none without a GPU, for the cores are then taken."""
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


class _Own(Sequence):
    """`own_part` of each batch of an epoch; a UserError is an item, else it would come back with its traceback."""

    def __init__(self, order: Sequence) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Any:
        try:
            return own_part(self.order, place)
        except UserError as error:
            return error


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
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # else it would draw from the process' own chance
    )
    for made in loader:
        if isinstance(made, UserError):
            raise made
        yield made


def begin_worker(_: int = 0) -> None:
    """A worker ends with its parent, at once: it has the parent's lock of the run folder open too."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked: else a warning of each
    with suppress(OSError, AttributeError):  # not on Linux: torch's own watch ends it after some seconds
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)


def _as_it_is(made: Any) -> Any:
    return made
