"""Scores of single samples add up to the run's metrics, and other runs' scores are refused."""

import json

import numpy as np
import pytest

from rd.metrics import bleu, bleu_of_sums, bleu_statistics, perplexity
from rd.scores import FILE, bleu_sums, read_scores, score_rows, write_scores

IDS = ["a:1", "a:3", "b:1", "c:1"]
REPLIES = ["i am so sorry to hear that .", "that is great ! what a day", "", "did you tell her about the old boat ?"]
GOLD = ["i am sorry to hear that !", "that is so great ! what a nice day", "oh no", "did you ask her about the boat ?"]
NLL, WORDS = np.array([8.0, 21.0, 6.0, 30.0]), np.array([8, 9, 3, 9])


@pytest.fixture
def run(tmp_path):
    write_scores(score_rows(IDS, REPLIES, GOLD, NLL / WORDS), tmp_path / FILE)
    metrics = {"n": 4, **bleu(REPLIES, GOLD), **perplexity(NLL, WORDS)}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def test_rows_add_up_to_the_metrics(run):
    table, reason = read_scores(run)
    assert reason == "" and list(table["id"]) == IDS
    np.testing.assert_array_equal(bleu_sums(table), bleu_statistics(REPLIES, GOLD))
    for n in (1, 2, 3, 4):
        assert bleu_of_sums(bleu_sums(table).sum(0)[None], n).item() == pytest.approx(bleu(REPLIES, GOLD)[f"bleu_{n}"])
    assert np.exp(table["nats"].mean()) == pytest.approx(perplexity(NLL, WORDS)["ppl"], rel=1e-4)


def test_a_reply_that_nobody_kept_leaves_a_gap_and_the_others_as_they_were(tmp_path):
    whole = score_rows(IDS, REPLIES, GOLD)
    part = score_rows(IDS, [REPLIES[0], None, *REPLIES[2:]], GOLD)
    assert part.loc[1].isna().sum() == 7 and whole["nats"].isna().all()
    assert part.drop(index=1).equals(whole.drop(index=1))
    assert score_rows(IDS, [None] * 4, GOLD)["length"].isna().all()


@pytest.mark.parametrize("change", [{"n": 5}, {"ppl": 9.0}, {"bleu_2": 1.0}])
def test_scores_of_other_weights_are_refused(run, change):
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | change))
    table, reason = read_scores(run)
    assert table is None and "delete it" in reason


def test_no_scores_is_a_reason(tmp_path):
    assert read_scores(tmp_path) == (None, f"no {FILE} in {tmp_path.name}: rd tables --data DIR --runs DIR makes it")
