"""A full disk, a read-only folder, an older run: one line, nothing half written, what was there is still there."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import resource
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from errno import EFBIG, ENOSPC
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import epochs, saved, tiny, train_config, validate
from test_tables import metrics

import rd.cli
from rd.checkpoint import save_weights
from rd.config import MINI, Config
from rd.data.store import FeatureStore
from rd.data.text import Vocabulary
from rd.errors import UserError
from rd.figures import panels, save
from rd.files import append, replace_file, replace_text
from rd.human.store import Store, create
from rd.locks import locked
from rd.publish import publish, publish_figure
from rd.readme import embed
from rd.report import report
from rd.run import MODELS, load_run, save_json
from rd.scores import score_rows, write_scores
from rd.stages import _begin_final
from rd.tables import write_table
from rd.train import fit, read_history

ROOM = 8192  # bytes that a file may have while the "disk" is full


@contextmanager
def full_disk(room: int = ROOM) -> Iterator[None]:
    """No file grows beyond `room` bytes: the kernel says EFBIG where a full disk says ENOSPC, by the same ways."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody writes into `folder`, not root either: its powers over files are put down meanwhile (capset, Linux)."""
    libc, head = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, none = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, before) == 0
    none[1], none[2], none[4], none[5] = before[1], before[2], before[4], before[5]  # permitted, to be taken up again
    folder.chmod(0o555)
    assert libc.capset(head, none) == 0
    try:
        yield
    finally:
        assert libc.capset(head, before) == 0
        folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    """All that lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_in_training_leaves_the_last_state_and_the_run_goes_on_from_it(tmp_path: Path) -> None:
    fit(tiny("transformer"), epochs(), validate, train_config(), tmp_path / "whole", log_every=2)
    fit(tiny("transformer"), epochs(), validate, train_config(steps=4), tmp_path / "run", log_every=2)
    before, files = saved(tmp_path / "run"), names(tmp_path / "run")
    best = (tmp_path / "run" / "best.safetensors").read_bytes()
    with full_disk(), pytest.raises(UserError) as told:
        fit(tiny("transformer"), epochs(), validate, train_config(), tmp_path / "run", resume=True, log_every=2)
    assert "not written" in str(told.value) and "bytes are free" in str(told.value) and "\n" not in str(told.value)
    assert names(tmp_path / "run") == files and (tmp_path / "run" / "best.safetensors").read_bytes() == best
    torch.testing.assert_close(saved(tmp_path / "run"), before, rtol=0, atol=0)
    fit(tiny("transformer"), epochs(), validate, train_config(), tmp_path / "run", resume=True, log_every=2)
    torch.testing.assert_close(saved(tmp_path / "run"), saved(tmp_path / "whole"), rtol=0, atol=0)
    for name in ("history.jsonl", "best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_text(path, "old")
    with full_disk(), pytest.raises(OSError, match="a.json") as told:
        replace_text(path, "n" * 2 * ROOM)
    assert told.value.errno == EFBIG and path.read_text() == "old" and names(tmp_path) == ["a.json"]
    with pytest.raises(ZeroDivisionError):
        replace_file(path, lambda beside: Path(beside).write_text(str(1 / 0)))
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=f"no regular file.*{name}"):
            replace_text(tmp_path / name, "new")
    with pytest.raises(OSError, match="names no file"):
        replace_text(Path(), "new")
    assert (tmp_path / "pipe").is_fifo() and names(tmp_path) == ["folder", "pipe"]


def test_a_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append(path, b"one\n")
    with full_disk(), pytest.raises(OSError, match="a.jsonl"):
        append(path, b"2" * 2 * ROOM + b"\n")
    append(path, b"three\n")
    assert path.read_text() == "one\nthree\n"


def test_a_full_disk_leaves_no_store(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> list:
        return [(np.zeros(9, np.uint8), np.zeros((9, 64), np.float16)) for _ in texts]

    with full_disk(), pytest.raises(OSError):
        FeatureStore.build(tmp_path, "weights", list(map(str, range(50))), encode)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_a_study_as_it_was(tmp_path: Path) -> None:
    many = [(f"p{i}", "s", "c" * 100, "ours", "theirs") for i in range(2000)]
    with full_disk(), pytest.raises(UserError, match="not written"):
        create(tmp_path / "ratings.sqlite", {"pairs": many})
    assert names(tmp_path) == []
    create(tmp_path / "ratings.sqlite", {"pairs": many[:50]})
    with Store(tmp_path) as store:
        with full_disk(40_000), pytest.raises(UserError, match="not written"), store.writing() as db:
            db.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?)", many[50:])
        assert len(store.rows("SELECT * FROM pairs")) == 50
        with store.writing() as db:
            db.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?, ?)", many[50:60])
    with Store(tmp_path) as store:
        assert len(store.rows("SELECT * FROM pairs")) == 60


def test_a_read_only_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines, out = tmp_path / "in.jsonl", tmp_path / "there"
    lines.write_text('{"dialogue": ["I lost my dog.", "Oh no."]}\n')
    out.mkdir()
    replace_text(out / "x.jsonl", "old")
    with read_only(out):
        arguments = ["annotate", "reasons", "--in", str(lines), "--out", str(out / "x.jsonl"), "--by", "weak"]
        assert rd.cli.main(arguments) == 2
        told = [line for line in capsys.readouterr().err.splitlines() if line]
        assert told == [f"rd: {out / '.x.jsonl.part'}: Permission denied"]
        with pytest.raises(PermissionError, match=str(out)), locked(out):
            pass
    assert (out / "x.jsonl").read_text() == "old" and names(out) == ["x.jsonl"]


def test_a_study_in_a_read_only_folder_says_why_it_cannot_be_opened(tmp_path: Path) -> None:
    create(tmp_path / "ratings.sqlite", {})
    with read_only(tmp_path), pytest.raises(UserError, match="cannot be opened.* takes none: Permission denied"):
        Store(tmp_path)
    (tmp_path / "ratings.sqlite").chmod(0)
    with read_only(tmp_path), pytest.raises(UserError, match=r"cannot be opened \(Permission denied\)"):
        Store(tmp_path)
    (tmp_path / "ratings.sqlite").chmod(0o600)
    with Store(tmp_path) as store:
        assert store.raters == []


def test_a_finished_store_is_read_from_a_read_only_folder(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> list:
        return [(np.zeros(1, np.uint8), np.zeros((1, 4), np.float16)) for _ in texts]

    FeatureStore.build(tmp_path, "weights", ["a", "b"], encode)
    with read_only(tmp_path):
        assert len(FeatureStore.build(tmp_path, "weights", ["a", "b"], encode)) == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(ENOSPC, os.strerror(ENOSPC)), "rd: No space left on device"),
        (OSError(ENOSPC, os.strerror(ENOSPC), "runs/a/state.pt"), "rd: runs/a/state.pt: No space left on device"),
        (OSError("Can't load\n  the tokenizer"), "rd: Can't load the tokenizer"),
        (TimeoutError(), "rd: TimeoutError"),
        (sqlite3.OperationalError("database or disk is full"), "rd: database or disk is full; is the disk full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "rd: attempt to write a readonly"),
        (zipfile.BadZipFile("File is not a zip file"), "rd: File is not a zip file"),
        (MemoryError(), "rd: not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "rd: not enough memory (CUDA out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "rd: not enough memory"),
    ],
)
def test_a_fault_of_the_machine_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("rd.metrics.score_files", fails)
    assert rd.cli.main(["score", "--hyp", "a", "--ref", "b"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(line) and told.count("\n") == 1


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rd.metrics.score_files", lambda *_: {}["gone"])
    with pytest.raises(KeyError, match="gone"):
        rd.cli.main(["score", "--hyp", "a", "--ref", "b"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, with untrained weights."""
    small = replace(MINI, model=replace(MINI.model, width=12, heads=2, ffn=12))
    vocab = Vocabulary.build([["my", "dog", "ran"]])
    vocab.save(tmp_path / "vocabulary.json")
    save_weights(tmp_path / "best.safetensors", MODELS["transformer"](small.model, torch.zeros(len(vocab), 12)))
    described(tmp_path, small)
    return tmp_path


