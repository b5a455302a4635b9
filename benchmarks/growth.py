"""Cost as the work grows: seconds and peak memory of training, answering and annotating 1, 2, 4 and 8 times the data.

    python benchmarks/growth.py [--threads N] [--out FOLDER]

Each point is a process of its own (`--one`), so that its peak memory (resident, mapped files too) is its own. Data:
random words shaped like EMPATHETICDIALOGUES; for annotation the turns of the mini corpus, over and over. What a process
needs before any work (libraries, model) is measured with no work at all and told beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

TIMES = (1, 2, 4, 8)
TASKS = {"training": 512, "answering": 256, "annotating": 512}  # task -> examples, replies, turns of 1x


def work(task: str, count: int) -> float:
    """Seconds of so much work; what comes before is not timed."""
    from speed import WHOLE, batches_of, cached, ending, training
    from synthetic import CACHED, build, synthetic, vocabulary

    from rd.generate import Decode

    if task == "annotating":
        return annotating(count)
    data = synthetic(max(count, 64), vocabulary(), CACHED.model.bert_width)
    if task == "training":
        return count / training(WHOLE, CACHED, data, count // CACHED.train.batch) if count else 0.0
    model = ending(build(WHOLE, CACHED, data[1].vocab))
    answer = cached(model, Decode())
    batches = batches_of(data, count, 64)
    start = time.perf_counter()
    for batch in batches:
        answer(batch)
    return time.perf_counter() - start


def annotating(count: int) -> float:
    """ERA's reasons and vectors of so many turns, by the offline BERT (untrained heads: the cost is the same)."""
    from rd.annotation.distil import new_era
    from rd.config import PAPER
    from rd.data.corpus import read_corpus
    from rd.data.store import FeatureStore
    from rd.data.text import tokenize
    from rd.models.bert import load_bert

    turns = [t.text for split in read_corpus(None).splits.values() for d in split for t in d.turns]
    texts = [f"{i} {turns[i % len(turns)]}" for i in range(count)]
    era = new_era(PAPER.annotators, *load_bert(PAPER.annotators.bert))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if texts:
            FeatureStore.build(folder, "growth", texts, lambda chunk: era.annotate([tokenize(text) for text in chunk]))
        return time.perf_counter() - start


def measured(task: str, count: int, threads: int) -> dict:
    """One point, in a process of its own."""
    command = [sys.executable, __file__, "--one", task, str(count), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TQDM_DISABLE": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def draw(table: pd.DataFrame):
    """Seconds and memory against the size; dashed: linear from the first point."""
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    from rd.figures import panels

    fig, (left, right) = panels(2, width=9, height=3.4)
    for task, part in table.groupby("task", sort=False):
        part = part[part["times"] > 0]
        (line,) = left.plot(part["times"], part["seconds"], "o-", label=task)
        first = part["seconds"].iloc[0] / part["times"].iloc[0]
        left.plot(part["times"], first * part["times"], "--", color=line.get_color(), alpha=0.5)
        right.plot(part["times"], part["peak MB"], "o-", label=task)
    left.set(xscale="log", yscale="log", xlabel="times the data", ylabel="seconds", title="time (dashed: linear)")
    right.set(xscale="log", xlabel="times the data", ylabel="MB", title="peak memory", ylim=(0, None))
    for ax in (left, right):
        ax.set_xticks(TIMES)
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
    left.legend()
    return fig


def main() -> None:
    """Measure, print, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--one", nargs=2, metavar=("TASK", "COUNT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        taken = work(given.one[0], int(given.one[1]))
        from rd.memory import peak_mb

        print(json.dumps({"seconds": taken, "peak": peak_mb()}))
        return
    from rd.provenance import provenance
    from rd.publish import publish, publish_figure

    facts, rows = provenance(), []
    for task, base in TASKS.items():
        for times in (0, *TIMES):
            found = measured(task, base * times, given.threads)
            rows.append({"task": task, "times": times, "count": base * times} | {"seconds": found["seconds"]})
            rows[-1] |= {
                "a second": base * times / found["seconds"] if times else np.nan,
                "peak MB": round(found["peak"]),
            }
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    notes = [
        f"{facts['hardware']}, {facts['threads']} threads, code {facts['code']}, {facts['date']}.",
        "ReflectDiffu, BERT's vectors cached, batch 32 (training) and 64 (answering); annotating: ERA's tags and "
        "vectors. Count: examples, replies, turns. 0 times: what is there before any work.",
    ]
    publish_figure(draw(table), given.out, "growth", "Cost as the work grows", notes, table)
    print(publish(table, given.out, "growth", "Cost as the work grows", notes).read_text())


if __name__ == "__main__":
    main()
