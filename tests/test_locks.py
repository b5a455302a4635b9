"""One writer a folder: the second is told who the first is; a killed holder leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rd.errors import UserError
from rd.locks import LOCK, locked

HOLD = """
import sys
from rd.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(root: Path, folder: Path) -> subprocess.Popen:
    """Another process that holds the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_process_is_told_who_the_first_is_and_a_kill_frees_the_folder(root: Path, tmp_path: Path) -> None:
    child = holder(root, tmp_path)
    with pytest.raises(UserError) as told, locked(tmp_path):
        raise AssertionError("two writers")
    who = f"process {child.pid} on {socket.gethostname()}"
    assert str(told.value) == f"{tmp_path}: {who} is writing here; wait for its end, or give another folder"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert (tmp_path / LOCK).exists()  # its file stays, its lock does not
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_waited_for(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    child = holder(root, tmp_path)
    threading.Timer(0.2, child.communicate).start()  # the end of its input is its end
    with locked(tmp_path, wait=True):
        assert child.wait() == 0
        with pytest.raises(UserError, match=f"process {os.getpid()} "), locked(tmp_path):
            raise AssertionError("it waited for a file that its holder has removed since, and holds nothing")
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"waiting for process {child.pid}" in line


def test_two_threads_never_hold_one_folder(tmp_path: Path) -> None:
    """Also where the file of the last holder is removed while the next one waits for it."""
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path, wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 80


def test_what_was_made_for_nothing_goes_and_faults_free_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "b").exists()
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_of_the_processes_of_one_training_the_first_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
        for rank, processes in (("0", "2"), ("1", "1")):
            monkeypatch.setenv("RANK", rank)
            monkeypatch.setenv("WORLD_SIZE", processes)
            with pytest.raises(UserError, match="is writing here"), locked(tmp_path):
                pass


def test_a_file_system_without_locks_is_told_and_others_faults_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(number: int):
        def flock(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return flock

    monkeypatch.setattr(fcntl, "flock", fails(errno.ENOLCK))
    with locked(tmp_path):
        pass
    assert "has no locks" in capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", fails(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path):
        pass
