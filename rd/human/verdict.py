"""The judge's table: what it chose, its position bias, its agreement with people; if it is at chance, it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from rd.files import replace_csv, replace_text
from rd.human.agreement import one_kind
from rd.human.judge import answers, measure
from rd.human.store import Store
from rd.human.table import chance, number, percent, tested
from rd.provenance import provenance
from rd.run import save_json
from rd.tables import DASH, to_markdown

LEVEL = 0.05


def verdict(row: dict[str, Any]) -> str:
    """One of: at chance; prefers the first or the second system. Position bias is named where its test says so."""
    test, place = row["sign_test"], row["position"]
    if test["p"] is None:
        said = "at chance, nothing survives the swap"
    elif test["p"] >= LEVEL:
        said = "at chance"
    else:
        said = "prefers ours" if test["share"] > 0.5 else "prefers theirs"
    if place["p"] is not None and place["p"] < LEVEL:
        said += f"; names the {'first' if place['first'] > 0.5 else 'second'} reply too often"
    return said


def judge_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """`rd.human.judge.measure` as cells."""
    return pd.DataFrame([_cells(row) for row in rows])


def write(store: Store, model: str, folder: Path, report: dict[str, int], code: str = "") -> Path:
    """judge.csv (ids and choices), judge.json (all figures, with provenance), judge.md; returns the last one's path.

    code: the version that asked, where it took long and the checkout may have moved on.
    """
    rows, facts = measure(store, model), store.facts
    replace_csv(folder / "judge.csv", answers(store, model))
    kept = {name: facts[name] for name in ("runs", "corpus", "data", "pairs", "equal", "withheld")}
    whence = provenance(judge=_named(model), seed=facts["seed"], asked=report, **kept)
    whence["code"] = code or whence["code"]
    save_json(folder / "judge.json", {"rows": rows, "provenance": whence})
    notes = [
        f"judge: {_named(model)}; both orders of {rows[0]['n'] + rows[0]['unanswered'] if rows else 0} pairs a row; "
        f"client: {', '.join(f'{name} {count}' for name, count in report.items())}",
        "win, lose: the same reply was chosen in both orders; tie: all else that was answered",
        "first %: of the answers that named a reply, those that named the one shown first (p: binomial, against half)",
        f"at chance: the sign test of wins against losses does not fall below {LEVEL}",
        f"kappa: Cohen's, with what the {'SIMULATED ' if one_kind(store) else ''}raters decided; {DASH}: no ratings",
        f"{facts['corpus']} test, seed {facts['seed']}, code {whence['code']}, {whence['hardware']}, {whence['date']}",
    ]
    text = f"# {facts['runs'][0]} against others: judged by a language model\n\n{to_markdown(judge_table(rows))}\n\n"
    replace_text(folder / "judge.md", text + "\n".join(f"- {note}" for note in notes) + "\n")
    return folder / "judge.md"


def _named(model: str) -> str:
    """The model without the folders of this machine."""
    return Path(model).name if Path(model).exists() else model


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    place, human = row["position"], row["human"]
    shares = {name: percent(row[name], row["n"]) for name in ("win", "lose", "tie")}
    first = DASH if place["first"] is None else f"{100 * place['first']:.0f}"
    seen = {"first %": first, "p (first)": chance(place["p"]), "kappa": number(human["kappa"] if human else None)}
    head = {"opponent": row["opponent"], "aspect": row["aspect"], "n": row["n"], "unanswered": row["unanswered"]}
    return {**head, **shares, **tested(row["win"], row["lose"]), **seen, "verdict": verdict(row)}
