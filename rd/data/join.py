"""Join of the label files (reasons and intents, no text) to a corpus, by conversation and turn.

A label line is {"conv_id": ..., "turns": [{"utterance_idx": 1, "sha256": ..., "reasons": [[s, e], ...]} or
{"utterance_idx": 2, "sha256": ..., "intent": ...}]}. sha256: the first 16 hex digits of the hash of the utterance in
UTF-8, commas restored. It ties each label to the very text it was made on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rd.data.jsonl import read_objects
from rd.data.records import Dialogue, Turn, check_spans
from rd.errors import UserError
from rd.labels import INTENTS


@dataclass(frozen=True)
class Label:
    """Label of one turn; `where` is "file:line: conversation, turn n"."""

    where: str
    index: int
    sha256: str
    reasons: list[Any] | None
    intent: str | None


def text_hash(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def read_labels(path: str | Path) -> dict[str, list[Label]]:
    """conv_id -> labels of its turns. Raises UserError(file:line: ...) where a line does not follow the schema."""
    labels: dict[str, list[Label]] = {}
    for where, row in read_objects(path):
        key, turns = row.get("conv_id"), row.get("turns")
        if not isinstance(key, str) or not isinstance(turns, list):
            raise UserError(f'{where}: not a label line; it needs "conv_id" and "turns"')
        if key in labels:
            raise UserError(f"{where}: {key} is labelled twice; keep one of the two lines")
        labels[key] = [_label(f"{where}: {key}", turn) for turn in turns]
        if len({label.index for label in labels[key]}) < len(labels[key]):
            raise UserError(f"{where}: {key} labels a turn twice; keep one of the two")
    return labels


def join_labels(
    dialogues: Sequence[Dialogue], labels: dict[str, list[Label]]
) -> tuple[tuple[Dialogue, ...], dict[str, int]]:
    """Dialogues with their labels, and counts {dialogues, speaker_turns, listener_turns, phrases, not_found}.

    not_found counts the labelled conversations that are not among `dialogues`. Labels that a dialogue brings along
    stay where the label file is silent.
    Raises UserError where the hash is not that of the text, an offset lies outside it, or a turn does not exist.
    """
    counts = dict.fromkeys(("dialogues", "speaker_turns", "listener_turns", "phrases", "not_found"), 0)
    joined = []
    for dialogue in dialogues:
        turns = list(dialogue.turns)
        for label in labels.get(dialogue.id, ()):
            if label.index > len(turns):
                raise UserError(f"{label.where}: the corpus has only {len(turns)} turns there; use the matching labels")
            turn = turns[label.index - 1] = _apply(turns[label.index - 1], label)
            counts["speaker_turns" if label.index % 2 else "listener_turns"] += 1
            counts["phrases"] += len(turn.reasons or ()) if label.index % 2 else 0
        counts["dialogues"] += dialogue.id in labels
        joined.append(replace(dialogue, turns=tuple(turns)))
    counts["not_found"] = len(labels) - counts["dialogues"]
    return tuple(joined), counts


def any_match(dialogues: Sequence[Dialogue], labels: dict[str, list[Label]]) -> bool:
    """Whether at least one labelled turn has the text its label was made on."""
    return any(
        label.index <= len(dialogue.turns) and label.sha256 == text_hash(dialogue.turns[label.index - 1].text)
        for dialogue in dialogues
        for label in labels.get(dialogue.id, ())
    )


def _label(where: str, row: Any) -> Label:
    if not isinstance(row, dict) or type(row.get("utterance_idx")) is not int or row["utterance_idx"] < 1:
        raise UserError(f'{where}: a turn without "utterance_idx" (a whole number from 1)')
    index, digest = row["utterance_idx"], row.get("sha256")
    where = f"{where}, turn {index}"
    if not isinstance(digest, str) or len(digest) != 16:
        raise UserError(f'{where}: "sha256" must hold 16 hex digits')
    if index % 2:
        if "intent" in row or "reasons" not in row:
            raise UserError(f'{where}: a speaker turn bears "reasons", not "intent"')
        return Label(where, index, digest, row["reasons"], None)
    if "reasons" in row or "intent" not in row:
        raise UserError(f'{where}: a listener turn bears "intent", not "reasons"')
    if row["intent"] not in INTENTS:
        raise UserError(f"{where}: unknown intent {row['intent']!r}; use one of {', '.join(INTENTS)}")
    return Label(where, index, digest, None, row["intent"])


def _apply(turn: Turn, label: Label) -> Turn:
    if label.sha256 != text_hash(turn.text):
        raise UserError(
            f"{label.where}: the hash {label.sha256} is not that of the corpus text ({text_hash(turn.text)}); "
            "labels and corpus differ: use the unchanged corpus, or load it without labels"
        )
    if label.index % 2 == 0:
        return replace(turn, intent=label.intent)
    return replace(turn, reasons=check_spans(label.where, label.reasons, turn.text))
