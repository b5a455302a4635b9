"""The form of a notebook: question, links, parameters, short cells, exercise, checks; no model code, no outputs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "notebooks"
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
PARAMETERS = {"preset": "mini", "seed": 0, "data": "", "out": "results"}


def parameters(source: str) -> dict[str, object] | None:
    """Name -> value of a cell that holds nothing but literals bound to names; None for any other cell."""
    found = {}
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            return None
        try:
            found[node.targets[0].id] = ast.literal_eval(node.value)
        except ValueError:
            return None
    return found


def parsed(source: str) -> ast.Module:
    """The syntax tree of a cell; lines of IPython (%, !) are passed over."""
    return ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()))


def form(notebook: nbformat.NotebookNode, code: list) -> list[str]:
    """Faults of the notebook's frame: kernel, first cell, parameters, checks."""
    kernel, title = notebook.metadata.get("kernelspec", {}), notebook.cells[0]
    checks = {
        "kernelspec is not python3 / python": (kernel.get("name"), kernel.get("language")) == ("python3", "python"),
        "the first cell is prose": title.cell_type == "markdown",
        "the first cell lacks one of Question, Reads, Writes, Time": all(
            f"**{word}" in title.source for word in ("Question", "Reads", "Writes", "Time")
        ),
        "the first code cell, and no other, is tagged parameters": tagged(code, "parameters") == code[:1],
        "the last code cell, and no other, is tagged checks": tagged(code, "checks") == code[-1:],
        f"the parameters are not the literals {PARAMETERS}": bool(code) and parameters(code[0].source) == PARAMETERS,
        "the last code cell asserts nothing": bool(code)
        and any(isinstance(node, ast.Assert) for node in ast.walk(parsed(code[-1].source))),
        "a cell keeps its output or count": all(not c.outputs and c.execution_count is None for c in code),
    }
    return [fault for fault, right in checks.items() if not right]


def contents(code: list) -> list[str]:
    """Faults of the code: classes, long or many functions, long cells."""
    found, functions = [], 0
    for number, cell in enumerate(code, start=1):
        if len(cell.source.splitlines()) > 30:
            found.append(f"code cell {number} has more than 30 lines")
        for node in ast.walk(parsed(cell.source)):
            if isinstance(node, ast.ClassDef):
                found.append(f"code cell {number} defines class {node.name}")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                if node.end_lineno - node.lineno + 1 > 8:
                    found.append(f"code cell {number}: {node.name} has more than 8 lines")
    return found + (["more than two functions"] if functions > 2 else [])


def links(title: str) -> list[str]:
    """Faults of the title's links: one each to the paper's page, a module and a test, and all of them exist."""
    aims = re.findall(r"\]\(([^)#\s]+)", title)
    missing = [f"the title links no file of {part}" for part in ("papers", "rd", "tests") if f"../{part}/" not in title]
    local = [aim for aim in aims if "://" not in aim]
    return missing + [f"the title links {aim}, which is not there" for aim in local if not (HERE / aim).is_file()]


def exercise(notebook: nbformat.NotebookNode, code: list) -> list[str]:
    """Faults of the exercise: asked, begun, solved out of sight, the solution checked; in this order."""
    asked = [c for c in notebook.cells if c.cell_type == "markdown" and c.source.startswith("## Exercise\n")]
    begun, solved, checked = (tagged(code, tag) for tag in ("exercise", "solution", "checks"))
    if [len(cells) for cells in (asked, begun, solved, checked)] != [1, 1, 1, 1]:
        return ["not one cell each: ## Exercise in prose, then tagged exercise, solution, checks"]
    order = [notebook.cells.index(cell) for cell in (*asked, *begun, *solved, *checked)]
    bound, used = (names(cell.source, kind) for cell, kind in ((solved[0], ast.Store), (checked[0], ast.Load)))
    hidden = solved[0].metadata.get("jupyter", {})
    checks = {
        "exercise, solution and checks are not in this order": order == sorted(order),
        "the solution is not folded": hidden.get("source_hidden") is True and hidden.get("outputs_hidden") is True,
        "the checks do not look at what the solution computed": bool(bound & used),
    }
    return [fault for fault, right in checks.items() if not right]