def described(folder: Path, config: Config, **more: object) -> None:
    """Write its config.json."""
    said = {"model": "transformer", "config": asdict(config), "digest": config.digest(), **more}
    save_json(folder / "config.json", said)


def test_a_run_of_an_older_version_is_refused_with_the_reason(run: Path) -> None:
    assert load_run(run).name == "transformer"
    whole = json.loads((run / "config.json").read_text())

    def refused(change, reason: str, fresh: bool = True) -> None:
        said = json.loads(json.dumps(whole))
        change(said)
        if fresh:  # as the older version wrote it
            said["digest"] = rd.run.digest(said["config"])
        save_json(run / "config.json", said)
        with pytest.raises(UserError, match=f"config.json: damaged, or not a run of this version.*{reason}") as told:
            load_run(run)
        assert "\n" not in str(told.value)

    refused(lambda said: said["config"]["model"].pop("intent_place"), "no model.intent_place")
    refused(lambda said: said["config"].pop("data"), "data.vectors")
    refused(lambda said: said["config"]["model"].update(depth=3), "no setting .*depth")
    refused(lambda said: said.update(model="oracle"), "oracle")
    refused(lambda said: said.pop("model"), "model")
    refused(lambda said: said["config"]["model"].update(heads=3), "digest", fresh=False)
    refused(lambda said: said.update(config=[]), "")
    said = json.loads(json.dumps(whole))
    del said["config"]["knowledge"]  # which the transformer does not read
    save_json(run / "config.json", said | {"digest": rd.run.digest(said["config"])})
    assert load_run(run).name == "transformer"


