"""The stages from a corpus to the table. Each writes a folder and is skipped when its last file is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rd.annotation.annotations import (
    Annotations,
    Annotators,
    Tagger,
    annotate_corpus,
    label_intents,
    load_annotators,
    load_tagger,
)
from rd.annotation.distil import is_trained
from rd.annotation.view import View, view
from rd.answering import answer, begun, check_protocol, likelihoods, shareable, split_inputs
from rd.checkpoint import WEIGHTS
from rd.config import Config, KnowledgeConfig
from rd.data.corpus import Corpus, read_corpus, samples
from rd.data.intents import read_intents
from rd.data.jsonl import write_lines
from rd.data.text import normalise
from rd.errors import UserError
from rd.evaluation import measure
from rd.forms import read_form
from rd.generate import Decode
from rd.inputs import Inputs
from rd.knowledge.knowledge import Knowledge
from rd.knowledge.open import open_knowledge
from rd.locks import locked
from rd.processes import by_main, main_first
from rd.responder import Responder
from rd.run import FINISHED, MODELS, Run, load_run, save_json, train_run
from rd.scores import score_rows, write_scores
from rd.settings import settings

KNOWLEDGE = "knowledge"  # its folder, beside the runs


@dataclass(frozen=True)
class Pipeline:
    """One preset, seed, corpus ("" = the bundled mini corpus) and output folder; results lie in out/preset/."""

    preset: str = "mini"
    seed: int = 0
    data: str = ""
    out: str = "results"
    max_steps: int | None = None
    changes: tuple[str, ...] = ()  # such as "model.joint=true": see `rd.settings.settings`

    @cached_property
    def config(self) -> Config:
        """The preset's settings with this seed. Raises UserError for an unknown preset or setting."""
        return settings(self.preset, self.seed, self.max_steps, self.changes)

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus with its labels joined. Raises UserError for every fault of its files."""
        return read_corpus(self.data or None)

    @property
    def folder(self) -> Path:
        """out/preset"""
        return Path(self.out) / self.preset

    @cached_property
    def annotations(self) -> Annotations:
        """ERA's tags and vectors, p_intent, intent labels: the annotators are trained where they are missing."""
        given = (self.corpus, self.config.annotators, self.annotators_folder, self.empathetic_intents)
        return main_first(lambda: annotate_corpus(*given))

    @property
    def annotators_folder(self) -> Path:
        """out/preset/annotators"""
        return self.folder / "annotators"

    @property
    def tagger(self) -> Tagger | None:
        """The intent tagger, if it is trained already."""
        return _tagger(self.config, self.annotators_folder)

    @property
    def empathetic_intents(self) -> list[tuple[str, str]]:
        """EmpatheticIntents' train rows where the data folder has them, less the texts of valid and test turns."""
        folder = Path(self.data or ".") / "empathetic_intents"
        if not self.data or not folder.is_dir():
            return []
        held = {turn.text for split in ("valid", "test") for d in self.corpus.splits.get(split, ()) for turn in d.turns}
        return read_intents(folder, "train", held)

    def needed(self, model: str) -> Annotations | None:
        """The annotations where the model reads them. Raises UserError for an unknown model."""
        if model not in MODELS:
            raise UserError(f"{model}: no such model; choose one of {', '.join(MODELS)}")
        return self.annotations if MODELS[model].reads_annotations else None

    def intents(self, model: str) -> dict[str, str] | None:
        """Intents of all train replies, gold or the tagger's, where the model learns them and nothing else."""
        if not MODELS[model].learns_intents:
            return None
        given = (self.corpus, self.config.annotators, self.annotators_folder, self.empathetic_intents)
        return main_first(lambda: label_intents(*given))[0]

    def known(self, model: str) -> Knowledge | None:
        """Concepts, intensity and commonsense where the model reads them; computed and kept where they are missing."""
        return wanted(MODELS[model], self.knowledge) if MODELS[model].reads_knowledge else None

    @cached_property
    def knowledge(self) -> Knowledge:
        """Knowledge from the train split, or from the files that the settings name."""
        return main_first(lambda: open_knowledge(self.corpus, self.config.knowledge, self.folder / KNOWLEDGE))

    def run_folder(self, model: str) -> Path:
        """out/preset/<model>-s<seed>"""
        return self.folder / f"{model}-s{self.seed}"

    def trained(self, model: str, **changes: Any) -> Run:
        """The finished run of a model; trained where it is not finished. changes: ablation switches."""
        folder = self.run_folder(model + "".join(f"-{k}-{v}" for k, v in changes.items()))
        if not all((folder / name).exists() for name in (FINISHED, WEIGHTS)):  # a fresh clone has results, no weights
            config = replace(self.config, model=replace(self.config.model, **changes))
            needed = self.needed(model)
            more = (self.annotators_folder, self.known(model), self.intents(model))
            train_run(model, self.corpus, config, folder, needed, True, *more)
        run = load_run(folder)
        return replace(run, knowledge=own_knowledge(run, self.corpus))

    def evaluated(self, model: str, split: str = "test", **changes: Any) -> dict[str, Any]:
        """metrics.json of a model's run, with samples.jsonl beside it; made where missing. changes: as `trained`."""
        run = self.trained(model, **changes)
        target = run.folder / f"{result_name('metrics', split)}.json"
        if not target.exists():
            tagger = open_tagger(run, self.annotators_folder)
            evaluate_run(run, self.corpus, split, self.needed(model), tagger)
        return read_form(target, dict, "delete it, and it is made again")


