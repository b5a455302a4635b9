"""The dynamics of App. B.2 drawn, and all of it written: results/<preset>/tables/dynamics*, figures/10-*."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rd.data.corpus import Sample
from rd.dynamics import (
    by_chance,
    by_emotion,
    counts,
    group,
    outcomes,
    read_records,
    summary,
    transition_rows,
    transitions,
)
from rd.figures import heat_map, panels
from rd.labels import EMOTIONS, INTENTS
from rd.publish import publish, publish_figure

TITLES = {
    "dynamics": "Intent twice on the test split: first and final intent against the gold intent (App. B.2)",
    "dynamics_emotions": "What the second guess did, by gold emotion (App. B.2)",
    "dynamics_transitions": "From first to final intent, by whether the emotion was recognised (App. B.2)",
    "10-selection": "How often each intent is chosen, final minus first, by the emotion named (App. B.2)",
    "10-chance": "Corrected and broken by the second guess, beside chance (95 % of 10,000 deals)",
}
LAST = "moved, wrong still"
INTERVALS = "In brackets: 95 % intervals in per cent; Wilson's, which take samples for independent."
NOTES = (
    "corrected: first wrong, final right; broken: first right, final wrong; corrected of both: the share of the first.",
    f"{INTERVALS} The gain's is a bootstrap over dialogues, in points of accuracy.",
    "chance, uniform: the new intent of each sample that moved is any of the other eight. chance, shuffled: the new "
    "intents are dealt anew among the samples that moved from the same first intent (95 % of 10,000 deals; p: deals "
    "that correct as many). broken by chance: as many samples move, but any of them.",
)


def write_dynamics(folder: str | Path, run: str | Path, chosen: Sequence[Sample], seed: int = 0) -> list[Path]:
    """Tables and figures of one run's dynamics on the samples `chosen`, into `folder` (results/<preset>)."""
    frame = outcomes(read_records(run), chosen)
    whole, emotions, moves = summary(frame, seed), by_emotion(frame), transition_rows(frame)
    notes = [f"{Path(run).name}: {len(frame)} samples with a gold intent; gold labels alone judge.", *NOTES]
    tables = {"dynamics": (whole, shown_summary(whole), notes), "dynamics_transitions": (moves, None, notes[:1])}
    figures = {
        "10-transitions": (draw_transitions(frame), TITLES["dynamics_transitions"], None),
        "10-selection": (draw_selection(frame), TITLES["10-selection"], None),
        "10-chance": (draw_chance(frame, seed), TITLES["10-chance"], None),
    }
    if len(emotions):  # not of dialogues without an emotion
        shown = shown_emotions(emotions)
        tables["dynamics_emotions"] = (emotions, shown, [notes[0], NOTES[0], INTERVALS])
        figures["10-dynamics"] = (draw_emotions(emotions), TITLES["dynamics_emotions"], emotions)
    paths = [publish(t, folder, name, TITLES[name], said, shown) for name, (t, shown, said) in tables.items()]
    return paths + [publish_figure(f, folder, name, title, notes[:1], d) for name, (f, title, d) in figures.items()]


def shown_summary(table: pd.DataFrame) -> pd.DataFrame:
    """`summary` as people read it: a count with its share and interval in one cell."""
    rows = []
    for row in table.to_dict("records"):
        said = {"samples": row["samples"], "n": row["n"]}
        said |= {f"{which} right, %": row[f"{which} right %"] for which in ("first", "final")}
        said["gain, points"] = f"{row['gain']:+.2f} [{row['gain low']:+.2f}, {row['gain high']:+.2f}]"
        said |= {key: _count(row, key) for key in ("moved", "corrected", "broken")}
        said["corrected of both"] = _count(row, "corrected of both")
        said["corrected by chance, uniform"] = row["chance: uniform"]
        spread = f"[{row['chance: low']:.0f}, {row['chance: high']:.0f}], p = {row['chance: p']:.4f}"
        said["corrected by chance, shuffled"] = f"{row['chance: shuffled']:.1f} {spread}"
        rows.append(said | {"broken by chance": row["chance: broken"]})
    return pd.DataFrame(rows)


def shown_emotions(table: pd.DataFrame) -> pd.DataFrame:
    """`by_emotion` as people read it."""
    rows = []
    for row in table.to_dict("records"):
        said = {key: row[key] for key in ("emotion", "n", "recognised", "kept right", "kept wrong")}
        rows.append(said | {key: _count(row, key) for key in ("corrected", "broken")} | {LAST: row[LAST]})
    return pd.DataFrame(rows)


