"""A large file of dialogues, read block by block: memory holds a few blocks, whatever the file's size.

A block ends where the number of a line is a multiple of its size, and nowhere else but at the end. So a shard, and a
run that goes on, hand the annotators the very batches of one uninterrupted run: the same bytes come out, even where a
tag hangs on what else is in its batch (bf16).
"""

from __future__ import annotations

import hashlib
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rd.data.jsonl import dialogue_line
from rd.errors import UserError

BLOCK = 64  # lines: a few batches of BERT, and what is done again after a kill
MOST_SHARDS = 100_000  # each is a file


@dataclass(frozen=True)
class Block:
    """Rows of neighbouring lines, without the blank ones. fault: what is wrong with the line after its last row."""

    end: int  # number of its last line, from 1
    rows: list[dict[str, Any]]
    read: str  # SHA-256 of all lines from the first of the share to the last of this block
    fault: UserError | None = None


def count_lines(path: Path) -> int:
    """Lines of the file. Raises UserError where it is missing, cannot be read, or holds nothing."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a plain file; give a .jsonl file (it is read more than once)")
    try:
        with path.open("rb") as file:
            if not any(line.strip() for line in file):
                raise UserError(f"{path}:1: the file is empty; get it again")
            file.seek(0)
            return sum(1 for _ in file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def read_share(text: str) -> tuple[int, int]:
    """(3, 8) of "3/8". Raises UserError."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    place, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= place <= count <= MOST_SHARDS:
        raise UserError(f"--shard {text}: write which of how many, 1/8 to 8/8; at most {MOST_SHARDS}")
    return place, count


def share(lines: int, place: int, count: int, size: int = BLOCK) -> range:
    """Lines (from 0) of shard `place` of `count`: whole blocks, neighbours, in the order of the shards."""
    blocks = -(-lines // size)
    first, stop = (min(lines, blocks * i // count * size) for i in (place - 1, place))
    return range(first, stop)


def read_blocks(path: Path, lines: range, done: int = 0, read: str = "", size: int = BLOCK) -> Iterator[Block]:
    """The blocks of these lines (from 0) that come after line `done` (from 1; 0: all of them).

    read: SHA-256 of the lines up to `done`, as they were then. Raises UserError where they have changed since. A fault
    in a line comes as the last block, in its turn: what stands before it is still worked on.
    """
    changed = UserError(
        f"{path}: what was read of it has changed since; give it back, or begin anew with another --out"
    )
    if done > lines.stop or (done % size and done < lines.stop):  # cut, or a last block that was not whole has grown
        raise changed
    sha, rows = hashlib.sha256(), []
    with path.open("rb") as file:
        for number, line in islice(enumerate(file, 1), lines.start, lines.stop):
            sha.update(line)
            if number == done and sha.hexdigest() != read:
                raise changed
            if number <= done:
                continue
            try:
                row = dialogue_line(f"{path}:{number}", line.removeprefix(BOM_UTF8) if number == 1 else line)
            except UserError as error:
                yield Block(number, [], "", error)
                return
            rows += [] if row is None else [row]
            if number % size == 0 or number == lines.stop:
                yield Block(number, rows, sha.hexdigest())
                rows = []
