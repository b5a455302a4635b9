"""Agreement by hand, and against sklearn."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from rd.annotation.agreement import intent_agreement, reason_agreement
from rd.annotation.quality import intent_quality, runs, tag_scores
from rd.labels import INTENTS


def test_words_and_phrases_by_hand():
    found, gold = [[1, 1, 0, 0, 1], [0, 0]], [[0, 1, 1, 0, 0], [0, 1]]
    scores = reason_agreement(found, gold)
    # one word in common, of three found and three gold; one of two phrases touches the other side, both ways
    assert scores["precision"] == scores["recall"] == pytest.approx(1 / 3)
    assert scores["phrase_f1"] == pytest.approx(1 / 2)
    assert scores["n"] == 7 and scores["agreement"] == pytest.approx(3 / 7)
    chance = (3 / 7) ** 2 + (4 / 7) ** 2
    assert scores["kappa"] == pytest.approx((3 / 7 - chance) / (1 - chance))


def test_word_scores_equal_those_of_sklearn():
    rng = np.random.default_rng(0)
    found, gold = ([rng.integers(0, 2, n).tolist() for n in range(1, 20)] for _ in range(2))
    expected = precision_recall_fscore_support(sum(gold, []), sum(found, []), average="binary")
    scores = tag_scores(found, gold)
    assert [scores[name] for name in ("precision", "recall", "f1")] == pytest.approx(list(expected[:3]))


def test_runs_against_a_loop():
    rng = np.random.default_rng(1)
    for tags in rng.integers(0, 2, (50, 9)).tolist():
        rebuilt = [0] * 9
        for start, end in runs(tags):
            assert start == 0 or not tags[start - 1]  # no run touches the one before it
            rebuilt[start:end] = [1] * (end - start)
        assert rebuilt == tags


def test_nothing_found_scores_zero_and_equal_labellings_one():
    assert tag_scores([[0, 0]], [[1, 0]])["f1"] == 0
    assert reason_agreement([[0, 0]], [[0, 0]])["kappa"] == 1
    same = reason_agreement([[0, 1, 1]], [[0, 1, 1]])
    assert same["kappa"] == same["f1"] == same["phrase_f1"] == pytest.approx(1)


def test_intents_by_hand_and_as_the_classifiers_quality():
    gold = ["questioning", "questioning", "wishing", "neutral"]
    found = ["questioning", "wishing", "wishing", "neutral"]
    scores, table = intent_agreement(found, gold)
    chance = (2 * 1 + 1 * 2 + 1 * 1) / 16
    assert scores == {"n": 4, "agreement": 0.75, "kappa": pytest.approx((0.75 - chance) / (1 - chance))}
    assert table.loc["questioning", "wishing"] == 1 and table.to_numpy().trace() == 3 and table.to_numpy().sum() == 4

    class Named:
        def predict(self, rows):
            return np.eye(len(INTENTS))[[INTENTS.index(row) for row in rows]]

    other = intent_quality(Named(), [(name, INTENTS.index(label), 0) for name, label in zip(found, gold)])
    assert other["kappa"] == pytest.approx(scores["kappa"]) and other["confusion"] == table.to_numpy().tolist()


def test_what_cannot_be_compared_is_refused():
    for found, gold in (([[1, 0]], [[1]]), ([[1]], [[1], [0]]), ([], [])):
        with pytest.raises(ValueError):
            reason_agreement(found, gold)
    for found, gold in ((["neutral"], []), ([], []), (["praising"], ["neutral"])):
        with pytest.raises(ValueError, match="nine"):
            intent_agreement(found, gold)
