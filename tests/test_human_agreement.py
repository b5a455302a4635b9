"""Majority, kappa, alpha and the sign test by hand and a second way; the table beside the paper's."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from human_study import OTHERS, study

from rd.errors import UserError
from rd.human.agreement import agreement, decisions, majority, sign_test, splits
from rd.human.guidelines import ASPECTS
from rd.human.session import save_ratings, take_seat
from rd.human.simulated import fill, outcomes
from rd.human.store import OUTCOMES, Store
from rd.human.table import PRINTED, markdown, printed_table, table3, write


def votes(*pairs):
    """ "wwl" -> win, win, lose."""
    names = {"w": "win", "l": "lose", "t": "tie"}
    return [tuple(names[letter] for letter in pair) for pair in pairs]


def alpha_by_pairs(given):
    """Krippendorff's nominal alpha, 1 - Do / De, by going through all pairs of values (2011, sec. C)."""
    units = [unit for unit in given if len(unit) > 1]
    every = [value for unit in units for value in unit]
    seen = sum(Fraction(2 * sum(a != b for a, b in combinations(unit, 2)), len(unit) - 1) for unit in units)
    chance = Fraction(2 * sum(a != b for a, b in combinations(every, 2)), len(every) - 1)
    return float(1 - seen / chance)


def kappa_by_pairs(given):
    """Fleiss' kappa: agreeing pairs of raters, and squared shares for what chance would do."""
    seen = np.mean([np.mean([a == b for a, b in combinations(unit, 2)]) for unit in given])
    every = [value for unit in given for value in unit]
    chance = sum((every.count(name) / len(every)) ** 2 for name in OUTCOMES)
    return (seen - chance) / (1 - chance)


def test_agreement_by_hand():
    """Three raters, four pairs: www, lll, wwl, tlw. P = (1 + 1 + 1/3 + 0) / 4 = 7/12; shares 6/12, 5/12, 1/12."""
    found = agreement(votes("www", "lll", "wwl", "tlw"), 3)
    chance = Fraction(36 + 25 + 1, 144)
    assert found["fleiss_kappa"] == pytest.approx(float((Fraction(7, 12) - chance) / (1 - chance)))
    # Do = (0 + 0 + 2*2/2 + 2*3/2) = 5 of 12 values; De = (144 - 62) / 11
    assert found["krippendorff_alpha"] == pytest.approx(float(1 - Fraction(5) / Fraction(82, 11)))
    assert found["n"] == 4


@pytest.mark.parametrize("seed", range(3))
def test_agreement_a_second_way(seed):
    chance = np.random.default_rng(seed)
    given = [tuple(OUTCOMES[i] for i in row) for row in outcomes(30, 3, 0.6, chance)]
    assert agreement(given, 3)["fleiss_kappa"] == pytest.approx(kappa_by_pairs(given))
    holes = [unit[: chance.integers(0, 4)] for unit in given]  # ratings that are missing
    found = agreement(holes, 3)
    assert found["krippendorff_alpha"] == pytest.approx(alpha_by_pairs(holes))
    whole = [unit for unit in holes if len(unit) == 3]
    assert found["n"] == len(whole) and found["fleiss_kappa"] == pytest.approx(kappa_by_pairs(whole))


def test_agreement_at_its_ends():
    assert agreement(votes("www", "lll"), 3)["fleiss_kappa"] == 1
    for none in (votes("www", "www"), [], votes("w", "l"), [()]):
        found = agreement(none, 3)
        assert found["fleiss_kappa"] is None and found["krippendorff_alpha"] is None


def test_simulated_raters_agree_as_their_rule_says():
    drawn = outcomes(40_000, 3, 0.8, np.random.default_rng(0))
    found = agreement([tuple(OUTCOMES[i] for i in row) for row in drawn], 3)
    assert found["fleiss_kappa"] == pytest.approx(0.64, abs=0.01)
    assert found["krippendorff_alpha"] == pytest.approx(0.64, abs=0.01)


def test_majority():
    cases = {
        "www": "win",
        "wwl": "win",
        "ltl": "lose",
        "tt": "tie",
        "wlt": "split",
        "wl": "open",
        "w": "open",
        "": "open",
    }
    assert {case: majority(votes(case)[0], 3) for case in cases} == cases
    assert majority(("win",), 1) == "win" and majority(("win", "lose"), 2) == "split"
    assert majority(votes("wwll")[0], 4) == "split" and majority(votes("wwlt")[0], 4) == "split"


@pytest.mark.parametrize(("win", "lose"), [(9, 1), (5, 5), (0, 6), (1, 0), (31, 14)])
def test_sign_test_by_counting(win, lose):
    n = win + lose
    tail = sum(comb(n, k) for k in range(max(win, lose), n + 1))
    found = sign_test(win, lose)
    assert found["p"] == pytest.approx(min(1.0, 2 * tail / 2**n))
    assert found["share"] == pytest.approx(win / n)

    def above(p):  # P(at least `win` wins)
        return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(win, n + 1))

    def below(p):
        return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(win + 1))

    assert above(found["low"]) == pytest.approx(0.025) if win else found["low"] == 0
    assert below(found["high"]) == pytest.approx(0.025) if lose else found["high"] == 1


