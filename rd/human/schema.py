"""A study's database as a file: its tables, how it is built, and what it must be to be opened."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryFile

from rd.errors import UserError
from rd.human.guidelines import ASPECTS, CHOICES

APPLICATION = 0x72644142  # "rdAB": marks the file as such a study
VERSION = 1  # of the schema
FAULTS = (sqlite3.Error, UnicodeDecodeError)  # the latter: a message of SQLite's that quotes damaged bytes
LOGS = ("-journal", "-wal", "-shm")  # what SQLite keeps beside a file


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


def build(path: Path, tables: dict[str, list[tuple]]) -> None:
    """A database of these rows by table; what a broken build left at `path` goes. Raises sqlite3.Error."""
    for end in ("", *LOGS):
        Path(f"{path}{end}").unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        _prepare(db)
        db.execute("PRAGMA journal_mode = MEMORY")  # a build that breaks is thrown away: it needs no file to go back by
        db.executescript(SCHEMA)
        db.execute("BEGIN")
        for table, rows in tables.items():
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")  # the file keeps it


def opened(path: Path, wait: float) -> sqlite3.Connection:
    """The database, for threads to share. wait: seconds for another writer. Raises UserError where it is no whole one.

    All of the file is checked: that takes milliseconds, and a damage would come up as another error elsewhere.
    """
    with ExitStack() as undo:
        try:
            db = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
            undo.enter_context(closing(db))
            _check(db, path)
            _prepare(db)
            db.execute("PRAGMA journal_mode = WAL")
        except FAULTS as error:
            raise _refused(path, error) from None
        undo.pop_all()
    return db


def damaged(path: Path, what: object) -> UserError:
    """To be raised where the file is a study, and not whole."""
    said = " ".join(str(what).split())
    return UserError(f"{path}: the database is damaged ({said}); put back a copy of before, or see .recover of sqlite3")


def _prepare(db: sqlite3.Connection) -> None:
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raises UserError where the file is a database of another kind or schema, or a damaged one."""
    kind, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if kind != APPLICATION:
        raise UserError(f"{path}: a database of something else; give one that rd human make built")
    if version != VERSION:
        raise UserError(f"{path}: schema {version}, and this rd reads {VERSION}; make the study again")
    (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, found)


def _refused(path: Path, error: Exception) -> UserError:
    """Why SQLite does not open the file: it is none of its own, a damaged one, or one out of reach."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the rest of it: which kind of that
    if code == sqlite3.SQLITE_NOTADB:
        return UserError(f"{path}: not a database of ratings ({error}); rd human make builds one")
    if code == sqlite3.SQLITE_CORRUPT:
        return damaged(path, error)
    try:
        path.open("rb").close()
    except OSError as fault:
        return UserError(f"{path}: cannot be opened ({fault.strerror}); give yourself the right to read it")
    try:
        TemporaryFile(dir=path.parent).close()
    except OSError as fault:
        why = f"SQLite writes a log beside it, and {path.parent} takes none: {fault.strerror}"
        return UserError(f"{path}: cannot be opened ({why}); copy the study to where you can write")
    return UserError(f"{path}: cannot be opened ({error}); is it held by another program?")
