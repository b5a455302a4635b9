"""`rd annotate` on files: shards, kills, faults and changed inputs against one plain loop over all lines."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_bert import random_bert

import rd.annotation.part
from rd.annotation import ways
from rd.annotation.annotations import Tagger
from rd.annotation.blocks import read_blocks, share
from rd.annotation.files import Job, annotate_file, shard_file
from rd.annotation.part import Part, state_file
from rd.annotation.shards import merge_shards
from rd.annotation.weak import weak_tags
from rd.cli import main
from rd.config import Config
from rd.data.corpus import Corpus, Dialogue, Turn
from rd.data.text import spans_from_tags, words
from rd.errors import UserError
from rd.labels import INTENTS
from rd.models.annotator import ERA
from rd.models.classifier import BertClassifier

CHANCE = random.Random(5)
TOLD = ("I was so afraid of the dark cellar", "We won the lovely race!", "my dog died, it's terribly sad", "It rained")


def talk(number: int) -> dict:
    turns = [f"{CHANCE.choice(TOLD)}. {CHANCE.choice(TOLD)} {place}" for place in range(1 + number % 4)]
    return {"dialogue": turns, "id": number, "extra": "é\u2028"}


ROWS = [talk(number) for number in range(43)]


@pytest.fixture
def desk(tmp_path: Path) -> SimpleNamespace:
    """What a pipeline would hand over, with two dialogues as its corpus."""
    train = tuple(
        Dialogue(emotion, emotion, "", (Turn(text), Turn("Oh.")))
        for emotion, text in (("sad", TOLD[2]), ("joyful", TOLD[1]))
    )
    corpus = Corpus("own", {"train": train}, {"train.jsonl": "1"})
    return SimpleNamespace(corpus=corpus, config=Config(), annotators_folder=tmp_path / "annotators")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """43 dialogues among blank lines, with a byte-order mark, one CRLF, and no end to the last line."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    lines[3] += "\r"
    for place in (40, 20, 8, 0):
        lines.insert(place, " ")
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    return path


def plain(desk: SimpleNamespace) -> bytes:
    """The weak labels of all rows, by one loop."""
    voters, out = ways.weak_voters(desk.corpus), b""
    for row in ROWS:
        found = [words(turn) for turn in row["dialogue"][::2]]
        marks = [spans_from_tags(turn, weak_tags([word.text for word in turn], voters)) for turn in found]
        out += json.dumps({**row, "reasons": marks, "by": "weak"}, ensure_ascii=False).encode() + b"\n"
    return out


def job(source: Path, name: str = "out.jsonl", **more) -> Job:
    return replace(Job("reasons", source, source.with_name(name), "weak", block=4), **more)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("in.jsonl", "annotators"))


def cut_at(monkeypatch, desk, calls: int, error: BaseException) -> list[int]:
    """From now on the weak way fails at its (calls + 1)th block; the list counts the dialogues it labelled."""
    done: list[int] = []
    real = ways._weak(desk.corpus)

    def label(dialogues):
        if len(done) == calls:
            raise error
        done.append(len(dialogues))
        return real(dialogues)

    monkeypatch.setattr(ways, "_weak", lambda corpus: label)
    return done


@pytest.mark.parametrize("count", [1, 2, 3, 12, 15])
def test_shards_one_after_the_other_are_the_whole(desk, source, count):
    assert annotate_file(job(source), desk) == {"dialogues": 43, "by": "weak"}
    whole = source.with_name("out.jsonl").read_bytes()
    assert whole == plain(desk)
    told = [annotate_file(job(source, "s.jsonl", shard=f"{i}/{count}"), desk) for i in reversed(range(1, count + 1))]
    assert sum(each["dialogues"] for each in told) == 43
    shards = sorted(source.parent.glob("s.*-of-*.jsonl"))  # by name, as a shell lists them
    assert len(shards) == count and b"".join(shard.read_bytes() for shard in shards) == whole
    assert merge_shards(job(source, "s.jsonl"), count) == {"dialogues": 43, "by": "weak", "shards": count}
    assert source.with_name("s.jsonl").read_bytes() == whole


def test_shares_meet_and_leave_nothing_out():
    for lines in range(30):
        for count in range(1, 9):
            parts = [share(lines, place, count, 4) for place in range(1, count + 1)]
            assert [line for part in parts for line in part] == list(range(lines))
            assert all(part.start % 4 == 0 for part in parts if part)


