"""The command line from outside: forms, exit statuses, one line for a user's mistake, whole files or none."""

import json
import os
import sys
from dataclasses import replace
from io import BytesIO, TextIOWrapper

import pytest
import torch

import rd.run
import rd.settings
from rd.cli import main
from rd.config import MINI, Config, from_dict

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A transformer of 24 columns, trained for 12 steps on the mini corpus through the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    tiny = replace(
        MINI,
        data=replace(MINI.data, vectors=str(vectors(folder.parent))),
        model=replace(MINI.model, width=24, heads=2, ffn=24),
        train=replace(MINI.train, steps=12, validate_every=6, save_every=6, precision="fp32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rd.settings.PRESETS, "mini", tiny)
        assert main(["train", "transformer", "--preset", "mini", "--out", str(folder)]) == 0
    return folder


def vectors(folder):
    """A made-up GloVe file of 24 columns."""
    path = folder / "vectors.txt"
    path.write_text("".join(f"{word} {' '.join(['0.1'] * 24)}\n" for word in ("the", "i", "you")))
    return path


def refused(arguments, capsys):
    """Exit status 2, nothing but one line on standard error; returns that line."""
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("rd: "), lines
    return lines[0]


def test_train_leaves_a_whole_run(run):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "vocabulary.json", "history.jsonl", "best.safetensors", "machine.json"} <= names
    assert json.loads((run / "machine.json").read_text())["steps"] == 12


def test_a_second_run_is_not_written_over(run, capsys):
    line = refused(["train", "transformer", "--preset", "mini", "--max-steps", "1", "--out", str(run)], capsys)
    assert "--resume" in line


def test_generate_writes_one_line_a_sample(run, tmp_path, capsys):
    out = tmp_path / "replies.jsonl"
    assert main(["generate", str(run), "--split", "valid", "--out", str(out), "--decode", "sample"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 245 and set(rows[0]) == {"id", "reply"}
    assert str(out) in capsys.readouterr().out


def test_evaluate_writes_the_keys_of_the_protocol(run):
    assert main(["evaluate", str(run)]) == 0
    found = json.loads((run / "metrics.json").read_text())
    keys = "n bleu_1 bleu_2 bleu_3 bleu_4 dist_1 dist_2 ppl ppl_micro unk_rate acc_emo f1_emo acc_intent"
    keys += " acc_intent_majority bertscore_f1 bartscore provenance notes"
    assert set(keys.split()) <= set(found)
    assert found["n"] == 247 and found["acc_emo"] is None and found["notes"]["acc_emo"]
    samples = (run / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 247 and set(json.loads(samples[0])) == {"id", "reply"}


def test_chat_shows_the_five_fields(run, monkeypatch, capsys):
    lines = iter(["I lost my keys and missed the train.", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert main(["chat", str(run)]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("reasons", "emotion", "first intent", "final intent", "reply"))


def test_score_by_hand(tmp_path, capsys):
    (tmp_path / "hyp").write_text("I am so sorry.\ngood luck!\n")
    (tmp_path / "ref").write_text("i am so sorry.\ngood luck!\n")
    assert main(["score", "--hyp", str(tmp_path / "hyp"), "--ref", str(tmp_path / "ref"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 2 and found["bleu_1"] == pytest.approx(100) and found["dist_1"] == pytest.approx(100)


def test_data_check_counts_the_mini_corpus(capsys):
    from rd.data.corpus import bundled

    assert main(["data", "check", str(bundled("mini")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["dialogues"] == 768


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["data", "check", "no/such/folder"], "no/such/folder"),
        (["train", "moell", "--preset", "mini"], "no such model"),
        (["train", "transformer", "--preset", "huge"], "no such preset"),
        (["train", "transformer", "--max-steps", "0"], "at least 1"),
        (["train", "transformer", "--set", "model.depth=2"], "layers"),
        (["train", "transformer", "--set", "model.layers=two"], "int like the preset's 1"),
        (["train", "transformer", "--set", "model"], "part.name=value"),
        (["generate", "no/such/run"], "rd train"),
        (["evaluate", "no/such/run"], "rd train"),
        (["chat", "no/such/run"], "rd train"),
        (["score", "--hyp", "no-hyp", "--ref", "no-ref"], "no-hyp"),
        (["reproduce", "--preset", "huge"], "no such preset"),
        (["annotate", "reasons", "--in", "none.jsonl", "--out", "x.jsonl", "--by", "weak"], "none.jsonl"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments, word, capsys):
    assert word in refused(arguments, capsys)


def test_an_unknown_split_is_named(run, capsys):
    assert "train, valid, test" in refused(["generate", str(run), "--split", "dev"], capsys)


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
@pytest.mark.parametrize(
    "verb",
    ["train transformer", "generate RUN", "prompt some-model", "tune some-model --out TMP", "reproduce"]
    + ["human make RUN RUN --out TMP"],
)
def test_a_seed_out_of_bounds_is_refused_by_every_verb(verb, seed, run, tmp_path, capsys):
    words = {"RUN": str(run), "TMP": str(tmp_path / "new")}
    line = refused([*(words.get(word, word) for word in verb.split()), "--seed", seed], capsys)
    assert line == f"rd: --seed {seed}: give a whole number from 0 to 1000000000" and not (tmp_path / "new").exists()


def test_answers_go_into_regular_files_alone(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rd.answering.answer", None)
    os.mkfifo(tmp_path / "pipe")
    for out, word in ((".", "names no file"), ("/", "names no file"), ("", "names no file")):
        assert word in refused(["generate", str(run), "--out", out], capsys)
    for out in (tmp_path, tmp_path / "pipe"):
        assert "no regular file" in refused(["generate", str(run), "--out", str(out)], capsys)
    assert (tmp_path / "pipe").is_fifo()


def test_unknown_options_exit_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2


def test_annotate_by_gold_and_weak(tmp_path, capsys):
    """Gold comes back from the corpus with its offsets; weak marks need no labels."""
    from rd.data.corpus import read_corpus

    dialogue = read_corpus().splits["test"][0]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"dialogue": [turn.text for turn in dialogue.turns], "mine": 1}) + "\n")
    assert main(["annotate", "reasons", "--in", str(source), "--out", str(out), "--by", "gold"]) == 0
    row = json.loads(out.read_text())
    assert row["reasons"] == [[list(span) for span in turn.reasons] for turn in dialogue.turns[::2]]
    assert row["mine"] == 1 and row["by"] == "gold"
    assert main(["annotate", "intents", "--in", str(source), "--out", str(out), "--by", "gold"]) == 0
    assert json.loads(out.read_text())["intents"] == [turn.intent for turn in dialogue.turns[1::2]]
    assert main(["annotate", "reasons", "--in", str(source), "--out", str(out), "--by", "weak"]) == 0
    marked = json.loads(out.read_text())["reasons"]
    assert len(marked) == len(dialogue.turns[::2])
    assert all(
        0 <= a < b <= len(t.text) for t, spans in zip(dialogue.turns[::2], marked, strict=True) for a, b in spans
    )


def test_annotate_without_trained_annotators_says_what_to_do(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"dialogue": ["I lost my keys."]}) + "\n")
    arguments = ["annotate", "reasons", "--in", str(source), "--out", str(tmp_path / "o"), "--results", str(tmp_path)]
    assert "not trained" in refused(arguments, capsys)
    assert not (tmp_path / "o").exists()


def test_a_split_without_a_listener_turn_is_told_and_nothing_is_written(run, tmp_path, capsys):
    rows = {"train": ["a", "b"], "valid": ["a", "b"], "test": ["alone"]}
    for split, turns in rows.items():
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"id": split, "emotion": "sad", "turns": turns}) + "\n")
    before = sorted(path.name for path in run.iterdir())
    for verb in ("evaluate", "generate"):
        assert main([verb, str(run), "--data", str(tmp_path)]) == 2
        assert "no listener turn" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before


def test_prompt_never_writes_over_another_run(run, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["prompt", "some-model", "--count", "2", "--resume", "--out", str(run)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_bytes_that_are_no_utf8_are_no_crash_in_a_chat(run, monkeypatch, capsys):
    said = iter(["caf\udce9 is sad", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(said))
    assert main(["chat", str(run)]) == 0
    assert "reply" in capsys.readouterr().out


def test_a_chat_in_a_terminal_that_lacks_signs_shows_others(run, monkeypatch):
    monkeypatch.setattr("sys.stdout", TextIOWrapper(BytesIO(), "latin-1"))
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"caf\xc3\xa9 \xff \xe2\x96\x88\n"), "utf-8"))
    monkeypatch.setattr("rd.chat.show", lambda turned: f"█ {turned.text}")
    assert main(["chat", str(run)]) == 0
    sys.stdout.flush()
    assert b"> ? caf\xe9 ? ?\n" in sys.stdout.buffer.getvalue()


def test_a_closed_standard_input_ends_a_chat(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["chat", str(run)]) == 0
    assert "empty line ends" in capsys.readouterr().out


def test_fewer_steps_than_are_done_are_refused(run, capsys, monkeypatch):
    monkeypatch.setitem(rd.settings.PRESETS, "mini", from_dict(Config, config_of(run)))
    line = refused(["train", "transformer", "--max-steps", "6", "--resume", "--out", str(run)], capsys)
    assert "12 steps are done" in line and (run / "machine.json").exists()


def test_two_corpora_of_ones_own_leave_two_files(run, tmp_path):
    for name, text in (("a", "It rained all day."), ("b", "My cat came home!")):
        (tmp_path / name).mkdir()
        row = {"id": "d1", "emotion": "sad", "turns": [text, "Oh."]}
        (tmp_path / name / "test.jsonl").write_text(json.dumps(row) + "\n")
        assert main(["evaluate", str(run), "--data", str(tmp_path / name)]) == 0
    assert len(list(run.glob("metrics-jsonl-*.json"))) == len(list(run.glob("samples-jsonl-*.jsonl"))) == 2


def test_a_place_for_the_answers_is_asked_for_before_the_work(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rd.answering.answer", None)
    assert "folder" in refused(["generate", str(run), "--out", str(tmp_path / "no" / "a.jsonl")], capsys)
    source = tmp_path / "in.jsonl"
    source.write_text('{"dialogue": ["I lost my dog.", "Oh no."]}\n')
    monkeypatch.setattr("rd.annotation.files.read_blocks", None)
    out = str(tmp_path / "no" / "b.jsonl")
    assert "folder" in refused(["annotate", "reasons", "--in", str(source), "--out", out, "--by", "weak"], capsys)


def config_of(run):
    """The settings that a run began with."""
    return json.loads((run / "config.json").read_text())["config"]
