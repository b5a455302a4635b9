"""Stages are skipped when finished, and made again where a fresh clone has their figures but not their weights."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import rd.run
from rd.config import MINI
from rd.pipeline import Pipeline


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
    monkeypatch.setitem(rd.run.PRESETS, "mini", tiny)
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
