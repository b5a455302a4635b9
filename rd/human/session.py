"""One rater at work: takes a seat, rates pair after pair, goes back, and comes again where the work stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from rd.errors import UserError
from rd.human.guidelines import ASPECTS, CHOICES
from rd.human.store import Pair, Store

LETTERS = {"a": "A", "b": "B", "t": "tie"}
HELP = "three letters, one an aspect (empathy, relevance, fluency): a, b or t for a tie, as in abt; or back"


def take_seat(store: Store, name: str, code: str | None = None, simulated: bool = False) -> str:
    """The code (r1, r2, ...) of a rater by name: the seat held already, else the first free one, or `code`.

    A seat is free where nobody is named and nothing rated. Raises UserError where it is not, or none is left.
    """
    name = " ".join(name.split())
    if not name:
        raise UserError("a rater needs a name; it stays in the database")
    with store.writing() as db:
        held = db.execute("SELECT code FROM raters WHERE name = ?", (name,)).fetchone()
        free = [
            row[0]
            for row in db.execute(
                "SELECT code FROM raters WHERE name IS NULL AND code NOT IN (SELECT rater FROM ratings) ORDER BY rowid"
            )
        ]
        seat = held[0] if held else next((c for c in free if code in (None, c)), None)
        if seat is None or (code and seat != code):
            raise UserError(f"{store.path}: {code or 'every seat'} is taken by another rater; see --raters of make")
        db.execute("UPDATE raters SET name = ?, simulated = ? WHERE code = ?", (name, int(simulated), seat))
    return seat


def save_ratings(store: Store, rater: str, chosen: dict[tuple[str, str], str]) -> None:
    """(pair, aspect) -> A, B or tie as the rater saw them, in one transaction; a later word replaces an earlier."""
    if strange := {*chosen.values()} - {*CHOICES}:
        raise ValueError(f"no choices: {strange}")
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    rows = [(rater, pair, aspect, choice, now) for (pair, aspect), choice in chosen.items()]
    with store.writing() as db:
        db.executemany(
            "INSERT INTO ratings VALUES (?, ?, ?, ?, ?) ON CONFLICT (rater, pair, aspect) "
            "DO UPDATE SET choice = excluded.choice, time = excluded.time",
            rows,
        )


def given(store: Store, rater: str) -> dict[tuple[str, str], str]:
    """What a rater has said so far."""
    found = store.rows("SELECT pair, aspect, choice FROM ratings WHERE rater = ?", rater)
    return {(row["pair"], row["aspect"]): row["choice"] for row in found}


@dataclass
class Session:
    """A rater's place in the own sheet. Begins at the first pair that lacks an aspect."""

    store: Store
    rater: str
    sheet: list[Pair] = field(init=False)
    chosen: dict[tuple[str, str], str] = field(init=False)
    place: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.sheet = self.store.sheet(self.rater)
        self.chosen = given(self.store, self.rater)
        self._to_open()

    @property
    def pair(self) -> Pair | None:
        """The pair shown now; None where all are rated."""
        return self.sheet[self.place] if self.place < len(self.sheet) else None

    @property
    def done(self) -> int:
        """Pairs with all aspects rated."""
        return sum(self._whole(pair) for pair in self.sheet)

    def choice(self, aspect: str) -> str | None:
        """What was said of the pair shown now."""
        return self.chosen.get((self.pair.pair, aspect)) if self.pair else None

    def rate(self, aspect: str, choice: str) -> None:
        """One aspect of the pair shown now; with the last one the next pair comes."""
        self._save({aspect: choice})

    def back(self) -> None:
        """The pair before, to look again or to say otherwise."""
        self.place = max(self.place - 1, 0)

    def typed(self, text: str) -> None:
        """Keyboard: "abt" rates the three aspects in order, "back" goes back. Raises UserError for all else."""
        text = "".join(text.lower().split())
        if text == "back":
            self.back()
        elif len(text) == len(ASPECTS) and set(text) <= set(LETTERS):
            self._save({aspect: LETTERS[letter] for aspect, letter in zip(ASPECTS, text)})
        else:
            raise UserError(f"{text or 'nothing'}: write {HELP}")

    def _save(self, choices: dict[str, str]) -> None:
        if self.pair is None:
            raise UserError("all pairs are rated; back goes to the last one")
        fresh = {(self.pair.pair, aspect): choice for aspect, choice in choices.items()}
        save_ratings(self.store, self.rater, fresh)
        whole = self._whole(self.pair)
        self.chosen |= fresh
        if self._whole(self.pair) and (not whole or len(choices) == len(ASPECTS)):
            self._to_open()

    def _whole(self, pair: Pair) -> bool:
        return all((pair.pair, aspect) in self.chosen for aspect in ASPECTS)

    def _to_open(self) -> None:
        places = (i for i, pair in enumerate(self.sheet) if not self._whole(pair))
        self.place = next(places, len(self.sheet))
