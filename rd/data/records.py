"""The records of a corpus. They stand apart from the readers so that each reader can import them."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rd.errors import UserError

SPLITS = ("train", "valid", "test")


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
