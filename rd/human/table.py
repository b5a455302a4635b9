"""`rd human table`: win, lose, tie per opponent and aspect, beside the paper's Table 3; agreement and sign test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from rd.errors import UserError
from rd.files import replace_csv, replace_text
from rd.human.agreement import OPEN, SPLIT, agreement, decisions, one_kind, sign_test, splits
from rd.human.guidelines import ASPECTS
from rd.human.store import OUTCOMES, Store
from rd.tables import DASH, split_name, to_markdown
from rd.tables import printed_table as printed_by_paper

PRINTED = Path(__file__).parents[2] / "papers" / "table3.csv"
NOTES = (
    "win, lose, tie: % of the n pairs decided, of the first system, by the majority of the raters; of a split (no "
    "majority) the supervisor's word, where it was asked",
    "sign test: exact, two-sided, of wins against losses; ties are left out. wins %: wins among wins and losses, with "
    "the 95 % interval. A row is one test of several: mind how many there are",
    f"kappa: Fleiss, pairs that all raters rated; alpha: Krippendorff, nominal. {DASH}: 0/0, or too few ratings",
    "paper: Table 3 as printed; the paper tells neither the number of pairs nor how three ratings become one",
)


def table3(store: Store, printed: Path = PRINTED) -> pd.DataFrame:
    """One row an opponent and aspect. Raises UserError where nobody has rated, or people and programs are mixed."""
    one_kind(store)
    found = decisions(store)
    if not found["votes"].map(len).any():
        raise UserError(f"{store.path}: nobody has rated yet; rd human read takes a filled sheet, notebook 09 rates")
    paper, seats = printed_table(printed), len(store.raters)
    rows = []
    for opponent in sorted(set(found["opponent"])):
        for aspect in ASPECTS:
            part = found[(found["opponent"] == opponent) & (found["aspect"] == aspect)]
            rows.append(_row(opponent, aspect, part, seats, paper))
    return pd.DataFrame(rows)


def printed_table(path: Path = PRINTED) -> pd.DataFrame:
    """Table 3 as the paper prints it, indexed by our model names and aspect. Raises UserError where it is missing."""
    return printed_by_paper(path, ("model", "aspect"))


def write(store: Store, folder: Path, printed: Path = PRINTED) -> Path:
    """human.csv and human.md in `folder`; returns the latter's path. Nothing in them names a rater or quotes a text."""
    table = table3(store, printed)
    replace_csv(folder / "human.csv", table)
    replace_text(folder / "human.md", markdown(store, table))
    return folder / "human.md"


def markdown(store: Store, table: pd.DataFrame) -> str:
    """The table with its notes and the splits that wait for the supervisor."""
    simulated = one_kind(store)
    title = "SIMULATED raters: drawn by a program, nobody's judgement" if simulated else "ratings by people"
    facts, waiting = store.facts, splits(store)
    where = f"pairs: {facts['pairs']} of {facts['corpus']} test, {facts['equal']} with two equal replies (kept), seed "
    where += f"{facts['seed']}; withheld replies skipped: {_counts(facts['withheld'])}; code {facts['code']}, "
    where += f"{facts['date']}; raters: {', '.join(store.raters)}"
    listed = [f"split, for the supervisor: {pair} {aspect}" for pair, aspect in waiting] or ["no split is left"]
    notes = "\n".join(f"- {line}" for line in (*NOTES, where, *listed))
    return f"# Human A/B (Table 3), {facts['runs'][0]} against others: {title}\n\n{to_markdown(table)}\n\n{notes}\n"


def percent(part: int, whole: int) -> str:
    """One decimal, as the paper prints; a dash of nothing."""
    return f"{100 * part / whole:.1f}" if whole else DASH


def number(value: float | None, digits: int = 2) -> str:
    """A dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def chance(p: float | None) -> str:
    """A p value of three decimals; a dash where there is none."""
    return "< 0.001" if p is not None and p < 0.001 else number(p, 3)


def tested(win: int, lose: int) -> dict[str, str]:
    """The sign test as cells."""
    test = sign_test(win, lose)
    if test["p"] is None:
        return {"wins % [95 %]": DASH, "p": DASH}
    share, low, high = (f"{100 * test[name]:.0f}" for name in ("share", "low", "high"))
    return {"wins % [95 %]": f"{share} [{low}, {high}]", "p": chance(test["p"])}


def _row(opponent: str, aspect: str, part: pd.DataFrame, seats: int, paper: pd.DataFrame) -> dict[str, Any]:
    count = part["outcome"].value_counts()
    win, lose, tie = (int(count.get(name, 0)) for name in OUTCOMES)
    n, model = win + lose + tie, split_name(opponent)[0]
    known = paper.loc[(model, aspect)] if (model, aspect) in paper.index else None
    theirs = DASH if known is None else " / ".join(f"{known[name]:.1f}" for name in OUTCOMES)
    found = agreement(list(part["votes"]), seats)
    return {
        "opponent": opponent, "aspect": aspect, "n": n, "win": percent(win, n), "lose": percent(lose, n),
        "tie": percent(tie, n), "paper (win / lose / tie)": theirs, **tested(win, lose),
        "kappa": number(found["fleiss_kappa"]), "alpha": number(found["krippendorff_alpha"]),
        "by supervisor": int((part["by"] == "supervisor").sum()), "split": int(count.get(SPLIT, 0)),
        "open": int(count.get(OPEN, 0)),
    }  # fmt: skip


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in values.items())
