"""Figures that several notebooks draw: heat map, confusion matrix, learning curves, a dialogue with its reasons marked.

Each function returns its figure, closed for pyplot: a notebook shows it once, as the last value of a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.figure import Figure

from rd.data.corpus import Turn
from rd.files import replace_file

MARK = "background:#ffdf7e;color:#222;border-radius:3px;padding:0 .15em"
ROLE = "display:inline-block;width:5em;color:#777"
NOTE = "color:#3367a8;font-style:italic;margin-left:.6em"


def panels(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 3.6) -> tuple[Figure, Any]:
    """An empty figure of `width` x `height` inches and its axes (one, or an array of them)."""
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained")
    plt.close(fig)  # else a notebook shows it twice, and many figures fill the memory
    return fig, axes


def heat_map(
    frame: pd.DataFrame,
    title: str = "",
    x: str = "",
    y: str = "",
    value: str = "",
    fmt: str | None = ".2f",
    marked: pd.DataFrame | None = None,
    **settings: Any,
) -> Figure:
    """A table as coloured cells (seaborn). fmt: how the numbers are written in, None = not at all.

    value: what the colour bar says. marked: cells (True) to be framed, on the rows and columns of `frame`.
    settings: for `seaborn.heatmap` (vmin, vmax, cmap, center, ...).
    """
    rows, columns = frame.shape
    fig, ax = panels(width=2.4 + 0.62 * columns, height=1.3 + 0.27 * max(rows, 6))
    options = {"cmap": "viridis", "annot": fmt is not None, "fmt": fmt or "", "linewidths": 0.5} | settings
    sns.heatmap(frame, ax=ax, cbar_kws={"label": value}, annot_kws={"size": 8}, **options)
    if marked is not None:
        same = marked.index.equals(frame.index) and marked.columns.equals(frame.columns)
        cells = marked if same else marked.loc[frame.index, frame.columns]  # by place where a label stands twice
        for row, column in np.argwhere(cells.to_numpy(dtype=bool)):
            ax.add_patch(plt.Rectangle((column, row), 1, 1, fill=False, edgecolor="crimson", linewidth=1.6))
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.set_xticks(np.arange(columns) + 0.5, [str(c) for c in frame.columns], rotation=40, ha="right")
    ax.set_yticks(np.arange(rows) + 0.5, [str(r) for r in frame.index], rotation=0)
    return fig


def confusion(matrix: Sequence[Sequence[int]] | np.ndarray, labels: Sequence[str], title: str = "") -> Figure:
    """Counts [gold][found], coloured by the share of the gold row. Raises ValueError where the sizes differ."""
    counts = np.asarray(matrix)
    if counts.shape != (len(labels), len(labels)):
        raise ValueError(f"{len(labels)} labels for a matrix of shape {counts.shape}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    frame = pd.DataFrame(share, index=list(labels), columns=list(labels))
    written = {"annot": counts, "fmt": "d", "vmin": 0, "vmax": 1, "cmap": "Blues"}
    return heat_map(frame, title, "found", "gold", "share of the gold label", **written)


def curves(rows: Iterable[Mapping[str, Any]], *names: Sequence[str], title: str = "") -> Figure:
    """Rows of a history.jsonl against their step: one panel for each list of names, such as ["loss/reason"].

    Raises ValueError for a name that no row has.
    """
    rows = list(rows)
    fig, axes = panels(len(names), width=1.2 + 4.2 * len(names), height=3.2)
    for ax, group in zip(np.atleast_1d(axes), names, strict=True):
        for name in group:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if not points:
                raise ValueError(f"{name}: no row of the history has it")
            ax.plot(*np.array(points).T, marker="o" if len(points) < 30 else None, markersize=3, label=name)
        ax.set(xlabel="step", ylabel=", ".join(dict.fromkeys(name.split("/")[0] for name in group)))
        ax.legend(frameon=False, fontsize=8)
        ax.grid(alpha=0.3)
    fig.suptitle(title)
    return fig


def highlight(
    turns: Sequence[Turn | str],
    reasons: Sequence[Iterable[tuple[int, int]] | None],
    notes: Sequence[str] | None = None,
    title: str = "",
) -> HTML:
    """A dialogue, one turn a line, its reason spans ([start, end) offsets; None or () = none) marked.

    notes: what stands behind each turn, such as its intent. Texts are escaped. Raises ValueError where numbers differ.
    """
    lines = [f"<b>{escape(title)}</b>"] if title else []
    for i, (turn, spans, note) in enumerate(zip(turns, reasons, notes or [""] * len(turns), strict=True)):
        text = turn if isinstance(turn, str) else turn.text
        role = f'<span style="{ROLE}">{"listener" if i % 2 else "speaker"}</span>'
        after = f'<span style="{NOTE}">{escape(note)}</span>' if note else ""
        lines.append(f"<div>{role}{_marked(text, sorted(spans or ()))}{after}</div>")
    return HTML("\n".join(lines))


def _marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The escaped text with each [start, end) in a mark; overlapping spans run together."""
    parts, at = [], 0
    for start, end in spans:
        start = max(start, at)
        if end > start:
            parts += [escape(text[at:start]), f'<mark style="{MARK}">{escape(text[start:end])}</mark>']
            at = end
    return "".join([*parts, escape(text[at:])])


def save(fig: Figure, folder: str | Path, name: str) -> Path:
    """Write folder/figures/<name>.svg, the same bytes for the same figure, and return its path."""
    path = Path(folder) / "figures" / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "rd"}):
        replace_file(path, lambda beside: fig.savefig(beside, format="svg", metadata={"Date": None}))
    return path
