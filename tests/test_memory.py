"""Page faults, counted by the system: with memory kept, making the same large tensor again touches no new page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rd.memory import peak_mb

FAULTS = """
import resource, sys, torch
from rd.memory import keep_freed_memory
torch.set_num_threads(1)
kept = sys.argv[1] == "kept" and keep_freed_memory()
for _ in range(20):  # the heap grows first
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)  # 64 MiB: 16,384 pages
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


RETURNED = """
import torch
from rd.memory import keep_freed_memory, return_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) // 256  # MiB
kept = keep_freed_memory()
torch.ones(2**26)
before = resident()
print(int(kept and return_freed_memory()), before - resident())
"""


PEAK = """
import torch
from rd.memory import peak_mb
def resident():
    return int(open("/proc/self/statm").read().split()[1]) / 256  # MiB
before = max(resident(), peak_mb())
large = torch.ones(2**26)
there = resident()
del large
print(peak_mb() - there, there - before, peak_mb() - resident())
"""


def faults(how: str) -> tuple[int, int]:
    """(whether memory was kept, page faults of twenty large tensors)."""
    out = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout
    kept, count = out.split()
    return int(kept), int(count)


def test_kept_memory_is_not_touched_as_new() -> None:
    kept, few = faults("kept")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert few < 1000 < faults("as it is")[1]


def test_what_is_free_can_be_returned() -> None:
    out = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True).stdout
    given, less = map(int, out.split())
    if not given:
        pytest.skip("the C library is not glibc")
    assert less > 200  # of 256 MiB


def test_a_system_that_tells_no_peak_of_its_own_is_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    own = peak_mb()
    monkeypatch.setattr(Path, "read_text", lambda self: "Name: python\n")
    assert peak_mb() >= own - 8  # ru_maxrss: at least as much, the parent's too


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what Linux tells")
def test_the_peak_is_what_was_resident_and_stays() -> None:
    out = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    over, large, given_back = map(float, out.split())
    assert abs(over) < 8 and large > 240 and given_back > 240
