"""One process and two that share each batch: the same weights, the same answers, in the same order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two
from made_up import CASES, tiny
from safetensors.torch import load_file
from torch.testing import assert_close

from rd.blocks.parts import everyone, largest, mean, part_of, ratio, total


@pytest.fixture(scope="module")
def folders(tmp_path_factory, root):
    """(what one process made, what two made)."""
    one, both = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    two.whole_run(one / "judged")
    shutil.copytree(one / "judged", both / "judged")
    for folder in (one, both):
        two.train(tiny("transformer", dropout=0.0), folder / "resumed", steps=3)  # by one process; then goes on
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(root / "workflow/accelerate/cpus.yaml"), str(root / "tests/two.py"), str(both)]
    with (both / "log").open("w") as log:
        launched = subprocess.Popen(launch, env=paths, stdout=log, stderr=log)
    try:
        two.main(one)
        assert launched.wait(900) == 0, (both / "log").read_text()[-3000:]
    finally:
        launched.terminate()
    return one, both


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["model"]


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """To 1e-4, but for one weight in a thousand: where a gradient is nearly 0, Adam makes a step of its rounding."""
    assert found.keys() == wanted.keys()
    gaps = torch.cat([(found[name].double() - value.double()).abs().flatten() for name, value in wanted.items()])
    assert float(gaps.max()) < 1e-3 and float((gaps > 1e-4).double().mean()) < 1e-3


@pytest.mark.parametrize("case", [*CASES, "resumed"])
def test_two_processes_end_with_the_weights_buffers_and_history_of_one(case, folders):
    one, both = (folder / case for folder in folders)
    assert_same(weights(both), weights(one))
    assert_same(load_file(both / "best.safetensors"), load_file(one / "best.safetensors"))
    rows = [[json.loads(line) for line in (f / "history.jsonl").read_text().splitlines()] for f in (one, both)]
    assert len(rows[0]) == 5 and [row["step"] for row in rows[0]] == [2, 3, 4, 6, 6]
    assert_close(rows[1], rows[0], rtol=1e-4, atol=1e-5)
    begun = tiny(case if case in CASES else "transformer").state_dict()
    assert any(bool((weights(both)[name] - value).abs().max() > 1e-2) for name, value in begun.items())


def test_a_run_by_two_is_that_of_one_through_both_stages(folders):
    one, both = (folder / "run" for folder in folders)
    ended = [load_file(folder / "best.safetensors") for folder in (one, both)]
    for told in ended:  # see `two.still`: here nobody keeps them
        for name in [name for name in told if name.endswith("key_value.bias")]:
            del told[name]
    assert_close(ended[1], ended[0], rtol=0, atol=1e-4)
    assert {p.name for p in both.rglob("*")} == {p.name for p in one.rglob("*")}
    machine = [json.loads((folder / "machine.json").read_text()) for folder in (one, both)]
    assert [m.get("processes") for m in machine] == [None, 2] and machine[0]["steps"] == machine[1]["steps"] == 6
    assert_close(machine[1]["best"], machine[0]["best"], rtol=1e-4, atol=0)


def test_answers_and_scores_by_two_are_those_of_one_in_order_and_counted_once(folders):
    one, both = (folder / "judged" for folder in folders)
    found, expected = (json.loads((folder / "found.json").read_text()) for folder in (both, one))
    ids = [row["id"] for row in expected["greedy"]]
    assert len(ids) == len(set(ids)) == len(expected["nll"]) and len(ids) % 4 and -(-len(ids) // 4) % 2
    for told in (found, expected):
        told.pop("provenance")
    assert found == expected
    for name in ("samples.jsonl", "scores.csv"):
        assert (both / name).read_bytes() == (one / name).read_bytes()
    assert {p.name for p in both.iterdir()} == {p.name for p in one.iterdir()}


def test_what_only_several_show(folders):
    told = [json.loads((folders[1] / f"told-{i}.json").read_text()) for i in (0, 1)]
    assert [t["processes"] for t in told] == [2, 2]
    shared = [[i, i % 2] for i in range(7)]  # each by one process, in order, on both
    assert [t["spread"] for t in told] == [shared, shared]
    assert [t["refused"] for t in told] == ["no room", "no room"]  # the main process' error is everyone's
    assert [t["kept"] for t in told] == [[i * i for i in range(7)]] * 2
    assert [t["made"] for t in told] == [[2, 4, 6], [3, 5]] and not [*folders[1].glob(".squares*")]
    first = [t["main first"] for t in told]  # alone; the second process finds the files of the first
    assert first == [[1, False, 6], [1, True, 6]]
    rows = (folders[1] / "alone/history.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [2, 3, 4, 6, 6]


def test_a_loss_that_is_not_finite_on_one_process_stops_both_and_the_state_before_it_stands(folders):
    told = [json.loads((folders[1] / f"told-{i}.json").read_text())["stopped"] for i in (0, 1)]
    assert all("step 1" in text and "emotion" in text and "response" not in text for text in told)
    assert torch.load(folders[1] / "poisoned/state.pt", weights_only=True)["step"] == 0


def test_by_one_process_all_is_a_plain_mean():
    x, count = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor(0)
    with part_of(5, 0, 1):
        assert mean(x).equal(x.mean()) and mean(x, 0).equal(x.mean(0)) and ratio(x, count).equal(x)
        assert total(x) is x and everyone(x) is x and largest(x) is x


def test_the_launcher_of_a_notebook_starts_it_too(root, tmp_path):
    """accelerate's debug_launcher forks, as notebook_launcher does; here from a process that has no threads yet."""
    code = "import sys, two, accelerate; accelerate.debug_launcher(two.alike, (sys.argv[1],))"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=paths, check=True, capture_output=True)
    two.alike(str(tmp_path))
    one, both = (load_file(tmp_path / f"{n}/best.safetensors") for n in (1, 2))
    assert_close(both, one, rtol=0, atol=1e-4)
