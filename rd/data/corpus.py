"""A corpus from a folder: the official CSV files or plain JSONL, checked, counted, hashed, with labels joined."""

import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rd.data.join import any_match, join_labels, read_labels
from rd.data.jsonl import read_jsonl
from rd.data.official import read_csv
from rd.data.records import SPLITS, Corpus, Dialogue, Sample, Turn
from rd.errors import UserError

__all__ = ["SPLITS", "Corpus", "Dialogue", "Sample", "Turn", "check", "read_corpus", "samples"]

# (dialogues, turns, listener turns) of the rebuilt copy, which lacks the last conversation of each official file.
KNOWN = {
    "empathetic_dialogues": {
        "train": (19532, 84165, 40252),
        "valid": (2769, 12074, 5736),
        "test": (2546, 10969, 5257),
    },
    "mini": {"train": (768, 3095, 1483), "valid": (128, 509, 245), "test": (128, 520, 247)},
}
OFFICIAL = {"train": 19533, "valid": 2770, "test": 2547}

# The published arrays (MoEL and its successors) lack these; without them the test set has their 5,255 pairs. The second
# is the last of the official file, of which the rebuilt copy knows the conversation's number only.
LEFT_OUT = ("hit:12416_conv:24832", "_conv:24847")


def read_corpus(path: str | Path | None = None, labels: bool = True) -> Corpus:
    """The corpus in a folder; None: the bundled mini corpus.

    The folder, or its subfolder empathetic_dialogues/, holds {train,valid,test}.csv (all three, official release), or
    the folder holds some of {train,valid,test}.jsonl (see rd.data.jsonl); one .jsonl file is a corpus too (test, unless
    it is named after another split). labels: join {split}.labels.jsonl beside the files, else annotations/ in the
    folder or beside it, else the bundled label files.

    report: {split: {dialogues, turns, listener_turns}, "known": {split: text}, "labels": {split: counts}, "notes": []}.
    Raises UserError("file:line: ...") for every fault that `read_csv`, `read_jsonl` and `join_labels` know, and for a
    conversation in two splits.
    """
    folder = bundled("mini") if path is None else Path(path)
    kind, files = _find(folder)
    splits: dict[str, tuple[Dialogue, ...]] = {}
    seen: dict[str, tuple[str, int]] = {}
    for split, file in files.items():
        dialogues, lines = read_csv(file) if kind == "csv" else read_jsonl(file)
        for key, line in lines.items():
            if key in seen:
                other = "{}:{}".format(*seen[key])
                raise UserError(f"{file}:{line}: conversation {key} is also in another split ({other}); keep one")
            seen[key] = (str(file), line)
        splits[split] = tuple(dialogues)
    name = _name(kind, seen)
    report: dict[str, Any] = {split: _count(dialogues) for split, dialogues in splits.items()}
    report["known"] = {split: _compare(name, split, report[split]) for split in splits}
    report["notes"] = []
    report["labels"] = {}
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files.values()}
    if labels:
        splits = _join(splits, files, name, folder, report, digests)
    return Corpus(name, splits, digests, report)


def samples(dialogues: Iterable[Dialogue], protocol: bool = True) -> list[Sample]:
    """Every listener turn, in order. protocol: without the one test conversation that the published arrays lack."""
    return [
        Sample(f"{dialogue.id}:{turn + 1}", dialogue, turn)
        for dialogue in dialogues
        if not (protocol and dialogue.id.endswith(LEFT_OUT))
        for turn in range(1, len(dialogue.turns), 2)
    ]


def check(path: str | Path | None = None) -> dict[str, Any]:
    """What `rd data check` prints, JSON-serialisable: {name, sha256, splits, known, labels, notes, samples}."""
    corpus = read_corpus(path)
    return {
        "name": corpus.name,
        "splits": {split: corpus.report[split] for split in corpus.splits},
        "known": corpus.report["known"],
        "labels": corpus.report["labels"],
        "samples": {split: len(samples(dialogues)) for split, dialogues in corpus.splits.items()},
        "notes": corpus.report["notes"],
        "sha256": corpus.sha256,
    }