def result_name(kind: str, split: str, corpus: str = "") -> str:
    """Name of a split's "metrics" or "samples"; of another corpus than the run's own, with that corpus' name."""
    return "-".join(filter(None, (kind, corpus, split if split != "test" else "")))


def open_annotators(run: Run) -> Annotators | None:
    """The annotators that a run was trained with; None if its model reads none. Raises UserError if they are gone."""
    if not type(run.model).reads_annotations:
        return None
    where = run.described.get("annotators")
    if where is None:
        raise UserError(f"{run.folder / 'config.json'}: does not say where the annotators lie; train the run again")
    return load_annotators(run.config.annotators, (run.folder / where).resolve())


def open_run(folder: str, data: str, split: str = "test") -> tuple[Run, Corpus, View | None]:
    """A run, a corpus ("" = mini), its split's annotations. Raises UserError for any that is missing."""
    return with_corpus(folder, read_corpus(data or None), split)


def with_corpus(
    folder: str | Path, corpus: Corpus, split: str = "test", views: dict[Path, View] | None = None
) -> tuple[Run, Corpus, View | None]:
    """`open_run` where the corpus is read already. views: keeps what annotators said, for the next run of the same."""
    run = load_run(folder)
    run = replace(run, knowledge=own_knowledge(run, corpus))
    if split not in corpus.splits:
        raise UserError(f"--split {split}: the corpus has no such split; it has {', '.join(corpus.splits)}")
    if not type(run.model).reads_annotations:
        return run, corpus, None
    views = {} if views is None else views
    where = (run.folder / run.described.get("annotators", "")).resolve()
    if where not in views:
        views[where] = view(open_annotators(run), samples(corpus.splits[split]))
    return run, corpus, views[where]


def own_knowledge(run: Run, corpus: Corpus) -> Knowledge | None:
    """What the run's model looks up, from the corpus that it was trained on; None if it looks up nothing.

    Raises UserError for another corpus, and where a file of knowledge has changed since.
    """
    if not type(run.model).reads_knowledge:
        return None
    if foreign(run, corpus):
        raise UserError(f"{run.folder}: {run.name} looks things up in its train split; give --data as it was trained")
    found = wanted(type(run.model), open_knowledge(corpus, run.config.knowledge, run.folder.parent / KNOWLEDGE))
    named = run.config.knowledge != KnowledgeConfig()  # else it comes from the train split, which is the same
    if named and run.described.get("knowledge", found.sources) != found.sources:
        raise UserError(f"{run.folder}: trained with {run.described['knowledge']}, and now there is {found.sources}")
    return found


def wanted(model: type[Responder], knowledge: Knowledge) -> Knowledge:
    """The parts of it that a model reads."""
    return knowledge if model.reads_commonsense else knowledge.without_commonsense()


def foreign(run: Run, corpus: Corpus) -> str:
    """A name for a corpus that the run was not trained on, else ""; those in JSONL are told apart by a hash."""
    if run.described.get("data", corpus.sha256) == corpus.sha256:
        return ""
    if corpus.name != "jsonl":
        return corpus.name
    return f"jsonl-{hashlib.sha256(json.dumps(corpus.sha256, sort_keys=True).encode()).hexdigest()[:8]}"


def open_tagger(run: Run, annotators: Path | None = None) -> Tagger | None:
    """The intent tagger that reads a run's replies: its own annotators' or the one beside it. None if there is none."""
    where = run.described.get("annotators", "../annotators")
    return _tagger(run.config, annotators or (run.folder / where).resolve())


def _tagger(config: Config, annotators: Path) -> Tagger | None:
    return load_tagger(config.annotators, annotators) if is_trained(annotators / "tagger") else None


def evaluate_run(
    run: Run,
    corpus: Corpus,
    split: str,
    annotations: Annotations | View | None,
    tagger: Tagger | None = None,
    neural: int | None = None,
) -> dict[str, Any]:
    """RUN/metrics.json, once the split is answered greedily into RUN/samples.jsonl (ids and replies only) and scored.

    Of several processes each answers and scores its share; the main one writes and measures. Batches that a killed
    process has finished are not computed again. tagger, neural: see `rd.evaluation.measure`.
    """
    check_protocol(corpus, split)
    inputs = main_first(lambda: split_inputs(run, corpus, split, annotations))  # knowledge is kept
    name = partial(result_name, split=split, corpus=foreign(run, corpus))
    metrics = run.folder / f"{name('metrics')}.json"
    with locked(run.folder):
        kept = begun(metrics, run, inputs, split)
        records = list(answer(run, inputs, split, Decode(), kept=kept))
        replies, rows = [record["reply"] for record in records], likelihoods(run, inputs, split, kept=kept)

        def told() -> dict[str, Any]:
            write_lines(run.folder / f"{name('samples')}.jsonl", shareable(records, corpus))
            write_scores(scored(inputs, split, replies, rows), run.folder / f"{name('scores')}.csv")
            found = measure(run, inputs, split, replies, rows, tagger, neural, kept)
            save_json(metrics, found)
            kept.clear()
            return found

        return by_main(told)


def scored(inputs: Inputs, split: str, replies: Sequence[str], rows: dict[str, np.ndarray]) -> pd.DataFrame:
    """scores.csv of a run's replies and of what `rd.answering.likelihoods` found."""
    chosen = samples(inputs.corpus.splits[split])
    gold = [normalise(sample.target.text) for sample in chosen]
    return score_rows([sample.id for sample in chosen], replies, gold, rows["nll"] / rows["words"])
