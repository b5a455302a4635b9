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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rd.data.records import Dialogue, Turn, check_spans
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS


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
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, 1))


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of each line that is not blank. Raises UserError where a line is not a JSON object."""
    for number, line in read_lines(path):
        if line.strip():
            yield f"{path}:{number}", _object(f"{path}:{number}", line)


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object; write one object a line")
    return row


def read_jsonl(path: str | Path) -> tuple[list[Dialogue], dict[str, int]]:
    """The dialogues of a file in the form above, and the line of each id. Raises UserError(file:line: ...)."""
    dialogues: list[Dialogue] = []
    lines: dict[str, int] = {}
    for where, row in read_objects(path):
        dialogue = _dialogue(where, row)
        if dialogue.id in lines:
            raise UserError(
                f"{where}: id {dialogue.id!r} occurs twice (first in line {lines[dialogue.id]}); rename one"
            )
        lines[dialogue.id] = int(where.rsplit(":", 1)[1])
        dialogues.append(dialogue)
    return dialogues, lines


def write_jsonl(path: str | Path, dialogues: Iterable[Dialogue]) -> None:
    """Write the form above; `read_jsonl` gives the same dialogues back."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for dialogue in dialogues:
            turns = []
            for turn in dialogue.turns:
                row: dict[str, Any] = {"text": turn.text}
                if turn.reasons is not None:
                    row["reasons"] = [list(span) for span in turn.reasons]
                if turn.intent is not None:
                    row["intent"] = turn.intent
                turns.append(row)
            head = {"id": dialogue.id, "emotion": dialogue.emotion, "prompt": dialogue.prompt or None}
            file.write(json.dumps(head | {"turns": turns}, ensure_ascii=False) + "\n")


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """JSON lines, written beside and renamed: a file is whole or absent."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    beside.replace(path)


def dialogue_line(where: str, line: bytes) -> dict[str, Any] | None:
    """A line of `rd annotate`: {"dialogue": ["turn 1", "turn 2", ...]}, extra keys kept; None: blank. Raises UserError.

    where: "file:line", told with what is wrong.
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
    for number, turn in enumerate(turns, 1):
        _text(f"{where}: turn {number}", turn)
    return row


def _dialogue(where: str, row: dict[str, Any]) -> Dialogue:
    if "conv_id" in row and "id" not in row:
        raise UserError(f"{where}: a label file, not a corpus (conv_id without text); give the folder of the corpus")
    key, emotion, prompt, turns = row.get("id"), row.get("emotion"), row.get("prompt"), row.get("turns")
    if not isinstance(key, str) or not key:
        raise UserError(f'{where}: "id" must be a string that is not empty')
    if emotion is not None and emotion not in EMOTIONS:
        raise UserError(f"{where}: unknown emotion {emotion!r}; use one of the 32 of rd.labels.EMOTIONS, or null")
    if prompt is not None and not isinstance(prompt, str):
        raise UserError(f'{where}: "prompt" must be a string or null')
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
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair, which no file can hold
        raise UserError(f"{where} holds half a character (a lone surrogate); write the whole one") from None
    return text
