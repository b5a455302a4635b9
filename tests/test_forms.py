"""Results that are damaged, or another version's: one line that names the file and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import NoneType

import numpy as np
import pandas as pd
import pytest
from test_paper_tables import confused, keep, put

from rd.errors import UserError
from rd.forms import fault, read_form
from rd.labels import EMOTIONS, INTENTS
from rd.paper_tables import publish_table1
from rd.publish import publish
from rd.readme import embed
from rd.report import report
from rd.run_figures import confusions, history, q_plane, trajectories
from rd.scores import read_scores
from rd.significance import significance, trained
from rd.tables import collect
from rd.train import read_history

RUN = "reflectdiffu-s0"
SPOILT = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "null": lambda data: b"null",
    "list": lambda data: b"[]",
    "object": lambda data: b"{}",
    "number": lambda data: b"1",
    "zeros": lambda data: bytes(len(data)),
    "binary": lambda data: bytes(range(256)) * 4,
    "deep": lambda data: b"[" * 100_000 + b"]" * 100_000,
}
READERS: dict[str, list[Callable[[Path], object]]] = {
    f"{RUN}/metrics.json": [collect, lambda home: read_scores(home / RUN), lambda home: report(home.parent)],
    f"{RUN}/machine.json": [collect, trained],
    f"{RUN}/history.jsonl": [lambda home: history(home / RUN)],
    "significance.json": [significance],
    "gathered/intents.csv": [publish_table1],
    "gathered/intents.json": [publish_table1],
    f"gathered/confusion-{RUN}.csv": [confusions],
    f"gathered/confusion-{RUN}.json": [confusions],
    "gathered/q-plane.csv": [q_plane],
    "gathered/q-plane.json": [q_plane],
    "gathered/trajectories.csv": [trajectories],
    "gathered/trajectories.json": [trajectories],
    "tables/made-up.json": [lambda home: report(home.parent)],
    "page.md": [lambda home: embed(home / "page.md", home)],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A preset of two runs, with all that `rd tables` and `rd report` read."""
    home = tmp_path / "paper"
    put(home, "transformer-s0")
    put(home, RUN, acc_emo=50.0)
    significance(home, 20)
    counts = pd.DataFrame(np.ones((len(EMOTIONS), len(INTENTS)), dtype=int), columns=list(INTENTS))
    counts.insert(0, "emotion", EMOTIONS)
    keep(home, "intents", counts, turns=9, gold=7)
    keep(home, f"confusion-{RUN}", confused(4), run=RUN)
    points = pd.DataFrame({"id": ["a", "b"], "expert": "both", "named": "sad", "x": [0.5, 1.5], "y": [1.5, 0.5]})
    keep(home, "q-plane", points, run=RUN, samples=2, explained=[0.5, 0.25])
    walks = [(side, "a", step, step, -step) for side in ("positive", "negative") for step in range(-1, 4)]
    walked = pd.DataFrame(walks, columns=["polarity", "id", "step", "x", "y"])
    keep(home, "trajectories", walked, run=RUN, samples=1, explained_s=[[0.5, 0.25], [0.4, 0.2]])
    publish(points, home, "made-up", "a caption")
    (home / "table.md").write_text("x")
    (home / "page.md").write_text("<!-- table: results/paper/table.md -->\n" + 80 * "o" + "\n<!-- /table -->\n")
    return home


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line_with_its_name_and_what_to_do(home: Path, name: str, spoilt: str) -> None:
    if name.endswith("machine.json") and spoilt == "object":
        pytest.skip("a run that was not finished")
    file = home / name
    file.write_bytes(SPOILT[spoilt](file.read_bytes()))
    for read in READERS[name]:
        with pytest.raises(UserError) as told:
            read(home)
        assert str(file) in str(told.value)
        assert ";" in str(told.value) or "put the table between" in str(told.value)


def test_the_whole_files_are_read(home: Path) -> None:
    for name, readers in READERS.items():
        if not name.startswith("gathered"):  # which are drawn in test_paper_tables.py
            for read in readers:
                read(home)


@pytest.mark.parametrize(
    ("value", "form", "wrong"),
    [
        ({"a": 1}, {"a": int, "b?": str}, ""),
        ({"a": 1, "b": 2}, {"a": int, "b?": str}, "b is int"),
        ({}, {"a": int}, "it has no a"),
        ({"a": {"b": None}}, {"a": {"b": str}}, "b is null"),
        ({"a": None}, {"a": (int, NoneType)}, ""),
        ({"x": 1, "y": "1"}, {"*": int}, "y is str"),
        ([1, 2, "3"], [int], "an entry of it is str"),
        ([], [int], ""),
        ([1], [int, int], "it has 1 entries, not 2"),
        ({}, [int], "it is no list"),
        (float("nan"), float, "it is no finite number"),
        (10**400, int, "it is no finite number"),
    ],
)
def test_the_form_is_told_from_another(value: object, form: object, wrong: str) -> None:
    assert fault(value, form) == wrong


def test_half_a_character_is_refused_before_it_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps("\ud83d"))
    with pytest.raises(UserError, match="a.json: damaged"):
        read_form(tmp_path / "a.json", str, "delete it")


@pytest.mark.parametrize("spoilt", [b"\xff\xfe{}\n", b'{"a":' * 50_000 + b"}\n", b'{"step": null}\n', b"{}\n"])
def test_a_damaged_history_does_not_resume(tmp_path: Path, spoilt: bytes) -> None:
    (tmp_path / "history.jsonl").write_bytes(spoilt)
    with pytest.raises(UserError, match="history.jsonl: damaged .*; take the broken line out"):
        read_history(tmp_path / "history.jsonl")
