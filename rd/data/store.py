"""Annotations of unique texts in a memory-mapped folder: word tags and BERT vectors, computed once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rd.data.jsonl import parse
from rd.errors import UserError
from rd.files import crc32
from rd.locks import locked

Encode = Callable[[list[str]], list[tuple[np.ndarray, np.ndarray]]]  # texts -> (tags (n,), vectors (n, Db)) of each
FORMAT = 1
CHUNK = 2048


def text_key(text: str) -> str:
    """32 hex digits of the SHA-256 of a text: its name in a store."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class FeatureStore:
    """text -> (tags uint8 (n,), vectors float16 (n, Db)), n its number of words.

    A folder <parent>/<key>/: index.json, tags.u8, vectors.f16 (absent when Db is 0). The key names the weights and the
    texts, so another model or corpus never reads a stale store. No text is written, only hashes.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a finished store, read through once. Raises UserError where there is none, or a damaged one."""
        self.folder = Path(folder)
        try:
            index = parse((self.folder / "index.json").read_text("utf-8"))
            self.width, ends = index["width"], np.cumsum([0, *index["lengths"]])
            self._at = {key: (int(a), int(b)) for key, a, b in zip(index["keys"], ends[:-1], ends[1:], strict=True)}
            words = int(ends[-1])
            file = self.folder / "vectors.f16"
            sizes = ((self.folder / "tags.u8").stat().st_size, file.stat().st_size)
            if sizes != (words, 2 * words * self.width):
                raise ValueError(f"{sizes[0]} bytes of tags and {sizes[1]} of vectors for {words} words")
            if "crc32" in index and index["crc32"] != _check(self.folder, index):
                raise ValueError("wrong checksum")
        except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            raise UserError(f"{folder}: no whole feature store ({error})") from None
        self._tags = np.fromfile(self.folder / "tags.u8", dtype=np.uint8)
        self._vectors = (
            np.memmap(file, np.float16, "r", shape=(words, self.width))
            if self.width and words
            else np.zeros((words, self.width), np.float16)
        )

    @classmethod
    def build(cls, folder: str | Path, key: str, texts: Sequence[str], encode: Encode) -> FeatureStore:
        """The store <folder>/<hash of key and texts>; made if it is not there yet.

        `encode` gets CHUNK texts at a time. Written beside and renamed at the end: a killed build is never opened. A
        damaged store is told on standard error and made again; of two processes the second waits for the first.
        """
        unique = sorted(set(texts), key=lambda text: (len(text), text))  # like lengths together: little padding
        keys = [text_key(text) for text in unique]
        name = hashlib.sha256("\n".join([str(FORMAT), key, *keys]).encode()).hexdigest()[:16]
        place, beside = Path(folder) / name, Path(folder) / f".{name}.part"
        if (kept := cls._kept(place)) is not None:
            return kept
        with locked(folder, wait=True):
            if (kept := cls._kept(place, told=True)) is not None:  # by the process that was waited for
                return kept
            shutil.rmtree(beside, ignore_errors=True)  # of a build that was killed
            beside.mkdir()
            try:
                _write(beside, key, keys, unique, encode)
                shutil.rmtree(place, ignore_errors=True)  # damaged, or a torn copy
                os.replace(beside, place)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)  # a full disk is not kept full
                raise
        return cls(place)

    @classmethod
    def _kept(cls, place: Path, told: bool = False) -> FeatureStore | None:
        """The store at `place`; None where there is none, and where it is damaged. told: then say so."""
        if (place / "index.json").is_file():
            try:
                return cls(place)
            except UserError as error:
                if told:
                    print(f"rd: {error}: it is made again", file=sys.stderr)
        return None

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, text: str) -> bool:
        return text_key(text) in self._at

    def get(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tags uint8 (n,) and vectors float16 (n, Db). Raises KeyError for a text that is not in the store."""
        a, b = self._at[text_key(text)]
        return self._tags[a:b], self._vectors[a:b]


def _write(folder: Path, key: str, keys: list[str], texts: list[str], encode: Encode) -> None:
    """The three files of a store."""
    lengths, width = [], 0
    with (folder / "tags.u8").open("wb") as tags_file, (folder / "vectors.f16").open("wb") as vectors_file:
        for start in range(0, len(texts), CHUNK):
            for tags, vectors in encode(texts[start : start + CHUNK]):
                if len(tags) != len(vectors):
                    raise ValueError(f"{len(tags)} tags for {len(vectors)} vectors")
                tags_file.write(np.ascontiguousarray(tags, np.uint8).tobytes())
                vectors_file.write(np.ascontiguousarray(vectors, np.float16).tobytes())
                lengths.append(len(tags))
                width = vectors.shape[1]
    index = {"format": FORMAT, "key": key, "width": width, "keys": keys, "lengths": lengths}
    (folder / "index.json").write_text(json.dumps({**index, "crc32": _check(folder, index)}))


def _check(folder: Path, index: dict[str, Any]) -> str:
    """CRC-32 of the three files, the index without this entry. Stores of earlier versions have none."""
    check = crc32(json.dumps({name: value for name, value in index.items() if name != "crc32"}).encode())
    return f"{crc32(folder / 'vectors.f16', crc32(folder / 'tags.u8', check)):08x}"
