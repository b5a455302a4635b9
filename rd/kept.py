"""Results of pieces of work, kept in hidden files beside their target until it is whole: a kill loses one piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from rd.files import append, crc32, replace_file
from rd.processes import by_main, count, index, spread

T = TypeVar("T")
CODE = sorted(Path(__file__).parent.rglob("*.py"))


class Kept:
    """What has been computed for `target`, in .NAME.WHAT.rows, which are gone after `clear`.

    A line is a check, the number of a piece, and its result. The check is a CRC-32 that begins with what the results
    are made of, so that torn lines, flipped bits and the lines of other weights, data or code are alike: made anew.
    """

    def __init__(self, target: Path, made_of: Any) -> None:
        """made_of: all that decides the results, as JSON can hold it; the code of this package is added."""
        self.target = target
        self.check = reduce(lambda check, file: crc32(file, check), CODE, crc32(json.dumps(made_of).encode()))

    def spread(self, what: str, call: Callable[[T], Any], items: Sequence[T], **shown: Any) -> list:
        """`rd.processes.spread`, less what was done before. Results must survive JSON, and a result is kept at once."""
        done = by_main(lambda: self._gathered(what))
        missing = [i for i in range(len(items)) if i not in done]
        own = self._file(what, index())

        def make(i: int) -> Any:
            made = call(items[i])
            text = json.dumps([i, made]).encode()
            append(own, b"%08x %s\n" % (crc32(text, self.check), text))
            return made

        if done:
            before = len(done) // count()
            shown |= {"initial": before, "total": before + len(missing[index() :: count()])}
        done |= zip(missing, spread(make, missing, **shown), strict=True)
        return [done[i] for i in range(len(items))]

    def clear(self) -> None:
        """The target is whole."""
        for file in self._files("*"):
            file.unlink()

    def _file(self, what: str, process: int | str) -> Path:
        return self.target.with_name(f".{self.target.name}.{what}.{process}.rows")

    def _files(self, what: str) -> list[Path]:
        return sorted(self.target.parent.glob(self._file(what, "*").name))

    def _gathered(self, what: str) -> dict[int, Any]:
        """The results that are whole; all go into the file of process 0, and the other files go."""
        lines = [line for file in self._files(what) for line in file.read_bytes().splitlines(keepends=True)]
        good = [line for line in lines if line == b"%08x %s" % (crc32(line[9:-1], self.check), line[9:])]
        if lines:
            replace_file(self._file(what, 0), lambda beside: Path(beside).write_bytes(b"".join(good)))
            for file in self._files(what)[1:]:
                file.unlink()
        return dict(json.loads(line[9:]) for line in good)
