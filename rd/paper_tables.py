"""The paper's Table 1, Figure 3 and Table 2 from results/<preset> alone: ours beside the printed, gaps as dashes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from types import NoneType
from typing import Any

import pandas as pd

from rd.annotation.table1 import compare_with_printed, shares, top_intents
from rd.figures import heat_map
from rd.forms import FACTS, read_form, read_table
from rd.labels import EMOTIONS, INTENTS
from rd.publish import publish, publish_figure
from rd.significance import LEVEL, TESTED, marks, significance, trained
from rd.tables import (
    COLUMNS,
    DASH,
    PRINTED,
    as_printed,
    collect,
    gaps,
    in_order,
    origin,
    printed_table,
    steps_of,
    system_name,
    table2,
)

GATHER = "rd tables --preset {} --data DIR --runs DIR makes it"


def paper_tables(folder: Path, printed: Path = PRINTED) -> list[str]:
    """Write Table 1, Figure 3, Table 2 and the differences into `folder`; returns a line for each that cannot be."""
    compared = significance(folder)
    publish_table2(folder, compared, printed)
    return publish_table1(folder) + publish_significance(folder, compared)


def facts_of(file: Path) -> str:
    """Where a gathered file's numbers come from, from the JSON beside it."""
    facts = read_facts(file)
    steps = f", {facts['steps']} steps" if facts.get("steps") else ""
    run = f"run {facts['run']}{steps}, " if "run" in facts else ""
    return f"{run}corpus {facts['corpus']}, code {facts['code']}, {facts['hardware']}, {facts['date']}"


def again(file: Path) -> str:
    """What to do about a gathered file that is damaged."""
    return f"delete {file.with_suffix('.csv')}, and {GATHER.format(file.parent.parent.name)} again"


def read_facts(file: Path, **more: Any) -> dict[str, Any]:
    """The JSON beside a gathered file; more: what is read of it besides, as a form. Raises UserError."""
    form = {"corpus": str, "run?": str, "steps?": (int, NoneType), **FACTS, **more}
    return read_form(file.with_suffix(".json"), form, again(file))


