"""A language model as judge of pairs, and as the supervisor of splits (App. A.2; Zheng et al. 2023 for the two orders).

Each pair is asked in both orders through the client that annotates (rd/annotation/llm.py): cache, retries and refusals
are its. A win counts only where it survives the swap; all else that was answered is a tie. Position bias: how often the
first reply was named, of all answers that named one, tested against half (two answers of one judge on a pair pull apart
where it has a preference, so the test errs on the safe side).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict
from scipy.stats import binomtest

from rd.annotation.agreement import agreement
from rd.annotation.client import Client
from rd.human.agreement import decisions, sign_test, splits
from rd.human.guidelines import ASPECTS, CHOICES, judge_prompt
from rd.human.store import OUTCOMES, Store, outcome, sided

ORDERS = (1, 0)  # ours first, theirs first


class Choice(BaseModel):
    """Answer form of a judge."""

    model_config = ConfigDict(extra="forbid")
    choice: Literal[CHOICES]


def survives(ours_first: str | None, theirs_first: str | None) -> str | None:
    """win or lose where both orders say so, else tie; None where an order has no answer. Given: A, B, tie or None."""
    if ours_first is None or theirs_first is None:
        return None
    found = {outcome(ours_first, True), outcome(theirs_first, False)}
    return found.pop() if len(found) == 1 else "tie"


def ask(
    store: Store, client: Client, wanted: Iterable[tuple[str, str]], keep: bool = True
) -> dict[tuple[str, str], str | None]:
    """(pair, aspect) -> win, lose, tie of the first system, or None. keep: each answer, as it comes, for the table."""
    texts = {row["pair"]: row for row in store.rows("SELECT * FROM pairs")}
    found = {}
    for pair, aspect in wanted:
        row, said = texts[pair], []
        for order in ORDERS:
            prompt = judge_prompt(aspect, row["context"], *sided(row["ours"], row["theirs"], order))
            answer = client.answer(prompt, Choice)
            said.append(answer.choice if answer else None)
        if keep:
            with store.writing() as db:
                rows = [(client.model, pair, aspect, order, choice) for order, choice in zip(ORDERS, said)]
                db.executemany("INSERT OR REPLACE INTO judged VALUES (?, ?, ?, ?, ?)", rows)
        found[pair, aspect] = survives(*said)
    return found


def all_questions(store: Store, count: int | None = None) -> list[tuple[str, str]]:
    """Every aspect of the first `count` pairs (None: all); pairs are numbered in a drawn order."""
    pairs = [row["pair"] for row in store.rows("SELECT pair FROM pairs ORDER BY pair")]
    return [(pair, aspect) for pair in pairs[:count] for aspect in ASPECTS]


def supervise(store: Store, client: Client) -> dict[str, int]:
    """The judge's word on each split, and on nothing else, kept as settled; no answer leaves it a split. Counts.

    Splits are no fair sample of pairs: the answers stay out of the judge's table.
    """
    waiting = splits(store)
    found = {key: said for key, said in ask(store, client, waiting, keep=False).items() if said}
    with store.writing() as db:
        rows = [(*key, said, client.model) for key, said in found.items()]
        db.executemany("INSERT OR REPLACE INTO settled VALUES (?, ?, ?, ?)", rows)
    return {"splits": len(waiting), "settled": len(found)}


def answers(store: Store, model: str) -> pd.DataFrame:
    """Ids and choices only: pair, sample, opponent, aspect, ours_first, choice (empty: no answer)."""
    columns = ["pair", "sample", "opponent", "aspect", "ours_first", "choice"]
    query = f"SELECT {', '.join(columns)} FROM judged JOIN pairs USING (pair) JOIN key USING (pair) WHERE model = ?"
    rows = store.rows(query + " ORDER BY pair, aspect, ours_first DESC", model)
    return pd.DataFrame(
        [tuple(row) for row in rows], columns=["pair", "sample", "opponent", "aspect", "ours_first", "choice"]
    )


def combined(said: pd.DataFrame) -> pd.DataFrame:
    """pair, opponent, aspect, outcome: both orders in one."""
    if said.empty:
        return pd.DataFrame(columns=["pair", "opponent", "aspect", "outcome"])
    wide = said.pivot(index=["pair", "opponent", "aspect"], columns="ours_first", values="choice")
    wide = wide.reindex(columns=ORDERS)
    wide["outcome"] = [survives(*(None if pd.isna(c) else c for c in row)) for row in wide[list(ORDERS)].to_numpy()]
    return wide["outcome"].reset_index()


def position(choices: Sequence[str | None]) -> dict[str, Any]:
    """n (answers that named a reply), first (share of them that named the first), p (binomial, two-sided, half)."""
    named = [choice for choice in choices if choice in ("A", "B")]
    if not named:
        return {"n": 0, "first": None, "p": None}
    first = named.count("A")
    return {"n": len(named), "first": first / len(named), "p": float(binomtest(first, len(named)).pvalue)}


def measure(store: Store, model: str) -> list[dict[str, Any]]:
    """One row an opponent and aspect: outcomes after the swap, the sign test, position bias, agreement with people."""
    said = answers(store, model)
    found, rows = combined(said), []
    people = decisions(store).set_index(["pair", "aspect"])["outcome"]
    for opponent, aspect in product(sorted(set(found["opponent"])), ASPECTS):
        part, raw = (t[(t["opponent"] == opponent) & (t["aspect"] == aspect)] for t in (found, said))
        if raw.empty:
            continue
        count = part["outcome"].value_counts()
        win, lose, tie = (int(count.get(name, 0)) for name in OUTCOMES)
        row = {"opponent": opponent, "aspect": aspect, "n": win + lose + tie, "win": win, "lose": lose, "tie": tie}
        row |= {"unanswered": int(part["outcome"].isna().sum()), "said_tie": int((raw["choice"] == "tie").sum())}
        row |= {"sign_test": sign_test(win, lose), "position": position(list(raw["choice"]))}
        rows.append(row | {"human": _with_people(part, people)})
    return rows


def _with_people(part: pd.DataFrame, people: pd.Series) -> dict[str, float] | None:
    """n, agreement and Cohen's kappa with what the raters decided; None where they decided none of these pairs."""
    theirs = (people[key] for key in zip(part["pair"], part["aspect"]))
    both = [(ours, human) for ours, human in zip(part["outcome"], theirs) if {ours, human} <= {*OUTCOMES}]
    return {"n": len(both), **agreement(*zip(*both), OUTCOMES)} if both else None
