"""`rd human read`: a sheet that came back filled, checked line by line, into the database; all of it or nothing.

A file that ends in .json is what Label Studio exported, and its tasks are the lines.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from rd.data.jsonl import read_lines
from rd.errors import UserError
from rd.human.guidelines import ASPECTS
from rd.human.labelled import labelled
from rd.human.session import given, save_ratings, take_seat
from rd.human.sheets import COLUMNS, plain
from rd.human.store import Pair, Store

WORDS = {"a": "A", "b": "B", "tie": "tie", "t": "tie", "=": "tie"}


def read_sheet(path: str | Path, store: Store, name: str) -> dict[str, int]:
    """Counts of ratings: new, known (in the database already), empty. name: the rater's, kept in the database.

    Raises UserError(file:line: ...) for a sheet of another study, a changed reply, a word that is no choice, a pair
    twice, and a rating that contradicts one in the database.
    """
    header, rows = _rows(path)
    if missing := [column for column in COLUMNS if column not in header]:
        raise UserError(f"{path}:1: no column {missing[0]!r}; keep the header of the sheet as it was made")
    codes = {row["rater"] for _, row in rows}
    if len(codes) != 1 or not codes <= set(store.raters):
        raise UserError(
            f"{path}: a sheet of {', '.join(sorted(codes)) or 'nobody'}; give one that make wrote for {store.path}"
        )
    (rater,) = codes
    sheet, chosen, lines = {pair.pair: pair for pair in store.sheet(rater)}, {}, {}
    for where, row in rows:
        pair = row["pair"]
        if pair in lines:
            raise UserError(f"{where}: pair {pair} stands in {lines[pair]} already; keep one")
        lines[pair] = where
        _check(where, row, sheet.get(pair))
        chosen |= {(pair, aspect): _choice(where, aspect, row[aspect]) for aspect in ASPECTS if row[aspect].strip()}
    before = given(store, rater)
    for (pair, aspect), choice in chosen.items():
        if before.get((pair, aspect), choice) != choice:
            raise UserError(f"{lines[pair]}: {aspect} is {choice} here and {before[pair, aspect]} in {store.path}")
    take_seat(store, name, rater)
    save_ratings(store, rater, chosen)
    old = len(before.keys() & chosen.keys())
    return {
        "new": len(chosen) - old,
        "known": old,
        "empty": len(sheet) * len(ASPECTS) - len(chosen.keys() | before.keys()),
    }


def _rows(path: str | Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Header and ("file:line", cells by name). Comma, semicolon or tab: some spreadsheets write another."""
    if Path(path).suffix.lower() == ".json":
        return list(COLUMNS), labelled(path)
    text = "\n".join(line for _, line in read_lines(path))
    mark = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    rows, begins = [], 1
    try:
        for cells in reader:
            rows.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a CSV line ({error}); save the sheet as CSV") from None
    header = [cell.strip() for cell in rows[0][1]]
    for line, cells in rows[1:]:
        if any(cells) and len(cells) != len(header):
            raise UserError(f"{path}:{line}: {len(cells)} cells, and the header has {len(header)}")
    return header, [(f"{path}:{line}", dict(zip(header, cells))) for line, cells in rows[1:] if any(cells)]


def _check(where: str, row: dict[str, str], pair: Pair | None) -> None:
    """The line must be the one that the rater was given: else sides or replies are another study's."""
    if pair is None:
        raise UserError(f"{where}: pair {row['pair']!r} is not in this study")
    for column, text in (("reply A", pair.a), ("reply B", pair.b)):
        if row[column].split() not in (text.split(), plain(text).split()):
            raise UserError(
                f"{where}: {column} is not the one that {row['rater']} was given; rate the sheet as it was made"
            )


def _choice(where: str, aspect: str, cell: str) -> str:
    word = cell.strip().lower()
    if word not in WORDS:
        raise UserError(f"{where}: {aspect} is {cell.strip()!r}; write A, B or tie, or leave it empty")
    return WORDS[word]
