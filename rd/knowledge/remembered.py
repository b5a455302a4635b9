"""Answers kept in a file: what was looked up once is read the next time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from rd.data.jsonl import parse
from rd.data.store import text_key
from rd.knowledge.knowledge import RELATIONS, Said

Answer = Callable[[Sequence[tuple[str, str]]], list[Said]]
Graph = Mapping[str, tuple[tuple[str, float], ...]]
PART = 4096  # queries after which answers are written: a killed run loses no more


def remembered_graph(file: Path, make: Callable[[], Graph]) -> Graph:
    """The graph of concepts in a JSON file; made and written where it is absent or damaged."""
    try:
        stored = parse(file.read_text("utf-8"))
        return {word: tuple((str(name), float(weight)) for name, weight in each) for word, each in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        graph = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(graph, ensure_ascii=False), "utf-8")
    beside.replace(file)
    return graph


class Remembered:
    """Answers by a file of JSON lines [hash of the query, words of each relation]; only new queries are worked out.

    make: gives what answers, asked for when the first new query comes. own: dialogues whose answers are theirs alone;
    all other queries of one text share an answer. Lines are added whole, in one write; a damaged one is passed over
    and its query is answered again. No query is written, only its hash.
    """

    def __init__(self, file: Path, make: Callable[[], Answer], own: Collection[str] = ()) -> None:
        self.file, self._make, self._own = file, make, frozenset(own)

    def __call__(self, queries: Sequence[tuple[str, str]]) -> list[Said]:
        """One answer a query, in order."""
        keys = [text_key(f"{dialogue if dialogue in self._own else ''}\n{text}") for dialogue, text in queries]
        new = {key: query for key, query in zip(keys, queries) if key not in self._stored}
        for start in range(0, len(new), PART):
            part = list(new)[start : start + PART]
            self._add(dict(zip(part, self.answer([new[key] for key in part]), strict=True)))
        return [self._stored[key] for key in keys]

    @cached_property
    def answer(self) -> Answer:
        """What answers new queries."""
        return self._make()

    @cached_property
    def _stored(self) -> dict[str, Said]:
        found: dict[str, Said] = {}
        if self.file.is_file():
            with self.file.open("rb") as lines:
                found.update(pair for line in lines if (pair := _read(line)))
        return found

    def _add(self, answers: dict[str, Said]) -> None:
        self._stored.update(answers)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"\n{json.dumps(pair, ensure_ascii=False)}" for pair in answers.items())
        with self.file.open("ab", buffering=0) as file:  # a line starts with its end: a torn one before it stays alone
            file.write(f"{lines}\n".encode())


def _read(line: bytes) -> tuple[str, Said] | None:
    try:
        key, said = parse(line)
        words = tuple(tuple(relation) for relation in said)
    except (ValueError, TypeError):
        return None
    right = len(words) == len(RELATIONS) and all(isinstance(word, str) for relation in words for word in relation)
    return (key, words) if isinstance(key, str) and right else None
