"""`rd prompt`: a language model answers a split by chain of thought, into a run folder like the others' (Table 2)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from tqdm import tqdm

from rd.annotation.annotations import Tagger
from rd.annotation.llm_backends import by_server
from rd.answering import check_protocol, shareable
from rd.data.corpus import Corpus, Sample, samples
from rd.data.jsonl import parse, write_lines
from rd.errors import UserError
from rd.files import append
from rd.forms import fault
from rd.llm.answers import PRECISIONS, Local, Record, Served, load_causal
from rd.llm.measure import measure
from rd.llm.prompt import choose_asked, choose_shots
from rd.models.bert import FAULTS
from rd.neural_scores import place_of
from rd.provenance import provenance
from rd.run import FINISHED, save_json

ANSWER = dict.fromkeys(("id", "reply"), str) | dict.fromkeys(("emotion", "cause", "intent"), (str, NoneType))
ANSWERS = "answers.jsonl"  # all that was computed, causes too: stays on this machine


@dataclass(frozen=True)
class Question:
    """All that decides an answer, but for the corpus."""

    model: str  # hub name, folder, .gguf file, pip package, or a served model's name
    split: str = "test"
    shots: int = 6
    calibrate: int = 0  # train contexts over which a local model's label scores are centred; 0: plain likelihood
    seed: int = 0
    adapter: str = ""
    precision: str = "bf16"


def short_name(model: str) -> str:
    """The model's row: "meta-llama/Llama-3.1-8B-Instruct" -> "llama-3.1-8b-cot". Raises UserError for no such GGUF."""
    try:
        file = place_of(model)[1].get("gguf_file", model) if model.lower().endswith("gguf") else model
    except FAULTS as error:
        raise UserError(f"{model}: {error}; name a hub model, a folder, a .gguf file or a served model") from None
    name = re.sub(r"\.gguf$", "", Path(file).name.lower())
    return re.sub(r"([-_.](instruct|chat|it|q\d[-_a-z0-9]*|f16|bf16))+$", "", name) + "-cot"


def run_prompt(
    question: Question,
    corpus: Corpus,
    out: Path,
    count: int | None = None,
    resume: bool = False,
    tagger: Callable[[], Tagger | None] = lambda: None,
    preset: str = "mini",
    size: int = 16,
) -> dict[str, Any]:
    """Answer and measure: config.json, answers.jsonl, samples.jsonl, metrics.json, machine.json in `out`.

    count: the first so many of a permutation of the split's samples drawn with the seed (None: all of them). A finished
    answer is not asked again. tagger: opens the tagger that reads the replies' intents, once they are there.
    Raises UserError for every mistake of the user.
    """
    _check(question, corpus, count)
    check_protocol(corpus, question.split)
    shown = choose_shots(corpus.splits.get("train", ()), question.shots, question.seed)
    if len(shown) < question.shots:
        raise UserError(f"--shots {question.shots}: only {len(shown)} train samples have all gold labels to be shown")
    asked = choose_asked(samples(corpus.splits[question.split]), question.seed, shown, count)
    if not asked:
        raise UserError(f"--split {question.split}: no sample to answer there")
    served = by_server(question.model)
    if served and (question.adapter or question.calibrate):
        raise UserError(f"{question.model} is served; --adapter and --calibrate are for a model that is run here")
    _check_folder(out, resume)
    if served:
        out.mkdir(parents=True, exist_ok=True)
        backend = Served(question.model, shown, out / "cache.jsonl")
    else:
        backend = Local(*load_causal(question.model, question.precision, question.adapter), shown, question.model)
        if question.calibrate:
            backend.calibrate(choose_asked(samples(corpus.splits["train"]), question.seed, shown, question.calibrate))
    described = _described(question, corpus, backend.sha256, shown, served)
    out.mkdir(parents=True, exist_ok=True)
    _begin(out, described)
    facts = {"model": short_name(question.model), "config": described["digest"], "seed": question.seed}
    facts |= {"preset": preset, "split": question.split, "samples": len(asked), "corpus": corpus.name}
    facts = provenance(**facts, data=corpus.sha256, language_model={**asdict(question), "prompt": backend.sha256})
    seconds = _answer(backend.answer, asked, out / ANSWERS, size)
    known = {record["id"]: record for record in _finished(out / ANSWERS)}
    records = [known[sample.id] for sample in asked]
    write_lines(out / "samples.jsonl", shareable((_shown_record(r, corpus) for r in records), corpus))
    found = measure(records, asked, corpus, question.split, question.seed, tagger())
    save_json(out / "metrics.json", {**found, "provenance": facts})
    save_json(out / FINISHED, {**facts, "seconds": round(seconds)})
    return found


