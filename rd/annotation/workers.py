"""Rows labelled several at a time, their order kept, and never more in hand than a few blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

from rd.annotation.blocks import Block

Label = Callable[[dict[str, Any]], Any]


def in_order(label: Label, blocks: Iterable[Block], at_once: int) -> Iterator[tuple[Block, list[Any]]]:
    """Each block with label(row) of its rows, in the order they came; `at_once` rows at a time, each in one thread.

    A block is read when fewer than `at_once` rows stand behind the one awaited: who labels slowly slows the reading.
    What label raises comes out in its turn, after the blocks before it. The threads are daemons and no pool, whose
    threads are waited for at exit: Ctrl-C ends the program at once, though a request may take a minute.
    """
    if at_once == 1:
        yield from ((block, [label(row) for row in block.rows]) for block in blocks)
        return
    jobs: SimpleQueue = SimpleQueue()
    for _ in range(at_once):
        Thread(target=_work, args=(label, jobs), daemon=True).start()
    waiting: deque[tuple[Block, list[Future]]] = deque()
    try:
        for block in blocks:
            waiting.append((block, [Future() for _ in block.rows]))
            for job in zip(waiting[-1][1], block.rows, strict=True):
                jobs.put(job)
            while sum(len(futures) for _, futures in waiting) - len(waiting[0][1]) >= at_once:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()
        for _ in range(at_once):
            jobs.put(None)


def _finished(waiting: deque[tuple[Block, list[Future]]]) -> tuple[Block, list[Any]]:
    """The first block, awaited. It leaves the queue when it is whole: what an interrupt leaves there is cancelled."""
    block, futures = waiting[0]
    found = [future.result() for future in futures]
    waiting.popleft()
    return block, found


def _work(label: Label, jobs: SimpleQueue) -> None:
    while (job := jobs.get()) is not None:
        future, row = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(label(row))
            except BaseException as error:  # it belongs to whoever awaits the row
                future.set_exception(error)
