"""Batches made ahead: an error of the data is the user's one line, and a worker does not outlive its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rd.errors import UserError
from rd.prefetch import ahead, makers

PARENT = """
import os, sys, time
from rd.prefetch import begin_worker
if os.fork() == 0:
    begin_worker()
    print(os.getpid(), flush=True)
    time.sleep(600)
os.wait()
"""


class Broken(list):
    """An epoch whose third batch cannot be made."""

    def __getitem__(self, place: int) -> str:
        if place == 2:
            raise UserError("train.jsonl:3: no text")
        return f"batch {place}"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_mistake_stays_one_line(workers: int) -> None:
    made = ahead(Broken("abcd"), 1, workers)
    assert next(made)[0] == "batch 1"
    with pytest.raises(UserError, match=r"^train\.jsonl:3: no text$"):
        next(made)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent is gone")
def test_a_worker_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    for _ in range(300):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker is still there")


def alive(process: int) -> bool:
    """Whether it runs; a zombie does not."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_a_gpu_no_process_makes_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert makers() == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16), raising=False)
    assert makers() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert makers() == 1