def test_a_merge_refuses_what_is_not_whole(desk, source):
    def made(place: int, by: str = "weak") -> Path:
        annotate_file(job(source, shard=f"{place}/3", by=by), desk)
        return shard_file(source.with_name("out.jsonl"), place, 3)

    first, second = made(1), made(2)
    refused = pytest.raises
    with refused(UserError, match="out.3-of-3.jsonl: .*--shard 3/3 --resume"):
        merge_shards(job(source), 3)
    third, inside = made(3), source.read_bytes()
    whole = third.read_bytes()
    for wrong in (whole[:-9], whole + whole, whole.replace(b"I", b"J", 1)):
        third.write_bytes(wrong)
        with refused(UserError, match="out.3-of-3.jsonl: not what was written"):
            merge_shards(job(source), 3)
    third.write_bytes(second.read_bytes())  # doubled, with its state
    state_file(third).write_bytes(state_file(second).read_bytes())
    with refused(UserError, match="out.3-of-3.jsonl: made of other input"):
        merge_shards(job(source), 3)
    made(3)
    for change in (inside.replace(b"race", b"rice", 1), inside + b"\n" + inside.split(b"\n")[1]):
        source.write_bytes(change)
        with refused(UserError, match="-of-3.jsonl: made of other input"):
            merge_shards(job(source), 3)
    source.write_bytes(inside)
    desk.corpus.sha256["train.jsonl"] = "2"
    made(2)
    with refused(UserError, match="out.2-of-3.jsonl: made with other settings"):
        merge_shards(job(source), 3)
    with refused(UserError, match="other settings"):
        merge_shards(job(source, what="intents"), 3)
    assert not source.with_name("out.jsonl").exists() and first.exists()
    assert not any(name.endswith(".part") for name in left(source.parent))


def test_a_fault_loses_nothing_before_it_and_a_mended_file_goes_on(desk, source, monkeypatch):
    good = source.read_bytes()
    lines = good.split(b"\n")
    lines[29] = b'{"dialogue": ["a", ""]}'
    source.write_bytes(b"\n".join(lines))
    with pytest.raises(
        UserError, match=r"in.jsonl:30: turn 2 is empty; .*; 25 dialogues are done: .* --resume"
    ) as error:
        annotate_file(job(source), desk)
    assert "\n" not in str(error.value) and not source.with_name("out.jsonl").exists()
    with pytest.raises(UserError, match="25 dialogues are done; --resume"):
        annotate_file(job(source), desk)
    source.write_bytes(good)
    done = cut_at(monkeypatch, desk, 99, SystemExit())
    assert annotate_file(job(source, resume=True), desk)["dialogues"] == 43
    assert sum(done) == 43 - 25 and source.with_name("out.jsonl").read_bytes() == plain(desk)
    assert annotate_file(job(source, resume=True), desk)["dialogues"] == 43 and sum(done) == 43 - 25  # all is there


@pytest.mark.parametrize("fault", [b'{"dialogue": []}', b"\xff"])
def test_a_fault_at_the_start_leaves_nothing(desk, source, fault):
    source.write_bytes(fault + b"\n" + source.read_bytes())
    with pytest.raises(UserError, match="in.jsonl:1: "):
        annotate_file(job(source), desk)
    assert left(source.parent) == []
    source.write_bytes(b" \n\n")
    with pytest.raises(UserError, match="in.jsonl:1: the file is empty"):
        annotate_file(job(source), desk)


