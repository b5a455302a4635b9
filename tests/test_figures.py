"""Figures show the numbers they were given, and texts cannot break out of their page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from rd.data.corpus import Turn  # noqa: E402
from rd.figures import confusion, curves, heat_map, highlight, panels, save  # noqa: E402


class Page(HTMLParser):
    """Reads a page back: all its text, the text inside marks, the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.marks, self.tags = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag == "mark":
            self.marks.append("")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.tags and self.tags[-1] == "mark":
            self.marks[-1] += data


def texts(fig) -> list[str]:
    return [text.get_text() for text in fig.axes[0].texts]


def test_highlight_marks_the_spans_and_nothing_else() -> None:
    text = "I <b>lost</b> my cat & cried"
    turns = [Turn(text, ((5, 9), (17, 20))), Turn("oh no", intent="consoling"), "thanks"]
    page = Page(highlight(turns, [turns[0].reasons, None, ()], ["", "consoling", ""], "sad <3").data)
    assert page.marks == [text[5:9], text[17:20]]
    assert text in page.text and "sad <3" in page.text
    assert "consoling" in page.text and [page.text.count(role) for role in ("speaker", "listener")] == [2, 1]
    assert page.tags.count("b") == 1  # the title's; the turn's own tags stay text


def test_highlight_joins_overlaps_and_sorts() -> None:
    page = Page(highlight(["abcdefgh"], [[(4, 6), (0, 3), (2, 5)]]).data)
    assert "abcdefgh" in page.text and "".join(page.marks) == "abcdef"


def test_highlight_wants_a_list_of_spans_for_each_turn() -> None:
    with pytest.raises(ValueError):
        highlight(["a", "b"], [()])


def test_confusion_writes_counts_and_colours_shares() -> None:
    fig = confusion([[6, 2], [0, 0]], ["yes", "no"], "t")
    assert texts(fig) == ["6", "2", "0", "0"]
    ax = fig.axes[0]
    np.testing.assert_allclose(ax.collections[0].get_array().ravel(), [0.75, 0.25, 0, 0])
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("t", "found", "gold")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["yes", "no"]
    with pytest.raises(ValueError, match="3 labels"):
        confusion([[6, 2], [0, 0]], ["yes", "no", "perhaps"])


def test_heat_map_writes_numbers_and_frames_the_marked_cells() -> None:
    frame = pd.DataFrame([[0.125, 0.5], [1, 0]], index=["sad", "proud"], columns=["a", "b"])
    marked = pd.DataFrame([[True, False], [False, True]], index=["proud", "sad"], columns=["a", "b"])  # other order
    fig = heat_map(frame, "t", "intent", "emotion", "share", fmt=".1f", marked=marked)
    assert texts(fig) == ["0.1", "0.5", "1.0", "0.0"]
    assert sorted(patch.get_xy() for patch in fig.axes[0].patches) == [(0, 1), (1, 0)]
    assert texts(heat_map(frame, fmt=None)) == []
    assert fig.axes[1].get_ylabel() == "share"


def test_heat_map_marks_by_place_where_a_word_stands_twice() -> None:
    frame = pd.DataFrame([[0.1, 0.2, 0.3]], index=["vote"], columns=["i", "did", "i"])
    marked = pd.DataFrame([[False, False, True]], index=frame.index, columns=frame.columns)
    assert [patch.get_xy() for patch in heat_map(frame, marked=marked).axes[0].patches] == [(2, 0)]


def test_curves_draw_every_point_of_the_rows() -> None:
    rows = [{"step": 1, "loss/a": 3.0}, {"step": 2, "loss/a": 2.0, "valid/f1": 0.5}, {"step": 4, "valid/f1": 0.7}]
    fig = curves(rows, ["loss/a"], ["valid/f1"], title="t")
    lines = [ax.get_lines()[0].get_xydata().tolist() for ax in fig.axes]
    assert lines == [[[1, 3], [2, 2]], [[2, 0.5], [4, 0.7]]]
    assert [ax.get_ylabel() for ax in fig.axes] == ["loss", "valid"]
    assert all(ax.get_xlabel() == "step" for ax in fig.axes)
    with pytest.raises(ValueError, match="valid/ppl"):
        curves(rows, ["valid/ppl"])


def test_save_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    frame = pd.DataFrame([[0.5]], index=["r"], columns=["c"])
    paths = [save(heat_map(frame), tmp_path / side, "00-x") for side in ("one", "two")]
    assert paths[0] == tmp_path / "one" / "figures" / "00-x.svg"
    first, second = (path.read_bytes() for path in paths)
    assert first == second and re.search(rb"<svg", first)


def test_no_figure_stays_open() -> None:
    before = plt.get_fignums()
    panels(2)
    heat_map(pd.DataFrame([[1.0]]))
    assert plt.get_fignums() == before
