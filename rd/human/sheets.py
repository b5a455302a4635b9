"""`rd human make`: blinded pairs of replies, in an order and on sides drawn for each rater (protocol, Human A/B).

One sample a dialogue, and no dialogue twice in a study: pairs are independent, as the sign test supposes, and a reply
that came back against a second opponent would give itself away.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from rd.data.corpus import Corpus, Sample, samples
from rd.data.jsonl import read_objects, whole
from rd.data.records import cut_text
from rd.errors import UserError
from rd.files import replace_file
from rd.human.guidelines import ASPECTS
from rd.human.store import NAME, create, sided
from rd.locks import locked
from rd.provenance import provenance

MOST_CONTEXT = 32_000  # characters; a cell of Excel's holds 32,767, and Python's reader of CSV takes 131,072
COLUMNS = ("rater", "pair", "context", "reply A", "reply B", *ASPECTS)
FORMULA = tuple("=+-@＝＋－＠\t\r\n")  # a spreadsheet would compute a cell that begins so, perhaps behind blanks


def make(
    runs: Sequence[Path], corpus: Corpus, out: Path, count: int = 100, raters: int = 3, seed: int = 0
) -> dict[str, Any]:
    """Database and sheets in `out`: `count` pairs of the first run against each of the others. Returns what was drawn.

    Raises UserError where a study lies there, runs do not fit the corpus or each other, or too few samples are left.
    """
    names = [Path(run).name for run in runs]
    for name, value in (("count", count), ("raters", raters), ("seed", seed + 1)):
        if value < 1:
            raise UserError(f"--{name} {value - (name == 'seed')}: give a whole number of at least {name != 'seed':d}")
    if len(set(names)) != len(names) or len(names) < 2:
        raise UserError(f"{', '.join(names)}: give two or more run folders of different names, ReflectDiffu's first")
    asked = {sample.id: sample for sample in samples(corpus.splits.get("test", ()))}
    read = [_replies(Path(run), corpus, asked) for run in runs]
    ours, report = read[0][0], {"withheld": {name: missing for name, (_, missing) in zip(names, read)}}
    chance = np.random.default_rng(seed)
    drawn = _draw(ours, {name: found for name, (found, _) in zip(names[1:], read[1:])}, asked, count, chance)
    report |= {"pairs": len(drawn), "equal": sum(ours[s.id] == theirs for _, s, theirs in drawn)}
    facts = {"runs": names, "corpus": corpus.name, "data": corpus.sha256, "seed": seed, **report}
    tables = _tables(drawn, ours, raters, chance) | {
        "facts": [(k, json.dumps(v)) for k, v in provenance(**facts).items()]
    }
    with locked(out):
        known = any((out / name).exists() for name in (NAME, f".{NAME}.part"))  # the latter: of a make that was killed
        if not known and any(out.glob("sheet-*.csv")):
            raise UserError(f"{out}: sheets without their database lie here; give another --out")
        try:
            create(out / NAME, tables, lambda: _write_sheets(out, tables))
        except BaseException:
            if not (out / NAME).exists():
                _remove_sheets(out)
            raise
    return report


def _write_sheets(out: Path, tables: dict[str, list[tuple]]) -> None:
    """A sheet a rater; those of a make that was killed go."""
    _remove_sheets(out)
    texts = {pair: (context, replies) for pair, _, context, *replies in tables["pairs"]}
    for code, *_ in tables["raters"]:
        mine = [(pair, first) for rater, _, pair, first in tables["shown"] if rater == code]
        rows = [(code, pair, texts[pair][0], *sided(*texts[pair][1], first)) for pair, first in mine]
        write_sheet(out / f"sheet-{code}.csv", rows)


def _remove_sheets(out: Path) -> None:
    for path in (*out.glob("sheet-*.csv"), *out.glob(".sheet-*.csv.part")):
        path.unlink()


def write_sheet(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """One rater's sheet for a spreadsheet, the aspects still empty. rows: rater, pair, context, reply A, reply B."""

    def write(beside: str) -> None:
        with open(beside, "w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets it is UTF-8
            lines = csv.writer(file)
            lines.writerow(COLUMNS)
            lines.writerows([rater, pair, *map(plain, texts), *[""] * len(ASPECTS)] for rater, pair, *texts in rows)

    replace_file(path, write)


def plain(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text


def _replies(run: Path, corpus: Corpus, asked: dict[str, Sample]) -> tuple[dict[str, str], int]:
    """(sample -> reply, how many are withheld) of a run's samples.jsonl."""
    file = run / "samples.jsonl"
    if not file.is_file():
        raise UserError(f"{run}: no samples.jsonl here; give a run that rd evaluate or rd prompt has answered")
    found, withheld = {}, 0
    for where, row in read_objects(file):
        if not isinstance(row.get("id"), str) or row["id"] not in asked:
            raise UserError(f"{where}: sample {row.get('id')} is not in the test split of {corpus.name}; check --data")
        if not isinstance(row.get("reply"), str):
            withheld += 1
        else:
            found[row["id"]] = cut_text(f"{where}: reply", whole(f"{where}: reply", row["reply"]))
    return found, withheld


def _draw(
    ours: dict[str, str], others: dict[str, dict[str, str]], asked: dict[str, Sample], count: int, chance: Any
) -> list[tuple[str, Sample, str]]:
    """(opponent, sample, its reply), shuffled."""
    turns: dict[str, list[str]] = {}
    for key, sample in asked.items():
        turns.setdefault(sample.dialogue.id, []).append(key)
    left = list(chance.permutation(sorted(turns)))
    drawn = []
    for name, theirs in others.items():
        fit = {d: [key for key in turns[d] if key in ours and key in theirs] for d in left}
        taken = [d for d in left if fit[d]][:count]
        if len(taken) < count:
            raise UserError(
                f"--count {count}: only {len(taken)} dialogues are left that both runs answered, {name} the other one; "
                "give fewer"
            )
        left = [d for d in left if d not in set(taken)]
        drawn += [(name, asked[key], theirs[key]) for key in (str(chance.choice(fit[d])) for d in taken)]
    return [drawn[i] for i in chance.permutation(len(drawn))]


def _tables(drawn: list, ours: dict[str, str], raters: int, chance: Any) -> dict[str, list[tuple]]:
    """Rows of the database. Each rater has an own order, and of every opponent half of the pairs on each side."""
    width = len(str(len(drawn)))
    names = [f"p{i:0{width}}" for i in range(1, len(drawn) + 1)]
    pairs = [(p, s.id, said(s), ours[s.id], theirs) for p, (_, s, theirs) in zip(names, drawn)]
    shown = []
    for rater in (f"r{i}" for i in range(1, raters + 1)):
        first = {}
        for opponent in {name: None for name, _, _ in drawn}:
            mine = [p for p, (name, _, _) in zip(names, drawn) if name == opponent]
            sides = (np.arange(len(mine)) + chance.integers(2)) % 2
            first |= dict(zip(mine, chance.permutation(sides).tolist()))
        shown += [(rater, i, p, first[p]) for i, p in enumerate(chance.permutation(names).tolist())]
    key = [(p, name) for p, (name, _, _) in zip(names, drawn)]
    seats = [(f"r{i}", None, 0) for i in range(1, raters + 1)]
    return {"pairs": pairs, "key": key, "raters": seats, "shown": shown}


def said(sample: Sample) -> str:
    """The turns before the reply, one a line; the last ones only where all are more than a cell holds."""
    texts = (" ".join(turn.text.split()) for turn in sample.context)
    lines = [f"{('Speaker', 'Listener')[i % 2]}: {text}" for i, text in enumerate(texts)]
    kept = sum(end <= MOST_CONTEXT for end in accumulate(len(line) + 1 for line in reversed(lines)))
    if kept == len(lines):
        return "\n".join(lines)
    logging.getLogger(__name__).warning("%s: %d turns before it; shown are the last %d", sample.id, len(lines), kept)
    return "\n".join([f"({len(lines) - kept} earlier turns)", *lines[len(lines) - kept :]])
