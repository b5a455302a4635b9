"""rd/metrics.py against hand-computed cases, nltk, scikit-learn and full enumeration."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu
from sklearn.metrics import f1_score

import rd.metrics as metrics
from rd.errors import UserError
from rd.metrics import (
    accuracy,
    bleu,
    bleu_of_sums,
    bleu_statistics,
    distinct,
    intent_scores,
    macro_f1,
    paired_bootstrap,
    perplexity,
    response_scores,
    score_files,
)

HYPS = ["i am so sorry to hear that .", "that is great ! what a day", "", "did you tell her about the old boat ?"]
REFS = ["i am sorry to hear that !", "that is so great ! what a nice day", "oh no", "did you ask her about the boat ?"]


def test_bleu_equals_nltk_without_smoothing() -> None:
    hyps, refs = zip(*(pair for pair in zip(HYPS, REFS, strict=True) if pair[0]), strict=True)
    ours = bleu(hyps, refs)  # nltk counts one n-gram in an empty hypothesis; the case by hand below has one
    for n in (1, 2, 3, 4):
        theirs = corpus_bleu([[ref.split()] for ref in refs], [hyp.split() for hyp in hyps], weights=[1 / n] * n)
        assert ours[f"bleu_{n}"] == pytest.approx(100 * theirs, abs=1e-9)
    assert "tok:none|smooth:none" in ours["signature"]


def test_bleu_by_hand() -> None:
    scores = bleu(
        ["the cat sat", "a b", ""], ["the cat sat down", "b a", "c"]
    )  # 5/5 words, 2/3 pairs, 1/1 triples, no 4-gram
    penalty = math.exp(1 - 7 / 5)
    assert scores["bleu_1"] == pytest.approx(100 * penalty)
    assert scores["bleu_2"] == pytest.approx(100 * penalty * math.sqrt(2 / 3))
    assert scores["bleu_3"] == pytest.approx(100 * penalty * (2 / 3) ** (1 / 3))
    assert scores["bleu_4"] == 0


def test_distinct_by_hand() -> None:
    assert distinct(["a b a", "a b"], 1) == pytest.approx(100 * 2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(100 * 2 / 3)  # ab, ba, ab: no pair across responses


def test_perplexity_by_hand() -> None:
    scores = perplexity([math.log(8), math.log(16)], [3, 2])  # means ln 2 and ln 4
    assert scores["ppl"] == pytest.approx(math.sqrt(8))
    assert scores["ppl_micro"] == pytest.approx(128 ** (1 / 5))


def test_accuracy_and_macro_f1() -> None:
    predicted, gold = [0, 0, 1, 2], [0, 1, 1, 1]  # F1: 2/3, 1/2, 0
    assert accuracy(predicted, gold) == 50
    assert macro_f1(predicted, gold) == pytest.approx(100 * (2 / 3 + 1 / 2) / 3)
    rng = np.random.default_rng(0)
    p, g = rng.integers(32, size=(2, 400))
    assert macro_f1(p, g) == pytest.approx(100 * f1_score(g, p, average="macro"))


def test_intent_scores_by_hand() -> None:
    scores = [[4, 3, 2, 1], [1, 2, 3, 4], [3, 4, 1, 2], [1, 2, 3, 4]]
    train_gold, train_emotions = [1, 1, 1, 0, 0, 3], [0, 0, 0, 1, 1, 1]  # majority 1; emotion 0 -> 1, 1 -> 0, 2 unseen
    found = intent_scores(scores, [0, 0, 0, 1], [1, 1, 0, 2], train_gold, train_emotions)
    assert found == {
        "acc_intent": 25, "acc_intent_top3": 75, "acc_intent_majority": 25, "acc_intent_per_emotion": 75,
    }  # fmt: skip


def exact_gaps(gaps: list[list[float]]) -> list[float]:
    """The difference of means under each of the G^G equally likely resamples of G dialogues."""
    return [np.mean(list(itertools.chain(*draw))) for draw in itertools.product(gaps, repeat=len(gaps))]


def test_bootstrap_equals_enumeration() -> None:
    groups = ["x", "x", "y", "z", "z", "z"]
    a, b = np.array([1.0, 2, 0, 5, 4, 3]), np.array([0.0, 3, 1, 1, 2, 3])
    exact = np.array(exact_gaps([[1.0, -1.0], [-1.0], [4.0, 2.0, 0.0]]))
    found = paired_bootstrap(a, b, groups, resamples=20_000, rng=1)
    assert found["difference"] == pytest.approx((a - b).mean())
    assert found["p"] == pytest.approx(2 * min((exact <= 0).mean(), (exact >= 0).mean()), abs=0.02)
    assert (found["low"], found["high"]) == pytest.approx((exact.min(), exact.max()))  # each has 1/27 > 2.5 %
    assert found["dialogues"] == 3 and found == paired_bootstrap(a, b, groups, resamples=20_000, rng=1)


def test_bootstrap_of_bleu_sums_is_the_bleu_difference() -> None:
    others = ["i am sorry .", "great ! what a day", "oh", "did you tell her about the boat ?"]
    ours, theirs = bleu_statistics(HYPS, REFS), bleu_statistics(others, REFS)
    for order in (1, 2, 3, 4):
        assert bleu_of_sums(ours.sum(0, keepdims=True), order).item() == pytest.approx(
            bleu(HYPS, REFS)[f"bleu_{order}"]
        )
    found = paired_bootstrap(ours, theirs, ["d", "d", "e", "f"], 200, 0, lambda sums: bleu_of_sums(sums, 2))
    assert found["difference"] == pytest.approx(bleu(HYPS, REFS)["bleu_2"] - bleu(others, REFS)["bleu_2"])
    assert found["low"] <= found["difference"] <= found["high"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: bleu([], []),
        lambda: bleu(["a"], ["a", "b"]),
        lambda: bleu(["a"], [" "]),
        lambda: distinct([], 1),
        lambda: distinct(["one", "word"], 2),
        lambda: perplexity([], []),
        lambda: perplexity([math.nan], [1]),
        lambda: perplexity([1.0], [0]),
        lambda: perplexity([1.0, 2.0], [1]),
        lambda: accuracy([], []),
        lambda: accuracy([1], [1, 2]),
        lambda: macro_f1([32], [0]),
        lambda: intent_scores([[math.inf, 0]], [0], [0], [0], [0]),
        lambda: paired_bootstrap([math.nan], [1.0], ["d"]),
        lambda: paired_bootstrap([1.0], [1.0], ["d", "e"]),
    ],
)
def test_no_default_for_bad_input(call) -> None:
    with pytest.raises(ValueError):
        call()


def test_an_undefined_score_is_none_with_its_reason() -> None:
    scores = response_scores(["yes", "no"], ["yes it is", "no"])
    assert scores["dist_1"] == 100 and scores["dist_2"] is None and "2 words" in scores["notes"]["dist_2"]


def test_the_evaluate_metric_equals_the_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert metrics.load_metric().compute(predictions=HYPS, references=REFS) == response_scores(HYPS, REFS)
    assert not list(tmp_path.iterdir()) and not list(Path(metrics.__file__).parent.rglob("*.arrow"))


def scored(folder: Path, hyp: bytes, ref: bytes) -> dict:
    (folder / "hyp.txt").write_bytes(hyp)
    (folder / "ref.txt").write_bytes(ref)
    return score_files(folder / "hyp.txt", folder / "ref.txt")


def test_files_raw_and_tokenised_score_alike(tmp_path: Path) -> None:
    raw = scored(tmp_path, b"I'm sorry. It's sad!\n\nWhy?\n", b"Oh, I'm so sorry. It's sad!\nNo.\nWhy not?")
    tokens = ["i am sorry . it is sad !", "", "why ?"], ["oh , i am so sorry . it is sad !", "no .", "why not ?"]
    assert raw == response_scores(*tokens) and raw["n"] == 3
    assert raw == scored(tmp_path, *("\r\n".join(side).encode() + b"\r\n" for side in tokens))


@pytest.mark.parametrize(
    ("hyp", "ref", "message"),
    [
        (b"a\nb\n", b"a\n", "2 lines.* 1;"),
        (b"", b"a\n", r"hyp\.txt:1: .*empty"),
        (b"a\nb\n", b"a\n\n", r"ref\.txt:2: empty reference"),
        (b"a\n\xff\n", b"a\nb\n", r"hyp\.txt:2: not UTF-8"),
    ],
)
def test_faults_of_files(tmp_path: Path, hyp: bytes, ref: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scored(tmp_path, hyp, ref)
    with pytest.raises(UserError, match=r"none\.txt"):
        score_files(tmp_path / "none.txt", tmp_path / "ref.txt")
