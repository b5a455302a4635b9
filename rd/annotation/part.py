"""An output that grows and may be cut off at any time: NAME comes to be only when it is whole.

Until then its lines stand in .NAME.part, and .NAME.state.json tells how far they are and what they were made of. The
state is written after the lines, so that a kill leaves at most lines too many, and those are cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import check_target, replace_file
from rd.locks import take

SAVE_EVERY = 1.0  # seconds between two states: each costs two waits for the disk
CHUNK = 2**20


@dataclass(frozen=True)
class State:
    """How far an output is."""

    settings: dict[str, Any]  # what decides its bytes, but for the input
    line: int = 0  # of the input, the last one that is done
    read: str = ""  # SHA-256 of the input's lines up to it
    dialogues: int = 0
    bytes: int = 0
    written: str = hashlib.sha256().hexdigest()  # SHA-256 of the output's bytes
    finished: bool = False


def state_file(out: Path) -> Path:
    """Where the state of an output lies. It stays when all is done: a shard is checked by it."""
    return out.with_name(f".{out.name}.state.json")


def read_state(out: Path) -> State | None:
    """The state of an output; None where none lies there. Raises UserError for one that cannot be read."""
    file = state_file(out)
    if not file.is_file():
        return None
    try:
        found, plain = State(**parse(file.read_text("utf-8"))), State({})
        for name, value in vars(found).items():
            if type(value) is not type(getattr(plain, name)) or (type(value) is int and value < 0):
                raise ValueError(f"its {name} is none")
        return found
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged, or of another version ({error}); delete it to begin anew") from None


class Part:
    """The part file of `out`, open and locked. `with Part(...) as part`: the state is saved whatever ends the block."""

    def __init__(self, out: Path, settings: dict[str, Any], resume: bool) -> None:
        """Raises UserError where work lies there that is not resumed, or cannot be: other settings, other bytes.

        And OSError where `out` is no place for a file: see `rd.files.check_target`.
        """
        check_target(out)
        self.out, self.path, self.saved = out, out.with_name(f".{out.name}.part"), time.monotonic()
        self.sha = hashlib.sha256()
        before = read_state(out)
        if before and not self.path.exists() and not (before.finished and out.exists()):
            before = None  # nothing lies there
        if before and not resume:
            if before.dialogues and not before.finished:
                what = f"--resume goes on with them, or delete {self.path}"
                raise UserError(f"{out}: {before.dialogues} dialogues are done; {what}")
            before = None
        if before:
            self._go_on(before, settings)
        else:
            self.file = _locked(self.path, "ab")
            self.state = State(settings)
            self._save()
            self.file.truncate(0)

    def _go_on(self, before: State, settings: dict[str, Any]) -> None:
        names = sorted({*before.settings, *settings})
        if other := [name for name in names if before.settings.get(name) != settings.get(name)]:
            raise UserError(
                f"{self.out}: begun with other settings ({', '.join(other)}); take those, or give another --out"
            )
        held = self.path if self.path.exists() else self.out
        self.file, self.state = _locked(held, "r+b"), before
        for data in chunks(self.file, before.bytes):
            self.sha.update(data)
        more = held.stat().st_size - before.bytes
        if self.sha.hexdigest() != before.written or more < 0 or (more and held == self.out):
            self.file.close()
            raise UserError(f"{held}: not what was written there; delete it and {state_file(self.out)} to begin anew")
        if more:  # what a kill left half done
            self.file.truncate(before.bytes)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.state.finished:
                return
            if self.state.dialogues:
                self._save()
            else:
                for file in (self.path, state_file(self.out)):
                    file.unlink(missing_ok=True)
        finally:
            self.file.close()

    def write(self, data: bytes) -> None:
        """Add to the part file. It counts from the next `reach` on."""
        self.file.write(data)
        self.file.flush()
        self.sha.update(data)

    def reach(self, line: int, read: str, dialogues: int) -> None:
        """All that is written is good: the input's lines up to `line`, of this digest, so many dialogues more."""
        more = {"line": line, "read": read, "dialogues": self.state.dialogues + dialogues}
        self.state = replace(self.state, **more, bytes=self.file.tell(), written=self.sha.hexdigest())
        if time.monotonic() - self.saved >= SAVE_EVERY:
            self._save()

    def finish(self) -> None:
        """The part file becomes the output."""
        if not self.state.finished:
            self.state = replace(self.state, finished=True)
            self._save()
        if self.path.exists():
            os.replace(self.path, self.out)

    def _save(self) -> None:
        os.fsync(self.file)
        replace_file(state_file(self.out), self._write_state)
        self.saved = time.monotonic()

    def _write_state(self, beside: str) -> None:
        with open(beside, "w", encoding="utf-8") as target:
            json.dump(asdict(self.state), target, indent=1)
            target.flush()
            os.fsync(target)


def chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file, or what there is of them, in pieces."""
    while size > 0 and (data := file.read(min(CHUNK, size))):
        size -= len(data)
        yield data


def _locked(path: Path, mode: str) -> IO[bytes]:
    """The open file, which no second process can open like this until it is closed."""
    file = path.open(mode)
    if take(file) is False or not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
        file.close()
        raise UserError(f"{path}: another process is writing it; wait for its end, or give another --out")
    return file
