"""A run is a folder: train one model, answer, measure. Names become models here and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rd.annotation.annotations import load_era
from rd.annotation.distil import new_era
from rd.baselines.cab import CAB
from rd.baselines.case import CASE
from rd.baselines.empdg import EmpDG
from rd.baselines.kemp import KEMP
from rd.baselines.mime import MIME
from rd.baselines.moel import MoEL
from rd.baselines.mtrs import MTRS
from rd.config import Config, TrainConfig, from_dict
from rd.data.batch import in_order, shuffled
from rd.data.corpus import Corpus, samples
from rd.data.text import Vocabulary
from rd.data.vectors import word_vectors
from rd.errors import UserError
from rd.inputs import Inputs, prepare
from rd.knowledge.knowledge import Knowledge
from rd.metrics import perplexity
from rd.models.bert import load_bert
from rd.models.reflectdiffu import ReflectDiffu
from rd.models.transformer import Transformer
from rd.provenance import provenance
from rd.responder import Responder
from rd.train import WEIGHTS, fit

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


def validator(inputs: Inputs, split: str = "valid", size: int = 64) -> Callable[[torch.nn.Module], dict[str, float]]:
    """PPL (protocol: macro) of a split, the score that early stopping watches, with whatever the model reports."""
    batches = in_order(inputs.examples[split], inputs.collate, size)

    def validate(model: Responder) -> dict[str, float]:
        model.eval()
        sums, lengths, hits = [], [], {}
        for batch in batches:
            batch = batch.to(next(model.parameters()).device)
            nll, words, context = model.nll(batch)
            sums += nll.tolist()
            lengths += words.tolist()
            for name, right in model.hits(batch, context).items():
                hits.setdefault(name, []).extend(right.tolist())
        found = perplexity(sums, lengths)
        return {"score": found["ppl"], **found, **{name: 100 * sum(h) / len(h) for name, h in hits.items() if h}}

    return validate


def runs_bert(name: str, config: Config) -> bool:
    """Whether a model has a BERT of its own, which learns along in the final stage."""
    return config.model.joint and MODELS[name].reads_annotations


def train_run(
    name: str,
    corpus: Corpus,
    config: Config,
    out: Path,
    annotations: Any = None,
    resume: bool = False,
    annotators: Path | None = None,
    knowledge: Knowledge | None = None,
) -> Responder:
    """Train model `name` into the folder `out`: config.json, vocabulary.json, history.jsonl, best.safetensors.

    annotators: the folder of the models behind `annotations`; its place relative to `out` goes into config.json.
    Raises UserError for an unknown model.
    """
    if name not in MODELS:
        raise UserError(f"{name}: no such model; choose one of {', '.join(MODELS)}")
    _check_folder(out, config, corpus, resume, MODELS[name])
    for split in ("train", "valid"):
        if not samples(corpus.splits.get(split, ())):
            raise UserError(f"{corpus.name}: no listener turn in a {split} split; training needs train and valid")
    if annotations is not None and annotations.store.width != config.model.bert_width:
        raise UserError(
            f"{config.annotators.bert}: its vectors are {annotations.store.width} wide and the model expects "
            f"{config.model.bert_width}; give --set model.bert_width={annotations.store.width}"
        )
    inputs = prepare(corpus, config, annotations=annotations, splits=("train", "valid"), knowledge=knowledge)
    generator = torch.Generator().manual_seed(config.train.seed)
    vectors, report = word_vectors(inputs.vocab, config.data.vectors, config.model.width, generator)
    extra = {} if annotations is None else {"reference": annotations.reference}
    if runs_bert(name, config):
        extra["era"] = load_era(config.annotators, annotators)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        model = MODELS[name](config.model, vectors, **extra)
    out.mkdir(parents=True, exist_ok=True)
    inputs.vocab.save(out / "vocabulary.json")
    for stale in (FINISHED, "metrics.json", "samples.jsonl"):  # figures of a run whose weights are gone, or will move
        (out / stale).unlink(missing_ok=True)
    described = {"model": name, "config": asdict(config), "digest": config.digest(), "vectors": report}
    described |= {"corpus": corpus.name, "data": corpus.sha256}
    if annotations is not None and annotators is not None:
        described["annotators"] = os.path.relpath(annotators, out)
    if knowledge is not None:
        described["knowledge"] = dict(knowledge.sources)
    save_json(out / "config.json", described)

    # before the loop: the code that trains is the one that was loaded
    facts = provenance(model=name, config=config.digest(), seed=config.train.seed, data=corpus.sha256)
    model.joined = False
    history = _stage(model, inputs, config.train, out, resume, name)
    steps = history[-1]["step"]
    model.joined = runs_bert(name, config)
    if config.final.steps:  # from the best weights on; ERA's BERT may learn along
        inputs.collate.pieces = model.pieces
        history = _stage(model, inputs, config.final, out / "final", resume, f"{name}, final stage")
        steps += history[-1]["step"]
        shutil.copyfile(out / "final" / WEIGHTS, out / f".{WEIGHTS}.part")
        os.replace(out / f".{WEIGHTS}.part", out / WEIGHTS)
    trained = {
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "best": min((row for row in history if "valid/score" in row), key=lambda row: row["valid/score"]),
    }
    save_json(out / FINISHED, {**facts, **trained})  # written last: it marks the end
    return model


def _stage(model: Responder, inputs: Inputs, config: TrainConfig, out: Path, resume: bool, name: str) -> list[dict]:
    """One training to early stopping; returns its history."""

    def batches(epoch: int):
        return shuffled(inputs.examples["train"], inputs.collate, config.batch, config.seed, epoch)

    return fit(model, batches, validator(inputs), config, out, resume, progress=name)


def _check_folder(out: Path, config: Config, corpus: Corpus, resume: bool, model: type[Responder]) -> None:
    """Nothing is written over; a run goes on with the settings and data it began with (its steps may change)."""
    begun = [name for name in ("state.pt", FINISHED, "metrics.json") if (out / name).exists()]
    if begun and not resume:
        raise UserError(
            f"{out}: a run lies here already ({begun[0]}); give --resume to go on with it, or another --out"
        )
    if not (out / "state.pt").exists():  # of a clone: figures without weights are made again
        return
    file = out / "config.json"
    described = json.loads(file.read_text())
    try:
        before = asdict(from_dict(Config, described["config"]))
    except KeyError as error:
        raise UserError(f"{file}: begun by another version ({error}); give another --out") from None
    before["train"]["steps"] = config.train.steps
    now = asdict(config)
    parts = ["data", "model", "train", "final"]
    parts += ["annotators"] * model.reads_annotations + ["knowledge"] * model.reads_knowledge
    if changed := [part for part in parts if before[part] != now[part]]:
        raise UserError(f"{file}: this run was begun with other settings ({', '.join(changed)}); give another --out")
    if described.get("data", corpus.sha256) != corpus.sha256:
        raise UserError(f"{file}: this run was begun on other data ({described['corpus']}); give another --out")


def save_json(path: Path, value: Any) -> None:
    """Write beside, then rename: the file is whole or absent. Raises ValueError for NaN."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)


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
        file = self.folder / FINISHED
        return json.loads(file.read_text())["steps"] if file.is_file() else None


def load_run(folder: str | Path) -> Run:
    """Read a run's config, vocabulary and best weights. Raises UserError with what is missing."""
    folder = Path(folder)
    for name in ("config.json", "vocabulary.json", "best.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} here; give the folder of a run that `rd train` has finished")
    try:
        described = json.loads((folder / "config.json").read_text())
        config, model_class = from_dict(Config, described["config"]), MODELS[described["model"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'}: not a run of this version ({error}); train it again") from None
    vocab = Vocabulary.load(folder / "vocabulary.json")
    joint = runs_bert(described["model"], config)
    extra = {"era": new_era(config.annotators, *load_bert(config.annotators.bert))} if joint else {}
    model = model_class(config.model, torch.zeros(len(vocab), config.model.width), **extra)
    try:
        model.load_state_dict(load_file(folder / "best.safetensors"))
    except RuntimeError as error:
        raise UserError(
            f"{folder / 'best.safetensors'}: does not fit config.json ({str(error).splitlines()[0]})"
        ) from None
    return Run(folder, described["model"], config, vocab, model.eval(), described)


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