def bundled(name: str) -> Path:
    """Folder of package data: "mini" or "annotations"."""
    return Path(str(resources.files("rd.data"))) / name


def _find(folder: Path) -> tuple[str, dict[str, Path]]:
    """("csv" or "jsonl", {split: file})."""
    if folder.is_file() and folder.suffix == ".jsonl":
        return "jsonl", {folder.stem if folder.stem in SPLITS else "test": folder}
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give the folder of train.csv, valid.csv and test.csv (rd data fetch)"
        )
    for place in (folder, folder / "empathetic_dialogues"):
        files = {split: place / f"{split}.csv" for split in SPLITS}
        missing = [file.name for file in files.values() if not file.is_file()]
        if not missing:
            return "csv", files
        if len(missing) < len(SPLITS):
            raise UserError(f"{place / missing[0]}: no such file; the official release has train, valid and test.csv")
    files = {split: file for split in SPLITS if (file := folder / f"{split}.jsonl").is_file()}
    if not files:
        raise UserError(f"{folder}: no corpus here; expected train.csv, valid.csv and test.csv, or .jsonl files")
    return "jsonl", files


def _name(kind: str, ids: Iterable[str]) -> str:
    if kind == "jsonl":
        return "jsonl"
    return "mini" if all(key.startswith("mini:") for key in ids) else "empathetic_dialogues"


def _count(dialogues: Sequence[Dialogue]) -> dict[str, int]:
    lengths = [len(dialogue.turns) for dialogue in dialogues]
    return {
        "dialogues": len(lengths),
        "turns": sum(lengths),
        "listener_turns": sum(length // 2 for length in lengths),
    }


def _compare(name: str, split: str, count: dict[str, int]) -> str:
    if name not in KNOWN:
        return "own dialogues: no known counts"
    known = KNOWN[name][split]
    if tuple(count.values()) == known:
        return "as known (mini)" if name == "mini" else "as known (rebuilt copy)"
    if name != "mini" and count["dialogues"] == OFFICIAL[split]:
        return "official"
    return f"differs from the known counts: {known[0]} dialogues, {known[1]} turns, {known[2]} listener turns"


def _join(
    splits: dict[str, tuple[Dialogue, ...]],
    files: dict[str, Path],
    name: str,
    folder: Path,
    report: dict[str, Any],
    digests: dict[str, str],
) -> dict[str, tuple[Dialogue, ...]]:
    """Splits with labels; fills report["labels"], and notes labels that were made on another text."""
    found = {split: _label_file(file, split, name, folder) for split, file in files.items()}
    read = {split: read_labels(file) for split, (file, _) in found.items() if file is not None}
    ours = [split for split in read if found[split][1]]
    known = any(dialogue.id in read[split] for split in ours for dialogue in splits[split])
    # Bundled labels are offered to every corpus. If ids coincide and not one text does, it is simply another corpus;
    # if some texts agree and one does not, the corpus was damaged and join_labels refuses it.
    if known and not any(any_match(splits[split], read[split]) for split in ours):
        report["notes"].append("bundled labels not joined: no text of this corpus is one that they were made on")
        read = {split: labels for split, labels in read.items() if split not in ours}
    for split, labels in read.items():
        splits[split], report["labels"][split] = join_labels(splits[split], labels)
        file = found[split][0]
        digests[file.name if ".labels." in file.name else f"annotations/{file.name}"] = hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
    return splits


def _label_file(file: Path, split: str, name: str, folder: Path) -> tuple[Path | None, bool]:
    """(label file of a split or None, whether it is a bundled one)."""
    own = (
        file.with_name(f"{split}.labels.jsonl"),
        folder / "annotations" / f"{split}.jsonl",
        file.parent.parent / "annotations" / f"{split}.jsonl",
    )
    for candidate in own:
        if candidate.is_file():
            return candidate, False
    if name == "jsonl":
        return None, False
    packed = bundled("mini") / f"{split}.labels.jsonl" if name == "mini" else bundled("annotations") / f"{split}.jsonl"
    return (packed, True) if packed.is_file() else (None, False)
