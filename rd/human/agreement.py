"""What ratings say: the majority of each pair, splits for the supervisor, agreement of raters, and the sign test.

Fleiss' (1971) kappa (pairs that every seat rated) and Krippendorff's alpha, nominal (pairs with two ratings or more);
both on win, lose, tie of the first system, that is after each rater's sides are turned back. The sign test (Dixon and
Mood 1946) asks whether wins and losses are equally likely; ties are left out of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import krippendorff
import numpy as np
import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.inter_rater import fleiss_kappa

from rd.errors import UserError
from rd.human.guidelines import ASPECTS
from rd.human.store import OUTCOMES, Store, outcome

SPLIT, OPEN = "split", "open"


def majority(votes: Sequence[str], seats: int) -> str:
    """The outcome that more than half of the seats chose; SPLIT where all have rated and none has it, else OPEN.

    Of three raters only win, lose and tie once each is a split.
    """
    name, count = Counter(votes).most_common(1)[0] if votes else ("", 0)
    if 2 * count > seats:
        return name
    return SPLIT if len(votes) == seats else OPEN


def ballots(store: Store) -> pd.DataFrame:
    """One row a pair and aspect: pair, opponent, aspect, votes (outcomes of the first system)."""
    cast: dict[tuple[str, str], list[str]] = {}
    for row in store.votes():
        cast.setdefault((row["pair"], row["aspect"]), []).append(outcome(row["choice"], row["ours_first"]))
    key = store.rows("SELECT pair, opponent FROM key ORDER BY pair")
    rows = [(row["pair"], row["opponent"], a, tuple(cast.get((row["pair"], a), ()))) for row in key for a in ASPECTS]
    return pd.DataFrame(rows, columns=["pair", "opponent", "aspect", "votes"])


def decisions(store: Store) -> pd.DataFrame:
    """`ballots` with `outcome` (win, lose, tie, split, open) and `by` (raters, supervisor). A supervisor settles splits
    only: what it said of a pair that is none any more counts for nothing.
    """
    settled = {(row["pair"], row["aspect"]): row["outcome"] for row in store.rows("SELECT * FROM settled")}
    found, seats = ballots(store), len(store.raters)
    raters = [majority(votes, seats) for votes in found["votes"]]
    keys = zip(found["pair"], found["aspect"])
    final = [settled.get(key, said) if said == SPLIT else said for key, said in zip(keys, raters)]
    by = ["supervisor" if said != last else "raters" for said, last in zip(raters, final)]
    return found.assign(outcome=final, by=by)


def splits(store: Store) -> list[tuple[str, str]]:
    """(pair, aspect) on which the raters are split and no supervisor has spoken."""
    found = decisions(store)
    return list(found.loc[found["outcome"] == SPLIT, ["pair", "aspect"]].itertuples(index=False, name=None))


def agreement(votes: Sequence[Sequence[str]], seats: int) -> dict[str, float | None]:
    """n (pairs all seats rated), fleiss_kappa, krippendorff_alpha. None: 0/0, as where all ratings are one outcome."""
    counts = np.array([[list(pair).count(name) for name in OUTCOMES] for pair in votes]).reshape(-1, len(OUTCOMES))
    whole = counts[counts.sum(1) == seats]
    several = counts[counts.sum(1) > 1]
    kappa = alpha = None
    if seats > 1 and (whole.sum(0) > 0).sum() > 1:
        kappa = float(fleiss_kappa(whole))
    if (several.sum(0) > 0).sum() > 1:
        alpha = float(krippendorff.alpha(value_counts=several, level_of_measurement="nominal"))
    return {"n": len(whole), "fleiss_kappa": kappa, "krippendorff_alpha": alpha}


def sign_test(win: int, lose: int) -> dict[str, float | None]:
    """share of wins among wins and losses, its exact 95 % interval (Clopper and Pearson 1934), two-sided p.

    All None where there is neither a win nor a loss.
    """
    if not win + lose:
        return dict.fromkeys(("share", "low", "high", "p"))
    test = binomtest(win, win + lose)
    low, high = test.proportion_ci(0.95, method="exact")
    return {"share": win / (win + lose), "low": float(low), "high": float(high), "p": float(test.pvalue)}


def one_kind(store: Store) -> bool:
    """Whether the ratings are simulated. Raises UserError where people and programs stand in one study."""
    rated, drawn = {row["rater"] for row in store.votes()}, set(store.simulated)
    if rated & drawn and rated - drawn:
        raise UserError(f"{store.path}: {', '.join(sorted(rated & drawn))} simulated, others not; no table mixes them")
    return bool(rated & drawn)
