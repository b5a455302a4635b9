"""The field's text form with offsets into the original, and the word vocabulary.

The form is the one the peers (MoEL and its family) published their outputs in: lower case, no double quotes, 23
contractions written out by plain substring replacement, a break after . ! or ? before white space, then NLTK's word
tokenizer on each piece. Reasons are character offsets in the original text, so every character carries its origin
through these steps.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nltk.tokenize import NLTKWordTokenizer

from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import replace_text

# The peers' `word_pairs`, in their order; substrings are replaced wherever they stand, one pair after the other.
CONTRACTIONS = (
    ("it's", "it is"), ("don't", "do not"), ("doesn't", "does not"), ("didn't", "did not"),
    ("you'd", "you would"), ("you're", "you are"), ("you'll", "you will"), ("i'm", "i am"),
    ("they're", "they are"), ("that's", "that is"), ("what's", "what is"), ("couldn't", "could not"),
    ("i've", "i have"), ("we've", "we have"), ("can't", "cannot"), ("i'd", "i would"),
    ("aren't", "are not"), ("isn't", "is not"), ("wasn't", "was not"), ("weren't", "were not"),
    ("won't", "will not"), ("there's", "there is"), ("there're", "there are"),
)  # fmt: skip
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", "<ctx>")
_BREAK = re.compile(r"(?<=[.!?])\s+")
# A piece on which NLTK's two dozen substitutions come down to these three lines; a test compares them. Nine in ten
# pieces of the corpus are such, and through NLTK's timed regular expressions each would cost thirty times as much.
_SIMPLE = re.compile(r"[a-z0-9 ]*(?:, [a-z0-9 ]*)*[.?!]?")
_TOKEN = re.compile(r"[a-z0-9]+|[,.?!]")
_IN_TWO = {a + b: (a, b) for a, b in map(str.split, ("can not", "gim me", "gon na", "got ta", "lem me", "wan na"))}


@dataclass(frozen=True, slots=True)
class Word:
    """A normalised word and its place [start, end) in the ORIGINAL text (an expansion spans its contraction)."""

    text: str
    start: int
    end: int


@lru_cache(maxsize=1)
def _tokenizer() -> NLTKWordTokenizer:
    return NLTKWordTokenizer()


def _replace(text: str, places: list[tuple[int, int]], old: str, new: str) -> tuple[str, list[tuple[int, int]]]:
    """`text.replace(old, new)` that keeps each character's [start, end) of origin."""
    kept: list[tuple[int, int]] = []
    done, at = 0, text.find(old)
    while at >= 0:
        kept += places[done:at]
        if new:
            kept += [(places[at][0], places[at + len(old) - 1][1])] * len(new)
        done = at + len(old)
        at = text.find(old, done)
    return text.replace(old, new), kept + places[done:]


