"""How good the annotators are, part by part, on gold labels: rows of results/<preset>/annotators/comparison.json.

    python benchmarks/annotators.py --data FOLDER [--preset paper] [--out results] [--only ROW ...]

Reasons: ERA; without the attention of eq. 14-15 (BERT + CRF); without the CRF too (BERT + softmax, the plain tagger);
ERA on fewer labelled dialogues (same passes over them); weak supervision, which needs no labels.
Intents: the tagger on gold labels, and with EmpatheticIntents added. A row that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rd.annotation.distil import train_era, train_tagger
from rd.annotation.quality import tag_scores
from rd.annotation.rows import has_reasons, speaker_items
from rd.annotation.ways import weak_voters
from rd.annotation.weak import weak_tags
from rd.config import AnnotatorConfig
from rd.data.corpus import Corpus
from rd.pipeline import Pipeline
from rd.provenance import provenance
from rd.run import save_json

SHARES = (16, 8, 4, 2)  # of the labelled dialogues, one in so many
Row = Callable[[Path], dict[str, Any]]  # a folder to train in -> scores by split


def rows(desk: Pipeline) -> dict[str, Row]:
    """Every row by its name; nothing is computed yet."""
    whole = desk.config.annotators
    plain = replace(whole, era_emotion=0.0)  # the switches are compared on reasons alone
    found: dict[str, Row] = {
        "ERA": _era(desk.corpus, whole),
        "ERA, reasons only": _era(desk.corpus, plain),
        "BERT + CRF": _era(desk.corpus, replace(plain, attention=False)),
        "BERT + softmax": _era(desk.corpus, replace(plain, attention=False, crf=False)),
    }
    for share in SHARES:
        found[f"ERA, 1/{share} of the labels"] = _era(*fewer(desk.corpus, whole, share))
    found["weak supervision"] = lambda folder: weak(desk.corpus)
    found["tagger"] = _tagger(desk, whole)
    found["tagger, with EmpatheticIntents"] = _tagger(desk, replace(whole, tagger_extra=True))
    return found


def fewer(corpus: Corpus, settings: AnnotatorConfig, share: int) -> tuple[Corpus, AnnotatorConfig]:
    """Every share-th labelled train dialogue, and as many steps fewer: the number of passes stays."""
    kept = tuple(d for d in corpus.splits["train"] if has_reasons(d))[::share]
    steps = math.ceil(settings.era.steps / share)
    era = replace(settings.era, steps=steps, validate_every=steps, warmup=min(settings.era.warmup, steps // 5))
    return replace(corpus, splits={**corpus.splits, "train": kept}), replace(settings, era=era)


def weak(corpus: Corpus) -> dict[str, Any]:
    """The label-free rule against the gold reasons."""
    voters, found = weak_voters(corpus), {}
    for split in ("valid", "test"):
        items = [item for item in speaker_items(corpus.splits[split]) if item.tags is not None]
        tags = [weak_tags(item.words, voters) for item in items]
        found[split] = {"n": len(items), **tag_scores(tags, [item.tags for item in items])}
    return found


def _era(corpus: Corpus, settings: AnnotatorConfig) -> Row:
    def row(folder: Path) -> dict[str, Any]:
        train_era(corpus, settings, folder)
        labelled = sum(map(has_reasons, corpus.splits["train"]))
        return {"dialogues": labelled, "config": asdict(settings.era), **_scores(folder / "era")}

    return row


def _tagger(desk: Pipeline, settings: AnnotatorConfig) -> Row:
    def row(folder: Path) -> dict[str, Any]:
        train_tagger(desk.corpus, settings, folder, desk.empathetic_intents)
        return _scores(folder / "tagger")

    return row


def _scores(folder: Path) -> dict[str, Any]:
    measured = json.loads((folder / "metrics.json").read_text())
    return {split: {k: v for k, v in scores.items() if k != "confusion"} for split, scores in measured.items()}


def main() -> None:
    """Make what is missing, print each row, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="the corpus; default: the mini corpus")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--out", default="results")
    parser.add_argument("--work", default="runs/annotators", type=Path, help="where the weights of the variants go")
    parser.add_argument("--only", nargs="*", help="names of rows")
    given = parser.parse_args()
    desk = Pipeline(given.preset, data=given.data, out=given.out)
    target = desk.annotators_folder / "comparison.json"
    found = json.loads(target.read_text()) if target.is_file() else {}
    target.parent.mkdir(parents=True, exist_ok=True)
    for name, row in rows(desk).items():
        if name in found or (given.only and name not in given.only):
            continue
        facts = provenance(data=desk.corpus.sha256, seed=desk.config.annotators.era.seed)
        found[name] = row(given.work / given.preset / re.sub(r"\W+", "-", name)) | {"provenance": facts}
        print(name, {split: found[name][split] for split in ("valid", "test")}, flush=True)
        save_json(target, found)


if __name__ == "__main__":
    main()