DEEP = "[" * 100_000 + "]" * 100_000
DAMAGES = {"empty": b"", "list": b"[]", "torn": b"{", "deep": DEEP.encode(), "bytes": b'{"a": "\xff"}'}


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_config_of_a_run_is_one_line(run: Path, text: bytes) -> None:
    (run / "config.json").write_bytes(text)
    with pytest.raises(UserError, match="config.json: damaged") as told:
        load_run(run)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - {"list"}))
def test_a_last_stage_whose_beginning_is_damaged_is_not_thrown_away(tmp_path: Path, name: str) -> None:
    text = DAMAGES[name]
    (tmp_path / "begun.json").write_bytes(text)
    with pytest.raises(UserError, match="begun.json: damaged"):
        _begin_final(tmp_path, 3)
    assert (tmp_path / "begun.json").read_bytes() == text


HISTORIES = {
    "not UTF-8": b'{"step": 2, "a": "\xff"}\n',
    "deep": b'{"step": ' + DEEP.encode() + b"}\n",
    "no step": b"{}\n",
    "a step that is none": b'{"step": "2"}\n',
    "a score that is none": b'{"step": 2, "valid/score": "low"}\n',
}


@pytest.mark.parametrize("text", HISTORIES.values(), ids=HISTORIES)
def test_a_damaged_history_is_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "history.jsonl").write_bytes(text)
    with pytest.raises(UserError, match="history.jsonl: damaged") as told:
        read_history(tmp_path / "history.jsonl")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("left", [None, b"", b'{"step": 2, "lr": 0.1}\n'])
@pytest.mark.parametrize("steps", [4, 6])
def test_a_training_whose_history_is_lost_is_told_so(tmp_path: Path, left: bytes | None, steps: int) -> None:
    history = tmp_path / "history.jsonl"
    fit(tiny("transformer"), epochs(), validate, train_config(steps=4), tmp_path, log_every=2)
    whole = history.read_bytes()
    history.unlink()
    if left is not None:
        history.write_bytes(left)
    with pytest.raises(UserError, match="history.jsonl: lacks the best validation of the 4 steps .* state.pt"):
        fit(tiny("transformer"), epochs(), validate, train_config(steps=steps), tmp_path, resume=True, log_every=2)
    assert history.read_bytes() == left if left is not None else not history.exists()
    history.write_bytes(whole)
    assert fit(tiny("transformer"), epochs(), validate, train_config(steps=steps), tmp_path, resume=True, log_every=2)


