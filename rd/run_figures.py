"""Figures of the runs from results/<preset> alone: learning curves, confusions, Q's plane, the reverse chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from rd.data.jsonl import read_objects
from rd.errors import UserError
from rd.figures import panels
from rd.forms import GAP, MEASURE, NUMBER, fault, read_form, read_table
from rd.labels import EMOTIONS, POSITIVE
from rd.paper_tables import GATHER, again, facts_of, read_counts, read_facts
from rd.publish import publish, publish_figure
from rd.tables import collect, in_order, origin, printed_table, split_name, steps_of, system_name

SHOWN = "reflectdiffu-s0"
COLOURS = {"positive": "tab:orange", "negative": "tab:blue", "both": "tab:gray"}
PANELS = (("valid/ppl", "PPL on valid"), ("loss/response", "loss of the response"), ("valid/acc_emo", "Acc emo, valid"))
NOTED = {"step": int} | {f"{key}?": GAP for key, _ in PANELS}  # a row of history.jsonl
POLARITIES = ("positive", "negative")
ORDER = sorted(EMOTIONS, key=lambda name: (name not in POSITIVE, EMOTIONS.index(name)))  # the positive first


def run_figures(folder: Path) -> list[str]:
    """Draw what results/<preset> has the numbers for; returns a line for each figure that cannot be drawn."""
    return [gap for draw in (training, confusions, q_plane, trajectories) if (gap := draw(folder))]


def history(run: Path) -> pd.DataFrame:
    """Every row that a run noted while it learned; the last stage's steps count on from the first's."""
    rows, done = [], 0
    for stage, file in (("first", run / "history.jsonl"), ("final", run / "final" / "history.jsonl")):
        if file.is_file():
            rows += [row | {"stage": stage, "step": row["step"] + done} for row in _noted(file)]
            done = max((row["step"] for row in rows), default=0)
    return pd.DataFrame(rows)


def _noted(file: Path) -> Iterator[dict[str, Any]]:
    for where, row in read_objects(file):
        if wrong := fault(row, NOTED):
            raise UserError(f"{where}: damaged ({wrong}); take the line out")
        yield row


def names_of(folder: Path) -> dict[str, str]:
    """Run folder -> what to call it, in the order of Table 2."""
    paper, found = printed_table(), collect(folder)
    shown = {name: system_name(name, paper, steps_of(found[name])) for name in in_order(found, paper)}
    runs = [path.parent.name for path in sorted(folder.glob("*-s*/metrics.json"))]
    runs.sort(key=lambda run: list(shown).index(split_name(run)[0]))
    return {run: f"{shown[name]}, seed {seed}" for run in runs for name, seed in [split_name(run)]}


def training(folder: Path) -> str:
    """Curves of every run: valid PPL, the loss of the response, the accuracy of the emotion."""
    names = names_of(folder)
    found = {run: rows for run in names if not (rows := history(folder / run)).empty}
    if not found:
        return f"training curves: no history.jsonl below {folder}"
    fig, axes = panels(len(PANELS), width=15, height=5.2)
    lines = {run: {"color": f"C{i % 10}", "linestyle": ("-", "--", ":")[i // 10 % 3]} for i, run in enumerate(found)}
    long = []
    for ax, (key, title) in zip(axes, PANELS, strict=True):
        for run, rows in found.items():
            points = rows[["step", key]].dropna() if key in rows else pd.DataFrame()
            if not points.empty:
                ax.plot(points["step"], points[key], label=names[run], linewidth=1.3, **lines[run])
                long.append(points.set_axis(["step", "value"], axis=1).assign(run=run, measure=key))
        ax.set(title=title, xlabel="step", ylabel=key)
        ax.grid(alpha=0.3)
    axes[0].set_yscale("log")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    if not long:
        return f"training curves: nothing that they show in any history.jsonl below {folder}"
    table = pd.concat(long)[["run", "measure", "step", "value"]]
    lost = [run for run in names if run not in found]
    notes = [
        "from history.jsonl of each run; a run's last stage, with a rate that falls to zero, goes on from its first"
    ]
    notes += [f"no history, so no curve: {', '.join(lost)} (nothing was trained)"] if lost else []
    publish_figure(fig, folder, "training", "Training curves of all runs", notes + _origins(folder), table)
    return ""


def _origins(folder: Path) -> list[str]:
    return [origin(name, run) for name, runs in collect(folder).items() for run in runs]


def confusions(folder: Path) -> str:
    """Gold against named emotion of ReflectDiffu, and every system's commonest confusions."""
    files = sorted((folder / "gathered").glob("confusion-*.csv"))
    counts = {file.stem.removeprefix("confusion-"): read_counts(file, "gold", EMOTIONS) for file in files}
    for run in list(counts):
        if problem := _stale(counts[run].to_numpy(), folder / run / "metrics.json"):
            return f"confusion matrix: {folder.name}/gathered/confusion-{run}.csv {problem}: delete it"
    if SHOWN not in counts:
        return f"confusion matrix: none of {SHOWN} in {folder}/gathered: {GATHER.format(folder.name)}"
    rows = [
        {"run": run, "gold": gold, "named": named, "count": int(count), "share": count / table.loc[gold].sum()}
        for run, table in counts.items()
        for (gold, named), count in table.stack().items()
        if count and gold != named
    ]
    table = pd.DataFrame(rows).sort_values(["run", "count"], ascending=[True, False], kind="stable")
    notes = ["share: of the samples whose gold emotion it is"]
    notes += [f"{run}: {facts_of(file)}" for run, file in zip(counts, files, strict=True)]
    publish(table.groupby("run").head(3), folder, "confusions", "The three commonest confusions of each run", notes)
    matrix = counts[SHOWN].loc[ORDER, ORDER]
    share = 100 * matrix.div(matrix.sum(axis=1).clip(lower=1), axis=0)
    fig, ax = panels(width=9.5, height=8.6)
    bar = {"label": "% of the gold emotion's samples", "shrink": 0.7}
    sns.heatmap(share, ax=ax, cmap="Blues", vmin=0, square=True, cbar_kws=bar)
    ax.set(title="above and left of the lines: positive emotions", xlabel="named", ylabel="gold")
    for draw in (ax.axhline, ax.axvline):
        draw(len(POSITIVE), color="crimson", linewidth=1)
    ax.set_xticks(np.arange(32) + 0.5, ORDER, rotation=90, fontsize=8)
    ax.set_yticks(np.arange(32) + 0.5, ORDER, rotation=0, fontsize=8)
    right = 100 * np.trace(matrix) / matrix.to_numpy().sum()
    side = np.array([name in POSITIVE for name in ORDER])
    same = 100 * matrix.to_numpy()[side[:, None] == side].sum() / matrix.to_numpy().sum()
    caption = f"Emotion confusion matrix of {SHOWN}"
    about = [
        f"{right:.2f} % on the diagonal; {same:.1f} % on the right side",
        facts_of(files[list(counts).index(SHOWN)]),
    ]
    publish_figure(fig, folder, "confusion", caption, about, matrix.reset_index())
    return ""


