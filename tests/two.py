"""The same training by one process or by several, for test_distributed.py: python tests/two.py FOLDER (or by a launcher).

No chance: dropout is off and a draw is the same for every row, so that who draws for which row is no matter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from made_up import CASES, collate, examples, tiny, train_config

from rd.data.batch import shuffled
from rd.inputs import Inputs
from rd.processes import count, index
from rd.stages import validator
from rd.train import fit

ROWS, BATCH = 16, 5  # four batches an epoch: three of 5 rows and one of a single row


def without_chance() -> None:
    """From now on every row draws the same."""
    torch.rand = lambda *size, **_: torch.full(torch.zeros(*size).shape, 0.5)
    torch.randn = lambda *size, **_: torch.linspace(-1, 1, torch.zeros(*size).size(-1)).expand(torch.zeros(*size).shape)
    torch.multinomial = lambda p, *_, **__: p.argmax(-1, keepdim=True)


def train(case: str, out: Path, poison: bool = False, steps: int = 8, **changes) -> list[dict]:
    """History of a training with validation of the split's share; poison: the second process loses its mind."""
    model = tiny(case, dropout=0.0, **changes)
    rows = examples(ROWS)
    inputs = Inputs(None, None, {"valid": examples(7, seed=9)}, collate())
    if poison and index() == 1:
        loss = model.loss
        model.loss = lambda given: {k: v * torch.nan for k, v in loss(given).items()}

    def batches(epoch: int):
        return shuffled(rows, collate(), BATCH, 0, epoch)

    settings = train_config(batch=BATCH, steps=steps, validate_every=4, save_every=4)
    return fit(model, batches, validator(inputs, size=3), settings, out, resume=True, log_every=2)


def main(folder: Path) -> None:
    """Train every model into folder/<case>."""
    torch.set_num_threads(1)
    without_chance()
    told = {case: train(case, folder / case) for case in sys.argv[2:] or CASES}
    if index() == 0:
        (folder / "told.json").write_text(json.dumps({"processes": count(), **told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
