"""The study's database: one SQLite file that outlives a crash and takes two raters at once.

Every rating is one committed transaction (write-ahead log, synced to the disk); a second writer waits for the first.
Names of raters stand in `raters.name` and nowhere else: all that leaves the file says r1, r2, ... The key (which reply
is whose) has a table of its own, which no sheet and no rater's view reads.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from rd.errors import UserError
from rd.human.guidelines import ASPECTS, CHOICES

NAME = "ratings.sqlite"
APPLICATION = 0x72644142  # "rdAB": marks the file as such a study
VERSION = 1  # of the schema
WAIT = 30.0  # seconds for another writer to finish
OUTCOMES = ("win", "lose", "tie")  # of the first system


def _one_of(values: tuple[str, ...]) -> str:
    return f"IN ({', '.join(map(repr, values))})"


SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pairs (pair TEXT PRIMARY KEY, sample TEXT NOT NULL, context TEXT NOT NULL, ours TEXT NOT NULL,
                    theirs TEXT NOT NULL);
CREATE TABLE key (pair TEXT PRIMARY KEY REFERENCES pairs, opponent TEXT NOT NULL);
CREATE TABLE raters (code TEXT PRIMARY KEY, name TEXT UNIQUE, simulated INTEGER NOT NULL DEFAULT 0);
CREATE TABLE shown (rater TEXT NOT NULL REFERENCES raters, place INTEGER NOT NULL, pair TEXT NOT NULL REFERENCES pairs,
                    ours_first INTEGER NOT NULL CHECK (ours_first IN (0, 1)),
                    PRIMARY KEY (rater, pair), UNIQUE (rater, place));
CREATE TABLE ratings (rater TEXT NOT NULL, pair TEXT NOT NULL, aspect TEXT NOT NULL CHECK (aspect {_one_of(ASPECTS)}),
                      choice TEXT NOT NULL CHECK (choice {_one_of(CHOICES)}), time TEXT NOT NULL,
                      PRIMARY KEY (rater, pair, aspect), FOREIGN KEY (rater, pair) REFERENCES shown (rater, pair));
CREATE TABLE judged (model TEXT NOT NULL, pair TEXT NOT NULL REFERENCES pairs, aspect TEXT NOT NULL,
                     ours_first INTEGER NOT NULL, choice TEXT, PRIMARY KEY (model, pair, aspect, ours_first));
CREATE TABLE settled (pair TEXT NOT NULL REFERENCES pairs, aspect TEXT NOT NULL, outcome TEXT NOT NULL, judge TEXT
                      NOT NULL, PRIMARY KEY (pair, aspect));
"""


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
        self.db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        try:
            _check(self.db, self.path)
            _prepare(self.db)
            self.db.execute("PRAGMA journal_mode = WAL")
        except (sqlite3.Error, UserError) as error:
            self.close()
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.path}: not a database of ratings ({error}); rd human make builds one") from None

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
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: {error}; keep the file aside and look at it with sqlite3") from None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on the disk when the block ends, or none. Raises UserError as `rows` does."""
        with self.lock:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield self.db
                self.db.execute("COMMIT")
            except sqlite3.Error as error:
                raise UserError(f"{self.path}: not written ({error}); is the disk full, or the file held?") from None
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    @property
    def facts(self) -> dict[str, Any]:
        """What `make` noted: seed, corpus, runs, counts."""
        return {row["name"]: json.loads(row["value"]) for row in self.rows("SELECT * FROM facts")}

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


def create(path: Path, tables: dict[str, list[tuple]]) -> None:
    """A new study, whole or absent: rows by table. Raises UserError where a file lies there already."""
    if path.exists():
        raise UserError(f"{path}: a study lies here already{_held(path)}; give another --out")
    beside = path.with_name(f".{path.name}.part")
    beside.unlink(missing_ok=True)
    db = sqlite3.connect(beside, isolation_level=None)
    try:
        _prepare(db)
        db.executescript(SCHEMA)
        db.execute("BEGIN")
        for table, rows in tables.items():
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.execute("COMMIT")
    except sqlite3.Error as error:
        db.close()
        beside.unlink(missing_ok=True)
        raise UserError(f"{path}: not written ({error}); is the disk full?") from None
    finally:
        db.close()
    beside.replace(path)


def _prepare(db: sqlite3.Connection) -> None:
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raises UserError where the file is a database of another kind or schema."""
    kind, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if kind != APPLICATION:
        raise UserError(f"{path}: a database of something else; give one that rd human make built")
    if version != VERSION:
        raise UserError(f"{path}: schema {version}, and this rd reads {VERSION}; make the study again")


def _held(path: Path) -> str:
    with Store(path) as store:
        return f" (with {store.rows('SELECT count(*) AS n FROM ratings')[0]['n']} ratings)"
