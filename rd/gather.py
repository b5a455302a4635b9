"""What tables and figures need of corpus and weights, read once and kept under results/<preset>: numbers and ids only.

    <run>/scores.csv                 each sample's nats and BLEU counts (`rd.scores`)
    gathered/intents.csv             listener turns of train by emotion and intent (E, I)
    gathered/confusion-<run>.csv     test samples by gold and named emotion (E, E)
    gathered/q-plane.csv             Q of test samples on two principal components, with the expert that answered
    gathered/trajectories.csv        the reverse chains of some of them, on two components of Q_s

Each CSV of gathered/ has its provenance beside it (.json). What is there stays; delete a file to have it made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA

from rd.annotation.annotations import label_intents
from rd.annotation.table1 import intent_counts
from rd.answering import answer, begun, likelihoods, split_inputs
from rd.blocks.experts import route
from rd.checkpoint import WEIGHTS
from rd.data.batch import in_order
from rd.data.corpus import Corpus, samples
from rd.data.text import normalise
from rd.dynamics import read_records
from rd.errors import UserError
from rd.files import replace_csv
from rd.forms import GAP, MEASURE, read_form
from rd.inputs import Inputs
from rd.labels import EMOTIONS, INTENTS
from rd.pipeline import Pipeline, scored, with_corpus
from rd.provenance import provenance
from rd.run import Run, device, save_json
from rd.scores import FILE, read_scores, score_rows, write_scores
from rd.significance import trained

KEPT = "gathered"
SHOWN = "reflectdiffu"  # whose Q and chains are drawn
PLANES = ("q-plane", "trajectories")
POINTS = 1500  # of them, evenly over the split
WALKS = 6


def gather(desk: Pipeline, runs: Path | None = None, split: str = "test") -> list[str]:
    """Make what is missing; returns one line for each thing that could not be made.

    runs: the folder of runs with their weights, and of the annotators (desk.folder). Without a run's weights its scores
    are those of the replies in samples.jsonl.
    """
    runs, gaps, views = runs or desk.folder, [], {}
    _keep(desk, "intents", lambda: _intents(desk, runs / "annotators"), gaps)
    for path in sorted(desk.folder.glob("*-s*/samples.jsonl")):
        if read_form(path.with_name("metrics.json"), {"acc_emo?": GAP}, MEASURE).get("acc_emo") is not None:
            name = f"confusion-{path.parent.name}"  # counted each time: the run may have been trained anew since
            _keep(desk, name, lambda path=path: _confusion(desk.corpus, path, split), gaps, anew=True)
    first = (SHOWN, "transformer")  # what the figures show, and what the others are set against
    for run in sorted(trained(desk.folder), key=lambda run: first.index(run.system) if run.system in first else 2):
        name, here = run.folder, (runs / run.folder / WEIGHTS).is_file()
        drawn = name != f"{SHOWN}-s{desk.seed}" or all(_file(desk, n).is_file() for n in PLANES)
        scores, _ = read_scores(desk.folder / name)
        if drawn and scores is not None and (_whole(scores) or not here):
            continue
        if here:
            _ask(desk, runs / name, split, gaps, views)
        else:
            write_scores(_kept_replies(desk.corpus, desk.folder / name, split), desk.folder / name / FILE)
            gaps.append(f"{name}: no {WEIGHTS} in {runs / name}: no nats, and BLEU of the replies in samples.jsonl")
    return gaps


def _ask(desk: Pipeline, weights: Path, split: str, gaps: list[str], views: dict) -> None:
    """Open a run; draw its planes where they are wanted and missing; answer and score where scores are not whole."""
    run, _, annotations = with_corpus(weights, desk.corpus, split, views)
    inputs, own = split_inputs(run, desk.corpus, split, annotations), desk.folder / weights.name
    if weights.name == f"{SHOWN}-s{desk.seed}" and not all(_file(desk, n).is_file() for n in PLANES):
        *tables, facts = planes(run, inputs, split)
        for name, table in zip(PLANES, tables, strict=True):
            _keep(desk, name, lambda table=table: (table, facts), gaps)
    scores, _ = read_scores(own)
    if scores is None or not _whole(scores):
        kept = begun(own / FILE, run, inputs, split)
        replies = [record["reply"] for record in answer(run, inputs, split, kept=kept)]
        write_scores(scored(inputs, split, replies, likelihoods(run, inputs, split, kept=kept)), own / FILE)
        kept.clear()
        gaps += [reason] if (reason := read_scores(own)[1]) else []


def _whole(scores: pd.DataFrame) -> bool:
    return bool(scores.notna().all(axis=None))


def _file(desk: Pipeline, name: str) -> Path:
    return desk.folder / KEPT / f"{name}.csv"


def _keep(desk: Pipeline, name: str, make: Callable[[], Any], gaps: list[str], anew: bool = False) -> None:
    """anew: also where it is kept already; it is written if it differs."""
    file = _file(desk, name)
    if file.is_file() and not anew:
        return
    made = make()
    if isinstance(made, str):
        gaps.append(f"{name}: {made}")
        return
    table, facts = made
    if file.is_file() and _same(file, table):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    save_json(file.with_suffix(".json"), provenance(**facts, corpus=desk.corpus.name, data=desk.corpus.sha256))
    replace_csv(file, table, float_format="%.4f")  # last: where it is, nothing is made again


def _same(file: Path, table: pd.DataFrame) -> bool:
    try:
        return pd.read_csv(file).equals(table)
    except ValueError:  # damaged
        return False


def _intents(desk: Pipeline, annotators: Path) -> tuple[pd.DataFrame, dict[str, Any]] | str:
    if not (annotators / "tagger" / WEIGHTS).is_file():
        return f"no intent tagger in {annotators}: train a model that reads annotations first, or give --runs"
    intents, sources = label_intents(desk.corpus, desk.config.annotators, annotators)
    train = desk.corpus.splits["train"]
    counts = intent_counts(train, intents).astype(int)
    table = pd.DataFrame(counts, columns=list(INTENTS))
    table.insert(0, "emotion", EMOTIONS)
    gold = sum(sources[sample.id] == "gold" for sample in samples(train))
    return table, {"turns": int(counts.sum()), "gold": gold, "split": "train"}


def _confusion(corpus: Corpus, file: Path, split: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Named against gold emotion of the records in samples.jsonl; one that names none is counted apart."""
    gold = {sample.id: sample.dialogue.emotion for sample in samples(corpus.splits[split])}
    records = read_records(file.parent)
    if unknown := records.keys() - gold.keys():
        raise UserError(f"{file}: {min(unknown)} is no sample of this corpus; give the one that was answered (--data)")
    named = [(gold[key], record.get("emotion")) for key, record in records.items()]
    pairs = [(EMOTIONS.index(g), EMOTIONS.index(p)) for g, p in named if g and p in EMOTIONS]
    counts = np.zeros((len(EMOTIONS), len(EMOTIONS)), dtype=int)
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    table = pd.DataFrame(counts, columns=list(EMOTIONS))
    table.insert(0, "gold", EMOTIONS)
    return table, {"run": file.parent.name, "samples": len(named), "unnamed": len(named) - len(pairs)}


