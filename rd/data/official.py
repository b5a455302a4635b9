"""Reader of the official EMPATHETICDIALOGUES release (Rashkin et al., 2019, ACL), one CSV file a split.

No field is quoted: a row is its line split on commas, commas inside texts are `_comma_`, and a lone `"` is text. The
official valid and test rows bear one field more than their header names (retrieval candidates); it is ignored.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rd.data.jsonl import read_lines
from rd.data.records import Dialogue, Turn, cut
from rd.errors import UserError
from rd.labels import EMOTIONS

COLUMNS = ("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance")
UNUSED = ("selfeval", "tags")


@dataclass
class _Open:
    """A conversation whose rows are being read."""

    id: str
    emotion: str
    prompt: str
    texts: list[str] = field(default_factory=list)

    def close(self) -> Dialogue:
        return Dialogue(self.id, self.emotion, restore(self.prompt), tuple(Turn(text) for text in self.texts))


def restore(text: str) -> str:
    """`_comma_` turned back into commas; nothing else changes."""
    return text.replace("_comma_", ",")


def read_csv(path: str | Path) -> tuple[list[Dialogue], dict[str, int]]:
    """The dialogues of a file, and the line on which each id starts.

    Who speaks is told by the parity of utterance_idx: speaker_idx holds worker numbers in the official files.
    Raises UserError(file:line: ...) for a missing column, a row with the wrong number of fields, a truncated last
    row, an unknown emotion, a turn out of order, an empty utterance, a conversation that comes back or changes its
    emotion or prompt, bytes that are not UTF-8, and an empty or missing file.
    """
    rows = [(number, line) for number, line in read_lines(path) if line.strip()]
    place = _header(f"{path}:{rows[0][0]}", rows[0][1])
    done: list[Dialogue] = []
    lines: dict[str, int] = {}
    now: _Open | None = None
    for number, line in rows[1:]:
        where = f"{path}:{number}"
        key, index, emotion, prompt, text = _row(where, line, place, last=number == rows[-1][0])
        if now is None or key != now.id:
            if key in lines:
                raise UserError(
                    f"{where}: conversation {key} comes back (it began in line {lines[key]}); keep its rows together"
                )
            if now is not None:
                done.append(cut(f"{path}:{lines[now.id]}", now.close()))
            now, lines[key] = _Open(key, emotion, prompt), number
        if index != str(len(now.texts) + 1):
            raise UserError(
                f"{where}: turn out of order in {key}: utterance_idx {index!r}, expected {len(now.texts) + 1}"
            )
        if (emotion, prompt) != (now.emotion, now.prompt):
            what = "emotion" if emotion != now.emotion else "prompt"
            raise UserError(f"{where}: the {what} changes within {key}; it must be that of line {lines[key]}")
        now.texts.append(restore(text))
    if now is None:
        raise UserError(f"{path}:1: a header and no row; the file is truncated, get it again")
    return [*done, cut(f"{path}:{lines[now.id]}", now.close())], lines


def _header(where: str, line: str) -> dict[str, int]:
    """Column -> position; "" -> number of columns."""
    names = line.split(",")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        expected = ",".join(COLUMNS + UNUSED)
        raise UserError(f"{where}: missing column {', '.join(missing)}; the header must be {expected}")
    return {name: names.index(name) for name in COLUMNS} | {"": len(names)}


def _row(where: str, line: str, place: dict[str, int], last: bool) -> tuple[str, str, str, str, str]:
    """(conv_id, utterance_idx, emotion, prompt, utterance) of a line."""
    fields = line.split(",")
    width = place[""]
    if len(fields) < width:
        if last:
            raise UserError(f"{where}: truncated: the last row has {len(fields)} of {width} fields; get the file again")
        raise UserError(f"{where}: {len(fields)} of {width} fields; the row is broken or a column is missing")
    if len(fields) > width + 1:
        raise UserError(f"{where}: {len(fields)} fields, not {width}; write commas inside texts as _comma_")
    key, index, emotion, prompt, speaker, text = (fields[place[name]] for name in COLUMNS)
    if not key:
        raise UserError(f"{where}: empty conv_id")
    if emotion not in EMOTIONS:
        raise UserError(f"{where}: unknown emotion {emotion!r}; the 32 known ones are in rd.labels.EMOTIONS")
    # A bare comma in the prompt pushes text into this column; the ninth field alone could be candidates.
    if not speaker.isdecimal():
        raise UserError(f"{where}: speaker_idx {speaker!r} is no number; write commas inside texts as _comma_")
    if not text.strip():
        raise UserError(f"{where}: empty utterance in {key}, turn {index}; write its text or drop the conversation")
    return key, index, emotion, prompt, text
