"""Tables computed from run folders: mean and spread over seeds, the paper's figures beside ours, a gap is a dash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import NoneType
from typing import Any

import pandas as pd

from rd.errors import UserError
from rd.files import replace_csv, replace_text
from rd.forms import FACTS, GAP, MEASURE, read_form, steps_taken

# metric -> (heading, column of papers/table2.csv)
COLUMNS = {
    "bleu_1": ("BLEU-1", "bleu_1"),
    "bleu_2": ("BLEU-2", "bleu_2"),
    "bleu_3": ("BLEU-3", "bleu_3"),
    "bleu_4": ("BLEU-4", "bleu_4"),
    "bertscore_f1": ("BERTScore F1", "bartscore_column"),
    "acc_emo": ("Acc emo", "acc_emo"),
    "acc_intent": ("Acc intent", "acc_intent"),
    "ppl": ("PPL", "ppl"),
    "dist_1": ("Dist-1", "dist_1"),
    "dist_2": ("Dist-2", "dist_2"),
}
METRICS = {f"{name}?": GAP for name in (*COLUMNS, "unk_rate")} | {"n": int, "signature": str, "notes": dict}
METRICS["provenance"] = FACTS | dict.fromkeys(("config", "corpus", "split"), str)
METRICS["provenance"] |= {"seed": int, "knowledge?": (dict, NoneType)}
DASH = "–"
PRINTED = Path(__file__).parent.parent / "papers" / "table2.csv"


def printed_table(path: Path = PRINTED, index: str | Sequence[str] = "model") -> pd.DataFrame:
    """A table (2) as the paper prints it, indexed by our model names. Raises UserError where the file is missing."""
    if not path.is_file():
        raise UserError(f"{path}: the paper's table is missing; run from a checkout of the project")
    return pd.read_csv(path).set_index(index if isinstance(index, str) else list(index))


def cell(values: Sequence[float | None]) -> str:
    """Mean over seeds, +- sd if more than one has it (how many, if not all). A gap is a dash, never a zero."""
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    spread = f" ± {stdev(known):.2f}" if len(known) > 1 else ""
    return f"{mean(known):.2f}{spread}" + (f" ({len(known)})" if len(known) < len(values) else "")


def collect(folder: str | Path) -> dict[str, list[dict[str, Any]]]:
    """metrics.json of every run below `folder`, by model name. Raises UserError where there is none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(Path(folder).glob("*-s*/metrics.json")):
        name, _ = split_name(path.parent.name)
        run = read_metrics(path)
        run["provenance"].setdefault("steps", steps_taken(path.parent))
        found.setdefault(name, []).append(run)
    if not found:
        raise UserError(
            f"{folder}: no run with metrics.json here; train and evaluate one first (rd train, rd evaluate)"
        )
    return found


def read_metrics(file: Path) -> dict[str, Any]:
    """metrics.json of a run. Raises UserError where it is damaged, or of another version."""
    return read_form(file, METRICS, MEASURE)


def split_name(folder: str) -> tuple[str, str]:
    """A run folder's name -> its system and seed: "mime-s0" -> ("mime", "0")."""
    name, _, seed = folder.rpartition("-s")
    return name, seed


def plain_name(name: str) -> str:
    """The system without its budget: "transformer-long" and "transformer-short" are transformers."""
    return name.removesuffix("-short").removesuffix("-long")


def system_name(name: str, paper: pd.DataFrame, steps: str) -> str:
    """As the paper calls it, with the steps where the name tells of another budget than the plain one's."""
    plain = plain_name(name)
    known = paper.loc[plain, "system"] if plain in paper.index else plain
    if name == plain:
        return known
    budget = f"{int(steps):,} steps" if steps.isdigit() else name.removeprefix(f"{plain}-")
    return f"{known} ({budget})"


def steps_of(runs: Iterable[dict[str, Any]]) -> str:
    """The steps that the runs of a system took; a dash where nothing was trained."""
    return _each(run["provenance"].get("steps") or DASH for run in runs)


def in_order(names: Iterable[str], paper: pd.DataFrame) -> list[str]:
    """Systems in the paper's order, another budget behind the plain one; systems that the paper lacks come first."""
    place = {name: i for i, name in enumerate(paper.index)}
    return sorted(names, key=lambda name: (place.get(plain_name(name), -1), plain_name(name), name))


def table2(folder: str | Path, printed: Path = PRINTED) -> pd.DataFrame:
    """Rows "ours" and "paper" for each model that has a run; columns as Table 2, with the sample count and seeds.

    In the paper's order; models that it has not come first.
    """
    paper, found = printed_table(printed), collect(folder)
    rows = []
    for name in in_order(found, paper):
        runs = found[name]
        shown = system_name(name, paper, steps_of(runs))
        ours = {heading: cell([run.get(key) for run in runs]) for key, (heading, _) in COLUMNS.items()}
        counts = {"n": _each(run["n"] for run in runs), "seeds": len(runs), "steps": steps_of(runs)}
        rows.append({"system": shown, "source": "ours", **ours, **counts})
        if name in paper.index:
            theirs = {heading: as_printed(paper.loc[name, column]) for heading, column in COLUMNS.values()}
            rows.append({"system": shown, "source": "paper", **theirs, "n": DASH, "seeds": DASH, "steps": DASH})
    return pd.DataFrame(rows)


def _each(values: Iterable[Any]) -> str:
    return " / ".join(sorted({str(value) for value in values}))


def as_printed(value: float) -> str:
    """A figure of the paper's as a cell."""
    return DASH if pd.isna(value) else f"{value:.2f}"


def footnotes(folder: str | Path) -> list[str]:
    """Why a cell is a dash, and where the numbers come from: one line each."""
    lines: dict[str, None] = {}
    for name, runs in collect(folder).items():
        for run in runs:
            lines |= dict.fromkeys([*gaps(name, run), origin(name, run)])
    return list(lines)


def gaps(name: str, run: dict[str, Any]) -> list[str]:
    """The reason of each dash in a run's row, and of fewer samples than the split has."""
    lines = [
        f"{name}: {heading} {DASH}: {run['notes'].get(key, 'not measured')}"
        for key, (heading, _) in COLUMNS.items()
        if run.get(key) is None
    ]
    if "n" in run["notes"]:
        lines.append(f"{name}: n = {run['n']}: {run['notes']['n']}; Dist is higher for fewer replies")
    return lines


def origin(name: str, run: dict[str, Any]) -> str:
    """Where a run's numbers come from."""
    facts = run["provenance"]
    known = "".join(f", {what}: {source}" for what, source in (facts.get("knowledge") or {}).items())
    return (
        f"{name} seed {facts['seed']}: config {facts['config']}, code {facts['code']}, {facts['corpus']} "
        f"{facts['split']}, n = {run['n']}, UNK {cell([run.get('unk_rate')])} %{known}, "
        f"{facts['hardware']}, {facts['date']}; {run['signature']}"
    )


def write_table(folder: str | Path) -> Path:
    """table.md and table.csv in `folder`; returns the path of table.md."""
    folder = Path(folder)
    table = table2(folder)
    notes = "\n".join(f"- {line}" for line in footnotes(folder))
    text = f"# Table 2, {folder.name} preset: ours beside the paper's\n\n{to_markdown(table)}\n\n{notes}\n"
    replace_csv(folder / "table.csv", table)
    replace_text(folder / "table.md", text)
    return folder / "table.md"


def to_markdown(table: pd.DataFrame) -> str:
    """A GitHub table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