def _check(question: Question, corpus: Corpus, count: int | None) -> None:
    if question.split not in corpus.splits:
        raise UserError(f"--split {question.split}: no such split in the corpus; it has {', '.join(corpus.splits)}")
    for name, value, least in (
        ("count", count, 1),
        ("shots", question.shots, 0),
        ("calibrate", question.calibrate, 0),
        ("seed", question.seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a whole number of at least {least}")
    if question.precision not in PRECISIONS:
        raise UserError(f"--precision {question.precision}: choose one of {', '.join(PRECISIONS)}")


def _check_folder(out: Path, resume: bool) -> None:
    if not resume and (begun := [name for name in (ANSWERS, "metrics.json") if (out / name).exists()]):
        raise UserError(f"{out}: a run lies here already ({begun[0]}); give --resume to go on, or another --out")


def _described(
    question: Question, corpus: Corpus, prompt: str, shown: Sequence[Sample], served: bool
) -> dict[str, Any]:
    """config.json: what a resumed run must share with the one that began."""
    config = {**asdict(question), "by": "server" if served else "local", "prompt": prompt}
    weights = Path(question.adapter) / "adapter_model.safetensors"
    config["adapter_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest() if question.adapter else None
    digest = hashlib.sha256(json.dumps([config, corpus.sha256], sort_keys=True).encode()).hexdigest()[:12]
    shots = [sample.id for sample in shown]
    return {"config": config, "digest": digest, "shots": shots, "corpus": corpus.name, "data": corpus.sha256}


def _begin(out: Path, described: dict[str, Any]) -> None:
    """Write config.json. Raises UserError where answers of another question lie here."""
    file = out / "config.json"
    try:
        ours = not (out / ANSWERS).exists() if not file.exists() else parse(file.read_text("utf-8")) == described
    except ValueError:
        ours = False
    if not ours:
        raise UserError(f"{file}: its answers were begun with other settings or data; give another --out")
    for stale in ("metrics.json", "samples.jsonl", FINISHED):
        (out / stale).unlink(missing_ok=True)
    save_json(file, described)
    (out / ANSWERS).touch()


def _finished(file: Path) -> list[Record]:
    """The records of an answers file; a torn last line, of a run that was killed, is cut off."""
    if not file.exists():
        return []
    whole = file.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(file, end)
    records = []
    for number, line in enumerate(whole[:end].splitlines(), 1):
        try:
            record = parse(line)
            if wrong := fault(record, ANSWER):
                raise ValueError(wrong)
            records.append(record)
        except ValueError as error:
            what = "take the broken line out, and it is asked again"
            raise UserError(f"{file}:{number}: damaged ({error}); {what}") from None
    return records


def _answer(answer: Callable, asked: Sequence[Sample], file: Path, size: int) -> float:
    """Ask for what is missing, `size` at a time, each appended as soon as it is there. Returns the seconds it took."""
    done, began = {record["id"] for record in _finished(file)}, time.monotonic()
    with tqdm(total=len(asked), desc="answer", mininterval=5.0) as bar:
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            if missing := [sample for sample in batch if sample.id not in done]:
                append(file, b"".join(json.dumps(record).encode() + b"\n" for record in answer(missing)))
            bar.update(len(batch))
    return time.monotonic() - began


def _shown_record(record: Record, corpus: Corpus) -> Record:
    """For samples.jsonl. A cause may quote the user, so it is told of the free mini corpus only."""
    kept = {"id": record["id"], "reply": record["reply"], "emotion": record["emotion"], "final": record["intent"]}
    return kept | ({"cause": record["cause"]} if corpus.name == "mini" else {})