def _stale(counts: np.ndarray, metrics: Path) -> str:
    """Why counts are not of the run whose metrics lie there; "" where they are."""
    if not metrics.is_file():
        return "is of no run here"
    found = read_form(metrics, {"n": int, "acc_emo?": GAP}, MEASURE)
    right, told = 100 * np.trace(counts) / found["n"], found.get("acc_emo") or 0
    return "" if abs(right - told) < 0.01 else f"says Acc emo {right:.2f}, metrics.json otherwise"


def q_plane(folder: Path) -> str:
    """Q of test samples on two principal components, by the expert that answered and by the side of its answer."""
    file = folder / "gathered" / "q-plane.csv"
    if not file.is_file():
        return f"PCA of Q: no {file}: {GATHER.format(folder.name)}"
    facts = read_facts(file, **{"samples?": int, "explained": [NUMBER, NUMBER]})

    def whole(table: pd.DataFrame) -> bool:
        return len(table) == facts.get("samples", len(table))

    points = read_table(file, {"expert": COLOURS, "named": EMOTIONS}, ("x", "y"), again(file), whole)
    points["side"] = ["positive" if name in POSITIVE else "negative" for name in points["named"]]
    fig, axes = panels(2, width=12, height=5.2)
    for ax, (key, title) in zip(axes, {"expert": "the expert that answers", "side": "the emotion named"}.items()):
        for name, group in points.groupby(key):
            dots = {"s": 7, "alpha": 0.45, "color": COLOURS[name], "rasterized": True}
            ax.scatter(group["x"], group["y"], label=f"{name} ({len(group)})", **dots)
            if len(group) > 10:  # the region: where the group is densest, with 60 % of it inside
                line = {"levels": [0.4], "color": COLOURS[name], "linewidths": 2}
                sns.kdeplot(data=group, x="x", y="y", ax=ax, **line)
        _axes(ax, title, facts["explained"])
    notes = [
        f"{len(points)} test samples; an expert's region: the line that holds 60 % of the samples it answers; both: a "
        "neutral speaker, the two experts vote (eq. 4, by example); numbers: gathered/q-plane.csv",
        facts_of(file),
    ]
    publish_figure(fig, folder, "q-plane", "Q on two principal components, with the experts' regions", notes)
    return ""


