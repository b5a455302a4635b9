"""Broken input for everything that reads a file or a reply: it is refused with one clear line, or read; nothing else.

    python benchmarks/fuzz.py --count 100000 --seed 0

Starts from valid made-up files and flips, cuts, repeats and splices their bytes, puts in what readers stumble over
(NUL, marks of byte order and direction, halves of characters, deep nests, endless numbers, long lines), and makes text
and JSON from nothing. Prints a Markdown table, and the first traceback of each kind of crash; exits 1 where there is
one. The same count and seed give the same inputs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from fuzz_targets import TARGETS, Target  # noqa: E402  (beside this file)

from rd.errors import UserError  # noqa: E402

LONGEST_LINE = 2500  # characters of an error, at most
DEEP = 3000
LARGE = [b"9" * 5000, b"-1", b"1e999", b"-1e400", b"NaN", b"Infinity", b"1" + b"0" * 400, b"0.0", b"1e39", b"null"]
ODD = [
    b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"\\udfff", b"\r\n", b"\r", b"\n",
    b"\t", b"\x1b[2J", b"\x0c", b'"', b"'", b"''", b"``", b"\\", b",", b"{", b"}", b"[", b"]", b"=", b".", b"..",
    b"_comma_", b"<script>", b"\\input{x}", b"[" * DEEP, b'{"a":' * DEEP, b"[" * 900 + b"]" * 900,
    b"[" * 48 + b"]" * 48,
    b'{"id":"d9","id":"d1"}', b'"":""', b"true", b"[]", b"{}",
    *(sign.encode() for sign in "\u2028\u2029\x85\u202e\u200f\u00a0\u0130\u03a3\u1e9e\u200b\U0001f642"),
]  # fmt: skip


def mutated(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to six changes of a file, most of them small."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        i, j = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        j = min(j, i + chance.choice((0, 1, 4, 30, len(data))))
        match chance.randrange(9):
            case 0 if data:  # flip
                at = chance.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            case 1:  # cut the end off
                data = data[:i]
            case 2:  # cut out
                data = data[:i] + data[j:]
            case 3:  # repeat
                data = data[:i] + data[i:j] * chance.choice((2, 3, 50)) + data[j:]
            case 4:  # splice with another file
                other = chance.choice(others)
                data = data[:i] + other[chance.randrange(len(other) + 1) :]
            case 5:  # numbers
                data = _replaced(data, chance, b"0123456789", chance.choice(LARGE))
            case 6:  # a JSON value or a cell by another
                data = _replaced(data, chance, b'":,\t', chance.choice(ODD + LARGE))
            case 7 if chance.random() < 0.02:  # a very long line
                data = data[:i] + chance.choice((b"a", b"word ", b" ", "\u00e9".encode())) * 1_000_000 + data[i:]
            case _:
                data = data[:i] + chance.choice(ODD) + data[i:]
    return data


def _replaced(data: bytes, chance: random.Random, signs: bytes, new: bytes) -> bytes:
    """One of the signs replaced."""
    places = [i for i, sign in enumerate(data[:20_000]) if sign in signs]
    at = chance.choice(places) if places else 0
    return data[:at] + new + data[at + 1 :]


def made(chance: random.Random) -> bytes:
    """Text, lines of cells, or JSON, from nothing."""
    if chance.random() < 0.4:
        lines = [json.dumps(_value(chance, 4)) for _ in range(chance.randrange(1, 4))]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    signs = [chr(chance.choice((chance.randrange(128), chance.randrange(0x3000), 0x2028, 0x1F600))) for _ in range(40)]
    return "".join(chance.choices([*signs, " ", ",", "\t", "\n", "a", "1", '"'], k=chance.randrange(200))).encode(
        "utf-8", "surrogatepass"
    )


def _value(chance: random.Random, depth: int) -> object:
    plain = [None, True, 0, -1, 1.5, 10**30, "", "a", "\ud800", "id", float("nan"), float("inf"), "d1", "sad"]
    keys = [
        "id",
        "turns",
        "text",
        "reasons",
        "intent",
        "emotion",
        "conv_id",
        "phrases",
        "outcome",
        "key",
        "result",
        "x",
    ]
    kind = chance.randrange(3) if depth else 0
    if kind == 1:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 2:
        return {chance.choice(keys): _value(chance, depth - 1) for _ in range(chance.randrange(5))}
    return chance.choice(plain)


def fuzz(target: Target, folder: Path, count: int, seed: int) -> tuple[Counter, list[str]]:
    """Counts of refused, accepted, crashes; and what the crashes were, one of each kind."""
    chance, found, told = random.Random(f"{target.name} {seed}"), Counter(), {}
    run = target.open(folder)
    for _ in range(count):
        data = made(chance) if chance.random() < 0.15 else mutated(chance.choice(target.seeds), chance, target.seeds)
        try:
            run(data)
            found["accepted"] += 1
        except UserError as error:
            text = str(error)
            clear = (
                len(text.splitlines()) == 1 and len(text) <= LONGEST_LINE and "\x1b" not in text and "\0" not in text
            )
            found["refused" if clear else "crashes"] += 1
            if not clear:
                told.setdefault("unclear", f"not one clear line: {ascii(text)[:300]}\n{ascii(data)[:300]}")
        except Exception as error:
            found["crashes"] += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} {last.filename}:{last.lineno}"
            trace = "".join(traceback.format_exception(error)[-6:])
            told.setdefault(kind, f"{trace[-1500:]}\ninput: {ascii(data)[:300]}")
    return found, list(told.values())


def main(count: int, seed: int, only: str = "", say: Callable[[str], object] = print) -> int:
    """Prints the table; returns the number of crashes."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    chosen = [target for target in TARGETS if only in target.name]
    whole, left, crashes, rows, stories = sum(t.share for t in chosen), count, 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        for i, target in enumerate(chosen):
            part = left if i + 1 == len(chosen) else min(left, round(count * target.share / whole))
            left -= part
            (Path(folder) / str(i)).mkdir()
            found, told = fuzz(target, Path(folder) / str(i), part, seed)
            rows.append((target.name, part, found["refused"], found["accepted"], found["crashes"]))
            crashes += found["crashes"]
            stories += [f"{target.name}: {story}" for story in told]
    logging.disable(logging.NOTSET)
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    say("| target | inputs | refused with the clear error | accepted | crashes |\n| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        say("| " + " | ".join(map(str, row)) + " |")
    for story in stories:
        say(f"\n{story}")
    return crashes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fuzz the readers.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    given = parser.parse_args()
    sys.exit(main(given.count, given.seed, given.only) > 0)
