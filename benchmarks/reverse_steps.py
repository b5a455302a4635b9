"""What a reply gains from more steps of the reverse diffusion: quality and time against their number, on one split.

    python benchmarks/reverse_steps.py RUN --data FOLDER [--split valid] [--count 640] [--out FOLDER]

Every sampler runs on the same weights, from t* (where the model was trained) and from the top (pure noise). Told: PPL
of the gold replies (macro), final intent against gold labels, cosine of Emo_s and Q_s, seconds for 64 contexts.
Numbers only, no text of the corpus.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from matplotlib.ticker import ScalarFormatter
from torch.nn import functional as F

from rd.answering import split_inputs
from rd.data.batch import in_order
from rd.figures import panels
from rd.metrics import perplexity
from rd.pipeline import open_run
from rd.provenance import provenance
from rd.publish import publish, publish_figure
from rd.run import device

DDIM = (1, 2, 4, 5, 10, 25, 50, 100)


@torch.inference_mode()
def quality(model, batches) -> dict[str, float]:
    """PPL, final intent, cosine and seconds a batch, with the sampler that the model has now."""
    sums, lengths, right, near, taken = [], [], [], [], []
    for batch in batches:
        nll, words, context = model.nll(batch)
        sums += nll.tolist()
        lengths += words.tolist()
        right.append(model.hits(batch, context)["acc_intent"])
        notes = context.notes
        near.append(F.cosine_similarity(notes["mimicked"], notes["split"], dim=-1).flatten())
        start = time.perf_counter()
        model.emu.mimic(notes["split"], notes["first"])
        taken.append(time.perf_counter() - start)
    return {
        "PPL": perplexity(sums, lengths)["ppl"],
        "Acc intent": 100 * torch.cat(right).float().mean().item(),
        "cosine": torch.cat(near).mean().item(),
        "seconds": min(taken),
    }


def sweep(model, batches) -> pd.DataFrame:
    """All samplers: sampler, from, steps, and `quality`."""
    own, rows = model.emu.settings, []
    for start in (own.start, own.steps - 1):
        chains = [("ddim", k) for k in DDIM] + [("ddpm", start + 1)]
        for sampler, k in chains:
            model.emu.settings = replace(own, sampler=sampler, start=start, chain_steps=k)
            rows.append({"sampler": sampler, "from level": start, "steps": k, **quality(model, batches)})
            print(rows[-1], flush=True)
    model.emu.settings = own
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame):
    """PPL, intent, cosine and seconds against steps."""
    fig, axes = panels(4, width=13, height=3.2)
    for ax, name in zip(axes, ("PPL", "Acc intent", "cosine", "seconds"), strict=True):
        for (start, sampler), part in table.groupby(["from level", "sampler"]):
            ax.plot(part["steps"], part[name], "o-" if sampler == "ddim" else "s", label=f"{sampler}, from {start}")
        ax.set(xscale="log", xlabel="steps", title=name + (" for 64 contexts" if name == "seconds" else ""))
        ax.xaxis.set_major_formatter(ScalarFormatter())
    axes[3].set(yscale="log")
    axes[0].legend(fontsize=8)
    return fig


def main() -> None:
    """Measure, print, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--data", default="")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--count", type=int, default=640)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    given = parser.parse_args()
    run, corpus, annotations = open_run(given.run, given.data, given.split)
    inputs = split_inputs(run, corpus, given.split, annotations)
    model = run.model.to(device()).eval()
    chosen = inputs.examples[given.split][: given.count]
    batches = [batch.to(device()) for batch in in_order(chosen, inputs.collate, 64)]
    table, facts = sweep(model, batches), provenance()
    notes = [
        f"{run.folder.name}, {given.split}, first {len(chosen)} samples; {facts['hardware']}, "
        f"{facts['threads']} threads, code {facts['code']}, {facts['date']}.",
        f"Level {run.config.model.diffusion.start} is t*, from which the model was trained to come back in "
        f"{run.config.model.diffusion.chain_steps} DDIM steps; seconds: the fastest batch of 64.",
    ]
    caption = "Quality against the steps of the reverse process"
    publish_figure(draw(table), given.out, "reverse_steps", caption, notes, table)
    print(publish(table, given.out, "reverse_steps", caption, notes, digits=3).read_text())


if __name__ == "__main__":
    main()
