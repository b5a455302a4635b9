"""One process at a time writes into a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rd.errors import UserError

LOCK = ".lock"  # its name in the folder; it holds the process number and the machine of the holder
NONE_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what file systems without flock say


@contextmanager
def locked(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Nobody else writes into `folder` (made where it is missing) until the block ends.

    It is an flock of the kernel on folder/.lock, which ends with the process: a kill leaves no stale lock. Where
    another process holds it: UserError, or with `wait` (a cache that several runs share) one line on standard error
    and patience. Of the processes of one training (accelerate, torchrun) only the first locks a folder of results;
    a cache they lock in turn.

    On network file systems: NFS on Linux passes flock on to its server, so it holds between machines if the server
    keeps locks; some others (FUSE, Lustre without -o flock) keep it within one machine, or have none at all. In the
    last case a line on standard error says so and the work goes on unguarded.
    """
    folder = Path(folder)
    rank, processes = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not wait and rank not in ("", "0") and processes not in ("", "1"):
        yield
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = _taken(folder, wait)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # while it is still ours: the next one makes its own
        file.close()
        if made:
            with suppress(OSError):
                folder.rmdir()  # nothing came of it


def _taken(folder: Path, wait: bool) -> IO[str]:
    """The open and locked file. One that its last holder removed meanwhile locks nothing: then the next is tried."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            error.filename = str(folder)
            raise
        try:
            _lock(file, folder, wait)
            with suppress(OSError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                    file.truncate(0)
                    print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: IO[str], folder: Path, wait: bool) -> None:
    ours = take(file)
    if ours is None:
        print(f"rd: {folder}: this file system has no locks; let no second process write here", file=sys.stderr)
    elif not ours:
        file.seek(0)
        holder = file.readline().strip() or "another process"
        if not wait:
            raise UserError(f"{folder}: {holder} is writing here; wait for its end, or give another folder")
        print(f"rd: {folder}: waiting for {holder}, which is writing here", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)


def take(file: IO) -> bool | None:
    """Whether the kernel's lock on an open file is ours now, until it is closed; None: the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NONE_HERE:
            raise
        return None
    return True