def _count(row: dict[str, Any], key: str) -> str | None:
    """A count with its share and interval; None where there was nothing to count in."""
    if pd.isna(row[f"{key} %"]):
        return None
    return f"{row[key]} ({row[f'{key} %']:.1f} [{row[f'{key} low']:.1f}, {row[f'{key} high']:.1f}])"


def draw_emotions(table: pd.DataFrame, title: str = "") -> Figure:
    """`by_emotion`'s corrected (to the right) and broken (to the left), in per cent of an emotion's samples."""
    table = table.sort_values(["corrected %", "broken %"], ascending=[True, False])
    fig, ax = panels(width=7.2, height=1.4 + 0.21 * len(table))
    for key, side, colour in (("broken", -1, "tab:red"), ("corrected", 1, "tab:green")):
        value = table[f"{key} %"]
        reach = np.array([value - table[f"{key} low"], table[f"{key} high"] - value]).clip(0)
        ends = reach[::side]  # the far end of a bar to the left is its larger share
        style = {"xerr": ends, "error_kw": {"elinewidth": 0.8, "ecolor": "grey"}}
        ax.barh(table["emotion"], side * value, color=colour, label=key, **style)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(title=title, xlabel="% of the emotion's samples: broken (left), corrected (right), 95 % Wilson")
    ax.set(ylabel="gold emotion (number of samples)", ylim=(-0.7, len(table) - 0.3))
    ax.set_yticks(range(len(table)), [f"{row.emotion} ({row.n})" for row in table.itertuples()], fontsize=8)
    ax.xaxis.set_major_formatter(lambda x, _: f"{abs(x):g}")
    ax.legend(frameon=False, loc="lower right")
    return fig


def draw_transitions(frame: pd.DataFrame) -> Figure:
    """First to final intent, of the samples that moved alone: emotion right beside emotion wrong."""
    names = [name for name in ("emotion right", "emotion wrong") if len(group(frame, name))] or ["all"]
    fig, axes = panels(len(names), width=5.4 * len(names), height=4.4)
    found = {name: transitions(group(frame, name)) for name in names}
    moved = {name: table.where(~np.eye(len(INTENTS), dtype=bool), 0) for name, table in found.items()}
    top = max(1, *(int(table.to_numpy().max()) for table in moved.values()))
    for ax, (name, table) in zip(np.atleast_1d(axes), moved.items(), strict=True):
        written = table.astype(str).where(table > 0, "")
        np.fill_diagonal(values := written.to_numpy(dtype=object).copy(), "·")
        sns.heatmap(table, ax=ax, annot=values, fmt="", cmap="Purples", vmin=0, vmax=top, cbar=False, linewidths=0.5)
        total, n = int(table.to_numpy().sum()), int(found[name].to_numpy().sum())
        ax.set(title=f"{name}: {total} of {n} moved", xlabel="final intent", ylabel="first intent")
        ax.set_xticks(np.arange(len(INTENTS)) + 0.5, INTENTS, rotation=40, ha="right")
    return fig


def draw_chance(frame: pd.DataFrame, seed: int = 0) -> Figure:
    """Corrected and broken samples, each beside what `by_chance` expects."""
    found, luck = counts(frame), by_chance(frame, seed)
    bars = {
        "corrected": found["corrected"],
        "by chance:\nshuffled": luck["shuffled"],
        "by chance:\nany other": luck["uniform"],
        "broken": found["broken"],
        "by chance:\nany sample": luck["broken"],
    }
    fig, ax = panels(width=6.8, height=3.2)
    ax.bar(list(bars), list(bars.values()), color=["tab:green", "lightgrey", "lightgrey", "tab:red", "lightgrey"])
    ax.bar_label(ax.containers[0], fmt="%.4g", label_type="center")
    reach = [[max(0.0, luck["shuffled"] - luck["low"])], [max(0.0, luck["high"] - luck["shuffled"])]]
    ax.errorbar(1, luck["shuffled"], reach, color="black", capsize=4)
    moved = int((frame["first"] != frame["final"]).sum())
    ax.set(title=f"{moved} of {len(frame)} first intents were changed", xlabel="what became of them", ylabel="samples")
    return fig


def draw_selection(frame: pd.DataFrame) -> Figure:
    """How often each intent is selected per named emotion: final minus first, in samples."""
    both = [
        pd.crosstab(frame["emotion"], frame[which]).reindex(index=EMOTIONS, columns=INTENTS, fill_value=0)
        for which in ("final", "first")
    ]
    change = both[0] - both[1]
    change = change[(both[0].sum(axis=1) > 0)]
    settings = {"center": 0, "cmap": "RdBu", "annot": change.astype(str).replace("0", "")}
    title = "what the second guess changed"
    return heat_map(
        change, title, "intent", "emotion that the model named", "final minus first, samples", "", **settings
    )
