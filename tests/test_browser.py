"""Notebooks in JupyterLab in a real browser: every cell runs, nothing fails, and what is moved moves its picture.

Skipped where no Chromium is installed. Notebook 05 reads a run that is trained here in seconds (small_run.py), so a
fresh clone needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from lab import BROWSERS, browser_path, copied, lab, run_all, slider, until, window

pytestmark = pytest.mark.skipif(
    browser_path() is None, reason=f"no browser here to open notebooks in: none of {', '.join(BROWSERS)} is installed"
)
PRESET = (
    "import json, rd.settings; from rd.config import Config, from_dict; "
    "rd.settings.PRESETS['mini'] = from_dict(Config, json.load(open({file!r})))"
)


def parametrised(path: Path, **values: str) -> None:
    """The notebook with other values in its parameters cell."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, small_run: tuple) -> Iterator[tuple[Path, tuple[str, str]]]:
    """A copy of the project, in which 05 reads a small trained run, and JupyterLab over it."""
    root = copied(tmp_path_factory.mktemp("lab") / "copy", ["00_start", "05_intent_twice"])
    config, desk = small_run
    (root / "preset.json").write_text(json.dumps(asdict(config)))
    parametrised(root / "notebooks" / "05_intent_twice.ipynb", data=desk.data, out=desk.out)
    with lab(root, [PRESET.format(file=str(root / "preset.json"))]) as address:
        yield root, address


def outcome(path: Path) -> tuple[list[int | None], list[str]]:
    """The counts of a saved notebook's code cells, and its errors."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    errors = [f"{o.ename}: {o.evalue}" for cell in code for o in cell.outputs if o.output_type == "error"]
    return [cell.execution_count for cell in code], errors


@pytest.mark.parametrize(
    ("notebook", "label", "shown"),
    [
        ("00_start", "dialogue", "e => e.textContent"),
        ("05_intent_twice", "reward c", "e => e.querySelector('img').src + e.textContent"),
    ],
)
def test_a_notebook_runs_in_jupyterlab_and_its_widget_moves(opened, notebook: str, label: str, shown: str) -> None:
    root, address = opened
    with window() as page:
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        run_all(page, address, notebook, lambda: slider(page, label).count() > 0)
        counts, errors = outcome(root / "notebooks" / f"{notebook}.ipynb")
        assert errors == [] and counts == list(range(1, len(counts) + 1))
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        handle = slider(page, label)
        board = page.locator(".jp-OutputArea-output", has=handle).locator(".widget-html-content")
        before, number = board.evaluate(shown), handle.get_attribute("aria-valuetext")
        assert until(page, lambda: handle.press("ArrowRight"), lambda: board.evaluate(shown) != before)
        assert handle.get_attribute("aria-valuetext") != number
        assert complaints == []
