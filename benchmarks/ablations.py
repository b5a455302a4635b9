"""Which of the paper's ablation claims hold: each run without a part against the whole one of the same budget.

    python benchmarks/ablations.py --data FOLDER [--results results/paper] [--whole reflectdiffu-short-s0]

Read from samples.jsonl alone: named emotion and final intent against gold labels, Dist-1 and Dist-2 of the replies
that both runs have. Differences (without the part minus with it) and their 95 % intervals by paired bootstrap over
dialogues. A resample holds some replies twice, which lowers Dist: so dialogues are drawn without replacement, half of
them, and the spread of halves is that of wholes drawn anew (Politis and Romano 1994), here rather too wide, as Dist of
a half is larger. BLEU and nats: significance.md beside the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from rd.data.corpus import Corpus, read_corpus, samples
from rd.metrics import distinct, paired_bootstrap
from rd.provenance import provenance
from rd.publish import publish

PARTS = {"era": "ERA", "experts": "C-Experts", "intent_twice": "Intent twice", "emu": "EMU"}
HALVES = 1000


def read(folder: Path) -> dict[str, dict]:
    """Records of a run by sample id."""
    return {row["id"]: row for row in map(json.loads, (folder / "samples.jsonl").read_text("utf-8").splitlines())}


def dist_gap(a: list[str], b: list[str], dialogues: list[str], n: int, seed: int = 0) -> tuple[float, float, float]:
    """Dist-n of a - Dist-n of b, and its 95 % interval from half samples of the dialogues."""
    names, member = np.unique(np.array(dialogues), return_inverse=True)
    rows, rng, gaps = np.arange(len(a)), np.random.default_rng(seed), []
    halves = [np.isin(member, rng.permutation(len(names))[: len(names) // 2]) for _ in range(HALVES)]
    ids = [_grams(replies, n) for replies in (a, b)]
    for half in halves:
        gaps.append(_dist(ids[0], rows[half]) - _dist(ids[1], rows[half]))
    whole = distinct(a, n) - distinct(b, n)
    low, high = np.quantile(np.array(gaps) - np.mean(gaps), [0.025, 0.975])
    return whole, whole + low, whole + high


def _grams(replies: list[str], n: int) -> list[np.ndarray]:
    numbers: dict[tuple[str, ...], int] = {}
    words = [reply.split() for reply in replies]
    grams = [zip(*(each[i:] for i in range(n)), strict=False) for each in words]
    return [np.array([numbers.setdefault(gram, len(numbers)) for gram in each], dtype=np.int64) for each in grams]


def _dist(grams: list[np.ndarray], rows: np.ndarray) -> float:
    drawn = np.concatenate([grams[i] for i in rows])
    return 100 * len(np.unique(drawn)) / len(drawn)


def compare(whole: dict[str, dict], without: dict[str, dict], corpus: Corpus, split: str) -> dict[str, str]:
    """Differences of Acc emo, Acc intent (points), Dist-1 and Dist-2, each with its interval."""
    chosen = [s for s in samples(corpus.splits[split]) if s.id in whole and s.id in without]

    def accuracy(name: str, gold: dict[str, str | None]) -> str:
        known = [s.id for s in chosen if gold[s.id]]
        right = [[100.0 * (run[key][name] == gold[key]) for key in known] for run in (without, whole)]
        found = paired_bootstrap(*right, [key.rpartition(":")[0] for key in known])
        return _cell(found["difference"], found["low"], found["high"])

    both = [s.id for s in chosen if whole[s.id]["reply"] and without[s.id]["reply"]]
    said = [[run[key]["reply"] for key in both] for run in (without, whole)]
    row = {
        "Acc emo": accuracy("emotion", {s.id: s.dialogue.emotion for s in chosen}),
        "Acc intent": accuracy("final", {s.id: s.target.intent for s in chosen}),
    }
    for n in (1, 2):
        row[f"Dist-{n}"] = _cell(*dist_gap(*said, [key.rpartition(":")[0] for key in both], n))
    return row


def _cell(gap: float, low: float, high: float) -> str:
    return f"{gap:+.2f} [{low:+.2f}, {high:+.2f}]" + (" *" if low > 0 or high < 0 else "")


def main() -> None:
    """Compare, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="")
    parser.add_argument("--results", type=Path, default=Path("results/paper"))
    parser.add_argument("--whole", default="reflectdiffu-short-s0")
    given = parser.parse_args()
    corpus, whole, rows = read_corpus(given.data or None), read(given.results / given.whole), []
    for part, shown in PARTS.items():
        without = read(given.results / f"reflectdiffu-{part}-False-s0")
        rows.append({"without": shown, **compare(whole, without, corpus, "test")})
    facts = provenance()
    notes = [
        f"Without the part minus {given.whole} (the same 4,000 + 1,000 steps, seed 0); 95 % intervals over the "
        "dialogues of the test split, *: without 0. The chance of training needs several seeds.",
        f"code {facts['code']}, {facts['date']}.",
    ]
    caption = "What each part of ReflectDiffu is worth"
    print(publish(pd.DataFrame(rows), given.results, "ablations", caption, notes).read_text())


if __name__ == "__main__":
    main()
