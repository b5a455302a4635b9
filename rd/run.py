"""A run is a folder: train one model, answer, measure. Names become models here and nowhere else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rd.annotation.annotations import load_era
from rd.annotation.distil import new_era
from rd.baselines.cab import CAB
from rd.baselines.case import CASE
from rd.baselines.empdg import EmpDG
from rd.baselines.kemp import KEMP
from rd.baselines.mime import MIME
from rd.baselines.moel import MoEL
from rd.baselines.mtrs import MTRS
from rd.checkpoint import WEIGHTS, load_weights
from rd.config import Config, digest, from_dict
from rd.data.corpus import Corpus, samples
from rd.data.jsonl import parse
from rd.data.text import Vocabulary
from rd.data.vectors import word_vectors
from rd.errors import UserError
from rd.files import crc32, replace_text
from rd.forms import steps_taken
from rd.inputs import prepare
from rd.knowledge.knowledge import Knowledge
from rd.locks import locked
from rd.memory import keep_freed_memory, peak_mb
from rd.models.bert import load_bert
from rd.models.reflectdiffu import ReflectDiffu
from rd.models.transformer import Transformer
from rd.processes import by_main, count, main_first
from rd.provenance import provenance
from rd.responder import Responder
from rd.stages import train_stages
from rd.train import read_history

FINISHED = "machine.json"
MODELS: dict[str, type[Responder]] = {
    "reflectdiffu": ReflectDiffu,
    "transformer": Transformer,
    "mtrs": MTRS,
    "mime": MIME,
    "case": CASE,
    "kemp": KEMP,
    "moel": MoEL,
    "cab": CAB,
    "empdg": EmpDG,
}


def runs_bert(name: str, config: Config) -> bool:
    """Whether a model has a BERT of its own, which learns along in the final stage."""
    return config.model.joint and config.model.era and MODELS[name].reads_annotations


def train_run(
    name: str,
    corpus: Corpus,
    config: Config,
    out: Path,
    annotations: Any = None,
    resume: bool = False,
    annotators: Path | None = None,
    knowledge: Knowledge | None = None,
    intents: dict[str, str] | None = None,
) -> Responder:
    """Train model `name` into the folder `out`: config.json, vocabulary.json, history.jsonl, best.safetensors.

    annotators: the folder of the models behind `annotations`; its place relative to `out` goes into config.json.
    intents: of train replies by sample id, for a model that learns them and reads no annotations.
    Raises UserError for an unknown model, for what it lacks, and where another process writes into `out`.
    """
    if name not in MODELS:
        raise UserError(f"{name}: no such model; choose one of {', '.join(MODELS)}")
    with locked(out):
        _check_folder(out, config, corpus, resume, name)
        if _is_finished(out, config):
            return load_run(out).model
        _check_inputs(name, corpus, config, annotations, knowledge)
        given = {"annotations": annotations, "knowledge": knowledge, "intents": intents}
        inputs = main_first(lambda: prepare(corpus, config, splits=("train", "valid"), **given))  # knowledge is kept
        generator = torch.Generator().manual_seed(config.train.seed)
        vectors, report = word_vectors(inputs.vocab, config.data.vectors, config.model.width, generator)
        extra = {} if annotations is None else {"reference": annotations.reference}
        if runs_bert(name, config):
            extra["era"] = load_era(config.annotators, annotators)
        with torch.random.fork_rng():
            torch.manual_seed(config.train.seed)
            model = MODELS[name](config.model, vectors, **extra)
        described = {"model": name, "config": asdict(config), "digest": config.digest(), "vectors": report}
        described |= {"corpus": corpus.name, "data": corpus.sha256}
        if annotations is not None and annotators is not None:
            described["annotators"] = os.path.relpath(annotators, out)
        if knowledge is not None:
            described["knowledge"] = dict(knowledge.sources)
        by_main(lambda: _begin(out, inputs.vocab, described))

        # before the loop: the code that trains is the one that was loaded
        facts = provenance(model=name, config=config.digest(), seed=config.train.seed, data=corpus.sha256)
        trained = train_stages(model, inputs, config, out, resume, name, runs_bert(name, config))
        trained["parameters"] = sum(p.numel() for p in model.parameters())
        trained |= {"processes": count()} if count() > 1 else {}
        trained["process_peak_mb"] = round(peak_mb())  # of all that this process did
        if torch.cuda.is_available():
            trained["gpu_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        by_main(lambda: save_json(out / FINISHED, {**facts, **trained}))  # written last: it marks the end
    return model


def _check_inputs(name: str, corpus: Corpus, config: Config, annotations: Any, knowledge: Knowledge | None) -> None:
    """Raises UserError where there is nothing to learn from, or the annotators do not fit."""
    for what, wanted, given in (
        ("the annotations", MODELS[name].reads_annotations, annotations),
        ("knowledge", MODELS[name].reads_knowledge, knowledge),
    ):
        if wanted and given is None:
            raise UserError(f"{name} reads {what}, and none is given")
    for split in ("train", "valid"):
        if not samples(corpus.splits.get(split, ())):
            raise UserError(f"{corpus.name}: no listener turn in a {split} split; training needs train and valid")
    if annotations is not None and annotations.store.width != config.model.bert_width:
        raise UserError(
            f"{config.annotators.bert}: its vectors are {annotations.store.width} wide and the model expects "
            f"{config.model.bert_width}; give --set model.bert_width={annotations.store.width}"
        )


def _begin(out: Path, vocab: Vocabulary, described: dict[str, Any]) -> None:
    """Write vocabulary and config.json; figures of weights that are gone, or will move, go."""
    vocab.save(out / "vocabulary.json")
    for pattern in (FINISHED, "metrics*.json", "samples*.jsonl", "scores*.csv", ".*.rows*"):
        for stale in out.glob(pattern):
            stale.unlink()
    save_json(out / "config.json", {**described, "vocabulary": _check(out)})


def _check_folder(out: Path, config: Config, corpus: Corpus, resume: bool, name: str) -> None:
    """Nothing is written over; a run goes on with the settings and data it began with (its steps may change)."""
    begun = [name for name in ("state.pt", FINISHED, "metrics.json") if (out / name).exists()]
    if begun and not resume:
        raise UserError(
            f"{out}: a run lies here already ({begun[0]}); give --resume to go on with it, or another --out"
        )
    if not (out / "state.pt").exists():  # of a clone: figures without weights are made again
        return
    described, read, _ = _described(out)
    file, before = out / "config.json", asdict(read)
    if described["model"] != name:
        raise UserError(f"{out}: a run of {described['model']} lies here; give another --out for {name}")
    if config.train.steps < (done := _steps_done(out, config)):
        raise UserError(
            f"--max-steps {config.train.steps}: {done} steps are done in {out}; give more, or another --out"
        )
    before["train"]["steps"] = config.train.steps
    now = asdict(config)
    if changed := [part for part in ("train", "final", *_parts(name)) if before[part] != now[part]]:
        raise UserError(f"{file}: this run was begun with other settings ({', '.join(changed)}); give another --out")
    if described.get("data", corpus.sha256) != corpus.sha256:
        raise UserError(f"{file}: this run was begun on other data ({described['corpus']}); give another --out")


def _parts(name: str) -> list[str]:
    """The parts of the settings that decide what a model's weights mean."""
    model = MODELS[name]
    return ["data", "model", *["annotators"] * model.reads_annotations, *["knowledge"] * model.reads_knowledge]


