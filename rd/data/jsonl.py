"""Plain JSONL for anyone's own dialogues, and the lines that `rd annotate` reads.

A corpus is a folder with train.jsonl, valid.jsonl and test.jsonl (any of them may be missing). One dialogue a line:

    {"id": "a1", "emotion": "proud", "prompt": "I passed the exam.",
     "turns": [{"text": "I passed at last!", "reasons": [[2, 16]]}, {"text": "Well done!", "intent": "encouraging"}]}

    id       string, once in the corpus
    emotion  one of the 32 of `rd.labels.EMOTIONS`, or null (may be left out)
    prompt   the situation, a string, or null (may be left out)
    turns    in order, speaker first, then listener, speaker, ...; each a string, or an object with
             text     string, not empty
             reasons  speaker turns: list of [start, end) character offsets in text; []: none; null, absent: unlabelled
             intent   listener turns: one of the nine of `rd.labels.INTENTS`, or null, absent: unlabelled

Other keys are ignored.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rd.data.records import MOST_TURNS, Dialogue, Turn, check_spans, cut, cut_text
from rd.errors import UserError
from rd.files import replace_file
from rd.labels import EMOTIONS, INTENTS

DEEPEST = 50  # a nest of JSON; the form above needs five


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its line end) of a UTF-8 file; blank lines too.

    Split on line feeds alone: str.splitlines would also split inside texts (U+0085, U+2028).
    Raises UserError for a missing, unreadable or empty file, and for bytes that are not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not data.strip():
        raise UserError(f"{path}:1: the file is empty; get it again")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: bytes that are not UTF-8 (0x{error.object[error.start]:02x}); save the file as UTF-8"
        ) from None
    if not text.strip():  # a mark of byte order, or blanks that only Unicode knows
        raise UserError(f"{path}:1: the file is empty; get it again")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, 1))


def parse(text: str | bytes) -> Any:
    """The JSON value of a text. Raises ValueError alone: also for bytes that are not UTF-8, and for a nest too deep.

    Python's own reader stops at a depth that hangs on the caller's; what it lets through could still be too deep to
    be shown in an error.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested more than {DEEPEST} deep") from None
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > DEEPEST and _deep(value, DEEPEST):
        raise ValueError(f"nested more than {DEEPEST} deep")
    return value


def _deep(value: Any, left: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inside is not None and (left == 0 or any(_deep(each, left - 1) for each in inside))


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line that is not blank. Raises UserError where a line is not a JSON object."""
    for number, line in read_lines(path):
        if line.strip():
            yield f"{path}:{number}", _object(f"{path}:{number}", line)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = parse(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; write one object a line")
    return row


def read_jsonl(path: str | Path) -> tuple[list[Dialogue], dict[str, int]]:
    """The dialogues of a file in the form above, and the line of each id. Raises UserError(file:line: ...)."""
    dialogues: list[Dialogue] = []
    lines: dict[str, int] = {}
    for where, row in read_objects(path):
        dialogue = cut(where, _dialogue(where, row))
        if dialogue.id in lines:
            raise UserError(
                f"{where}: id {dialogue.id!r} occurs twice (first in line {lines[dialogue.id]}); rename one"
            )
        lines[dialogue.id] = int(where.rsplit(":", 1)[1])
        dialogues.append(dialogue)
    return dialogues, lines


def write_jsonl(path: str | Path, dialogues: Iterable[Dialogue]) -> None:
    """Write the form above; `read_jsonl` gives the same dialogues back."""
    write_lines(Path(path), map(_written, dialogues))


def _written(dialogue: Dialogue) -> dict[str, Any]:
    turns = []
    for turn in dialogue.turns:
        row: dict[str, Any] = {"text": turn.text}
        if turn.reasons is not None:
            row["reasons"] = [list(span) for span in turn.reasons]
        if turn.intent is not None:
            row["intent"] = turn.intent
        turns.append(row)
    return {"id": dialogue.id, "emotion": dialogue.emotion, "prompt": dialogue.prompt or None, "turns": turns}


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """JSON lines, written beside and renamed: a file is whole or absent."""

    def write(beside: str) -> None:
        with open(beside, "w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    replace_file(path, write)


def dialogue_line(where: str, line: bytes) -> dict[str, Any] | None:
    """A line of `rd annotate`: {"dialogue": ["turn 1", "turn 2", ...]}, extra keys kept; None: blank. Raises UserError.

    where: "file:line", told with what is wrong. What no model reads of a very long dialogue is left out with a
    warning: see `rd.data.records.cut`.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: bytes that are not UTF-8 (0x{line[error.start]:02x}); save the file as UTF-8"
        ) from None
    if not text.strip():
        return None
    row = _object(where, text)
    turns = row.get("dialogue")
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where}: no "dialogue"; write {{"dialogue": ["turn 1", "turn 2"]}}')
    if len(turns) > MOST_TURNS:
        logging.getLogger(__name__).warning("%s: %d turns; read are the first %d", where, len(turns), MOST_TURNS)
    checked = [_text(f"{where}: turn {number}", turn) for number, turn in enumerate(turns, 1)]
    cut_turns = [cut_text(f"{where}: turn {n}", turn) for n, turn in enumerate(checked[:MOST_TURNS], 1)]
    return row | {"dialogue": cut_turns}


def _dialogue(where: str, row: dict[str, Any]) -> Dialogue:
    if "conv_id" in row and "id" not in row:
        raise UserError(f"{where}: a label file, not a corpus (conv_id without text); give the folder of the corpus")
    key, emotion, prompt, turns = row.get("id"), row.get("emotion"), row.get("prompt"), row.get("turns")
    if not isinstance(key, str) or not key:
        raise UserError(f'{where}: "id" must be a string that is not empty')
    whole(f'{where}: "id"', key)
    if emotion is not None and emotion not in EMOTIONS:
        raise UserError(f"{where}: unknown emotion {emotion!r}; use one of the 32 of rd.labels.EMOTIONS, or null")
    if prompt is not None and not isinstance(prompt, str):
        raise UserError(f'{where}: "prompt" must be a string or null')
    whole(f'{where}: "prompt"', prompt or "")
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where}: "turns" must be a list of one turn or more')
    read = tuple(_turn(f"{where}: turn {index + 1}", turn, index) for index, turn in enumerate(turns))
    return Dialogue(key, emotion, prompt or "", read)


def _turn(where: str, turn: Any, index: int) -> Turn:
    row = turn if isinstance(turn, dict) else {"text": turn}
    text, reasons, intent = _text(where, row.get("text")), row.get("reasons"), row.get("intent")
    if reasons is not None and index % 2:
        raise UserError(f"{where}: reasons on a listener turn; turns 1, 3, 5, ... are the speaker's")
    if intent is not None and index % 2 == 0:
        raise UserError(f"{where}: an intent on a speaker turn; turns 2, 4, 6, ... are the listener's")
    if intent is not None and intent not in INTENTS:
        raise UserError(f"{where}: unknown intent {intent!r}; use one of {', '.join(INTENTS)}")
    return Turn(text, None if reasons is None else check_spans(where, reasons, text), intent)


def _text(where: str, text: Any) -> str:
    if not isinstance(text, str):
        raise UserError(f"{where} has no text; write a string")
    if not text.strip():
        raise UserError(f"{where} is empty; write its text or leave the dialogue out")
    return whole(where, text)


def whole(where: str, text: str) -> str:
    """The text. Raises UserError for half a character: JSON can escape one of a surrogate pair, no file can hold it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where} holds half a character (a lone surrogate); write the whole one") from None
    return text