def _kept_replies(corpus: Corpus, run: Path, split: str) -> pd.DataFrame:
    records = {key: record["reply"] for key, record in read_records(run).items()}
    chosen = [sample for sample in samples(corpus.splits[split]) if sample.id in records]
    gold = [normalise(sample.target.text) for sample in chosen]
    return score_rows([s.id for s in chosen], [records[s.id] for s in chosen], gold)


@torch.inference_mode()
def planes(run: Run, inputs: Inputs, split: str) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Points of Q (id, expert, named, x, y); points of the chains (polarity, id, step, x, y), step -1 = Q_s; facts.

    The chain is the model's own: from Q_s noised to t* in its few steps to Emo_s. Raises ValueError where it is not.
    """
    examples = inputs.examples[split][:: max(1, len(inputs.examples[split]) // POINTS)]
    model, found, ids = run.model.to(device()).eval(), [], []
    for batch in in_order(examples, inputs.collate, 64):
        batch = batch.to(device())
        notes = model.encode(batch.unlabelled()).notes
        found.append([notes["q"], route(batch.sentiment), notes["emotion"].argmax(-1), notes["first"]])
        found[-1] += [part.transpose(0, 1) for part in (notes["split"], notes["mimicked"])]  # (B, 2, D)
        ids += batch.ids
    q, way, named, first, states, emo = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    fit = PCA(2).fit(q.float())
    plane = pd.DataFrame({"id": ids, "expert": [("both", "positive", "negative")[w] for w in way.tolist()]})
    plane["named"] = [EMOTIONS[i] for i in named.tolist()]
    plane[["x", "y"]] = fit.transform(q.float())
    walks, share = [], []
    chain = _chain(model.cpu().emu, states.transpose(0, 1), first)  # (2, k + 2, n, D)
    if not torch.allclose(chain[:, -1], emo.transpose(0, 1).float(), atol=1e-3):
        raise ValueError("the chain that was watched does not end where the model's ended")
    for polarity, steps in zip(("positive", "negative"), chain, strict=True):
        axes = PCA(2).fit(steps[0])
        share.append([round(float(part), 4) for part in axes.explained_variance_ratio_])
        for i, key in enumerate(ids):
            whole = i % max(1, len(ids) // WALKS) == 0
            places = axes.transform(steps[:, i] if whole else steps[:1, i])
            walks += [(polarity, key, step - 1, *place) for step, place in enumerate(places)]
    facts = {"run": run.folder.name, "config": run.described["digest"], "steps": run.steps, "samples": len(ids)}
    facts |= {"explained": [round(float(part), 4) for part in fit.explained_variance_ratio_], "explained_s": share}
    return plane, pd.DataFrame(walks, columns=["polarity", "id", "step", "x", "y"]), facts


def _chain(emu: Any, states: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Q_s (2, n, D), Intent_first (n, I) -> Q_s, Q_s noised to t*, ..., Emo_s: (2, k + 2, n, D)."""
    path, settings = [states.float()], emu.settings

    def watched(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        path.append(x)
        return emu.denoiser(x, n, first)[0]

    level = torch.full((states.size(1),), settings.start)
    noised = emu.diffusion.noise(states, level, emu.still_noise.expand_as(states))
    path.append(emu.diffusion.ddim(noised, settings.start, settings.chain_steps, watched))
    return torch.stack(path, 1)
