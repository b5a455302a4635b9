"""What one waits for: import, first reply of a chat, reading a corpus, caching BERT's vectors; memory of a training.

    python benchmarks/startup.py RUN [--data FOLDER] [--threads N] [--out FOLDER]

RUN: a finished run of a model that reads annotations. Every figure is of a process of its own (the median of three; of
one where it takes long).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd

CLOCK = "import time; clock = time.perf_counter; began = clock()\n"
IMPORT = CLOCK + "import rd; print(clock() - began)"
CHAT = CLOCK + (
    "from rd.chat import Chat; chat = Chat({run!r}, data={data!r}); loaded = clock()\n"
    "chat.say('My dog died last night and I feel so alone.'); print({told})"
)
READ = (
    "from rd.data.corpus import read_corpus; from rd.data.text import tokenize\n"
    + CLOCK
    + "corpus = read_corpus({data!r} or None)\n"
    "n = sum(len(tokenize(t.text)) for split in corpus.splits.values() for d in split for t in d.turns)\n"
    "print(clock() - began)"
)
CACHE = """
import tempfile, time, torch
from rd.annotation.distil import new_era
from rd.config import PAPER
from rd.data.corpus import read_corpus
from rd.data.store import FeatureStore
from rd.data.text import tokenize
from rd.models.bert import load_bert
torch.set_num_threads({threads})
era = new_era(PAPER.annotators, *load_bert(PAPER.annotators.bert)).eval()
turns = [t.text for split in read_corpus({data!r} or None).splits.values() for d in split for t in d.turns]
texts = sorted(set(turns), key=lambda text: (len(text), text))[::max(1, len(set(turns)) // 4096)]
lists = [tokenize(text) for text in texts]
pieces = [era.pieces(lists[i : i + 128]) for i in range(0, len(lists), 128)]
def bare():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for part in pieces:
            era.bert(input_ids=part.ids, attention_mask=part.attention)
def cached(key):
    with tempfile.TemporaryDirectory() as folder:
        FeatureStore.build(folder, key, texts, lambda chunk: era.annotate([tokenize(text) for text in chunk]))
ratios = []
for i in range(4):
    a = time.perf_counter(); bare(); b = time.perf_counter(); cached(str(i)); c = time.perf_counter()
    ratios.append((b - a) / (c - b))
print(sorted(ratios[1:])[1])
"""
TRAIN = """
import tempfile, threading, time, torch
from dataclasses import replace
from pathlib import Path
from rd.pipeline import Pipeline
from rd.run import train_run
torch.set_num_threads({threads})
out = Path({run!r}).resolve().parent
desk = Pipeline(out.name, 0, {data!r}, str(out.parent), 200)
config = replace(desk.config, final=replace(desk.config.final, steps=0), model=replace(desk.config.model, joint=False))
def own():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon"))) / 1024
most, going = [0.0], True
def watch():
    while going:
        most[0] = max(most[0], own()); time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
with tempfile.TemporaryDirectory() as folder:
    train_run("reflectdiffu", desk.corpus, config, Path(folder) / "run", desk.annotations)
print(max(most[0], own()))
"""


def taken(script: str, times: int) -> float:
    """The median of what fresh processes print last."""
    found = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"TQDM_DISABLE": "1"}
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found.append(float(done.stdout.split()[-1]))
    return statistics.median(found)


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", default="")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    given = parser.parse_args()
    filled = {"run": given.run, "data": given.data, "threads": given.threads}
    rows = [
        ("import rd", "s", "< 0.3", taken(IMPORT, 3)),
        ("rd chat: load", "s", "", taken(CHAT.format(**filled, told="loaded - began"), 3)),
        ("rd chat: first reply after the load", "s", "< 3", taken(CHAT.format(**filled, told="clock() - loaded"), 3)),
        ("read and tokenise the corpus", "s", "<= 10", taken(READ.format(**filled), 3)),
        ("caching of BERT's vectors / the bare forward's rate", "ratio", ">= 0.80", taken(CACHE.format(**filled), 1)),
        (
            "training of ReflectDiffu, 200 steps over the corpus: own memory",
            "MB",
            "<= 2000",
            taken(TRAIN.format(**filled), 1),
        ),
    ]
    from rd.provenance import provenance
    from rd.publish import publish

    facts = provenance()
    table = pd.DataFrame(rows, columns=["what", "unit", "bar", "measured"])
    notes = [
        f"{facts['hardware']}, {given.threads} threads, code {facts['code']}, {facts['date']}; corpus: "
        f"{'EMPATHETICDIALOGUES' if given.data else 'mini'}; run: {Path(given.run).name}.",
        "Own memory: anonymous pages at their most; vectors mapped from disk come on top and can be taken back.",
    ]
    print(publish(table, given.out, "startup", "What one waits for", notes).read_text())
    print(json.dumps(dict(zip(table["what"], table["measured"], strict=True)), indent=1))


if __name__ == "__main__":
    main()
