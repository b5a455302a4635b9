"""Training in two stages: cached vectors first, then ERA's BERT along (eq. 12)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from made_up import model_config, train_config
from safetensors.torch import load_file
from test_classifier import corpus, settings
from tiny_bert import random_bert
from torch.testing import assert_close

from rd.annotation.annotations import annotate_corpus
from rd.config import MINI
from rd.errors import UserError
from rd.inputs import prepare
from rd.run import FINISHED, load_run, train_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, config, annotations): a random BERT in a folder, annotators trained on it for four steps."""
    folder = tmp_path_factory.mktemp("joint")
    tokenizer, bert = random_bert()
    tokenizer.save_pretrained(folder / "bert")
    bert.save_pretrained(folder / "bert")
    (folder / "vectors.txt").write_text(f"i {' '.join(['0.1'] * 12)}\nmy {' '.join(['0.2'] * 12)}\n")
    short = train_config(steps=4, validate_every=2, save_every=2)
    config = replace(
        MINI,
        data=replace(MINI.data, vectors=str(folder / "vectors.txt")),
        model=model_config(joint=True, bert_width=16),
        train=short,
        final=replace(short, schedule="linear", lr=1e-3, warmup=1, steps=3),
        annotators=replace(settings(), bert=str(folder / "bert"), predictor_folds=False),
    )
    return folder, config, annotate_corpus(corpus(), config.annotators, folder / "annotators", crossfit=False)


def trained(made, name: str, **changes):
    """The folder of a finished run."""
    folder, config, annotations = made
    config = replace(config, **changes)
    train_run("reflectdiffu", corpus(), config, folder / name, annotations, True, folder / "annotators")
    return folder / name


def test_the_first_stage_is_the_training_without_bert_and_the_second_moves_bert(made):
    run = trained(made, "run")
    plain = trained(made, "plain", model=model_config(joint=False, bert_width=16))
    first, alone = (torch.load(path / "state.pt", weights_only=True)["model"] for path in (run, plain))
    assert_close({k: v for k, v in first.items() if not k.startswith("annotator.")}, alone, rtol=0, atol=0)
    era = load_file(made[0] / "annotators" / "era" / "best.safetensors")
    last = load_file(run / "best.safetensors")
    for name, value in era.items():
        assert_close(first[f"annotator.{name}"], value, rtol=0, atol=0)
    moved = {name for name, value in era.items() if not last[f"annotator.{name}"].equal(value)}
    assert any(name.startswith("bert.encoder") for name in moved) and "query.weight" in moved
    assert not any(name.startswith(("emission", "crf", "emotion", "bert.pooler")) for name in moved)
    assert json.loads((run / FINISHED).read_text())["steps"] == 4 + 3
    assert_close(last, load_file(run / "final" / "best.safetensors"), rtol=0, atol=0)


def test_a_run_that_was_cut_off_after_the_second_stage_ends_the_same(made):
    run = trained(made, "whole")
    whole = load_file(run / "best.safetensors")
    for name in (FINISHED, "best.safetensors"):  # killed between the stages' end and the copy
        (run / name).unlink()
    again = load_file(trained(made, "whole") / "best.safetensors")
    assert_close(again, whole, rtol=0, atol=0)


def test_the_finished_run_answers_with_its_own_bert(made):
    folder, config, annotations = made
    model = load_run(trained(made, "run")).model
    inputs = prepare(corpus(), config, load_run(folder / "run").vocab, annotations, ("test",), model.pieces)
    batch = inputs.collate(inputs.examples["test"])
    garbage = replace(batch, features=torch.full_like(batch.features, 9.0))
    assert model.joined and batch.turns is not None
    assert_close(model.nll(garbage)[0], model.nll(batch)[0], rtol=0, atol=0)  # the cached vectors are not read


def test_a_run_that_goes_further_makes_its_last_stage_anew(made):
    """As if it had been asked for so many steps at once."""
    short = made[1].train
    at_once = trained(made, "at_once", train=replace(short, steps=8))
    trained(made, "further")
    further = trained(made, "further", train=replace(short, steps=8))
    assert_close(load_file(further / "best.safetensors"), load_file(at_once / "best.safetensors"), rtol=0, atol=0)
    assert json.loads((further / FINISHED).read_text())["steps"] == 8 + 3


def test_a_last_stage_that_makes_it_worse_is_left_aside(made):
    wild = replace(made[1].final, lr=0.1, warmup=0)
    run = trained(made, "worse", final=wild)
    best = load_file(trained(made, "none", final=replace(wild, steps=0)) / "best.safetensors")
    assert_close(load_file(run / "best.safetensors"), best, rtol=0, atol=0)
    told = json.loads((run / FINISHED).read_text())
    assert told["best"]["step"] <= 4 and told["steps"] == 4 + 3


def test_a_folder_of_another_model_or_with_a_damaged_config_is_refused(made):
    folder, config, _ = made
    trained(made, "mine")
    with pytest.raises(UserError, match="a run of reflectdiffu"):
        train_run("mtrs", corpus(), config, folder / "mine", None, True)
    (folder / "mine" / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged, or not a run of this version"):
        trained(made, "mine")


def test_a_model_without_what_it_reads_is_refused_before_a_file_is_written(made):
    folder, config, _ = made
    for name, what in (("reflectdiffu", "the annotations"), ("kemp", "knowledge")):
        with pytest.raises(UserError, match=what):
            train_run(name, corpus(), config, folder / name, None, True)
        assert not (folder / name).exists()


def test_a_finished_run_keeps_its_figures_and_a_damaged_one_is_told(made):
    run = trained(made, "finished")
    for name in ("metrics.json", "metrics-valid.json", "samples.jsonl"):
        (run / name).write_text("{}")
    trained(made, "finished")
    assert (run / "metrics.json").exists()
    trained(
        made, "finished", train=replace(made[1].train, steps=6)
    )  # the weights move: no figure of the old ones stays
    assert not list(run.glob("metrics*")) and not list(run.glob("samples*"))
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        trained(made, "finished", train=replace(made[1].train, steps=8))
    (run / "best.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged"):
        load_run(run)


def test_without_era_no_bert_learns_along(made):
    run = load_run(trained(made, "without", model=model_config(joint=True, bert_width=16, era=False)))
    assert not any(name.startswith("annotator.") for name, _ in run.model.named_parameters())
    assert run.model.pieces is None
