"""What Label Studio exports as JSON (not JSON-MIN), read as the lines of a filled sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rd.data.jsonl import parse, read_lines
from rd.errors import UserError
from rd.human.export import SIDES, TIE
from rd.human.guidelines import ASPECTS

FIELDS = {"rater": "rater", "pair": "pair", "context": "context", "reply A": "reply_a", "reply B": "reply_b"}
CHOSEN = {side: choice for choice, side in SIDES.items()}


def labelled(path: str | Path) -> list[tuple[str, dict[str, str]]]:
    """("file: task N", cells by the sheet's columns) of each task. Raises UserError for another form."""
    try:
        found = parse("\n".join(line for _, line in read_lines(path)))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); export it from Label Studio as JSON") from None
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: no list of tasks; export it from Label Studio as JSON")
    return [(f"{path}: task {number}", _row(f"{path}: task {number}", task)) for number, task in enumerate(found, 1)]


def _row(where: str, task: Any) -> dict[str, str]:
    try:
        cells = {column: task["data"][name] for column, name in FIELDS.items()}
        said = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
        marks = [_mark(result) for entry in said for result in entry["result"]]
        if not all(isinstance(cell, str) for cell in cells.values()):
            raise TypeError("a field of data is no string")
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{where}: not a task of rd human export ({error}); export all as JSON, not JSON-MIN") from None
    if len(said) > 1:
        raise UserError(f"{where}: pair {cells['pair']} is annotated {len(said)} times; delete all but one")
    for aspect in ASPECTS:
        chosen = [choice for name, choice in marks if name == aspect]
        if len(chosen) > 1:
            raise UserError(
                f"{where}: pair {cells['pair']}, {aspect}: {' and '.join(chosen)} are both marked; take one back in "
                "Label Studio and export again"
            )
        cells[aspect] = "".join(chosen)
    return cells


def _mark(result: dict[str, Any]) -> tuple[str, str]:
    """(aspect, A, B or tie)."""
    name, value = result["from_name"], result["value"]
    if result["type"] == "pairwise" and name in ASPECTS:
        return name, CHOSEN[value["selected"]]
    if name.removesuffix("_tie") not in ASPECTS or value["choices"] != [TIE]:
        raise KeyError(name)
    return name.removesuffix("_tie"), "tie"
