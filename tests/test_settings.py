"""Single settings from the command line: the right kind in the right place, and nothing else moved."""

from dataclasses import asdict

import pytest

from rd.config import MINI
from rd.errors import UserError
from rd.settings import settings


def leaves(values: dict, path: str = "") -> dict:
    """Every leaf of nested dictionaries by its dotted name."""
    found = {}
    for name, value in values.items():
        found |= leaves(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("model.joint=true", True),
        ("model.era=False", False),
        ("model.layers=2", 2),
        ("model.dropout=0", 0.0),
        ("train.lr=2e-1", 0.2),
        ("model.diffusion.sampler=ddpm", "ddpm"),
        ("data.vectors=a=b.txt", "a=b.txt"),
        ("annotators.era.steps=7", 7),
    ],
)
def test_one_leaf_moves_and_keeps_its_kind(change, value):
    before, after = leaves(asdict(MINI)), leaves(asdict(settings("mini", changes=[change])))
    name = change.split("=")[0]
    assert after[name] == value and type(after[name]) is type(before[name])
    assert {k for k in before if before[k] != after[k]} == {name}


def test_the_last_of_two_wins_and_seed_and_steps_stand():
    config = settings("mini", 4, 9, ["model.layers=2", "model.layers=3"])
    assert (config.model.layers, config.train.seed, config.train.steps) == (3, 4, 9)


@pytest.mark.parametrize(
    "change",
    ["model.joint=1", "model.joint=yes", "model.layers=1.5", "model.layers=true", "train.lr=true", "train.lr=fast"]
    + ["model.diffusion=3", "model.layers.deep=3", "modell.layers=3", "model.layers", "=3", "train.lr=NaN"]
    + ["model.intent_place=inptu", "train.precision=fp16", "model.heads=7", "preset=paper", "train.seed=7"]
    + ["train.lr=1e400", "train.batch=-1"],
)
def test_what_does_not_fit_is_one_clear_line(change):
    with pytest.raises(UserError, match="--set") as caught:
        settings("mini", changes=[change])
    assert "\n" not in str(caught.value)
