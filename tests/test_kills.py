"""SIGKILL at any moment, then the command again: the bytes of one that nobody disturbed. A few rounds of the benchmark.

Also: the same seed in another process, where Python hashes strings otherwise, leaves the same bytes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import kills  # noqa: E402

from rd.locks import locked  # noqa: E402

FRESH = """
import json, sys, torch
from pathlib import Path
import kills
torch.set_num_threads(1)
folder, facts = Path(sys.argv[1]), json.loads(sys.argv[2])
sys.exit(kills.train(folder, facts) or kills.evaluate(folder, facts))
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[tuple[kills.Starter, kills.Facts]]:
    """What starts the commands, and what they need; a finished run among it."""
    folder = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(root), str(root / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        facts, server = kills.tools(folder / "tools")
        start = kills.Starter()
        start.whole("train", folder / "train", facts)
        shutil.copytree(folder / "train" / "run", facts["run"])
        yield start, facts
        server.shutdown()


@pytest.mark.parametrize("name", kills.CASES)
def test_a_killed_command_ends_as_if_undisturbed(desk: tuple, tmp_path: Path, name: str) -> None:
    start, facts = desk
    seconds = start.whole(name, tmp_path / "whole", facts)
    want = kills.kept(tmp_path / "whole")
    assert want and {left for left in want if Path(left).name.startswith(".")} <= {
        ".out.jsonl.state.json"
    }  # annotate's
    if name not in ("rate", "prompt"):  # a database renames nothing; the other's are those of rd evaluate
        assert start.at_renames(name, tmp_path / "rename", facts, stride=5) > 0
        assert kills.kept(tmp_path / "rename") == want
    start.at_random(name, tmp_path / "random", facts, seconds, random.Random(), most=2)
    assert kills.kept(tmp_path / "random") == want


def test_the_same_seed_in_another_process_leaves_the_same_bytes(desk: tuple, tmp_path: Path) -> None:
    """Weights, history, answers and figures, but for dates and durations."""
    start, facts = desk
    start.whole("evaluate", tmp_path / "one", facts)  # of the run that the fixture trained
    (tmp_path / "two").mkdir()
    command = [sys.executable, "-c", FRESH, str(tmp_path / "two"), json.dumps(facts)]
    environment = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    one, two = kills.kept(tmp_path / "one"), kills.kept(tmp_path / "two")
    assert {"run/best.safetensors", "run/samples.jsonl", "run/metrics.json", "run/scores.csv"} <= set(one)
    assert one == two


@pytest.mark.parametrize("verb", ["train", "evaluate", "generate", "prompt", "tune"])
def test_a_folder_that_another_process_writes_into_is_refused(
    desk: tuple, tmp_path: Path, capsys: pytest.CaptureFixture, verb: str
) -> None:
    facts, run = desk[1], tmp_path / "run"
    shutil.copytree(facts["run"], run)
    before = kills.kept(tmp_path)
    with locked(run):
        if verb == "tune":
            status = kills.rd(["tune", "made-up", "--out", str(run)])
        else:
            status = kills.CASES[verb].work(tmp_path, facts)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rd: ")]
    assert status == 2 and len(told) == 1 and f"{run}: process {os.getpid()} on" in told[0]
    assert kills.kept(tmp_path) == before
