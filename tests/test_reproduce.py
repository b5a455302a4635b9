"""`rd reproduce`: the command it gives to Snakemake, and that two workflows never work on one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import rd.reproduce
from rd.cli import main
from rd.errors import UserError
from rd.reproduce import hold


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Commands that would have been started; each ends well unless it names seed 7. The checkout is a copy's bones."""
    commands = []

    def run(command: list[str], **how) -> SimpleNamespace:
        commands.append(command)
        assert how["stdin"].fileno() in how["pass_fds"]
        return SimpleNamespace(returncode=int("seed=7" in command))

    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "reproduce.smk").touch()
    monkeypatch.setattr(rd.reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(rd.reproduce.subprocess, "run", run)
    return commands


def test_settings_reach_snakemake(started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"id": "a", "turns": ["I lost my dog.", "Oh no."]}\n')
    assert main(["reproduce", "--preset", "paper", "--seed", "2", "--out", "there", "--data", str(tmp_path)]) == 0
    (command,) = started
    assert command[:3] == [sys.executable, "-m", "snakemake"] and "--rerun-incomplete" in command
    assert command[-5:] == ["--config", "preset=paper", "seed=2", "out=there", f"data={tmp_path.resolve()}"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", ""], "--out"),
        (["--seed", "-1"], "--seed -1"),
        (["--data", "no/such/folder"], "no such folder"),
        (["--data", "EMPTY"], "no corpus here"),
        (["--data", "BROKEN"], "test.jsonl:1"),
    ],
)
def test_mistakes_are_told_before_any_notebook_runs(started, tmp_path: Path, capsys, arguments, word) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "test.jsonl").write_text("{\n")
    before = sorted(tmp_path.iterdir())
    assert main(["reproduce", *(str(tmp_path / a) if a.isupper() else a for a in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line and started == [] and sorted(tmp_path.iterdir()) == before


def test_a_failed_notebook_is_one_line(started, capsys) -> None:
    assert main(["reproduce", "--seed", "7"]) == 2
    assert "the same command goes on" in capsys.readouterr().err
    assert main(["reproduce"]) == 0  # the lock is free again


@pytest.mark.parametrize("place", ["results/mini", "elsewhere/mini", "runs/mini"])
def test_a_second_one_is_refused(place: str, started, tmp_path: Path, capsys) -> None:
    with hold(tmp_path / place):
        out = "results" if place == "runs/mini" else place.split("/")[0]  # runs/ holds what all values of --out share
        assert main(["reproduce", "--out", out]) == 2
    assert started == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "another" in line and place in line and f"process {rd.reproduce.os.getpid()}" in line


def test_other_presets_are_free(started, tmp_path: Path) -> None:
    with hold(tmp_path / "results" / "mini"):
        assert main(["reproduce", "--preset", "paper"]) == 0


def test_whoever_inherits_the_lock_holds_it(tmp_path: Path) -> None:
    with hold(tmp_path) as lock:
        child = subprocess.Popen(["sleep", "600"], stdin=lock)  # of a parent that is killed
    try:
        with pytest.raises(UserError, match="at work here"):
            hold(tmp_path)
    finally:
        child.kill()
        child.wait()
    hold(tmp_path).close()
