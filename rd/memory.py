"""Freed memory stays with the process for a while (glibc), where the system would take it back after every tensor.

A large tensor is by default mapped when it is made and unmapped when it goes: every step of training then touches the
same gigabyte as fresh, zeroed pages, and on two cores that is a third to a half of its time.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # source: malloc.h
_PAD = 64 * 2**20  # bytes that the heap grows by at least


def keep_freed_memory() -> bool:
    """From now on freed memory is used again, and kernels of not too many shapes are kept (`few_kernels`).

    Holds for the whole process. False where the C library is not glibc.
    """
    few_kernels(256)  # about what an epoch of padded batches needs (rd.data.batch.STRIDE)
    mallopt = _function("mallopt")
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD))
    return mallopt is not None and all(mallopt(what, value) for what, value in settings)


def return_freed_memory() -> bool:
    """Give the system what is free now, and say whether anything was.

    Called now and then: else the holes between tensors of many sizes add up to gigabytes.
    """
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def peak_mb() -> float:
    """The most memory that this process has held so far, in units of 2^20 bytes.

    Linux' ru_maxrss begins with that of the parent, VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def few_kernels(most: int = 16) -> None:
    """oneDNN keeps ready what it needs for products of the last `most` shapes; by itself it keeps 1024, a gigabyte.

    Where every batch has another length, a kept one is hardly ever met again, and the memory is better used otherwise.
    Holds for the process, if called before its first product; a value that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(most))


def _function(name: str) -> Any:
    """A function of the C library, None where it has no such one (musl, macOS, Windows)."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
