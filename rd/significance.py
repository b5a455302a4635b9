"""Which differences between runs would survive another test set: paired bootstrap over dialogues (Koehn 2004).

Read from the runs' scores.csv alone. It tells of the chance of the test set; the chance of training needs several
seeds. p is not corrected for the number of comparisons.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rd.forms import FACTS, NUMBER, read_form, steps_taken
from rd.metrics import ORDERS, bleu_of_sums, paired_bootstrap
from rd.provenance import code_version, provenance
from rd.run import save_json
from rd.scores import FILE, bleu_sums, read_scores
from rd.tables import plain_name, split_name

KEPT = "significance.json"
LEVEL = 0.05
MARKS = {"transformer": "*", "reflectdiffu": "†"}  # each run against these, where they took as many steps
AGAINST = tuple(MARKS)
TESTED = {"bleu_1": "bleu_1", "bleu_2": "bleu_2", "bleu_3": "bleu_3", "bleu_4": "bleu_4", "ppl": "nats_a_word"}
FORM = {  # of what is kept
    "comparisons": [
        {
            **{"a": str, "b": str, "steps": [int, int], "scores": [str, str]},
            "a_minus_b": {"*": dict.fromkeys(("difference", "low", "high", "p"), NUMBER) | {"samples": int, "of": int}},
        }
    ],
    "missing": {"*": str},
    "provenance": FACTS | {"resamples": int},
}


@dataclass(frozen=True)
class Trained:
    """A run folder's name, its system (budgets apart: "transformer-long" is a transformer), seed and steps."""

    folder: str
    system: str
    seed: str
    steps: int


def trained(folder: Path) -> list[Trained]:
    """The runs in results/<preset> that have taken steps and been measured."""
    found = []
    for path in sorted(folder.glob("*-s*/metrics.json")):
        name, seed = split_name(path.parent.name)
        if steps := steps_taken(path.parent):
            found.append(Trained(path.parent.name, plain_name(name), seed, steps))
    return found


def pairs(runs: list[Trained]) -> list[tuple[Trained, Trained]]:
    """(run, the transformer, then ReflectDiffu of the same seed and steps).

    A ReflectDiffu without such a transformer is set against the next one that took more steps: at least not against
    one that had less.
    """
    found = []
    for run in runs:
        for rival in AGAINST[: AGAINST.index(run.system) if run.system in AGAINST else None]:
            others = [r for r in runs if r.system == rival and r.seed == run.seed and r.steps >= run.steps]
            other = min(others, key=lambda r: r.steps, default=None)
            if other and (other.steps == run.steps or run.system == AGAINST[1]):
                found.append((run, other))
    return found


def compare(first: pd.DataFrame, second: pd.DataFrame, resamples: int = 10_000) -> dict[str, Any]:
    """First minus second on the samples that both have: bleu_1..4 x 100 and nats_a_word, those that any sample has.

    Each as `rd.metrics.paired_bootstrap` gives it, with the number of samples, of how many that both runs name.
    """
    both, found = first.merge(second, on="id", suffixes=("", "_b"), validate="one_to_one"), {}
    b = both[[name for name in both if name.endswith("_b")]].rename(columns=lambda name: name.removesuffix("_b"))
    groups = both["id"].str.rpartition(":")[0]  # the dialogue of a sample
    told = (both["length"].notna() & b["length"].notna()).to_numpy()
    for n in ORDERS if told.any() else ():
        found[f"bleu_{n}"] = paired_bootstrap(
            bleu_sums(both[told]),
            bleu_sums(b[told]),
            groups[told].tolist(),
            resamples,
            statistic=lambda s, n=n: bleu_of_sums(s, n),
        ) | {"samples": int(told.sum()), "of": len(both)}
    rated = (both["nats"].notna() & b["nats"].notna()).to_numpy()
    if rated.any():
        own, other = both["nats"][rated], b["nats"][rated]
        found["nats_a_word"] = paired_bootstrap(own, other, groups[rated].tolist(), resamples)
        found["nats_a_word"] |= {"samples": int(rated.sum()), "of": len(both)}
    return found


def significance(folder: Path, resamples: int = 10_000) -> dict[str, Any]:
    """Every pair of `pairs`, kept in folder/significance.json; what is kept of unchanged scores is not made again.

    Returns {"comparisons": [{a, b, steps, scores, a_minus_b}], "missing": {run: reason}, "provenance"}.
    """
    runs = trained(folder)
    read = {run.folder: read_scores(folder / run.folder) for run in runs}
    file = folder / KEPT
    whole = [both for both in pairs(runs) if all(read[run.folder][0] is not None for run in both)]
    kept = read_kept(file) if whole and file.is_file() else {}
    known = {(c["a"], c["b"], *c["scores"]): c for c in kept.get("comparisons", ())}
    found = []
    for a, b in whole:
        digests = [hashlib.sha256((folder / run.folder / FILE).read_bytes()).hexdigest()[:12] for run in (a, b)]
        same = known.get((a.folder, b.folder, *digests))
        found.append(
            same
            or {
                "a": a.folder,
                "b": b.folder,
                "steps": [a.steps, b.steps],
                "scores": digests,
                "a_minus_b": compare(read[a.folder][0], read[b.folder][0], resamples),
                "code": code_version(),
            }
        )
    made = {"comparisons": found, "missing": {name: reason for name, (_, reason) in read.items() if reason}}
    if not found:  # without a word on disk: what others measured there stays
        return made | {"provenance": provenance(resamples=resamples)}
    if made != {name: kept.get(name) for name in made}:
        save_json(file, made | {"provenance": provenance(resamples=resamples)})
    return read_kept(file)


def read_kept(file: Path) -> dict[str, Any]:
    """What `significance` keeps. Raises UserError where it is damaged, or of another version."""
    return read_form(file, FORM, "delete it, and rd tables makes it again")


def marks(name: str, comparisons: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Metric -> marks of a system: significant, and in the same direction, for every seed that was compared.

    What was compared on a part of the samples bears no mark: replies that repeat the corpus are withheld, and what is
    left is another test set (on it CAB's BLEU-1 lies above the transformer's, on the whole below).
    """
    found: dict[str, dict[str, list[tuple[bool, bool]]]] = defaultdict(lambda: defaultdict(list))
    for one in comparisons:
        names = [split_name(one[side])[0] for side in "ab"]
        if name not in names or one["steps"][0] != one["steps"][1]:
            continue
        rival = plain_name(names[1 - names.index(name)])
        for metric, key in TESTED.items() if rival in MARKS else ():
            if (gap := one["a_minus_b"].get(key)) is not None:
                sure = gap["p"] < LEVEL and gap["samples"] == gap["of"]
                found[metric][rival].append((sure, gap["difference"] > 0))
    return {
        metric: text
        for metric, rivals in found.items()
        if (text := "".join(MARKS[r] for r, seen in sorted(rivals.items(), reverse=True) if _agree(seen)))
    }


def _agree(seen: Sequence[tuple[bool, bool]]) -> bool:
    return all(sure for sure, _ in seen) and len({side for _, side in seen}) == 1
