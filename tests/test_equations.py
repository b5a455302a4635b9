"""papers/equations.md names code, notebooks and tests that exist, for every equation of the paper."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

TABLE = (Path(__file__).resolve().parents[1] / "papers" / "equations.md").read_text("utf-8")
HEAD = ["eq.", "what", "code", "notebook", "test"]


def cells(text: str) -> list[dict[str, str]]:
    """The rows of the table, by its headings."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == HEAD
    return [dict(zip(HEAD, line, strict=True)) for line in lines[1:]]


def looked_up(path: str) -> object:
    """The module, class or function behind a dotted path. Raises AttributeError or ImportError where there is none."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("rd") and cut > 1:
                continue
            raise
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise ImportError(path)


def test_every_equation_has_one_row() -> None:
    assert [row["eq."] for row in cells(TABLE)] == [str(number) for number in range(1, 21)]


@pytest.mark.parametrize("row", cells(TABLE), ids=lambda row: f"eq{row['eq.']}")
def test_row_points_at_code_notebook_and_test(row: dict[str, str], root: Path) -> None:
    paths = re.findall(r"`(rd\.[\w.]+)`", row["code"])
    assert paths and all(callable(looked_up(path)) for path in paths)
    assert (root / "notebooks" / f"{row['notebook']}.ipynb").is_file()
    file, _, name = row["test"].strip("`").partition("::")
    tree = ast.parse((root / "tests" / file).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row["test"]


@pytest.mark.parametrize(
    "path", ["rd.blocks.nothing", "rd.blocks.diffusion.Diffusion.no_such_step", "rd.models.emu.Emu"]
)
def test_a_path_to_nothing_is_found(path: str) -> None:
    with pytest.raises((AttributeError, ImportError)):
        looked_up(path)
