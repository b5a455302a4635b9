"""The workflow: its jobs, its profiles, and that kills cost no more than the steps since the last saved state."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_run import small_corpus
from snakemake.cli import get_argument_parser

from rd.data.corpus import read_corpus
from rd.pipeline import Pipeline
from rd.reproduce import hold
from rd.run import MODELS, train_run
from rd.settings import settings

ROOT = Path(__file__).resolve().parents[1]
RULES = set(re.findall(r"^rule (\w+):", (ROOT / "workflow" / "Snakefile").read_text("utf-8"), re.M))
PROFILES = sorted((ROOT / "workflow" / "profiles").iterdir())
SITE = ("slurm-", "kubernetes-")  # options that the plugins add
STEPS = 60
TINY = (
    *("model.width=52", "model.heads=2", "model.ffn=52"),
    *("train.warmup=6", "train.validate_every=60", "train.save_every=2", "train.precision=fp32"),
)


def snakemake(folder: Path, options: list[str], config: list[str], **how) -> subprocess.Popen:
    """Snakemake with the fan-out and the profile for one machine, its own files in `folder`; says all on stdout."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    command += ["--profile", str(ROOT / "workflow" / "profiles" / "local"), "--directory", str(folder), "--cores", "1"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *options, "--config", f"root={ROOT}", *config], cwd=ROOT, env=env, **out, **how)


def said(process: subprocess.Popen, code: int = 0) -> str:
    """All that it says until its end, which has this exit status."""
    text = process.communicate(timeout=900)[0]
    assert process.returncode == code, text
    return text


def jobs(text: str) -> dict[str, int]:
    """The table of jobs, by rule."""
    table = text.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}


# --- what would run ---------------------------------------------------------------------------------------------------


def test_every_model_seed_and_notebook_is_a_job(tmp_path: Path) -> None:
    text = said(
        snakemake(tmp_path, ["--dry-run", "--printshellcmds"], ["seeds=0,1", f"out={tmp_path}", "preset=paper"])
    )
    assert jobs(text) == {
        **{"annotators": 1, "knowledge": 1, "train": 26, "evaluate": 26},
        **{"notebook": 22, "see": 1, "tables": 1, "all": 1},
    }
    runs = {f"{name}-s{seed}" for name in MODELS for seed in (0, 1)}
    ablated = "reflectdiffu-intent_twice-False"
    assert runs < set(re.findall(r"--out \S+/paper/(\S+) --resume", text))
    (command,) = re.findall(rf"rd\.cli train .*{ablated}-s1.*", text)
    assert re.match(r"rd\.cli train reflectdiffu --preset paper --data '' --seed 1 ", command)
    assert command.endswith(
        f"--results {tmp_path} --out {tmp_path}/paper/{ablated}-s1 --resume  --set model.intent_twice=false"
    )


def test_an_ablation_by_the_command_line_is_the_pipelines(tmp_path: Path) -> None:
    desk = Pipeline("paper", 1, out=str(tmp_path))
    ours = replace(desk.config, model=replace(desk.config.model, intent_twice=False))
    assert settings("paper", 1, None, ("model.intent_twice=false",)).digest() == ours.digest()


def test_needs_are_those_of_the_models() -> None:
    text = (ROOT / "workflow" / "Snakefile").read_text("utf-8")
    told = ast.literal_eval(re.search(r"^MODELS = (\{.*?^\})", text, re.M | re.S)[1])
    needs = {
        name: ["annotators"] * (model.reads_annotations or model.learns_intents) + ["knowledge"] * model.reads_knowledge
        for name, model in MODELS.items()
    }
    assert told == needs


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.name)
def test_profiles_name_options_and_rules_that_exist(profile: Path) -> None:
    told = yaml.safe_load((profile / "config.yaml").read_text("utf-8"))
    options = {option for action in get_argument_parser()._actions for option in action.option_strings}
    assert [key for key in told if f"--{key}" not in options and not key.startswith(SITE)] == []
    named = set(told.get("set-threads", {})) | set(told.get("set-resources", {}))
    assert named <= RULES and told.get("executor", profile.name) == profile.name
    assert told["nolock"] and told["rerun-incomplete"] and told["keep-going"]


# --- kills ------------------------------------------------------------------------------------------------------------


def until(true: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait for something that happens while the process runs."""
    while not true():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def trainer(run: Path) -> int:
    """The process number of the `rd train` at work on a run."""
    table = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    rows = [line.split() for line in table.splitlines()]
    (pid,) = [row[0] for row in rows if row[1] == sys.executable and str(run) in row and "rd.cli" in row]
    return int(pid)


def free(folder: Path) -> bool:
    """Whether nobody holds the folder any more."""
    try:
        hold(folder).close()
    except Exception:
        return False
    return True


def test_kills_lose_nothing_and_are_made_good(tmp_path: Path) -> None:
    data, home = small_corpus(tmp_path), tmp_path / "mini"
    runs = [home / f"transformer-s{seed}" for seed in (0, 1)]
    config = ["models=transformer", "seeds=0,1", "annotators=no", f"max_steps={STEPS}", f"set={' '.join(TINY)}"]
    given = [str(run / ".trained") for run in runs], [*config, f"data={data}", f"out={tmp_path}"]

    first = snakemake(tmp_path, *given)  # one job is killed: the other still runs
    until(lambda: any((run / "state.pt").exists() for run in runs), first)
    broken, whole = sorted(runs, key=lambda run: not (run / "state.pt").exists())
    os.kill(trainer(broken), signal.SIGKILL)
    assert jobs(said(first, code=1)) == {"train": 2}
    assert [(run / ".trained").exists() for run in (broken, whole)] == [False, True]
    assert not (broken / "machine.json").exists()
    done, saved = (whole / ".trained").stat().st_mtime_ns, (broken / "state.pt").stat().st_mtime_ns

    second = snakemake(tmp_path, *given)  # Snakemake is killed; its job lives on, and keeps others out
    until(lambda: (broken / "state.pt").stat().st_mtime_ns != saved, second)
    orphan = trainer(broken)
    os.kill(orphan, signal.SIGSTOP)
    second.kill()
    second.wait()
    try:
        assert "at work here" in said(snakemake(tmp_path, *given), code=1)
    finally:
        os.kill(orphan, signal.SIGKILL)
    while not free(home):
        time.sleep(0.005)
    assert not (broken / ".trained").exists() and not (broken / "machine.json").exists()

    assert jobs(said(snakemake(tmp_path, *given))) == {"train": 1}
    assert (whole / ".trained").stat().st_mtime_ns == done
    assert "Nothing to be done" in said(snakemake(tmp_path, [*given[0], "--dry-run"], given[1]))
    seed = runs.index(broken)
    alone = tmp_path / "uninterrupted"
    train_run("transformer", read_corpus(data), settings("mini", seed, STEPS, TINY), alone)
    assert (broken / "best.safetensors").read_bytes() == (alone / "best.safetensors").read_bytes()
