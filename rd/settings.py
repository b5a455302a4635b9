"""The settings of a run from what a user gives: a preset, a seed, and single values as `part.name=value`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from rd.config import PRESETS, Config, DiffusionConfig
from rd.data.jsonl import parse
from rd.errors import UserError

# What a setting of words may be.
CHOICES = {
    "vocabulary": ("train", "all"),
    "intent_place": ("input", "memory"),
    "routing": ("example", "batch"),
    "sampler": ("ddim", "ddpm"),
    "schedule": ("noam", "linear"),
    "precision": ("bf16", "fp32"),
    "scope": ("turn", "context"),
}
# What may not be 0: sizes, and steps from one event to the next.
SIZES = set("width heads ffn latent bert_width batch validate_every save_every max_context folds chain_steps".split())
SIZES |= {"max_subwords", "predictor_subwords", "layers", "steps", "patience"}
MAY_BE_0 = "final.steps"  # no last stage
# What a fraction may be, where not all from 0 to LARGEST: in words, and the test.
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "dropout": ("of at least 0 and below 1", lambda value: value < 1),
    "beta2": ("of at least 0 and below 1", lambda value: value < 1),
    "explore": ("from 0 to 1", lambda value: value <= 1),
    "temperature": ("above 0", lambda value: value > 0),
}
LARGEST = 10**9  # no setting is larger
GIVEN = {"preset": "--preset", "seed": "--seed"}  # settings with an option of their own


def settings(preset: str, seed: int = 0, max_steps: int | None = None, changes: Sequence[str] = ()) -> Config:
    """A preset with its seed, perhaps cut short or changed, such as "data.vectors=glove.6B.300d.txt".

    Raises UserError for an unknown preset or name, and for a value of another kind than the preset's.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: no such preset; choose one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    steps = config.train.steps if max_steps is None else max_steps
    check_seed(seed)
    if steps < 1:
        raise UserError(f"--max-steps {max_steps}: give a whole number of at least 1")
    final = replace(config.final, seed=seed)
    config = replace(config, train=replace(config.train, seed=seed, steps=steps), final=final)
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"--set {change}: write part.name=value, such as model.joint=true")
        config = _changed(config, path.split("."), value, change)
    if config.model.width % config.model.heads:
        raise UserError(f"--set model.heads: {config.model.heads} heads do not divide width {config.model.width}")
    _check_chain(config.model.diffusion)
    return config


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that is no setting: those of a run's config.json are read within the same bounds."""
    if not 0 <= seed <= LARGEST:
        raise UserError(f"--seed {seed}: give a whole number from 0 to {LARGEST}")


def _check_chain(noise: DiffusionConfig) -> None:
    """Raises UserError for numbers that make no chain of noise."""
    first, last, start, taken = noise.beta_first, noise.beta_last, noise.start, noise.chain_steps
    if not 0 < first <= last < 1:
        raise UserError(
            f"--set model.diffusion: beta_first {first}, beta_last {last}; give 0 < beta_first <= beta_last < 1"
        )
    if start >= noise.steps:
        raise UserError(f"--set model.diffusion: start {start} of {noise.steps} steps; give a start below the steps")
    if noise.sampler == "ddim" and taken > start + 1:
        raise UserError(f"--set model.diffusion: {taken} chain_steps from start {start}; give {start + 1} at most")


def _changed(part: Any, path: list[str], value: str, change: str) -> Any:
    """A config dataclass with the leaf at `path` set."""
    name, *rest = path
    if not is_dataclass(part) or name not in asdict(part):
        names = ", ".join(asdict(part)) if is_dataclass(part) else "nothing below it"
        raise UserError(f"--set {change}: no setting {name!r} there; it has {names}")
    if name in GIVEN:
        raise UserError(f"--set {change}: give {GIVEN[name]}")
    now = getattr(part, name)
    if is_dataclass(now) != bool(rest):
        raise UserError(f"--set {change}: {name!r} is {'a part' if is_dataclass(now) else 'a value'}; name one value")
    return replace(part, **{name: _changed(now, rest, value, change) if rest else _read(now, value, change)})


def _read(now: Any, value: str, change: str) -> Any:
    """The value as the kind that stands there now."""
    path = change.partition("=")[0]
    name = path.split(".")[-1]
    least = int(name in SIZES and path != MAY_BE_0)
    if isinstance(now, str):
        choices = CHOICES.get(name, (value,))
        if value not in choices:
            raise UserError(f"--set {change}: choose one of {', '.join(choices)}")
        return value
    try:
        found = parse(value.lower())
    except ValueError:
        found = None
    fits = isinstance(found, bool) if isinstance(now, bool) else isinstance(found, int) and not isinstance(found, bool)
    if isinstance(now, float) and isinstance(found, int | float) and not isinstance(found, bool):
        fits = 0 <= found <= LARGEST  # false for NaN
        found = float(found) if fits else found
    elif isinstance(now, float):
        fits = False
    elif not isinstance(now, bool) and fits:
        fits = least <= found <= LARGEST
    if not fits:
        more = ", at least 1" if least else ""
        raise UserError(f"--set {change}: give a {type(now).__name__} like the preset's {now}{more}")
    if name in RANGES and not RANGES[name][1](found):
        raise UserError(f"--set {change}: give a number {RANGES[name][0]}")
    return found
