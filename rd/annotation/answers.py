"""A language model's answers, kept in an append-only JSONL file and looked up on disk: memory does not grow with them.

The file is the truth. Its index is a temporary database of SQLite, made from it at the start and gone at the end. Not
for several threads at once: whoever shares it has a lock (`rd.annotation.client.Client`).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import append


class Answers:
    """Final outcomes by key: an answer, or None for a refusal."""

    def __init__(self, path: Path | None) -> None:
        """path None: nothing is kept. Raises UserError for a broken line that is not the last."""
        self.path = path
        self.index = sqlite3.connect("", check_same_thread=False, isolation_level=None)  # "": its own file, on disk
        self.index.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, result TEXT) WITHOUT ROWID")
        self.index.execute("BEGIN")
        self.index.executemany("REPLACE INTO answers VALUES (?, ?)", _read(path) if path else ())
        self.index.execute("COMMIT")

    def __contains__(self, key: str) -> bool:
        return self.index.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone() is not None

    def __getitem__(self, key: str) -> dict[str, Any] | None:
        """Raises KeyError for one that was never given."""
        row = self.index.execute("SELECT result FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def add(self, key: str, model: str, outcome: str, result: dict[str, Any] | None, reason: str | None) -> None:
        """Keep an outcome: a line of the file first, then the index."""
        if self.path:
            line = {"key": key, "model": model, "outcome": outcome, "result": result, "reason": reason}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append(self.path, json.dumps(line).encode() + b"\n")
        self.index.execute("REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(result)))


def _read(path: Path) -> Iterator[tuple[str, str]]:
    """(key, result as JSON) of each final outcome. A torn last line is cut off. Raises UserError for another one."""
    if not path.is_file():
        return
    whole = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = parse(line) if line.endswith(b"\n") else None
                if entry["outcome"] != "gave_up":
                    yield entry["key"], json.dumps(entry["result"])
            except (ValueError, KeyError, TypeError):
                if file.read(1):
                    raise UserError(f"{path}:{number}: not a line of the answer cache; delete it or the file") from None
                os.truncate(path, whole)
                return
            whole += len(line)
