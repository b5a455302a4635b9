"""Which words may be looked up, and the emotional intensity that VADER's lexicon gives them."""

from __future__ import annotations

from collections.abc import Iterable

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

# Beside scikit-learn's list: what chat is full of and what the tokenizer leaves of contractions.
CHAT = """
ai ah aw awesome bye ca com did does doing don dont em especially gon gonna good got great ha haha hello hey hi hmm huh
im ive just kinda know lol let like lot lots make makes maybe mean na nah nice non oh ok okay omg ones pretty quite
really right said say saying says sort sound sounds sure thank thanks thats thing things think thought time times told
tell ugh um wanna want wanted way whats wo woah wow ya yea yeah yep yes yup went going gone come came goes getting gets
make made making did need
""".split()
# Words of scikit-learn's list that do carry meaning (Nothman et al., NLP-OSS 2018, on that list).
MEANT = {"alone", "bill", "bottom", "cry", "empty", "fill", "fire", "interest", "move", "serious", "sincere", "system"}
STOP = (ENGLISH_STOP_WORDS - MEANT) | set(CHAT)


def content(tokens: Iterable[str]) -> list[str]:
    """Those of the tokens that carry meaning: letters alone, two or more, no stop word. Order and repeats are kept."""
    return [token for token in tokens if len(token) > 1 and token.isalpha() and token not in STOP]


def vader_intensity() -> dict[str, float]:
    """word -> |valence| / 4 of VADER's lexicon (Hutto and Gilbert, ICWSM 2014; its scale is -4 to 4)."""
    lexicon = SentimentIntensityAnalyzer().lexicon
    return {word: min(abs(valence) / 4, 1.0) for word, valence in lexicon.items() if valence}
