"""Reasons without labels (spec 1): votes of a sentiment lexicon, an emotion lexicon and a classifier's saliency.

The rule: a word is <em> where the largest of its votes reaches a threshold and it is no stop word or punctuation; then
up to three untagged words between two tagged ones join them ("lost all of my savings"), but never over punctuation. A
vote is a number in 0..1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from rd.errors import UserError
from rd.labels import EMOTIONS

Voter = Callable[[Sequence[str]], Sequence[float]]  # the words of one turn -> a vote for each
# Half words of the tokenizer are stop words, too.
STOP = ENGLISH_STOP_WORDS | {
    "n't",
    "'s",
    "'m",
    "'re",
    "'ve",
    "'ll",
    "'d",
    "did",
    "does",
    "got",
    "just",
    "really",
    "like",
}


def vader_votes() -> Voter:
    """|valence| / 4 of VADER's lexicon (Hutto and Gilbert 2014), 0 for words it lacks."""
    lexicon = SentimentIntensityAnalyzer().lexicon
    return lambda words: [min(abs(lexicon.get(word, 0.0)) / 4, 1.0) for word in words]


def lexicon_votes(path: str | Path) -> Voter:
    """1 for words with any emotion in a real NRC EmoLex file: word, emotion, 0 or 1, by tabs. Raises UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such lexicon; give the word-level NRC EmoLex text file, or leave it out")
    found = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            if line.strip():
                raise UserError(
                    f'{path}:{number}: write word, emotion and 0 or 1 by tabs, as EmoLex does; got "{line}"'
                )
            continue
        if fields[2] == "1" and fields[1] not in ("positive", "negative"):
            found.add(fields[0])
    return lambda words: [float(word in found) for word in words]


class PMILexicon:
    """The offline substitute for EmoLex, computed from the train split: how much a word tells of the emotion label.

    A word's score is the largest smoothed PMI over the emotions, cut to 0..1 (1 at e^`full` times the expected count).
    """

    def __init__(self, smoothing: float = 5.0, full: float = 2.0) -> None:
        self.smoothing, self.full = smoothing, full
        self.scores: dict[str, float] = {}

    def fit(self, token_lists: Iterable[Sequence[str]], emotions: Iterable[str]) -> PMILexicon:
        """Counts each word once a turn. Deterministic. Raises ValueError without a turn."""
        joint = {emotion: Counter() for emotion in EMOTIONS}
        turns: Counter[str] = Counter()
        for tokens, emotion in zip(token_lists, emotions, strict=True):
            joint[emotion].update(set(tokens))
            turns[emotion] += 1
        if not turns:
            raise ValueError("PMILexicon.fit needs at least one turn")
        words = sum(joint.values(), Counter())
        total = turns.total()
        for word, count in words.items():
            ratios = (
                (joint[e][word] + self.smoothing * turns[e] / total) / ((count + self.smoothing) * turns[e] / total)
                for e in turns
            )
            self.scores[word] = min(max(math.log(max(ratios)) / self.full, 0.0), 1.0)
        return self

    def votes(self) -> Voter:
        """As a voter; words never seen get 0."""
        return lambda words: [self.scores.get(word, 0.0) for word in words]


def saliency_votes(saliency: Callable[[list[list[str]]], Sequence[Sequence[float]]]) -> Voter:
    """|gradient x input| of an emotion classifier, over the largest of the turn."""

    def vote(words: Sequence[str]) -> list[float]:
        values = [abs(float(value)) for value in saliency([list(words)])[0]]
        largest = max(values, default=0.0)
        return [value / largest if largest else 0.0 for value in values]

    return vote


def weak_tags(
    words: Sequence[str],
    voters: Sequence[Voter],
    threshold: float = 0.45,
    gap: int = 3,
    combine: Callable[[Sequence[float]], float] = max,
) -> list[int]:
    """The rule above: 1 = <em>. The defaults are the best on gold valid turns. Raises ValueError without a voter."""
    if not voters:
        raise ValueError("weak_tags needs at least one voter")
    votes = zip(*(voter(words) for voter in voters), strict=True)
    tags = [int(combine(each) >= threshold and _tells(word)) for word, each in zip(words, votes, strict=True)]
    for left, right in pairwise([i for i, tag in enumerate(tags) if tag]):
        between = words[left + 1 : right]
        if len(between) <= gap and all(any(map(str.isalnum, word)) for word in between):
            tags[left:right] = [1] * (right - left)
    return tags


def _tells(word: str) -> bool:
    return word not in STOP and any(letter.isalpha() for letter in word)
