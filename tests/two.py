"""The same work by one process or by two: python tests/two.py FOLDER, by itself or by a launcher (test_distributed.py).

Without chance: dropout is off, and a draw is the same for every row, so that it is no matter who draws for which row.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from made_up import CASES, collate, dialogues, examples, model_config, tiny, train_config

from rd.answering import answer, likelihoods, split_inputs
from rd.config import MINI
from rd.data.batch import shuffled
from rd.data.corpus import Corpus
from rd.errors import UserError
from rd.generate import Decode
from rd.inputs import Inputs
from rd.kept import Kept
from rd.pipeline import evaluate_run
from rd.processes import alone, by_main, count, index, main_first, spread
from rd.responder import Responder
from rd.run import load_run, train_run
from rd.stages import validator
from rd.train import TrainingError, fit

ROWS, BATCH = 16, 5  # four batches an epoch: three of 5 rows and one of a single row
SAME_DRAWS = {
    "rand": lambda *size, **_: torch.zeros(*size).fill_(0.5),
    "randn": lambda *size, **_: torch.zeros(*size).add_(torch.linspace(-1, 1, torch.zeros(*size).size(-1))),
    "multinomial": lambda p, *_, **__: p.argmax(-1, keepdim=True),
}


def still(model: Responder) -> None:
    """No dropout in BERT. Key biases keep still: softmax ignores them, and Adam makes steps of their rounding."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for name, weight in model.named_parameters():
        for end, place, parts in (("key_value.bias", 0, 2), (".key.bias", 0, 1), ("listeners.attend.bias", 1, 3)):
            if name.endswith(end) and weight.requires_grad:
                kept = torch.ones(parts, len(weight) // parts)
                kept[place] = 0
                weight.register_hook(partial(torch.mul, kept.flatten()))


def train(model: Responder, out: Path, steps: int = 6) -> list[dict]:
    """History of a training that validates on seven other rows."""
    rows, inputs = examples(ROWS), Inputs(None, None, {"valid": examples(7, seed=9)}, collate())

    def batches(epoch: int):
        return shuffled(rows, collate(), BATCH, 0, epoch)

    still(model)
    settings = train_config(batch=BATCH, steps=steps, validate_every=3, save_every=3)
    with patch.multiple(torch, **SAME_DRAWS):
        return fit(model, batches, validator(inputs, size=3), settings, out, resume=True, log_every=2)


def corpus() -> Corpus:
    """16 dialogues to train on, 5 to validate, 13 to answer."""
    return Corpus("jsonl", {name: tuple(dialogues(n, n)) for name, n in (("train", 16), ("valid", 5), ("test", 13))})


def whole_run(folder: Path) -> None:
    """A run in both stages, by the path of `rd train`."""
    words = folder.with_name("vectors.txt")
    by_main(lambda: words.write_text("".join(f"{word} {' '.join(['0.1'] * 12)}\n" for word in ("the", "i", "you"))))
    short = train_config(batch=BATCH, steps=4, validate_every=2, save_every=2)
    config = replace(MINI, data=replace(MINI.data, vectors=str(words), min_count=1), model=model_config(dropout=0.0))
    config = replace(config, train=short, final=replace(short, schedule="linear", lr=1e-3, steps=2))
    train_run("transformer", corpus(), config, folder)


def judge(folder: Path) -> None:
    """The test split evaluated, and answered by every method in batches of four, into folder/found.json."""
    run, given = load_run(folder), corpus()
    found = evaluate_run(run, given, "test", None)
    for method in ("greedy", "beam", "sample"):
        inputs = split_inputs(run, given, "test")
        found[method] = list(answer(run, inputs, "test", Decode(method, steps=6), size=4, quiet=True))
    found["nll"] = likelihoods(run, inputs, "test", size=4)["nll"].tolist()
    by_main(lambda: (folder / "found.json").write_text(json.dumps(found)))


def raised(call: Callable[[], object], kind: type[Exception]) -> str:
    """The words of the error that call() raises."""
    try:
        call()
    except kind as error:
        return str(error)
    return ""


def refuse() -> None:
    raise UserError("no room")


def kept(folder: Path) -> tuple[list, list]:
    """Seven squares, of which one process had made two before it was killed; and those that this process made."""
    made: list[int] = []

    def square(x: int) -> int:
        made.append(x)
        if len(made) == 3 and count() == 1:
            raise UserError("killed")
        return x * x

    target, items = folder / "squares", [*range(7)]
    by_main(lambda: alone(lambda: raised(lambda: Kept(target, 1).spread("of", square, items, disable=True), UserError)))
    made.clear()
    found = Kept(target, 1).spread("of", square, items, disable=True)
    by_main(Kept(target, 1).clear)
    return found, made


def of_two(folder: Path) -> dict:
    """What only several processes can show, as this one saw it."""
    told, out = {"processes": count(), "index": index()}, folder / "alone"
    told["spread"] = spread(lambda x: [x, index()], [*range(7)], disable=True)
    told["refused"] = raised(lambda: by_main(refuse), UserError)
    told["kept"], told["made"] = kept(folder)
    told["main first"] = main_first(lambda: [count(), out.exists(), train(tiny("transformer"), out)[-1]["step"]])
    poisoned = tiny("mtrs", dropout=0.0)
    loss = poisoned.loss
    if index() == 1:
        poisoned.loss = lambda batch: {k: v * torch.nan if k == "emotion" else v for k, v in loss(batch).items()}
    told["stopped"] = raised(lambda: train(poisoned, folder / "poisoned"), TrainingError)
    return told


def alike(folder: str) -> None:
    """A training of three steps in folder/<number of processes>."""
    torch.set_num_threads(1)
    train(tiny("mtrs", dropout=0.0), Path(folder) / str(count()), steps=3)


def main(folder: Path, cases: Iterable[str] = CASES) -> None:
    """Train each model into folder/<case>; resume what lies in folder/resumed; the rest as above."""
    torch.set_num_threads(1)
    for case in cases:
        train(tiny(case, dropout=0.0), folder / case)
    train(tiny("transformer", dropout=0.0), folder / "resumed")
    whole_run(folder / "run")
    judge(folder / "judged")
    if "WORLD_SIZE" in os.environ:
        told = of_two(folder)
        (folder / f"told-{told['index']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or CASES)
