"""What is read of corpus and weights: counts by a loop, the chain against the model's own, gaps with their reasons."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from made_up import dialogues, tiny
from torch.testing import assert_close

from rd.data.corpus import Corpus, samples
from rd.errors import UserError
from rd.gather import KEPT, _chain, gather
from rd.labels import EMOTIONS
from rd.scores import FILE, read_scores

CORPUS = Corpus("jsonl", {"train": tuple(dialogues(4, 1)), "test": tuple(dialogues(12))}, {}, {})
CHOSEN = samples(CORPUS.splits["test"])


@pytest.fixture
def desk(tmp_path):
    """A preset with one run: its replies and named emotions, no weights."""
    run = tmp_path / "mime-s0"
    run.mkdir()
    gold = [sample.dialogue.emotion for sample in CHOSEN]
    named = [emotion if i % 3 else EMOTIONS[(EMOTIONS.index(emotion) + i) % 32] for i, emotion in enumerate(gold)]
    rows = [
        {"id": s.id, "reply": "i am fine ." if i else None, "emotion": e} for i, (s, e) in enumerate(zip(CHOSEN, named))
    ]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "metrics.json").write_text(json.dumps({"n": len(CHOSEN), "acc_emo": 1.0}))
    (run / "machine.json").write_text('{"steps": 5}')
    return SimpleNamespace(
        folder=tmp_path, corpus=CORPUS, config=None, seed=0, named=dict(zip(gold, named)), pairs=(gold, named)
    )


def test_without_weights_the_kept_replies_are_scored_and_the_rest_is_said(desk):
    gaps = gather(desk)
    assert any("intent tagger" in gap for gap in gaps) and any("mime-s0: no best" in gap for gap in gaps)
    table, reason = read_scores(desk.folder / "mime-s0")
    assert reason == "" and list(table["id"]) == [sample.id for sample in CHOSEN]
    assert table["nats"].isna().all() and list(table.index[table["length"].isna()]) == [0]


def test_confusions_are_counted_as_a_loop_counts_them(desk):
    gather(desk)
    counts = pd.read_csv(desk.folder / KEPT / "confusion-mime-s0.csv", index_col="gold")
    by_hand = dict.fromkeys(zip(*desk.pairs), 0)
    for pair in zip(*desk.pairs):
        by_hand[pair] += 1
    assert counts.to_numpy().sum() == len(CHOSEN)
    assert all(counts.loc[gold, named] == count for (gold, named), count in by_hand.items())


def test_what_is_there_stays(desk):
    gather(desk)
    file, scores = desk.folder / KEPT / "confusion-mime-s0.csv", desk.folder / "mime-s0" / FILE
    before = file.stat().st_mtime_ns, scores.stat().st_mtime_ns
    assert gather(desk) == [gap for gap in gather(desk) if "mime" not in gap]
    assert (file.stat().st_mtime_ns, scores.stat().st_mtime_ns) == before


def test_a_confusion_of_a_run_that_was_trained_anew_is_counted_anew(desk):
    gather(desk)
    file = desk.folder / KEPT / "confusion-mime-s0.csv"
    before = file.read_text()
    file.write_text(before.replace(",1", ",2"))
    gather(desk)
    assert file.read_text() == before


def test_the_watched_chain_is_the_models_own():
    emu = tiny("reflectdiffu").eval().emu
    states, first = torch.randn(2, 3, 12), torch.rand(3, 9).softmax(-1)
    with torch.inference_mode():
        chain, own = _chain(emu, states, first), emu.mimic(states, first)
    start = emu.settings.start
    signal, noise = emu.diffusion.alpha_bar[start].sqrt(), emu.diffusion.noise_level[start].sqrt()
    assert chain.shape == (2, emu.settings.chain_steps + 2, 3, 12)
    assert_close(chain[:, 0], states)
    assert_close(chain[:, 1], signal * states + noise * emu.still_noise)
    assert_close(chain[:, -1], own)


@pytest.mark.parametrize(
    ("row", "wrong"), [('{"id": "x:1", "reply": "oh ."}', "x:1 is no sample"), ('{"id": [], "reply": 1}', "no id or")]
)
def test_replies_that_are_not_of_this_corpus_are_one_line(desk, row, wrong):
    file = desk.folder / "mime-s0" / "samples.jsonl"
    file.write_text(file.read_text() + row + "\n")
    with pytest.raises(UserError, match=f"samples.jsonl.*{wrong}.*;"):
        gather(desk)
