"""What a run scored on each test sample, RUN/scores.csv: ids and numbers, no word of anyone.

nats: of the gold reply, a word of it (with its end). length, reference: words of our greedy reply and of the gold one;
match_n: n-grams of ours that the gold one has. From these any two runs can be compared without weights or corpus. A
reply that nobody kept leaves its numbers empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rd.files import replace_csv
from rd.forms import GAP, MEASURE, read_form
from rd.metrics import ORDERS, bleu_of_sums, bleu_statistics

FILE = "scores.csv"
MATCHES = [f"match_{n}" for n in ORDERS]
REPLY = ["length", "reference", *MATCHES]


def score_rows(
    ids: Sequence[str], replies: Sequence[str | None], references: Sequence[str], nats: ArrayLike | None = None
) -> pd.DataFrame:
    """One row a sample, in order. Texts: tokens joined by spaces; a reply of None is one that nobody kept."""
    kept = [i for i, reply in enumerate(replies) if reply is not None]
    table = pd.DataFrame({"id": list(ids), "nats": np.full(len(ids), np.nan) if nats is None else np.asarray(nats)})
    table[REPLY] = np.nan
    if kept:
        found = bleu_statistics([replies[i] for i in kept], [references[i] for i in kept])
        table.loc[kept, REPLY] = found[:, : len(REPLY)]
    return table


def write_scores(table: pd.DataFrame, file: Path) -> None:
    """Nats to five digits, counts as whole numbers."""
    table = table.assign(nats=table["nats"].round(5), **{name: table[name].astype("Int64") for name in REPLY})
    replace_csv(file, table)


def read_scores(run: Path) -> tuple[pd.DataFrame | None, str]:
    """The scores of a run folder, or None and the reason: none there, or not those of its metrics.json.

    Raises UserError where metrics.json is damaged.
    """
    if not (run / FILE).is_file():
        return None, f"no {FILE} in {run.name}: rd tables --data DIR --runs DIR makes it"
    metrics = read_form(run / "metrics.json", {"n": int, "ppl?": GAP, "bleu_2?": GAP}, MEASURE)
    try:
        table = pd.read_csv(run / FILE)
        table[["nats", *REPLY]] = table[["nats", *REPLY]].astype(float)
        fits = len(table) == metrics["n"] and table["id"].is_unique
        if fits and table["nats"].notna().all():
            fits = np.isclose(np.exp(table["nats"].mean()), metrics["ppl"], rtol=0.005)
        if fits and table["length"].notna().all():
            fits = np.allclose(bleu_of_sums(bleu_sums(table).sum(0)[None], 2), metrics["bleu_2"], atol=0.05)
    except (ValueError, KeyError, TypeError, OverflowError):  # damaged: no table, or not these columns
        fits = False
    return (table, "") if fits else (None, f"{run.name}/{FILE} is not of its metrics.json: delete it")


def bleu_sums(table: pd.DataFrame) -> NDArray[np.float64]:
    """(n, 10) as `rd.metrics.bleu_statistics` gives it: a text of k words has k - n + 1 n-grams."""
    counts = table[REPLY].to_numpy(dtype=np.float64)
    grams = np.stack([np.maximum(0, counts[:, 0] - n + 1) for n in ORDERS], 1)
    return np.concatenate([counts, grams], 1)