def names(source: str, kind: type) -> set[str]:
    """The names that a cell binds (ast.Store) or reads (ast.Load)."""
    return {n.id for n in ast.walk(parsed(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}


def tagged(code: list, tag: str) -> list:
    """The cells that bear the tag."""
    return [cell for cell in code if tag in cell.metadata.get("tags", [])]


def faults(notebook: nbformat.NotebookNode, number: str) -> list[str]:
    """All that is wrong with a notebook whose file name starts with `number`."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    title = [] if notebook.cells[0].source.startswith(f"# {number} ") else [f"the title does not start with # {number}"]
    size = [] if 25 <= len(notebook.cells) <= 45 else [f"{len(notebook.cells)} cells, not 25 to 45"]
    taught = links(notebook.cells[0].source) + exercise(notebook, code)
    return title + size + form(notebook, code) + contents(code) + taught


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert faults(notebook, path.stem[:2]) == []


def test_order_names_the_notebooks_there_are(root: Path) -> None:
    listed = re.search(r"^NOTEBOOKS = (\[.*?\])", (root / "workflow" / "common.smk").read_text("utf-8"), re.M | re.S)
    order = ast.literal_eval(listed[1])
    assert order == sorted(order)
    assert {path.stem for path in NOTEBOOKS} <= set(order)


def example() -> nbformat.NotebookNode:
    """The smallest notebook in good form."""
    given = "\n".join(f"{name} = {value!r}" for name, value in PARAMETERS.items())
    aims = "[Sec. 3](../papers/reflectdiffu.md) [code](../rd/config.py) [test](../tests/test_notebooks.py)"
    folded = {"tags": ["solution"], "jupyter": {"source_hidden": True, "outputs_hidden": True}}
    cells = [
        new_markdown_cell(f"# 04 Noise\n\n**Question** Why?\n**Reads** a\n**Writes** b\n**Time** 1 s\n\n{aims}"),
        new_code_cell(given, metadata={"tags": ["parameters"]}),
        new_code_cell("%matplotlib inline\nx = 1"),
        *(new_markdown_cell("More.") for _ in range(18)),
        new_markdown_cell("## Exercise\n\nTwice x?"),
        new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
        new_code_cell("twice = 2 * x", metadata=folded),
        new_code_cell("assert twice == x + x", metadata={"tags": ["checks"]}),
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_good_form_passes() -> None:
    assert faults(example(), "04") == []


@pytest.mark.parametrize(
    ("cell", "source", "wrong"),
    [
        (0, "# 4 Noise", "title"),
        (0, "# 04 Noise", "Question"),
        (1, "preset = 'mini'", "literals"),
        (1, "preset = str('mini')\nseed = 0\ndata = ''\nout = 'results'", "literals"),
        (2, "class A:\n    pass", "class A"),
        (2, "\n".join(["x = 1"] * 31), "30 lines"),
        (2, "def f():\n" + "    x = 1\n" * 8, "8 lines"),
        (2, "f = 1\ndef a(): pass\ndef b(): pass\ndef c(): pass", "two functions"),
        (0, "# 04 Noise [Sec. 3](../papers/reflectdiffu.md) [code](../rd/config.py)", "links no file of tests"),
        (
            0,
            "# 04 Noise [Sec. 3](../papers/reflectdiffu.md#a) [code](../rd/not_there.py)",
            "not_there.py, which is not",
        ),
        (-4, "## Task", "not one cell each"),
        (-2, "y = 2", "what the solution computed"),
        (-1, "assert x == 1", "what the solution computed"),
        (-1, "print(x)", "asserts nothing"),
    ],
)
def test_bad_form_is_found(cell: int, source: str, wrong: str) -> None:
    notebook = example()
    notebook.cells[cell].source = source
    assert any(wrong in fault for fault in faults(notebook, "04"))


def test_wrong_sizes_places_and_open_solutions_are_found() -> None:
    long, short, open_, turned = (example() for _ in range(4))
    long.cells[3:3] = [new_markdown_cell("More.") for _ in range(21)]
    del short.cells[3]
    open_.cells[-2].metadata.jupyter.source_hidden = False
    turned.cells[-4:-1] = turned.cells[-2:-5:-1]
    wrong = {"46 cells": long, "24 cells": short, "not folded": open_, "in this order": turned}
    assert [word for word, notebook in wrong.items() if word not in " | ".join(faults(notebook, "04"))] == []


def test_missing_tags_kernel_and_kept_outputs_are_found() -> None:
    notebook = example()
    notebook.cells[1].metadata.tags, notebook.cells[-1].metadata.tags = [], []
    notebook.cells[2].execution_count = 1
    notebook.metadata.kernelspec.name = "venv"
    found = " | ".join(faults(notebook, "04"))
    assert all(word in found for word in ("tagged parameters", "tagged checks", "output or count", "kernelspec"))