def trajectories(folder: Path) -> str:
    """The reverse chains of a few samples, from noise at t* back to Emo_s, for both polarities."""
    file = folder / "gathered" / "trajectories.csv"
    if not file.is_file():
        return f"reverse-diffusion trajectories: no {file}: {GATHER.format(folder.name)}"
    facts = read_facts(file, **{"samples?": int, "explained_s": [[NUMBER, NUMBER], [NUMBER, NUMBER]]})

    def whole(table: pd.DataFrame) -> bool:
        clean = table.loc[table["step"] == -1, "polarity"].value_counts()
        return sorted(clean.index) == sorted(POLARITIES) and set(clean) == {facts.get("samples", clean.max())}

    points = read_table(file, {"polarity": POLARITIES, "id": None}, ("step", "x", "y"), again(file), whole)
    fig, axes = panels(2, width=12, height=5.2)
    for ax, (polarity, side), share in zip(axes, points.groupby("polarity", sort=False), facts["explained_s"]):
        clean, colour = side[side["step"] == -1], COLOURS[polarity]
        ax.scatter(clean["x"], clean["y"], s=6, color="lightgrey", label="all $Q_s$", rasterized=True)
        walks = [walk for _, walk in side.groupby("id", sort=False) if len(walk) > 1]
        for i, walk in enumerate(walks):
            first = {name: name if i == 0 else None for name in ("$Q_s$", "noise at t*, then back", "$Emo_s$")}
            names, x, y = list(first.values()), walk["x"].to_numpy(), walk["y"].to_numpy()
            ax.plot(x[:2], y[:2], ":", color="grey", linewidth=1)
            ax.plot(x[1:], y[1:], ".-", color=colour, linewidth=1, markersize=5, label=names[1])
            ax.scatter(x[0], y[0], s=40, color="black", zorder=3, label=names[0])
            ax.scatter(x[-1], y[-1], s=110, marker="*", color=colour, edgecolor="black", zorder=3, label=names[2])
        _axes(ax, f"{polarity} polarity", share)
    notes = [
        f"{len(walks)} test samples of {len(clean)} (grey: their Q_s); dotted: Q_s noised to t*; then the model's own "
        "chain to Emo_s; numbers: gathered/trajectories.csv",
        facts_of(file),
    ]
    caption = "Reverse-diffusion trajectories on two principal components of Q_s"
    publish_figure(fig, folder, "trajectories", caption, notes)
    return ""


def _axes(ax: Axes, title: str, share: Iterable[float]) -> None:
    one, two = share
    ax.set(title=title, xlabel=f"component 1 ({one:.0%})", ylabel=f"component 2 ({two:.0%})")
    ax.legend(frameon=False, fontsize=8)
    ax.figure.set_dpi(180)  # of the many dots, which are pixels in the SVG
