"""Which differences between two runs would survive another test set: paired bootstrap over dialogues (Koehn 2004).

    python benchmarks/significance.py RUN_A RUN_B --data FOLDER [--out results/paper/significance.json]

BLEU-1..4 of greedy replies and nats a word of the gold replies, A minus B, each with its 95 % interval and p. It tells
of the chance of the test set alone; the chance of training needs several seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rd.data.corpus import samples
from rd.data.text import normalise
from rd.evaluation import answer, likelihoods, split_inputs
from rd.metrics import bleu_of_sums, bleu_statistics, paired_bootstrap
from rd.pipeline import open_run
from rd.provenance import provenance
from rd.run import save_json


def measured(folder: str, data: str) -> tuple[Any, Any, list[str], list[str]]:
    """(BLEU statistics (n, 10), nats a word (n,), dialogue ids, [run, config]) of a run on test."""
    run, corpus, annotations = open_run(folder, data, "test")
    inputs, chosen = split_inputs(run, corpus, "test", annotations), samples(corpus.splits["test"])
    replies = [record["reply"] for record in answer(run, inputs, "test")]
    rows = likelihoods(run, inputs, "test")
    sums = bleu_statistics(replies, [normalise(sample.target.text) for sample in chosen])
    return sums, rows["nll"] / rows["words"], [s.dialogue.id for s in chosen], [run.name, run.described["digest"]]


def compare(first: tuple, second: tuple) -> dict[str, Any]:
    """Every metric's difference."""
    found = {
        f"bleu_{n}": paired_bootstrap(first[0], second[0], first[2], statistic=lambda s, n=n: bleu_of_sums(s, n))
        for n in (1, 2, 3, 4)
    }
    found["nats_a_word"] = paired_bootstrap(first[1], second[1], first[2])
    return {"a": first[3], "b": second[3], "a_minus_b": found, "provenance": provenance()}


def main() -> None:
    """Compare, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, metavar="RUN")
    parser.add_argument("--data", default="")
    parser.add_argument("--out", default="results/paper/significance.json", type=Path)
    given = parser.parse_args()
    save_json(given.out, compare(*(measured(folder, given.data) for folder in given.runs)))
    print(given.out.read_text())


if __name__ == "__main__":
    main()
