"""The records of a corpus. They stand apart from the readers so that each reader can import them."""

import logging
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from rd.errors import UserError

SPLITS = ("train", "valid", "test")
# What is read of a dialogue at most, and of a turn; EMPATHETICDIALOGUES has 8 turns of up to 630 characters, and models
# read 200 words. A million words in one turn cost their square in attention, a million turns theirs in samples.
MOST_TURNS, MOST_LETTERS = 200, 4000


@dataclass(frozen=True)
class Turn:
    """One utterance, its text as released with commas restored.

    reasons: speaker turns, [start, end) character offsets of emotion-reason phrases; None = unlabelled, () = none.
    intent: listener turns, one of the nine; None = unlabelled.
    """

    text: str
    reasons: tuple[tuple[int, int], ...] | None = None
    intent: str | None = None


@dataclass(frozen=True)
class Dialogue:
    """Turns 0, 2, 4, ... are the speaker's, 1, 3, 5, ... the listener's. prompt is "" where there is none."""

    id: str
    emotion: str | None
    prompt: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Corpus:
    """name: "mini", "empathetic_dialogues" or "jsonl"; sha256: of each file read; report: see `read_corpus`."""

    name: str
    splits: dict[str, tuple[Dialogue, ...]]
    sha256: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One listener turn to be produced from all the turns before it."""

    id: str
    dialogue: Dialogue
    turn: int

    @property
    def context(self) -> tuple[Turn, ...]:
        """The turns before the target."""
        return self.dialogue.turns[: self.turn]

    @property
    def target(self) -> Turn:
        """The listener turn itself."""
        return self.dialogue.turns[self.turn]


def cut(where: str, dialogue: Dialogue) -> Dialogue:
    """The dialogue, its beginning only where it is longer than any model reads; then with a warning.

    Reasons stay where their phrase is still there, whole.
    """
    if len(dialogue.turns) > MOST_TURNS:
        logging.getLogger(__name__).warning(
            "%s: %d turns; read are the first %d", where, len(dialogue.turns), MOST_TURNS
        )
        dialogue = replace(dialogue, turns=dialogue.turns[:MOST_TURNS])
    if max(map(len, (dialogue.prompt, *(turn.text for turn in dialogue.turns)))) <= MOST_LETTERS:
        return dialogue
    turns = []
    for number, turn in enumerate(dialogue.turns, 1):
        text = cut_text(f"{where}: turn {number}", turn.text)
        reasons = turn.reasons and tuple(span for span in turn.reasons if span[1] <= len(text))
        turns.append(replace(turn, text=text, reasons=reasons))
    return replace(dialogue, prompt=cut_text(f"{where}: prompt", dialogue.prompt), turns=tuple(turns))


def cut_text(where: str, text: str) -> str:
    """The first MOST_LETTERS characters of a text, back to the end of a word; with a warning where that is not all.

    A text of blanks up to there keeps its first words instead.
    """
    if len(text) <= MOST_LETTERS:
        return text
    logging.getLogger(__name__).warning("%s: %d characters; read are the first %d", where, len(text), MOST_LETTERS)
    head = text[:MOST_LETTERS] if text[:MOST_LETTERS].strip() else text.strip()[:MOST_LETTERS]
    end = head.rfind(" ", MOST_LETTERS - 100)  # a word that is longer than that is cut through
    return head if end < 0 else head[:end]


def check_spans(where: str, spans: Any, text: str) -> tuple[tuple[int, int], ...]:
    """Spans as sorted tuples. Raises UserError where one is no [start, end) pair inside `text`, or two overlap."""
    if not isinstance(spans, list):
        raise UserError(f"{where}: reasons must be a list of [start, end] offsets")
    for span in spans:
        if not (isinstance(span, list) and len(span) == 2 and all(type(offset) is int for offset in span)):
            raise UserError(f"{where}: {span!r} is no [start, end] pair of whole numbers")
        if not 0 <= span[0] < span[1] <= len(text):
            raise UserError(f"{where}: offsets {span} lie outside the {len(text)} characters of the turn")
    ordered = sorted((start, end) for start, end in spans)
    for (_, end), (start, _) in pairwise(ordered):
        if start < end:
            raise UserError(f"{where}: two reason phrases overlap at character {start}; merge them")
    return tuple(ordered)
