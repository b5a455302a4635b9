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


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ("model.dropout=1", "below 1"),
        ("model.dropout=1.5", "below 1"),
        ("train.beta2=1", "below 1"),
        ("annotators.era.beta2=2", "below 1"),
        ("model.explore=2", "from 0 to 1"),
        ("model.temperature=0", "above 0"),
        ("model.layers=0", "at least 1"),
        ("train.steps=0", "at least 1"),
        ("annotators.tagger.steps=0", "at least 1"),
        ("train.patience=0", "at least 1"),
        ("model.diffusion.steps=0", "at least 1"),
        ("model.diffusion.steps=50", "a start below the steps"),
        ("model.diffusion.steps=1", "a start below the steps"),
        ("model.diffusion.start=1000", "a start below the steps"),
        ("model.diffusion.start=2", "give 3 at most"),
        ("model.diffusion.chain_steps=102", "give 101 at most"),
        ("model.diffusion.beta_first=0", "0 < beta_first <= beta_last < 1"),
        ("model.diffusion.beta_first=0.9", "0 < beta_first <= beta_last < 1"),
        ("model.diffusion.beta_last=1", "0 < beta_first <= beta_last < 1"),
    ],
)
def test_impossible_numbers_are_one_line_that_says_what_is_allowed(changes, allowed):
    with pytest.raises(UserError, match="--set") as caught:
        settings("mini", changes=[changes])
    assert allowed in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        ["model.dropout=0.99", "model.explore=1", "train.beta2=0", "final.steps=0"],
        ["model.diffusion.start=99", "model.diffusion.steps=100", "model.diffusion.chain_steps=100"],
        ["model.diffusion.start=0", "model.diffusion.sampler=ddpm"],  # it takes every step, whatever chain_steps says
        ["model.diffusion.start=0", "model.diffusion.chain_steps=1", "model.diffusion.steps=1"],
    ],
)
def test_numbers_at_the_edge_are_taken(changes):
    settings("mini", changes=changes)


@pytest.mark.parametrize("seed", [-1, 10**9 + 1, 2**63 - 1, 2**64, 99999999999999999999999])
def test_a_seed_has_bounds(seed):
    with pytest.raises(UserError, match=f"^--seed {seed}: give a whole number from 0 to 1000000000$"):
        settings("mini", seed)
