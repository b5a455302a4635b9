"""A made-up study for the tests of rd.human: dialogues and replies of random words, two opponents."""

from __future__ import annotations

import json
import random
from pathlib import Path

from made_up import KNOWN, dialogues

from rd.data.corpus import Corpus, read_corpus, samples
from rd.data.jsonl import write_jsonl, write_lines
from rd.human.sheets import make

OURS, OTHERS = "reflectdiffu-s0", ("mtrs-s0", "case-s1")


def corpus(folder: Path, count: int = 60) -> Corpus:
    """A test split of made-up dialogues, written and read back."""
    if not (folder / "data").exists():
        (folder / "data").mkdir(parents=True)
        write_jsonl(folder / "data" / "test.jsonl", dialogues(count))
    return read_corpus(folder / "data", labels=False)


def run(folder: Path, name: str, data: Corpus, missing: int = 0) -> Path:
    """A run's folder with replies to all samples but the first `missing`, which are withheld."""
    chance = random.Random(name)
    (folder / name).mkdir()
    records = []
    for i, sample in enumerate(samples(data.splits["test"])):
        reply = None if i < missing else " ".join(chance.choices(KNOWN, k=chance.randint(3, 6)))
        records.append({"id": sample.id, "reply": reply})
    write_lines(folder / name / "samples.jsonl", records)
    return folder / name


def study(folder: Path, count: int = 10, others=OTHERS, **more) -> Path:
    """The folder of a study of ours against the others."""
    data = corpus(folder)
    runs = [run(folder, OURS, data, 3), *(run(folder, name, data) for name in others)]
    make(runs, data, folder / "study", count, **more)
    return folder / "study"


def lines(path: Path) -> list[dict]:
    """A JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
