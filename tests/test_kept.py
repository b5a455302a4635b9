"""Kept results against a plain loop: what is whole is never made again, and nothing else is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

import rd.kept
from rd.kept import Kept


class Killed(BaseException):
    """Stands for the end of a process."""


class Work:
    """Squares, each noted as it is made; `fuse` pieces until the process dies."""

    def __init__(self, fuse: int | None = None) -> None:
        self.made, self.fuse = [], fuse

    def __call__(self, x: int) -> dict:
        if len(self.made) == self.fuse:
            raise Killed
        self.made.append(x)
        return {"square": x * x, "half": x / 2, "word": "é\n\x85"}


ITEMS = [5, 3, 8, 8, 1, 9]
WANT = [Work()(x) for x in ITEMS]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(target: Path, work: Work, made_of: object = "weights", what: str = "squares") -> list:
    return Kept(target, made_of).spread(what, work, ITEMS, disable=True)


@pytest.mark.parametrize("fuse", range(len(ITEMS) + 1))
def test_each_piece_is_made_once_whatever_the_kill(tmp_path: Path, fuse: int) -> None:
    target, first, second = tmp_path / "out.json", Work(fuse), Work()
    if fuse < len(ITEMS):
        with pytest.raises(Killed):
            run(target, first)
    else:
        assert run(target, first) == WANT
    assert run(target, second) == WANT and first.made + second.made == ITEMS
    Kept(target, "weights").clear()
    assert left(tmp_path) == []


def test_every_cut_and_every_flipped_bit_costs_at_most_its_own_line(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    run(target, Work())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(0, len(whole), 7):
        file.write_bytes(whole[:cut])
        again = Work()
        assert run(target, again) == WANT
        assert len(again.made) == len(ITEMS) - sum(end <= cut for end in ends)
    for place in range(0, len(whole), 11):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = Work()
        assert run(target, again) == WANT
        assert 1 <= len(again.made) <= 2  # a lost line end costs two


def test_results_of_other_weights_kinds_and_targets_are_not_taken(tmp_path: Path) -> None:
    run(tmp_path / "out.json", Work())
    for target, made_of, what in (
        ("out.json", "others", "squares"),
        ("out.json", "weights", "cubes"),
        ("b", "weights", "squares"),
    ):
        again = Work()
        run(tmp_path / target, again, made_of, what)
        assert again.made == ITEMS
    again = Work()
    run(tmp_path / "out.json", again)  # "others" has driven them out
    assert again.made == ITEMS


@pytest.mark.parametrize("name", ["a[1].jsonl", "out", "a*.jsonl", "a.jsonl"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    others = [tmp_path / other for other in {"a1.jsonl", "out.jsonl", "ab.jsonl", "a.jsonl", "out"} - {name}]
    for target in (tmp_path / name, *others):
        run(target, Work())
    again = Work()
    assert run(tmp_path / name, again) == WANT and not again.made
    Kept(tmp_path / name, "weights").clear()
    assert left(tmp_path) == sorted(f".{target.name}.squares.0.rows" for target in others)


def test_a_full_disk_ends_the_work_and_leaves_what_was_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append, room = rd.kept.append, [3]

    def full(path: Path, data: bytes) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device", str(path))
        append(path, data)

    monkeypatch.setattr(rd.kept, "append", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "out", Work())
    room[0] = 100
    again = Work()
    assert run(tmp_path / "out", again) == WANT and again.made == ITEMS[3:]


def test_files_of_several_processes_are_gathered(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    run(target, Work())
    (file,) = tmp_path.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[::2]))
    file.with_name(file.name.replace(".0.rows", ".1.rows")).write_bytes(b"".join(lines[1:3:2]) + lines[5][:9])
    again = Work()
    assert run(target, again) == WANT and again.made == [ITEMS[3], ITEMS[5]]
    assert left(tmp_path) == [".out.json.squares.0.rows"]