def _clean(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Lower case, quotes, contractions -> the text to tokenize and, for each of its characters, the origin."""
    lower = text.lower()
    places = [(i, i + 1) for i in range(len(text))]
    if len(lower) != len(text):  # a few characters grow in lower case, such as the dotted capital I
        places = [place for place, letter in zip(places, text, strict=True) for _ in letter.lower()]
    pairs = (('"', ""), *CONTRACTIONS) if "'" in lower else (('"', ""),)
    for old, new in pairs:
        if old in lower:
            lower, places = _replace(lower, places, old, new)
    return lower, places


def words(text: str) -> list[Word]:
    """The words of `text` in the protocol's form, each with its offsets in `text` as given."""
    clean, places = _clean(text)
    # The tokenizer only moves white space (and writes '' as ``, of equal length): counting the other characters
    # is enough to find every token again.
    visible = [place for place, letter in zip(places, clean, strict=True) if not letter.isspace()]
    found, at = [], 0
    for piece in _BREAK.split(clean):
        for token in _tokens(piece):
            found.append(Word(token, visible[at][0], visible[at + len(token) - 1][1]))
            at += len(token)
    return found


def _tokens(piece: str) -> list[str]:
    """NLTK's words of a lower-cased piece without double quotes."""
    if _SIMPLE.fullmatch(piece):
        return [token for word in _TOKEN.findall(piece) for token in _IN_TWO.get(word, (word,))]
    return _tokenizer().tokenize(piece)


def tokenize(text: str) -> list[str]:
    """The tokens of `text` in the protocol's form."""
    return [word.text for word in words(text)]


def normalise(text: str) -> str:
    """The protocol's form of `text`: its tokens joined by single spaces."""
    return " ".join(tokenize(text))


def tags_from_spans(words: Sequence[Word], spans: Iterable[tuple[int, int]]) -> list[int]:
    """1 for each word that overlaps one of the [start, end) spans of the original text, else 0."""
    spans = list(spans)
    return [int(any(word.start < end and start < word.end for start, end in spans)) for word in words]


def spans_from_tags(words: Sequence[Word], tags: Sequence[int]) -> list[tuple[int, int]]:
    """Each run of 1s as one [start, end) span of the original text, from its first word to its last.

    Raises ValueError when words and tags differ in number.
    """
    spans, open_ = [], False
    for word, tag in zip(words, tags, strict=True):
        if tag and open_:
            spans[-1] = (spans[-1][0], max(spans[-1][1], word.end))
        elif tag:
            spans.append((word.start, word.end))
        open_ = bool(tag)
    return spans


class Vocabulary:
    """Words and their ids. The first five ids are fixed; further words follow by frequency, then alphabetically."""

    PAD, UNK, BOS, EOS, CTX = range(5)

    def __init__(self, words: Sequence[str]) -> None:
        """words: all entries, specials first, in the order of their ids. Raises ValueError on any other list."""
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        if tuple(self.words[: len(SPECIALS)]) != SPECIALS or len(self._ids) != len(self.words):
            raise ValueError(f"a vocabulary begins with {SPECIALS} and holds each word once")

    @classmethod
    def build(cls, token_lists: Iterable[Sequence[str]], min_count: int = 1) -> "Vocabulary":
        """All words that occur at least `min_count` times in the token lists."""
        counts = Counter(token for tokens in token_lists for token in tokens)
        kept = [word for word, count in counts.items() if count >= min_count and word not in SPECIALS]
        return cls([*SPECIALS, *sorted(kept, key=lambda word: (-counts[word], word))])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def index(self, word: str) -> int:
        """The id of a word, UNK where the vocabulary lacks it."""
        return self._ids.get(word, self.UNK)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Tokens -> ids, nothing added."""
        return [self._ids.get(token, self.UNK) for token in tokens]

    def decode(self, ids: Iterable[int], extra: Sequence[str] = ()) -> list[str]:
        """Ids -> words, up to the first EOS, without PAD and BOS; ids from V on name the copied words of `extra`."""
        tokens = []
        for i in map(int, ids):
            if i == self.EOS:
                break
            if i not in (self.PAD, self.BOS):
                tokens.append(self.words[i] if i < len(self.words) else extra[i - len(self.words)])
        return tokens

    def unk_rate(self, token_lists: Iterable[Sequence[str]]) -> float:
        """Share of running words that the vocabulary lacks, 0..1. Raises ValueError without a word."""
        known = Counter(token in self._ids for tokens in token_lists for token in tokens)
        if not known:
            raise ValueError("unk_rate needs at least one token")
        return known[False] / known.total()

    def save(self, path: str | Path) -> None:
        """Writes the words as a JSON list."""
        replace_text(Path(path), json.dumps(self.words, ensure_ascii=False, indent=0) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Reads what `save` wrote. Raises UserError if the file is missing or is no vocabulary."""
        try:
            words = parse(Path(path).read_text(encoding="utf-8"))
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError("not a list of words")
            "".join(words).encode()  # half a character could not be written again
            return cls(words)
        except FileNotFoundError:
            raise UserError(f"{path}: no such vocabulary file; give the folder of a finished run") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:1: not a vocabulary ({error}); build it again with rd train") from None


def vocabulary(token_lists: Iterable[Sequence[str]], min_count: int = 1) -> Vocabulary:
    """`Vocabulary.build`, as a function: train words only unless the caller gives more (PPL depends on it)."""
    return Vocabulary.build(token_lists, min_count)
