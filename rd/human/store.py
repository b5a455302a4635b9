"""The study's database: one SQLite file that outlives a crash and takes two raters at once.

Every rating is one committed transaction (write-ahead log, synced to the disk); a second writer waits for the first.
Names of raters stand in `raters.name` and nowhere else: all that leaves the file says r1, r2, ... The key (which reply
is whose) has a table of its own, which no sheet and no rater's view reads.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from rd.errors import UserError
from rd.files import replace_file
from rd.human.schema import FAULTS, LOGS, build, damaged, opened

NAME = "ratings.sqlite"
WAIT = 30.0  # seconds for another writer to finish
OUTCOMES = ("win", "lose", "tie")  # of the first system
NOTED = {"runs", "corpus", "data", "seed", "withheld", "pairs", "equal", "code", "date"}  # the facts that tables tell


@dataclass(frozen=True)
class Pair:
    """What a rater sees: no system is named. place: from 0 in the rater's own order; context: a turn a line."""

    place: int
    pair: str
    context: str
    a: str
    b: str


class Store:
    """An open study. Use as a context manager or call `close`.

    Threads may share it, one at a time: JupyterLab answers a widget in another thread than the cell that showed it.
    """

    def __init__(self, path: str | Path) -> None:
        """path: the file, or the folder that holds it. Raises UserError for a file that is no such database."""
        self.path = Path(path) / NAME if Path(path).is_dir() else Path(path)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; rd human make builds one")
        self.lock = RLock()
        self.db = opened(self.path, WAIT)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is lost without it: every rating is on the disk already."""
        self.db.close()

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a query, whole. Raises UserError where the file is damaged, or held for longer than WAIT."""
        try:
            with self.lock:
                return self.db.execute(query, values).fetchall()
        except FAULTS as error:
            raise UserError(f"{self.path}: {error}; keep the file aside and look at it with sqlite3") from None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when the block ends, or none. Raises UserError as `rows` does."""
        with self.lock:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield self.db
                self.db.execute("COMMIT")
            except FAULTS as error:
                raise UserError(f"{self.path}: not written ({error}); is the disk full, or the file held?") from None
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    @property
    def facts(self) -> dict[str, Any]:
        """What `make` noted: seed, corpus, runs, counts."""
        rows = self.rows("SELECT * FROM facts")
        try:
            found = {row["name"]: json.loads(row["value"]) for row in rows}
        except ValueError as error:
            raise damaged(self.path, f"facts: {error}") from None
        if missing := NOTED - found.keys():
            raise damaged(self.path, f"no facts of {', '.join(sorted(missing))}")
        return found

    @property
    def raters(self) -> list[str]:
        """Codes r1, r2, ..."""
        return [row["code"] for row in self.rows("SELECT code FROM raters ORDER BY rowid")]

    @property
    def simulated(self) -> list[str]:
        """Codes whose ratings a program drew (notebook 09), and nobody's judgement."""
        return [row["code"] for row in self.rows("SELECT code FROM raters WHERE simulated ORDER BY rowid")]

    def sheet(self, rater: str) -> list[Pair]:
        """The pairs of one rater, in that rater's order and sides."""
        found = self.rows("SELECT * FROM shown JOIN pairs USING (pair) WHERE rater = ? ORDER BY place", rater)
        return [
            Pair(row["place"], row["pair"], row["context"], *sided(row["ours"], row["theirs"], row["ours_first"]))
            for row in found
        ]

    def votes(self) -> list[sqlite3.Row]:
        """All ratings with their key: rater, pair, aspect, choice, ours_first, opponent."""
        return self.rows(
            "SELECT * FROM ratings JOIN shown USING (rater, pair) JOIN key USING (pair) ORDER BY pair, rater"
        )


def outcome(choice: str, ours_first: bool) -> str:
    """win, lose or tie of the first system: what a choice of a side means when the key is opened."""
    if choice == "tie":
        return "tie"
    return "win" if (choice == "A") == bool(ours_first) else "lose"


def sided(ours: str, theirs: str, ours_first: bool) -> tuple[str, str]:
    """The two replies as A and B."""
    return (ours, theirs) if ours_first else (theirs, ours)


def create(path: Path, tables: dict[str, list[tuple]], beside: Callable[[], None] = lambda: None) -> None:
    """A new study, whole or absent: rows by table. Raises UserError where a file lies there already.

    beside: writes what belongs to the study, when the database is built and not yet in its place. The database marks a
    study, so it comes last; until then it lies there under the name of a part (`rd.files.replace_file`).
    """
    if path.exists():
        raise UserError(f"{path}: a study lies here already{_held(path)}; give another --out")

    def write(part: str) -> None:
        try:
            build(Path(part), tables)
        except sqlite3.Error as error:
            for end in LOGS:
                Path(f"{part}{end}").unlink(missing_ok=True)
            raise UserError(f"{path}: not written ({error}); is the disk full?") from None
        beside()

    replace_file(path, write)


def _held(path: Path) -> str:
    with Store(path) as store:
        return f" (with {store.rows('SELECT count(*) AS n FROM ratings')[0]['n']} ratings)"
