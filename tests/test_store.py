"""The feature store: what goes in comes out, and a torn build is never opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rd.data.store import FeatureStore, text_key
from rd.errors import UserError

TEXTS = ["my cat ran off", "oh no", "", "my cat ran off", "i made a cake, naïve as I am"]


def encode(texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values that tell the text: its length and its words' places."""
    lists = [text.split() for text in texts]
    return [
        (
            np.array([len(w) % 2 for w in words], dtype=np.uint8),
            np.array([[len(text), place, len(w)] for place, w in enumerate(words)], np.float16).reshape(-1, 3),
        )
        for text, words in zip(texts, lists, strict=True)
    ]


def test_roundtrip(tmp_path: Path) -> None:
    built = FeatureStore.build(tmp_path, "weights", TEXTS, encode)
    assert len(built) == 4
    for store in (built, FeatureStore(built.folder)):
        for text in TEXTS:
            tags, vectors = store.get(text)
            ((want_tags, want_vectors),) = encode([text])
            np.testing.assert_array_equal(tags, want_tags)
            np.testing.assert_array_equal(vectors, want_vectors)
            assert (tags.dtype, vectors.dtype, vectors.shape[1]) == (np.uint8, np.float16, 3)
    assert "unseen" not in built
    with pytest.raises(KeyError):
        built.get("unseen")


def test_second_build_opens_the_first_and_other_weights_do_not(tmp_path: Path) -> None:
    first = FeatureStore.build(tmp_path, "weights", TEXTS, encode)

    def never(texts: list[str]) -> list:
        raise AssertionError("computed again")

    assert FeatureStore.build(tmp_path, "weights", TEXTS[::-1], never).folder == first.folder
    with pytest.raises(AssertionError, match="computed again"):
        FeatureStore.build(tmp_path, "other weights", TEXTS, never)
    with pytest.raises(AssertionError, match="computed again"):
        FeatureStore.build(tmp_path, "weights", [*TEXTS, "one more"], never)


def test_torn_build_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def dies(texts: list[str]) -> list:
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(texts)

    monkeypatch.setattr("rd.data.store.CHUNK", 1)
    with pytest.raises(KeyboardInterrupt):
        FeatureStore.build(tmp_path, "weights", TEXTS, dies)
    assert list(tmp_path.iterdir()) == []
    built = FeatureStore.build(tmp_path, "weights", TEXTS, encode)
    assert built.get("oh no")[0].tolist() == [0, 0]
    (built.folder / "index.json").unlink()  # as a copy that was cut off
    with pytest.raises(UserError, match="no whole feature store"):
        FeatureStore(built.folder)


def test_a_damaged_store_is_told_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Whatever bit is flipped, whatever end is lost."""
    whole = FeatureStore.build(tmp_path, "weights", TEXTS, encode).folder
    want = {file.name: file.read_bytes() for file in whole.iterdir()}
    damages = [(name, at, 1 << at % 8) for name, data in want.items() for at in range(0, len(data), 5)]
    damages += [(name, len(data) // 2, None) for name, data in want.items()]
    for name, at, bit in damages:
        data = bytearray(want[name])
        if bit is None:
            del data[at:]
        else:
            data[at] ^= bit
        (whole / name).write_bytes(data)
        FeatureStore.build(tmp_path, "weights", TEXTS, encode)
        told = capsys.readouterr().err
        if told:
            assert told.count("\n") == 1 and "made again" in told
            assert {file.name: file.read_bytes() for file in whole.iterdir()} == want, (name, at)
        else:  # the name of the checksum was hit: read as of an earlier version, and all else is right
            assert json.loads(want[name])["crc32"] in json.loads(data).values() and "crc32" not in json.loads(data)
            (whole / name).write_bytes(want[name])
    assert [file.name for file in tmp_path.iterdir()] == [whole.name]


DEEP = "[" * 100_000 + "]" * 100_000
NO_INDEX = [DEEP, '{"width": ' + DEEP + "}", '{"width": 3, "keys": ["a"], "lengths": [1e999]}', "7"]


@pytest.mark.parametrize("text", NO_INDEX, ids=["deep", "deeper", "endless", "number"])
def test_an_index_of_any_text_is_a_damaged_one(tmp_path: Path, text: str) -> None:
    folder = FeatureStore.build(tmp_path, "weights", TEXTS, encode).folder
    (folder / "index.json").write_text(text)
    with pytest.raises(UserError, match="no whole feature store"):
        FeatureStore(folder)
    assert len(FeatureStore.build(tmp_path, "weights", TEXTS, encode)) == 4


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = FeatureStore.build(tmp_path, "weights", TEXTS, encode).folder
    index = json.loads((folder / "index.json").read_text())
    del index["crc32"]
    (folder / "index.json").write_text(json.dumps(index))

    def never(texts: list[str]) -> list:
        raise AssertionError("computed again")

    assert len(FeatureStore.build(tmp_path, "weights", TEXTS, never)) == 4


def test_tags_alone(tmp_path: Path) -> None:
    store = FeatureStore.build(tmp_path, "fold", TEXTS, lambda texts: [(t, v[:, :0]) for t, v in encode(texts)])
    assert store.get("oh no")[1].shape == (2, 0)
    np.testing.assert_array_equal(store.get(TEXTS[-1])[0], encode([TEXTS[-1]])[0][0])


def test_no_text_is_written(tmp_path: Path) -> None:
    folder = FeatureStore.build(tmp_path, "weights", TEXTS, encode).folder
    assert not any(b"cat" in file.read_bytes() for file in folder.iterdir())
    assert text_key("oh no") in (folder / "index.json").read_text()
