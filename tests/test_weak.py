"""Weak supervision by hand, and the votes a second way."""

import math
import random
from collections import Counter
from statistics import fmean

import pytest
from tiny_bert import random_bert

from rd.annotation.weak import STOP, PMILexicon, lexicon_votes, saliency_votes, vader_votes, weak_tags
from rd.errors import UserError
from rd.labels import EMOTIONS
from rd.models.classifier import BertClassifier


def test_the_rule_by_hand():
    words = ["i", "lost", "my", "job", "and", "went", "home", ".", "terrible"]
    votes = [0.0, 0.8, 0.9, 0.6, 0.0, 0.0, 0.2, 1.0, 0.9]
    # "my" is a stop word but stands between two tagged words; "." is no word and joins nothing; .2 is too little
    assert weak_tags(words, [lambda _: votes], gap=1) == [0, 1, 1, 1, 0, 0, 0, 0, 1]


def plainly(words, votes, threshold, gap, combine):
    """The rule word by word: tagged itself, or between two that are, close enough and with words alone between."""
    own = []
    for place, word in enumerate(words):
        told = combine([vote[place] for vote in votes])
        own.append(told >= threshold and word not in STOP and word.upper() != word.lower())
    tags = []
    for place in range(len(words)):
        lefts = [i for i in range(place) if own[i]]
        rights = [i for i in range(place + 1, len(words)) if own[i]]
        joined = False
        if lefts and rights:
            between = words[lefts[-1] + 1 : rights[0]]
            joined = len(between) <= gap and not set(between) & set(".,!?")
        tags.append(int(own[place] or joined))
    return tags


@pytest.mark.parametrize("combine", [max, fmean])
@pytest.mark.parametrize("gap", [0, 1, 3])
def test_the_rule_against_a_plain_loop(combine, gap):
    chance = random.Random(gap)
    seen = Counter()
    for _ in range(300):
        words = chance.choices(["lost", "job", "home", "9", "my", "the", ".", ","], k=chance.randint(0, 12))
        votes = [[chance.choice([0.0, 0.3, 0.45, 0.9]) for _ in words] for _ in range(2)]
        tags = weak_tags(words, [lambda _, vote=vote: vote for vote in votes], 0.45, gap, combine)
        assert tags == plainly(words, votes, 0.45, gap, combine)
        seen.update(tags)
    assert min(seen[0], seen[1]) > 300


def test_the_largest_vote_counts_unless_told_otherwise():
    words, voters = ["terrible", "storm"], [lambda _: [1.0, 0.0], lambda _: [0.0, 0.4]]
    assert weak_tags(words, voters) == [1, 0]
    assert weak_tags(words, voters, threshold=0.2, combine=fmean) == [1, 1]
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


def test_vader_votes():
    assert vader_votes()(["terrible", "table"]) == [pytest.approx(2.1 / 4), 0.0]


def test_saliency_votes():
    assert saliency_votes(lambda lists: [[0.5, -1.0, 0.0]])(["a", "b", "c"]) == [0.5, 1.0, 0.0]
    assert saliency_votes(lambda lists: [[0.0, 0.0]])(["a", "b"]) == [0.0, 0.0]


def test_an_emotion_classifier_votes():
    """The third voter of a real (random) classifier: its saliency in absolute value, 1 for the most telling word."""
    model = BertClassifier(*random_bert(), len(EMOTIONS))
    voter, words = saliency_votes(model.saliency), ["my", "unhappy", "dog", "died", "today"]
    found, slopes = voter(words), [abs(float(value)) for value in model.saliency([words])[0]]
    assert max(found) == 1 and min(found) >= 0 and found.index(1) == slopes.index(max(slopes))
    assert [vote * max(slopes) for vote in found] == pytest.approx(slopes)
    assert voter([]) == [] and weak_tags([], [voter]) == []
    told = [int(vote >= 0.5 and word != "my") for word, vote in zip(words, found, strict=True)]
    assert weak_tags(words, [voter], threshold=0.5, gap=0) == told and sum(told) > 0
    assert weak_tags(words, [lambda words: [0.0] * len(words), voter], threshold=0.5, gap=0) == told


def test_emolex_file(tmp_path):
    path = tmp_path / "emolex.txt"
    path.write_text("storm\tfear\t1\nstorm\tjoy\t0\nnice\tpositive\t1\n")
    assert lexicon_votes(path)(["storm", "nice"]) == [1.0, 0.0]
    path.write_text("storm fear 1\n")
    with pytest.raises(UserError, match=r"emolex.txt:1: "):
        lexicon_votes(path)
