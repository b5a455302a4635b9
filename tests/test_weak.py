"""Weak supervision by hand, and the votes a second way."""

import math
from collections import Counter

import pytest

from rd.annotation.weak import PMILexicon, lexicon_votes, saliency_votes, vader_votes, weak_tags
from rd.errors import UserError


def test_the_rule_by_hand():
    words = ["i", "lost", "my", "job", "and", "went", "home", "."]
    votes = [0.0, 0.8, 0.9, 0.6, 0.0, 0.0, 0.2, 1.0]
    # "my" is a stop word but stands between two tagged words; "." is no word; .2 is below the threshold
    assert weak_tags(words, [lambda _: votes], threshold=0.25) == [0, 1, 1, 1, 0, 0, 0, 0]


def test_votes_are_averaged():
    words = ["terrible", "storm"]
    assert weak_tags(words, [lambda _: [1.0, 0.0], lambda _: [0.0, 0.4]], threshold=0.3) == [1, 0]
    with pytest.raises(ValueError, match="at least one"):
        weak_tags(words, [])


def test_pmi_against_a_loop():
    turns = [
        (["sad", "dog"], "sad"),
        (["sad", "cat"], "sad"),
        (["happy", "dog"], "joyful"),
        (["a", "a", "dog"], "joyful"),
    ]
    lexicon = PMILexicon(smoothing=1.0, full=1.0).fit(*zip(*turns, strict=True))
    totals = Counter(emotion for _, emotion in turns)
    for word in ("sad", "dog", "a"):
        best = 0.0
        for emotion in totals:
            together = sum(word in tokens and told == emotion for tokens, told in turns)
            alone = sum(word in tokens for tokens, _ in turns)
            share = totals[emotion] / 4
            best = max(best, (together + 1.0 * share) / ((alone + 1.0) * share))
        assert lexicon.scores[word] == pytest.approx(min(max(math.log(best), 0), 1))
    assert lexicon.votes()(["unheard"]) == [0.0]


def test_vader_and_saliency_votes():
    assert vader_votes()(["terrible", "table"]) == [pytest.approx(2.1 / 4), 0.0]
    assert saliency_votes(lambda lists: [[0.5, -1.0, 0.0]])(["a", "b", "c"]) == [0.5, 1.0, 0.0]


def test_emolex_file(tmp_path):
    path = tmp_path / "emolex.txt"
    path.write_text("storm\tfear\t1\nstorm\tjoy\t0\nnice\tpositive\t1\n")
    assert lexicon_votes(path)(["storm", "nice"]) == [1.0, 0.0]
    path.write_text("storm fear 1\n")
    with pytest.raises(UserError, match=r"emolex.txt:1: "):
        lexicon_votes(path)
