"""EmpatheticIntents (Welivita and Pu, 2020, COLING): texts with one of the nine intents.

Its labels come from key phrases and a classifier, and some are wrong; the gold labels of `rd.data.join` are better.
"""

from collections.abc import Iterable
from pathlib import Path

from rd.data.jsonl import read_lines
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS


def read_intents(folder: str | Path, split: str, exclude_texts: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(text, intent) of each row of {split}.tsv (columns label and text, tab between them, nothing quoted).

    folder: the one with the files, or the one that holds empathetic_intents/. Rows labelled with an emotion (the files
    of all 41 labels) are left out, and so are texts equal, but for case and white space, to one of `exclude_texts`:
    the splits share texts, and test texts must stay out of training. Texts may repeat, and bear two labels.
    Raises UserError(file:line: ...) for a wrong header, a row without a tab, an unknown label, an empty text.
    """
    folder = Path(folder)
    name = f"{split}.tsv"
    path = folder / name if (folder / name).is_file() else folder / "empathetic_intents" / name
    left_out = {_key(text) for text in exclude_texts}
    lines = read_lines(path)
    number, header = next(lines)
    if header.split("\t") != ["label", "text"]:
        raise UserError(f"{path}:{number}: wrong header {header!r}; expected label and text with a tab between them")
    rows = []
    for number, line in lines:
        label, tab, text = line.partition("\t")
        label = label.lower()
        if not tab or not text.strip():
            raise UserError(
                f"{path}:{number}: expected a label, a tab and a text; the row is broken or the file truncated"
            )
        if label not in INTENTS and label not in EMOTIONS:
            raise UserError(f"{path}:{number}: unknown label {label!r}; use one of {', '.join(INTENTS)}")
        if label in INTENTS and _key(text) not in left_out:
            rows.append((text, label))
    return rows


def _key(text: str) -> str:
    return " ".join(text.lower().split())