def test_no_wins_and_no_losses():
    assert set(sign_test(0, 0).values()) == {None}


def cast(store, plan):
    """pair -> the votes of r1, r2, ... in letters, the same in all aspects, turned to each rater's sides."""
    for code in store.raters:
        first = {row["pair"]: row["ours_first"] for row in store.rows("SELECT * FROM shown WHERE rater = ?", code)}
        said = {}
        for pair, letters in plan.items():
            if len(letters) >= int(code[1:]):
                letter = letters[int(code[1:]) - 1]
                choice = "tie" if letter == "t" else "AB"[(letter == "w") != first[pair]]
                said |= {(pair, aspect): choice for aspect in ASPECTS}
        save_ratings(store, code, said)


def test_decisions_splits_and_supervisor(tmp_path):
    with Store(study(tmp_path, count=4, others=("mtrs-s0",))) as store:
        cast(store, {"p1": "wwl", "p2": "wlt", "p3": "tlw", "p4": "w"})
        assert splits(store) == [(pair, aspect) for pair in ("p2", "p3") for aspect in ASPECTS]
        with store.writing() as db:
            rows = [("p2", "empathy", "lose", "m"), ("p1", "empathy", "lose", "m"), ("p4", "empathy", "lose", "m")]
            db.executemany("INSERT INTO settled VALUES (?, ?, ?, ?)", rows)  # of p2 only it counts
        found = decisions(store).set_index(["pair", "aspect"])
        assert list(found.xs("empathy", level=1)["outcome"]) == ["win", "lose", "split", "open"]
        assert list(found.xs("fluency", level=1)["outcome"]) == ["win", "split", "split", "open"]
        assert list(found.xs("empathy", level=1)["by"]) == ["raters", "supervisor", "raters", "raters"]
        assert len(splits(store)) == 5
        row = table3(store).set_index("aspect").loc["empathy"]
        assert [row[name] for name in ("n", "win", "lose", "tie", "split", "open")] == [2, "50.0", "50.0", "0.0", 1, 1]
        assert row["by supervisor"] == 1 and row["paper (win / lose / tie)"] == "51.1 / 18.0 / 30.9"


def test_the_table_is_the_votes(tmp_path):
    folder = study(tmp_path)
    with Store(folder) as store:
        with pytest.raises(UserError, match="nobody has rated"):
            table3(store)
        take_seat(store, "Ann Example")
        every = [row["pair"] for row in store.rows("SELECT pair FROM key WHERE opponent = ? ORDER BY pair", OTHERS[0])]
        cast(store, dict(zip(every, ["www", "wwl", "wtw", "wwt", "lll", "llw", "ttt", "tlt", "ttw", "wlt"])))
        rows = table3(store).set_index(["opponent", "aspect"])
        row = rows.loc[(OTHERS[0], "relevance")]
        assert [row[name] for name in ("n", "win", "lose", "tie")] == [9, "44.4", "22.2", "33.3"]
        assert row["wins % [95 %]"].startswith("67 [22, 96]") and row["p"] == "0.688"  # 2 * (15 + 6 + 1) / 64
        assert rows.loc[(OTHERS[1], "empathy"), "win"] == "–" and rows.loc[(OTHERS[1], "empathy"), "open"] == 10
        assert rows.loc[(OTHERS[1], "empathy"), "paper (win / lose / tie)"] == "52.0 / 15.0 / 33.0"  # case-s1 is CASE
        path = write(store, folder)
        text = path.read_text() + (folder / "human.csv").read_text()
        assert (
            "Ann" not in text and "SIMULATED" not in text and f"split, for the supervisor: {every[9]} empathy" in text
        )
        assert list(pd.read_csv(folder / "human.csv")["n"]) == [0, 0, 0, 9, 9, 9]


def test_simulated_ratings_are_named_and_never_mixed(tmp_path):
    with Store(study(tmp_path)) as store:
        fill(store, dict.fromkeys(ASPECTS, 1.0), seed=3)
        text = markdown(store, table3(store))
        assert "SIMULATED" in text.splitlines()[0] and not splits(store)
        assert all(row["kappa"] == row["alpha"] == "1.00" for _, row in table3(store).iterrows())
        with store.writing() as db:
            db.execute("UPDATE raters SET simulated = 0 WHERE code = 'r2'")
        with pytest.raises(UserError, match="r1, r3 simulated"):
            table3(store)
        with pytest.raises(UserError, match="people have rated"):
            fill(store, dict.fromkeys(ASPECTS, 1.0))


def test_the_printed_table():
    paper = printed_table()
    assert len(paper) == 27 and set(paper.index.get_level_values(1)) == set(ASPECTS)
    sums = paper[list(OUTCOMES)].sum(axis=1).round(1)
    assert sums[sums != 100].to_dict() == {("empdg", "empathy"): 99.9}  # as printed (papers/errata.md)
    with pytest.raises(UserError, match="missing"):
        printed_table(PRINTED.with_name("table9.csv"))