def test_what_has_changed_is_refused_in_one_line(desk, source, monkeypatch):
    good, part = source.read_bytes(), source.with_name(".out.jsonl.part")
    with monkeypatch.context() as patch:
        cut_at(patch, desk, 6, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            annotate_file(job(source), desk)
    kept = part.read_bytes(), state_file(source.with_name("out.jsonl")).read_bytes()

    def refused(what: str, **more) -> None:
        with pytest.raises(UserError, match=what) as error:
            annotate_file(job(source, resume=True, **more), desk)
        assert "\n" not in str(error.value)
        assert (part.read_bytes(), state_file(source.with_name("out.jsonl")).read_bytes()) == kept

    refused(r"other settings \(block\)", block=5)
    desk.corpus.sha256["train.jsonl"] = "2"
    refused(r"other settings \(corpus\)")
    desk.corpus.sha256["train.jsonl"] = "1"
    refused(r"other settings \(by\)", by="gold")
    for change in (good.replace(b"id", b"ID", 1), good[:800], b"\n" + good):
        source.write_bytes(change)
        refused("in.jsonl: what was read of it has changed since")
    part.write_bytes(kept[0].replace(b"I", b"J", 1))
    kept = part.read_bytes(), kept[1]
    source.write_bytes(good)
    refused("out.jsonl.part: not what was written there")


DEEP = "[" * 100_000 + "]" * 100_000
WRONG = {
    "line": ["1", 1.5, -1, None, True],
    "bytes": ["1", -1, None, []],
    "settings": [None, [], "reasons", 7],
    "finished": [None, 1],
    "read": [None, 5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_state_of_the_wrong_kind_is_one_line(desk, source, name, value):
    annotate_file(job(source), desk)
    file = state_file(source.with_name("out.jsonl"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UserError, match=f"out.jsonl.state.json: damaged.*{name}.*; delete it"):
        annotate_file(job(source, resume=True), desk)


@pytest.mark.parametrize("text", [DEEP, '{"settings": ' + DEEP + "}", "7", "[]"], ids=["deep", "deeper", "7", "list"])
def test_a_damaged_state_is_one_line(desk, source, text):
    state_file(source.with_name("out.jsonl")).write_text(text)
    with pytest.raises(UserError, match="out.jsonl.state.json: damaged") as told:
        annotate_file(job(source, resume=True), desk)
    assert "\n" not in str(told.value)


def test_a_state_that_tells_of_more_than_was_written_is_refused(desk, source):
    annotate_file(job(source), desk)
    out = source.with_name("out.jsonl")
    state_file(out).write_text(json.dumps(json.loads(state_file(out).read_text()) | {"bytes": 10**30}))
    out.rename(out.with_name(".out.jsonl.part"))
    with pytest.raises(UserError, match="not what was written"):
        annotate_file(job(source, resume=True), desk)


@pytest.mark.parametrize("wrong", [{}, {"what": "reasons"}, {"what": "reasons", "by": "weak", "block": "4"}])
def test_a_shard_whose_settings_are_none_is_not_merged(desk, source, wrong):
    annotate_file(job(source, shard="1/1"), desk)
    file = state_file(shard_file(source.with_name("out.jsonl"), 1, 1))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"settings": wrong}))
    with pytest.raises(UserError, match="out.1-of-1.jsonl.state.json: damaged"):
        merge_shards(job(source), 1)


def test_an_input_that_grew_after_the_end_is_refused(desk, source):
    whole = [json.dumps(row) + "\n" for row in ROWS]
    for kept in (40, 43):  # whole blocks, and not
        source.write_text("".join(whole[:kept]))
        annotate_file(job(source), desk)
        before = source.with_name("out.jsonl").read_bytes()
        source.write_text("".join([*whole, whole[0]]))
        with pytest.raises(UserError, match="in.jsonl: longer than when"):
            annotate_file(job(source, resume=True), desk)
        assert source.with_name("out.jsonl").read_bytes() == before


def test_kills_at_any_time_lose_and_double_nothing(desk, source, monkeypatch):
    """SIGKILL, over and over, as the part file has grown by a random number of bytes; at the end it is the whole."""
    monkeypatch.setattr(rd.annotation.part, "SAVE_EVERY", 0.0)
    out, chance, killed = source.with_name("out.jsonl"), random.Random(1), 0
    part, wanted = source.with_name(".out.jsonl.part"), plain(desk)
    for _ in range(40):
        limit = (part.stat().st_size if part.exists() else 0) + chance.randrange(1, len(wanted) // 6)
        if not (child := os.fork()):
            try:
                annotate_file(job(source, resume=True, block=1), desk)
            finally:
                os._exit(0)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if part.exists() and part.stat().st_size >= limit:
                time.sleep(chance.random() / 200)  # not just as it grows
                os.kill(child, signal.SIGKILL)
                ended = os.waitpid(child, 0)
                break
            time.sleep(0.0005)
        killed += os.WIFSIGNALED(ended[1])
        if out.exists():
            break
        with part.open("ab") as file:
            file.write(b'{"dialogue": ["torn')
    assert killed >= 2 and out.read_bytes() == wanted and left(source.parent) == [".out.jsonl.state.json", "out.jsonl"]


def test_a_kill_between_the_last_state_and_the_rename(desk, source, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b, real=os.replace: real(a, b) if "state" in str(a) else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            annotate_file(job(source), desk)
    assert not source.with_name("out.jsonl").exists()
    done = cut_at(monkeypatch, desk, 0, SystemExit())
    assert annotate_file(job(source, resume=True), desk)["dialogues"] == 43 and not done
    assert source.with_name("out.jsonl").read_bytes() == plain(desk)


def test_two_at_one_output_are_refused(tmp_path):
    with Part(tmp_path / "out.jsonl", {"what": "reasons"}, False) as part:
        part.write(b"a\n")
        part.reach(1, "x", 1)
        part._save()
        with pytest.raises(UserError, match="another process is writing it"):
            Part(tmp_path / "out.jsonl", {"what": "reasons"}, True)
    with Part(tmp_path / "out.jsonl", {"what": "reasons"}, True) as part:
        assert part.state.dialogues == 1


def test_a_shard_must_be_one_of_them(desk, source):
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0", "1/100001", f"1/{'9' * 5000}"):
        with pytest.raises(UserError, match="--shard .*: write which"):
            annotate_file(job(source, shard=wrong), desk)
    for wrong in (0, 257, 100_000):
        with pytest.raises(UserError, match=f"--concurrency {wrong}: .* 1 to 256"):
            annotate_file(job(source, concurrency=wrong), desk)
    for wrong in (0, 100_001, 1_000_000_000):
        with pytest.raises(UserError, match=f"--merge {wrong}: .* 1 to 100000"):
            merge_shards(job(source), wrong)


@pytest.mark.parametrize("by", ["era", "tagger"])
def test_batches_of_shards_and_resumed_runs_are_those_of_the_whole(desk, source, monkeypatch, by):
    """BERT in bf16 answers by what else is in its batch, so the batches themselves must be the same."""
    torch.manual_seed(0)
    batches: list[list] = []
    if by == "era":
        model = ERA(*random_bert()).eval()
        model.threshold.fill_(float(torch.tensor(model.predict([["i", "am", "sad"]])[0][0]).median()))
        monkeypatch.setattr(model, "predict", lambda rows, real=model.predict: batches.append(rows) or real(rows))
        monkeypatch.setattr(ways, "load_era", lambda *_: model)
    else:
        model = BertClassifier(*random_bert(), len(INTENTS)).eval()
        monkeypatch.setattr(model, "predict", lambda rows, real=model.predict: batches.append(rows) or real(rows))
        monkeypatch.setattr(ways, "load_tagger", lambda *_: Tagger(model, True))
    monkeypatch.setattr(ways, "weights", lambda folder: "1")
    monkeypatch.setattr(ways, "few_kernels", lambda: None)  # the other tests keep theirs
    (desk.annotators_folder / by).mkdir(parents=True)
    (desk.annotators_folder / by / "config.json").write_text("{}")
    given = {"what": "reasons" if by == "era" else "intents", "by": by}
    annotate_file(job(source, **given), desk)
    whole, once = source.with_name("out.jsonl").read_bytes(), batches.copy()
    for row, line in zip(ROWS, whole.splitlines(), strict=True):
        assert len(json.loads(line)[given["what"]]) == (len(row["dialogue"]) + (by == "era")) // 2
    batches.clear()
    for place in (1, 2, 3):
        annotate_file(job(source, "s.jsonl", shard=f"{place}/3", **given), desk)
    merge_shards(job(source, "s.jsonl", **given), 3)
    assert batches == once and source.with_name("s.jsonl").read_bytes() == whole
    batches.clear()
    lines = source.read_bytes().split(b"\n")
    source.write_bytes(b"\n".join([*lines[:21], b"{", *lines[22:]]))
    with pytest.raises(UserError, match="in.jsonl:22: not JSON"):
        annotate_file(job(source, "r.jsonl", **given), desk)
    source.write_bytes(b"\n".join(lines))
    annotate_file(job(source, "r.jsonl", resume=True, **given), desk)
    assert batches == once and source.with_name("r.jsonl").read_bytes() == whole


def test_memory_does_not_grow_with_the_file(desk, source, monkeypatch):
    monkeypatch.setattr(ways, "_weak", lambda corpus: lambda dialogues: [[] for _ in dialogues])
    peaks = []
    for times in (1, 4, 64):
        source.write_text("".join(json.dumps(row) + "\n" for row in ROWS * times))
        tracemalloc.start()
        assert annotate_file(job(source), desk)["dialogues"] == 43 * times
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]  # the first pays for what is loaded once


def test_a_block_is_read_only_when_it_is_asked_for(source):
    blocks = read_blocks(source, range(47), size=4)
    assert next(blocks).end == 4
    source.write_bytes(b"")  # what is not in a buffer yet is not there any more
    assert len(list(blocks)) <= 11


def test_the_benchmark_counts_what_it_makes(root, tmp_path):
    spec = importlib.util.spec_from_file_location("annotate_benchmark", root / "benchmarks" / "annotate.py")
    spec.loader.exec_module(benchmark := importlib.util.module_from_spec(spec))
    path = tmp_path / "made.jsonl"
    count = benchmark.write_corpus(path, 101)
    rows = [row for block in read_blocks(path, range(count)) for row in block.rows]
    assert len(rows) == count and sum(len(row["dialogue"]) for row in rows) == 101
    given = SimpleNamespace(preset="mini", data="", results="results", concurrency=1)
    found = benchmark.measure("weak", path, tmp_path / "out.jsonl", given)
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == count and found["peak_mb"] >= found["before_mb"] > 0


@pytest.mark.parametrize("out", [".", "/", "", "folder", "pipe"])
@pytest.mark.parametrize("more", [[], ["--shard", "1/2"], ["--merge", "2"]])
def test_lines_go_into_regular_files_alone(source, tmp_path, monkeypatch, capsys, out: str, more: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["annotate", "reasons", "--by", "weak", "--in", str(source), "--out", out, *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rd: ") and ("no regular file" if out in ("folder", "pipe") else "names no file") in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before and (tmp_path / "pipe").is_fifo()


def test_a_part_never_becomes_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        Part(tmp_path / "pipe", {}, False)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
