"""Results of pieces of work, kept in hidden files beside their target until it is whole: a kill loses one piece."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from rd.files import append, crc32, replace_file
from rd.processes import by_main, count, index, spread

T = TypeVar("T")


@cache
def code_check() -> int:
    """CRC-32 of this package's modules, names and text, as they lay there when it was first asked for."""
    check, root = 0, Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        check = crc32(file, crc32(str(file.relative_to(root)).encode(), check))
    return check


def spreader(kept: Kept | None, what: str) -> Callable[..., list]:
    """How to do pieces of work: kept.spread(what, ...), or without it `rd.processes.spread`."""
    return partial(kept.spread, what) if kept else spread


class Kept:
    """What has been computed for `target`, in .NAME.WHAT.rows, which are gone after `clear`.

    A line is a check, the number of a piece, and its result. The check is a CRC-32 that begins with what the results
    are made of, so that torn lines, flipped bits and the lines of other weights, data or code are alike: made anew.
    """

    def __init__(self, target: Path, made_of: Any) -> None:
        """made_of: all that decides the results, as JSON can hold it; the code of this package is added."""
        self.target = target
        self.check = crc32(json.dumps(made_of).encode(), code_check())

    def spread(self, what: str, call: Callable[[T], Any], items: Sequence[T], **shown: Any) -> list:
        """`rd.processes.spread`, less what was done before. Results must survive JSON, and a result is kept at once.

        what: names the pieces of work, without a dot.
        """
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
        for file in self._files("[^.]+"):
            file.unlink(missing_ok=True)

    def _file(self, what: str, process: int) -> Path:
        return self.target.with_name(f".{self.target.name}.{what}.{process}.rows")

    def _files(self, what: str) -> list[Path]:
        """Those of any process. what: a regular expression."""
        name = re.compile(rf"\.{re.escape(self.target.name)}\.{what}\.\d+\.rows")
        return sorted(file for file in self.target.parent.iterdir() if name.fullmatch(file.name))

    def _gathered(self, what: str) -> dict[int, Any]:
        """The results that are whole; all go into the file of process 0, and the other files go."""
        files = self._files(re.escape(what))
        lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
        good = [line for line in lines if line == b"%08x %s" % (crc32(line[9:-1], self.check), line[9:])]
        if lines:
            replace_file(self._file(what, 0), lambda beside: Path(beside).write_bytes(b"".join(good)))
            for file in files:
                if file != self._file(what, 0):
                    file.unlink(missing_ok=True)
        return dict(json.loads(line[9:]) for line in good)
