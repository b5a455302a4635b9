"""What samples.jsonl may hold, scores by large networks, and an evaluation that is killed."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch

import rd.answering
import rd.evaluation
import rd.pipeline
from rd.answering import begun, shareable
from rd.data.corpus import Corpus, Dialogue, Turn
from rd.errors import UserError
from rd.evaluation import NEURAL, _neural_scores
from rd.inputs import Inputs
from rd.kept import Kept
from rd.pipeline import evaluate_run, open_tagger
from rd.run import load_run

HEARD = "My aunt says the old red barn by the river burned down last night."
CORPUS = Corpus("empathetic_dialogues", {"train": (Dialogue("a", "sad", "", (Turn(HEARD), Turn("oh no"))),)}, {}, {})


def test_a_reply_that_repeats_ten_words_of_the_corpus_is_withheld():
    own = {"id": "x", "reply": "the old red barn by the river burned down , i am sorry"}  # nine in a row
    repeated = {"id": "y", "reply": "says the old red barn by the river burned down"}  # ten
    kept, held = shareable([own, repeated], CORPUS)
    assert kept == own
    assert held["reply"] is None and held["id"] == "y" and "10 words" in held["withheld"]


def test_the_mini_corpus_is_free():
    repeated = {"id": "y", "reply": HEARD.lower()}
    assert list(shareable([repeated], replace(CORPUS, name="mini"))) == [repeated]


def test_scores_by_large_networks_are_asked_for_and_a_missing_network_is_a_gap_with_its_reason(monkeypatch, tmp_path):
    turns = tuple(Turn(text) for text in ("I fell.", "Oh no!", "Twice.", "I'm sorry."))
    inputs = Inputs(Corpus("jsonl", {"test": (Dialogue("a", "sad", "", turns),)}), None, {}, None)
    found, notes = _neural_scores(inputs, "test", ["oh", "no"], None)
    assert set(found) == set(notes) == set(NEURAL) and set(found.values()) == {None}
    assert all("--neural" in note for note in notes.values())
    shown = []

    def scorer(value):
        def score(*given):
            shown.append(given)
            return value

        return score

    def absent(*given):
        raise UserError("deberta is not here")

    monkeypatch.setattr(rd.evaluation, "bertscore_f1", absent)
    monkeypatch.setattr(rd.evaluation, "bartscore", scorer({"mean": [-1.0, -2.0]}))
    monkeypatch.setattr(rd.evaluation, "gptscore", scorer([-3.0, -4.0]))
    found, notes = _neural_scores(inputs, "test", ["oh", "no"], 0)
    assert found == {"bertscore_f1": None, "bartscore": -1.5, "gptscore": -3.5}
    assert notes["bertscore_f1"] == "deberta is not here" and "2 samples" in notes["bartscore"]
    assert shown[0] == (["oh", "no"], ["oh no !", "i am sorry ."], NEURAL["bartscore"])
    assert shown[1] == ([["i fell ."], ["i fell .", "oh no !", "twice ."]], ["oh", "no"], NEURAL["gptscore"])
    _neural_scores(inputs, "test", ["oh", "no"], 1)
    assert shown[-1][1] == ["oh"]
    given = (inputs, "test", ["oh", "no"], 0, Kept(tmp_path / "metrics.json", "weights"))
    first, asked = _neural_scores(*given), len(shown)
    assert first[0] == found and _neural_scores(*given) == first and len(shown) == asked  # kept; a gap is asked anew


def test_results_of_other_weights_splits_seeds_or_threads_are_not_those_begun(small_run, tmp_path, monkeypatch):
    run = load_run(shutil.copytree(small_run[1].run_folder("reflectdiffu"), tmp_path / "a" / "run"))
    shutil.copytree(small_run[1].annotators_folder, tmp_path / "a" / "annotators")
    inputs = Inputs(small_run[1].corpus, None, {}, None)

    def check(*more):
        return begun(run.folder / "metrics.json", run, inputs, *more).check

    checks = [check("test"), check("valid"), check("test", 1)]
    assert check("test") == checks[0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    checks.append(check("test"))
    for weights in (run.folder / "best.safetensors", tmp_path / "a/annotators/era/best.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        checks.append(check("test"))
    assert len(set(checks)) == len(checks)


def test_a_damaged_tagger_is_no_absent_one(small_run, tmp_path):
    shutil.copytree(small_run[1].annotators_folder, tmp_path / "annotators")
    run = load_run(small_run[1].run_folder("reflectdiffu"))
    assert open_tagger(run, tmp_path / "annotators") is not None and open_tagger(run, tmp_path) is None
    weights = tmp_path / "annotators/tagger/best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="tagger/best.safetensors: damaged"):
        open_tagger(run, tmp_path / "annotators")


def test_an_evaluation_goes_on_with_the_batch_that_a_kill_took(small_run, tmp_path, monkeypatch):
    """Killed in each batch that it answers and in each that it scores; nothing finished is computed again."""
    run = load_run(shutil.copytree(small_run[1].run_folder("reflectdiffu"), tmp_path / "run"))
    corpus, annotations = small_run[1].corpus, small_run[1].annotations
    for name in ("answer", "likelihoods"):
        monkeypatch.setattr(rd.pipeline, name, partial(getattr(rd.answering, name), size=16))
    calls, fuse = [], [0]

    def counted(kind, plain):
        def call(*given):
            fuse[0] -= 1
            if fuse[0] < 0:
                raise KeyboardInterrupt
            calls.append(kind)
            return plain(*given)

        return call

    monkeypatch.setattr(rd.answering, "generate", counted("answer", rd.answering.generate))
    monkeypatch.setattr(type(run.model), "nll", counted("score", type(run.model).nll))
    fuse[0] = 1_000
    want = evaluate_run(run, corpus, "test", annotations)
    undisturbed, made = sorted(calls), [path.name for path in sorted(run.folder.iterdir())]
    files = {name: (run.folder / name).read_bytes() for name in ("samples.jsonl", "scores.csv")}
    assert undisturbed.count("answer") == undisturbed.count("score") > 4
    for name in ("metrics.json", *files):
        (run.folder / name).unlink()
    calls.clear()
    for _ in undisturbed[1:]:
        fuse[0] = 1
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, corpus, "test", annotations)
        assert not (run.folder / "samples.jsonl").exists()
    fuse[0] = 1
    found = evaluate_run(run, corpus, "test", annotations)
    assert sorted(calls) == undisturbed
    assert {**found, "provenance": 0} == {**want, "provenance": 0}
    assert {name: (run.folder / name).read_bytes() for name in files} == files
    assert [path.name for path in sorted(run.folder.iterdir())] == made
