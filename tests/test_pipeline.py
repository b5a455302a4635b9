"""Stages are skipped when finished, and made again where a fresh clone has their figures but not their weights."""

from dataclasses import asdict, replace

import pytest
from made_up import BERT, VOCAB, batch, dialogues, model_config, tiny
from safetensors.torch import load_file, save_file
from tiny_bert import random_bert
from torch.testing import assert_close

import rd.inputs
import rd.run
import rd.settings
from rd.config import MINI
from rd.data.corpus import Corpus
from rd.pipeline import Pipeline

CORPUS = Corpus("jsonl", {"test": tuple(dialogues(2))})


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The mini corpus with a transformer of 24 columns and 4 steps."""
    words = tmp_path / "vectors.txt"
    words.write_text("".join(f"{word} {' '.join(['0.1'] * 24)}\n" for word in ("the", "i", "you")))
    tiny = replace(
        MINI,
        data=replace(MINI.data, vectors=str(words)),
        model=replace(MINI.model, width=24, heads=2, ffn=24),
        train=replace(MINI.train, steps=4, validate_every=2, save_every=2, precision="fp32"),
    )
    monkeypatch.setitem(rd.settings.PRESETS, "mini", tiny)
    return Pipeline("mini", out=str(tmp_path))


def test_a_finished_run_is_read_and_one_without_its_weights_is_trained_again(desk):
    folder = desk.trained("transformer").folder
    weights = folder / "best.safetensors"
    first, written = load_file(weights), weights.stat().st_mtime_ns
    (folder / "metrics.json").write_text("{}")
    desk.trained("transformer")
    assert weights.stat().st_mtime_ns == written and (folder / "metrics.json").exists()
    for name in ("best.safetensors", "state.pt", "vocabulary.json"):  # what is not committed
        (folder / name).unlink()
    desk.trained("transformer")
    again = load_file(weights)
    assert first.keys() == again.keys()
    for name, value in first.items():
        assert_close(again[name], value, rtol=0, atol=0)
    assert not (folder / "metrics.json").exists()  # figures of the weights that were gone
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2


def test_a_run_that_trained_its_bert_along_is_read_back_whole(tmp_path):
    """BERT's form comes from its name in the config, its weights from the run."""
    tokenizer, bert = random_bert(BERT, seed=3)  # other weights than the model's
    tokenizer.save_pretrained(tmp_path / "bert")
    bert.save_pretrained(tmp_path / "bert")
    config = replace(MINI, model=model_config(joint=True), annotators=replace(MINI.annotators, bert=f"{tmp_path}/bert"))
    model = tiny("reflectdiffu with BERT").eval()
    VOCAB.save(tmp_path / "vocabulary.json")
    described = {"model": "reflectdiffu", "config": asdict(config), "digest": config.digest()}
    rd.run.save_json(tmp_path / "config.json", described)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "best.safetensors")
    read = rd.run.load_run(tmp_path).model
    assert_close(read.nll(batch())[0], model.nll(batch())[0])
    pieces = rd.inputs.prepare(CORPUS, config, VOCAB, pieces=read.pieces).collate.pieces
    assert pieces(["one word".split()]).ids.equal(model.pieces(["one word".split()]).ids)
