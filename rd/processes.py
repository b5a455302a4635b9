"""Work shared by several processes, as `accelerate launch` or `torchrun` starts them; with one, plain calls.

All run the same program on the same folders. What is computed is shared out, what is written the main process writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = timedelta(days=3)  # how long one waits for another: the main process may train annotators meanwhile
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def count() -> int:
    """How many processes share the work."""
    if _ALONE.get() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 1
    return _state().num_processes


def index() -> int:
    """Number of this process; 0 is the main one."""
    return 0 if count() == 1 else _state().process_index


def bar() -> dict[str, Any]:
    """Options of a progress bar: the main process shows it."""
    return {"mininterval": 5.0} | ({"disable": True} if index() else {})


def alone(make: Callable[[], T]) -> T:
    """make() where this process is the only one, as far as it can tell."""
    token = _ALONE.set(True)
    try:
        return make()
    finally:
        _ALONE.reset(token)


def by_main(make: Callable[[], T]) -> T:
    """make() by the main process once all are here, and its result on all; what it raises all raise."""
    if count() == 1:
        return make()
    import torch.distributed as dist

    dist.barrier()  # what the others still read before is not changed under their eyes
    told: list[Any] = [None, None]
    if index() == 0:
        try:
            told[0] = make()
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


def main_first(make: Callable[[], T]) -> T:
    """make() by the main process alone, then by each of the others: they find the files that it wrote."""
    if count() == 1:
        return make()
    made: list[T] = []
    by_main(lambda: made.append(alone(make)))
    return made[0] if made else alone(make)


def spread(call: Callable[[Any], T], items: Sequence, **shown: Any) -> list[T]:
    """[call(item) for item in items], each process its share; the whole list, in order, on all. shown: for the bar."""
    from tqdm import tqdm

    n, own = count(), range(index(), len(items), count())
    found = [call(items[i]) for i in tqdm(own, **{**shown, **bar()})]
    if n == 1:
        return found
    import torch.distributed as dist

    parts: list[Any] = [None] * n
    dist.all_gather_object(parts, found)
    return [parts[i % n][i // n] for i in range(len(items))]


def _state() -> Any:
    """Of accelerate: it opens the group of processes, and gives each its own GPU, when it is asked first."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
