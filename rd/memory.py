"""Freed memory stays with the process (glibc's `mallopt`), where the system would take it back after every tensor.

A large tensor is by default mapped when it is made and unmapped when it goes: every step of training then touches the
same gigabyte as fresh, zeroed pages, and on two cores that is a third to a half of its time.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # source: malloc.h
_PAD = 64 * 2**20  # bytes that the heap grows by at least


def keep_freed_memory() -> bool:
    """From now on freed memory is used again; holds for the whole process. False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return all(mallopt(what, value) for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD)))
