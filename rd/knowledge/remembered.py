"""Answers kept in a file: what was looked up once is read the next time."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from rd.data.jsonl import parse
from rd.data.store import text_key
from rd.files import append, crc32, replace_text
from rd.knowledge.knowledge import RELATIONS, Said
from rd.locks import locked

Answer = Callable[[Sequence[tuple[str, str]]], list[Said]]
Graph = Mapping[str, tuple[tuple[str, float], ...]]
PART = 4096  # queries after which answers are written: a killed run loses no more


def remembered_graph(file: Path, make: Callable[[], Graph]) -> Graph:
    """The graph of concepts in a file: a line of JSON and its CRC-32; made and written where absent or damaged."""
    if (graph := _graph(file)) is not None:
        return graph
    with locked(file.parent, wait=True):
        if (graph := _graph(file)) is None:  # else by the process that was waited for
            graph = make()
            text = json.dumps(graph, ensure_ascii=False)
            replace_text(file, f"{text}\n{crc32(text.encode()):08x}\n")
    return graph


def _graph(file: Path) -> Graph | None:
    try:
        text, _, check = file.read_text("utf-8").partition("\n")
        if check and int(check, 16) != crc32(text.encode()):  # files of earlier versions have none
            return None
        stored = parse(text)
        return {word: tuple((str(name), float(weight)) for name, weight in each) for word, each in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return None


class Remembered:
    """Answers by a file of JSON lines [hash of the query, words of each relation, CRC-32 of the two].

    Only new queries are worked out.

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
        rows = [[*pair, _check(*pair)] for pair in answers.items()]
        lines = "".join(f"\n{json.dumps(row, ensure_ascii=False)}" for row in rows)
        with locked(self.file.parent, wait=True):
            append(self.file, f"{lines}\n".encode())  # a line starts with its end: a torn one before it stays alone


def _read(line: bytes) -> tuple[str, Said] | None:
    try:
        key, said, *check = parse(line)
        words = tuple(tuple(relation) for relation in said)
        if check and check != [_check(key, words)]:  # lines of earlier versions have none
            return None
    except (ValueError, TypeError):
        return None
    right = len(words) == len(RELATIONS) and all(isinstance(word, str) for relation in words for word in relation)
    return (key, words) if isinstance(key, str) and right else None


def _check(key: str, said: Said) -> str:
    return f"{crc32(json.dumps([key, said]).encode()):08x}"