def test_another_vocabulary_than_the_run_s_is_refused(run: Path) -> None:
    config = load_run(run).config
    described(run, config, vocabulary=rd.run._check(run))
    load_run(run)
    text = (run / "vocabulary.json").read_text()
    (run / "vocabulary.json").write_text(text.replace("dog", "dig"))
    with pytest.raises(UserError, match="vocabulary.json: damaged"):
        load_run(run)


def test_nothing_asks_a_clock_that_can_go_back(root: Path) -> None:
    """Durations come from time.monotonic; dates are written and never compared, and files' times tell no order."""
    asks = {}
    for path in sorted((root / "rd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if name in ("time.time", "datetime.now", "datetime.today", "date.today") or "st_mtime" in name:
                asks.setdefault(path.relative_to(root / "rd").as_posix(), set()).add(name.rpartition(".")[2])
    assert asks == {
        "annotation/llm_backends.py": {"now"},  # a server that says until which hour it wants to rest
        "human/session.py": {"now"},  # when a rating was given, as a note
        "knowledge/files.py": {"st_mtime_ns"},  # a part of the name of what was made of a file: any change counts
        "provenance.py": {"now"},
    }


FRAME = pd.DataFrame({"system": ["a", "b"], "value": [1.5, 2.5]})
WRITERS = {
    "publish": lambda home: publish(FRAME, home, "t", "a caption"),
    "publish_figure": lambda home: publish_figure(panels()[0], home, "f", "a caption", (), FRAME),
    "save": lambda home: save(panels()[0], home, "f"),
    "write_table": write_table,
    "write_scores": lambda home: write_scores(score_rows(["a:1"], ["a b"], ["a c"]), home / "scores.csv"),
    "embed": lambda home: embed(home / "page.md", home),
    "report": lambda home: report(home.parent),
}


@pytest.mark.parametrize("room", [8, 60])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, room: int
) -> None:
    """Of what `rd tables` and `rd report` write; the error names the file."""
    monkeypatch.setattr("rd.report.provenance", lambda: {"hardware": "x", "date": "now"})
    monkeypatch.setattr("rd.report.code_version", lambda: "abc")  # git would meet the full disk, too
    home = tmp_path / "paper"
    (home / "transformer-s0").mkdir(parents=True)
    (home / "transformer-s0" / "metrics.json").write_text(json.dumps(metrics(0)))
    (home / "table.md").write_text("x")
    if name != "embed":  # which writes nothing where nothing changes
        WRITERS[name](home)
    (home / "page.md").write_text("<!-- table: results/paper/table.md -->\nold\n<!-- /table -->\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with full_disk(room), pytest.raises(OSError) as told:
        WRITERS[name](home)
    assert Path(told.value.filename) in before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_result_is_written_in_place(root: Path) -> None:
    """Whatever writes a file writes to the name `beside` it that `rd.files.replace_file` gives, or is told here."""
    found = {}
    for path in sorted((root / "rd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or "beside" in ast.unparse(node):
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            modes = {a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)}
            if called in {"write_text", "write_bytes", "to_csv", "savefig"} or (
                called == "open" and modes & {"w", "wb", "a", "ab"}
            ):
                found.setdefault(path.relative_to(root / "rd").as_posix(), set()).add(called)
    assert found == {
        "cli.py": {"open"},  # what the other processes print, into nothing
        "data/store.py": {"open", "write_text"},  # into a folder that is renamed at the end
        "files.py": {"open"},  # `append`, which takes back what it could not finish
        "widgets/board.py": {"savefig"},  # into memory
    }