def _described(folder: Path) -> tuple[dict[str, Any], Config, type[Responder]]:
    """config.json of a run, its settings and its model. Raises UserError for a damaged one, or another version's."""
    file = folder / "config.json"
    try:
        found = parse(file.read_bytes())
        values, name = found["config"], found["model"]
        config, model = from_dict(Config, values), MODELS[name]
        if digest(values) != found["digest"]:
            raise ValueError("its digest is not that of its settings")
        now = asdict(config)
        if gone := [f"{part}.{key}" for part in _parts(name) for key in now[part] if key not in values.get(part, {})]:
            raise KeyError(f"no {', '.join(gone)}")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: damaged, or not a run of this version ({error}); train it again in another folder"
        ) from None
    return found, config, model


def _check(folder: Path) -> str:
    return f"{crc32(folder / 'vocabulary.json'):08x}"


def _steps_done(out: Path, config: Config) -> int:
    """Steps of the first stage that its state holds, by the history."""
    steps = [row["step"] for row in read_history(out / "history.jsonl")]
    return max((step for step in steps if step % config.train.save_every == 0), default=0)


def _is_finished(out: Path, config: Config) -> bool:
    """Whether just this run lies there, all of it: then its figures stay."""
    if not all((out / name).is_file() for name in ("config.json", FINISHED, WEIGHTS, "state.pt")):
        return False
    return parse((out / "config.json").read_text("utf-8"))["digest"] == config.digest()


def save_json(path: Path, value: Any) -> None:
    """Write beside, then rename: the file is whole or absent. Raises ValueError for NaN."""
    replace_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Run:
    """A finished run, read back."""

    folder: Path
    name: str
    config: Config
    vocab: Vocabulary
    model: Responder
    described: dict[str, Any]
    knowledge: Knowledge | None = None  # where the model reads it

    @property
    def steps(self) -> int | None:
        """Steps of training, as the end of the run noted them; None where a run was not finished."""
        return steps_taken(self.folder)


def load_run(folder: str | Path) -> Run:
    """Read a run's config, vocabulary and best weights. Raises UserError with what is missing."""
    keep_freed_memory()
    folder = Path(folder)
    for name in ("config.json", "vocabulary.json", WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} here; give the folder of a run that `rd train` has finished")
    described, config, model_class = _described(folder)
    if described.get("vocabulary", check := _check(folder)) != check:
        raise UserError(f"{folder / 'vocabulary.json'}: damaged (wrong checksum); train the run again")
    vocab = Vocabulary.load(folder / "vocabulary.json")
    joint = runs_bert(described["model"], config)
    extra = {"era": new_era(config.annotators, *load_bert(config.annotators.bert))} if joint else {}
    model = model_class(config.model, torch.zeros(len(vocab), config.model.width), **extra)
    load_weights(folder / WEIGHTS, model)
    return Run(folder, described["model"], config, vocab, model.eval(), described)


def device() -> torch.device:
    """The GPU where there is one; of several processes, its own."""
    count()  # the first to ask joins them, and takes its GPU
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
