"""Simulated raters, to teach and to test agreement: a program draws their ratings, and they are nobody's judgement.

The rule: each pair and aspect has a truth drawn from `shares`; a rater reports the truth with probability `care`, else
an outcome drawn from `shares` again. Two raters then agree by more than chance with exactly

$$ kappa = care^2 $$

since both must have cared; where either has not, they agree as chance does. Other rules give other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rd.errors import UserError
from rd.human.guidelines import ASPECTS
from rd.human.session import save_ratings, take_seat
from rd.human.store import OUTCOMES, Store

SHARES = (0.45, 0.2, 0.35)  # of win, lose, tie; ours: near the middle of the paper's Table 3, so that tables look alike


def outcomes(
    pairs: int, raters: int, care: float, generator: np.random.Generator, shares: tuple[float, ...] = SHARES
) -> np.ndarray:
    """Ratings (pairs, raters) by the rule, as indices into OUTCOMES."""
    truth = generator.choice(len(OUTCOMES), size=(pairs, 1), p=shares)
    guess = generator.choice(len(OUTCOMES), size=(pairs, raters), p=shares)
    return np.where(generator.random((pairs, raters)) < care, truth, guess)


def fill(store: Store, care: Mapping[str, float], seed: int = 0) -> None:
    """Every seat rates every pair, and is marked as simulated. care: by aspect. Raises UserError where people rate."""
    if {row["rater"] for row in store.votes()} - set(store.simulated):
        raise UserError(f"{store.path}: people have rated here; simulate in a study of its own")
    generator, raters = np.random.default_rng(seed), store.raters
    pairs = [row["pair"] for row in store.rows("SELECT pair FROM pairs ORDER BY pair")]
    drawn = {aspect: outcomes(len(pairs), len(raters), care[aspect], generator) for aspect in ASPECTS}
    sides = {(row["rater"], row["pair"]): row["ours_first"] for row in store.rows("SELECT * FROM shown")}
    for i, rater in enumerate(raters):
        take_seat(store, f"simulated {i + 1}", rater, simulated=True)
        said = {
            (pair, aspect): _choice(OUTCOMES[drawn[aspect][j, i]], sides[rater, pair])
            for j, pair in enumerate(pairs)
            for aspect in ASPECTS
        }
        save_ratings(store, rater, said)


def _choice(outcome: str, ours_first: bool) -> str:
    """The side a rater names who means this outcome: the inverse of `rd.human.store.outcome`."""
    if outcome == "tie":
        return "tie"
    return "A" if (outcome == "win") == bool(ours_first) else "B"