def read_counts(file: Path, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """A gathered file of counts: a row for each emotion, which the column `name` tells. Raises UserError."""

    def whole(table: pd.DataFrame) -> bool:
        return list(table) == [name, *columns] and list(table[name]) == list(EMOTIONS)

    return read_table(file, {}, columns, again(file), whole).set_index(name)


def publish_table1(folder: Path) -> list[str]:
    """Each emotion's three commonest intents of train's listener turns beside those printed, and all shares."""
    file = folder / "gathered" / "intents.csv"
    if not file.is_file():
        return [f"Table 1: no {file.name} in {file.parent}: {GATHER.format(folder.name)}"]
    counts, facts = read_counts(file, "emotion", INTENTS), read_facts(file, turns=int, gold=int)
    frequencies, turns = shares(counts.to_numpy()), counts.sum(axis=1)
    compared = compare_with_printed(frequencies).reset_index()
    compared.insert(1, "turns", turns.to_numpy())
    top = top_intents(frequencies)
    shown = compared.astype(object)
    shown["derived"] = [
        ", ".join(f"{intent} ({100 * frequencies.loc[emotion, intent]:.0f} %)" for intent in intents)
        for emotion, intents in top.items()
    ]
    shown["shared"] = [DASH if pd.isna(n) else f"{n:.0f}" for n in compared["shared"]]
    both = compared["shared"].dropna()
    notes = [
        f"derived: {facts['turns']} listener turns of train, {facts['gold']} with gold labels, the others by the "
        "tagger; ties in the order of rd/labels.py",
        f"printed intents that the derived three share: {both.mean():.2f} of 3 on average over {len(both)} emotions; a "
        "dash: the paper prints no row for that emotion (papers/errata.md)",
        facts_of(file),
    ]
    publish(compared, folder, "table1", "Table 1: the intents of each emotion, derived and as printed", notes, shown)
    marked = pd.DataFrame([[c in top[e] for c in frequencies] for e in frequencies.index], counts.index, counts.columns)
    names = ("Framed: the emotion's three commonest", "intent of the reply", "emotion", "% of the emotion's replies")
    fig = heat_map(100 * frequencies, *names, fmt=".0f", marked=marked, cmap="Blues")
    caption = "Figure 3: intents of the replies to each emotion"
    publish_figure(
        fig, folder, "figure3", caption, [notes[0], notes[-1]], (100 * frequencies).reset_index(names="emotion")
    )
    return []


def publish_table2(folder: Path, compared: dict[str, Any], printed: Path = PRINTED) -> Path:
    """All systems of the paper and ours, each budget a row of its own; where no run is: dashes and a reason.

    compared: of `rd.significance.significance`.
    """
    paper, runs = printed_table(printed), collect(folder)
    shown, numbers, reasons, origins = [], [], defaultdict(list), []
    seen = table2(folder, printed)
    for name in in_order({*runs, *paper.index}, paper):
        mine = runs.get(name, [])
        system = system_name(name, paper, steps_of(mine))
        rows = seen[seen["system"] == system].to_dict("records")
        if not mine:
            rows = [dict.fromkeys(seen.columns, DASH) | {"system": system, "source": "ours"}]
            theirs = {heading: as_printed(paper.loc[name, column]) for heading, column in COLUMNS.values()}
            rows.append(rows[0] | {"source": "paper"} | theirs)
            reasons[missing(name, folder)].append(system)
        for run in mine:
            for line in gaps(name, run):
                what, _, reason = line.removeprefix(f"{name}: ").partition(": ")
                reasons[f"{what}: {reason}"].append(system)
            origins.append(origin(name, run))
        for metric, mark in marks(name, compared["comparisons"]).items():
            rows[0][COLUMNS[metric][0]] += f" {mark}"
        shown += rows
        numbers.append({"system": system, "model": name, "source": "ours", **_numbers(mine)})
        if name in paper.index:
            theirs = {key: paper.loc[name, column] for key, (_, column) in COLUMNS.items()}
            numbers.append({"system": system, "model": name, "source": "paper", **theirs})
    notes = [
        "* differs from the plain transformer of the same seed and steps, † from ReflectDiffu of the same: paired "
        f"bootstrap over dialogues (Koehn 2004), {_resamples(compared)} resamples, p < {LEVEL}, for each seed; for PPL "
        "by nats a word; not corrected for the number of comparisons; without a mark: no difference seen, or nothing "
        "of the same steps to compare with (table of differences)",
        "the paper calls its column beside BERTScore F1 BARTScore, which it cannot be (papers/errata.md)",
        *(f"{reason} ({', '.join(dict.fromkeys(names))})" for reason, names in reasons.items()),
        *origins,
    ]
    caption = f"Table 2, {folder.name} preset: ours beside the paper's"
    return publish(pd.DataFrame(numbers), folder, "table2", caption, notes, pd.DataFrame(shown))


def missing(name: str, folder: Path) -> str:
    """Why a system of the paper has no row of ours, and what makes one."""
    if name.endswith("-cot"):
        return f"no row of ours: no run {name}-s0 in {folder}; needs the language model's weights (rd tune, rd prompt)"
    model, *switches = name.split("-")
    changed = "".join(f" --set model.{k}={v.lower()}" for k, v in zip(switches[::2], switches[1::2], strict=True))
    return f"no row of ours: no run {name}-s0 in {folder} yet: rd train {model}{changed} --preset {folder.name}"


def publish_significance(folder: Path, compared: dict[str, Any]) -> list[str]:
    """Every difference that was tested; returns a line for each run that could not be compared."""
    steps = {run.folder: run.steps for run in trained(folder)}
    rows, shown = [], []
    for one in compared["comparisons"]:
        sides = {side: f"{one[side]} ({steps[one[side]]:,} steps)" for side in "ab"}
        cells = {metric: DASH for metric in TESTED.values()}
        for metric, gap in one["a_minus_b"].items():
            rows.append({"a": one["a"], "b": one["b"], "metric": metric, **gap})
            sure = " *" if gap["p"] < LEVEL else ""
            sure += " (part)" if gap["samples"] < gap["of"] else ""
            cells[metric] = f"{gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]{sure}"
        samples = sorted({gap["samples"] for gap in one["a_minus_b"].values()})
        titles = {m: m.replace("bleu_", "BLEU-").replace("_", " ") for m in cells}
        shown.append({"A": sides["a"], "B": sides["b"], **{titles[m]: c for m, c in cells.items()}, "samples": samples})
    if not rows:
        return [f"differences: no two runs in {folder} with scores.csv to compare: {GATHER.format(folder.name)}"]
    table = pd.DataFrame(shown)
    table["samples"] = [" / ".join(map(str, counts)) for counts in table["samples"]]
    facts = compared["provenance"]
    notes = [
        f"A minus B with its 95 % interval; *: p < {LEVEL} (two-sided, not corrected); paired bootstrap over dialogues "
        f"(Koehn 2004), {_resamples(compared)} resamples; more BLEU is better, fewer nats are better",
        "the chance of the test set alone: the chance of training needs several seeds",
        "samples: those that both runs have; (part): without the replies that were withheld because they repeat the "
        "corpus, which is another test set: no mark in Table 2 (rd tables --data DIR --runs DIR compares all)",
        *(f"{run} {DASH}: {reason}" for run, reason in compared["missing"].items()),
        f"code {facts['code']}, {facts['hardware']}, {facts['date']}",
    ]
    publish(pd.DataFrame(rows), folder, "significance", "Differences between runs on the test split", notes, table)
    return []


def _resamples(compared: dict[str, Any]) -> str:
    return f"{compared['provenance']['resamples']:,}"


def _numbers(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sd of each metric over the seeds, as numbers."""
    found: dict[str, Any] = {"seeds": len(runs), "n": runs[0]["n"] if runs else None, "steps": steps_of(runs) or None}
    for key in COLUMNS:
        known = [run[key] for run in runs if run.get(key) is not None]
        found[key] = mean(known) if known else None
        found[f"{key}_sd"] = stdev(known) if len(known) > 1 else None
    return found
