"""Annotations of unique texts in a memory-mapped folder: word tags and BERT vectors, computed once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rd.errors import UserError

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
        """Open a finished store. Raises UserError where there is none."""
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / "index.json").read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: no finished feature store ({error}); annotate the corpus again") from None
        self.width, ends = index["width"], np.cumsum([0, *index["lengths"]])
        self._at = {key: (int(a), int(b)) for key, a, b in zip(index["keys"], ends[:-1], ends[1:])}
        words = int(ends[-1])
        self._tags = np.fromfile(self.folder / "tags.u8", dtype=np.uint8)
        file = self.folder / "vectors.f16"
        self._vectors = (
            np.memmap(file, np.float16, "r", shape=(words, self.width))
            if self.width and words
            else np.zeros((words, self.width), np.float16)
        )
        if len(self._tags) != words:
            raise UserError(f"{folder}: tags of {len(self._tags)} words, expected {words}; delete it, then annotate")

    @classmethod
    def build(cls, folder: str | Path, key: str, texts: Sequence[str], encode: Encode) -> FeatureStore:
        """The store <folder>/<hash of key and texts>; made if it is not there yet.

        `encode` gets CHUNK texts at a time. Written beside and renamed at the end: a killed build is never opened.
        """
        unique = sorted(set(texts), key=lambda text: (len(text), text))  # like lengths together: little padding
        keys = [text_key(text) for text in unique]
        name = hashlib.sha256("\n".join([str(FORMAT), key, *keys]).encode()).hexdigest()[:16]
        place = Path(folder) / name
        if (place / "index.json").is_file():
            return cls(place)
        beside = Path(folder) / f".{name}.{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        lengths, width = [], 0
        with (beside / "tags.u8").open("wb") as tags_file, (beside / "vectors.f16").open("wb") as vectors_file:
            for start in range(0, len(unique), CHUNK):
                for tags, vectors in encode(unique[start : start + CHUNK]):
                    if len(tags) != len(vectors):
                        raise ValueError(f"{len(tags)} tags for {len(vectors)} vectors")
                    tags_file.write(np.ascontiguousarray(tags, np.uint8).tobytes())
                    vectors_file.write(np.ascontiguousarray(vectors, np.float16).tobytes())
                    lengths.append(len(tags))
                    width = vectors.shape[1]
        index = {"format": FORMAT, "key": key, "width": width, "keys": keys, "lengths": lengths}
        (beside / "index.json").write_text(json.dumps(index))
        shutil.rmtree(place, ignore_errors=True)  # a folder without an index is a torn copy
        os.replace(beside, place)
        return cls(place)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, text: str) -> bool:
        return text_key(text) in self._at

    def get(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tags uint8 (n,) and vectors float16 (n, Db). Raises KeyError for a text that is not in the store."""
        a, b = self._at[text_key(text)]
        return self._tags[a:b], self._vectors[a:b]
