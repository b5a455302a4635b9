"""Emotion-intent dynamics (App. B.2): is the first intent kept, corrected or broken, and by chance how often?

All from what a run wrote (samples.jsonl) and the gold labels of the corpus: no weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from rd.data.corpus import Sample
from rd.data.jsonl import read_objects
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS
from rd.metrics import paired_bootstrap

# What the second guess did, judged by the gold intent: (first right, final right, the same intent) -> fate.
FATES = {
    (True, True, True): "kept right",
    (False, False, True): "kept wrong",
    (False, True, False): "corrected",
    (True, False, False): "broken",
    (False, False, False): "moved, wrong still",
}
GROUPS = {"all": None, "emotion right": True, "emotion wrong": False}


def read_records(run: str | Path) -> dict[str, dict[str, Any]]:
    """samples.jsonl of a run folder by sample id. Raises UserError where it is missing or damaged."""
    if not (file := Path(run) / "samples.jsonl").is_file():
        raise UserError(f"{run}: no samples.jsonl here; rd evaluate {run}")
    found = {}
    for where, record in read_objects(file):
        if not isinstance(record.get("id"), str) or not isinstance(record.get("reply", 0), str | None):
            raise UserError(f"{where}: no id or no reply; write the file again (rd evaluate {run})")
        found[record["id"]] = record
    return found


def outcomes(records: Mapping[str, Mapping[str, Any]], chosen: Sequence[Sample]) -> pd.DataFrame:
    """A row for each sample with a gold intent: its gold labels, what the run named, and its fate.

    recognised: whether the emotion was; None without a gold one. Raises UserError where no record is of these samples,
    or where one does not name both intents.
    """
    rows = []
    for sample in chosen:
        if sample.target.intent is None or sample.id not in records:
            continue
        record, gold, felt = records[sample.id], sample.target.intent, sample.dialogue.emotion
        if record.get("first") not in INTENTS or record.get("final") not in INTENTS:
            raise UserError(f"{sample.id}: this run names no first and final intent; give one of reflectdiffu")
        first, final = record["first"], record["final"]
        known = {
            "sample": sample.id,
            "dialogue": sample.dialogue.id,
            "gold emotion": felt,
            "emotion": record["emotion"],
        }
        known |= {"recognised": None if felt is None else felt == record["emotion"]}
        fate = FATES[first == gold, final == gold, first == final]
        rows.append(known | {"gold intent": gold, "first": first, "final": final, "fate": fate})
    if not rows:
        raise UserError("no reply of this run is to a sample of this corpus with a gold intent; give its own corpus")
    return pd.DataFrame(rows).astype({"recognised": object})


def group(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one of GROUPS."""
    return frame if GROUPS[name] is None else frame[frame["recognised"].eq(GROUPS[name])]


def counts(frame: pd.DataFrame) -> dict[str, int]:
    """How many rows met each fate."""
    return {fate: int((frame["fate"] == fate).sum()) for fate in FATES.values()}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), in per cent; (nan, nan) of nothing."""
    if not n:
        return float("nan"), float("nan")
    low, high = proportion_confint(hits, n, method="wilson")
    return 100 * low, 100 * high


def by_chance(frame: pd.DataFrame, seed: int = 0, shuffles: int = 10_000) -> dict[str, float]:
    """How many rows would be corrected, and broken, if the second guess knew nothing of its sample.

    uniform: the new intent of a row that moved is any of the other eight. shuffled: the new intents of all rows that
    moved from one first intent are dealt anew among them; expected number, its 95 % interval (low, high), and p, the
    share of deals that correct as many or more. broken: as many rows move, but any of them.
    """
    moved = frame[frame["first"] != frame["final"]]
    rng, dealt, expected = np.random.default_rng(seed), np.zeros(shuffles), 0.0
    for _, rows in moved.groupby("first"):
        final, gold = rows["final"].to_numpy(), rows["gold intent"].to_numpy()
        expected += sum((final == intent).sum() * (gold == intent).sum() for intent in INTENTS) / len(rows)
        order = rng.permuted(np.tile(np.arange(len(rows)), (shuffles, 1)), axis=1)
        dealt += (final[order] == gold).sum(1)
    low, high = np.quantile(dealt, [0.025, 0.975])
    right = (frame["first"] == frame["gold intent"]).mean() if len(frame) else 0.0
    return {
        "uniform": float((moved["first"] != moved["gold intent"]).sum() / (len(INTENTS) - 1)),
        "shuffled": float(expected),
        "low": float(low),
        "high": float(high),
        "p": float((1 + (dealt >= (moved["fate"] == "corrected").sum()).sum()) / (1 + shuffles)),
        "broken": float(len(moved) * right),
    }


def gain(frame: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Points of intent accuracy that the second guess adds, with a bootstrap interval over dialogues."""
    right = {name: 100.0 * (frame[name] == frame["gold intent"]).to_numpy() for name in ("first", "final")}
    return paired_bootstrap(right["final"], right["first"], frame["dialogue"].tolist(), rng=seed)


def summary(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row for each of GROUPS that has samples: accuracies, moves, corrected and broken with intervals, and chance."""
    rows = []
    for name in GROUPS:
        if not len(part := group(frame, name)):
            continue
        found, n, chance, gained = counts(part), len(part), by_chance(part, seed), gain(part, seed)
        row = {"samples": name, "n": n}
        row |= {f"{which} right %": 100 * (part[which] == part["gold intent"]).mean() for which in ("first", "final")}
        row |= {"gain": gained["difference"], "gain low": gained["low"], "gain high": gained["high"]}
        touched = found["corrected"] + found["broken"]
        for key, hits, of in (
            ("moved", n - found["kept right"] - found["kept wrong"], n),
            ("corrected", found["corrected"], n),
            ("broken", found["broken"], n),
            ("corrected of both", found["corrected"], touched),
        ):
            low, high = wilson(hits, of)
            row |= {key: hits, f"{key} %": 100 * hits / of if of else None, f"{key} low": low, f"{key} high": high}
        rows.append(row | {f"chance: {key}": value for key, value in chance.items()})
    return pd.DataFrame(rows)


def by_emotion(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each gold emotion: n, recognised, the fates, corrected and broken in per cent with intervals."""
    rows = []
    for emotion in EMOTIONS:
        if not len(part := frame[frame["gold emotion"] == emotion]):
            continue
        found, n = counts(part), len(part)
        row = {"emotion": emotion, "n": n, "recognised": int(part["recognised"].eq(True).sum()), **found}
        for key in ("corrected", "broken"):
            low, high = wilson(found[key], n)
            row |= {f"{key} %": 100 * found[key] / n, f"{key} low": low, f"{key} high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def transitions(frame: pd.DataFrame) -> pd.DataFrame:
    """Samples that went from a first intent (row) to a final one (column), (I, I)."""
    found = pd.crosstab(frame["first"], frame["final"])
    return found.reindex(index=INTENTS, columns=INTENTS, fill_value=0)


def transition_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The transitions that occur as a list: by whether the emotion was recognised; with how many ended right."""
    rows = frame.assign(right=frame["final"] == frame["gold intent"], was=frame["first"] == frame["gold intent"])
    sums = {"n": ("right", "size"), "first right": ("was", "sum"), "final right": ("right", "sum")}
    return rows.groupby(["recognised", "first", "final"], dropna=False).agg(**sums).reset_index()
