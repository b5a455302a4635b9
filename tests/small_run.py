"""The mini preset in seconds: the first mini dialogues, a random BERT, few steps. For tests of a whole trained run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_bert import random_bert

import rd.settings
from rd.config import MINI, Config
from rd.data.corpus import bundled
from rd.pipeline import Pipeline

KEPT = {"train": 160, "valid": 32, "test": 48}  # conversations of each split


def small_corpus(folder: Path) -> Path:
    """folder/data: the first conversations of each split, with their labels."""
    data = folder / "data"
    data.mkdir()
    for split, count in KEPT.items():
        head, *lines = (bundled("mini") / f"{split}.csv").read_text("utf-8").splitlines()
        kept = list(dict.fromkeys(line.split(",")[0] for line in lines))[:count]
        rows = [line for line in lines if line.split(",")[0] in kept]
        (data / f"{split}.csv").write_text("\n".join([head, *rows]) + "\n", "utf-8")
        labels = (bundled("mini") / f"{split}.labels.jsonl").read_text("utf-8").splitlines(keepends=True)
        (data / f"{split}.labels.jsonl").write_text("".join(labels[:count]), "utf-8")
    return data


def small(folder: Path) -> Config:
    """MINI with a random BERT, which is written to folder/bert, a model of 52 columns, and few steps of training."""
    tokenizer, bert = random_bert(16)
    tokenizer.save_pretrained(folder / "bert")
    bert.save_pretrained(folder / "bert")
    few = {"steps": 4, "warmup": 1, "validate_every": 4, "save_every": 4, "precision": "fp32"}
    old = MINI.annotators
    stages = {name: replace(getattr(old, name), **few) for name in ("era", "tagger", "predictor")}
    return replace(
        MINI,
        model=replace(MINI.model, width=52, heads=2, ffn=52, bert_width=16),
        train=replace(MINI.train, steps=12, warmup=6, validate_every=12, save_every=12, precision="fp32"),
        annotators=replace(old, bert=str(folder / "bert"), folds=2, max_subwords=64, **stages),
    )


def train_small(folder: Path) -> tuple[Config, Pipeline]:
    """The settings of `small`, and the desk in folder/results for which ReflectDiffu was trained with them."""
    config = small(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rd.settings.PRESETS, "mini", config)
        desk = Pipeline("mini", data=str(small_corpus(folder)), out=str(folder / "results"))
        desk.trained("reflectdiffu")  # the desk keeps its settings from here on
    return config, desk
