"""Weights and states: no flipped bit passes, no header lies, no pickle runs; files of earlier versions are read."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rd.checkpoint import load_state, load_weights, save_state, save_weights
from rd.errors import UserError

STATE = {"step": 3, "best": 0.5, "sums": {"a": [1.0]}, "model": {"w": torch.arange(6.0).reshape(2, 3)}}


class Net(nn.Module):
    """A weight, a scalar buffer, flags."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("count", torch.tensor(seed))
        self.register_buffer("flags", torch.tensor([True, False, True]))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The file of a net's weights."""
    path = tmp_path / "best.safetensors"
    save_weights(path, Net(7))
    return path


def changed(data: bytes, at: int, bit: int) -> bytes:
    """`data` with one bit flipped."""
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def flips(data: bytes, most: int) -> list[bytes]:
    """Copies with one bit flipped each, all over the file, and some that lost their end."""
    step = max(1, len(data) // most)
    cut = [data[: len(data) * part // 8] for part in range(8)]
    return [changed(data, at, 1 << at % 8) for at in range(0, len(data), step)] + cut


def same(one: dict, other: dict) -> bool:
    """Equal states, tensors too."""
    return {**one, "model": 0} == {**other, "model": 0} and torch.equal(one["model"]["w"], other["model"]["w"])


def test_weights_come_back(weights: Path) -> None:
    net = Net()
    load_weights(weights, net)
    assert int(net.count) == 7 and [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_no_flipped_bit_of_the_weights_passes(weights: Path) -> None:
    whole, want = weights.read_bytes(), Net()
    load_weights(weights, want)
    refused = 0
    for data in flips(whole, 400):
        weights.write_bytes(data)
        net = Net()
        try:
            load_weights(weights, net)
        except UserError as error:
            assert str(error).startswith(f"{weights}: damaged") and "\n" not in str(error)
            refused += 1
        else:  # the name of the checksum was hit; the weights are whole
            assert all(torch.equal(value, want.state_dict()[name]) for name, value in net.state_dict().items())
    assert refused > 0.95 * len(flips(whole, 400))


def lying(weights: Path, change: dict, count: int = 0) -> None:
    """Rewrite the header: other facts on layer.weight, or a length that is `count` off."""
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]
    header["layer.weight"] |= change
    text = json.dumps(header).encode()
    weights.write_bytes((len(text) + count).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"shape": [3, 2]}, 0),
        ({"shape": [2000, 3000]}, 0),
        ({"shape": [-2, -3]}, 0),
        ({"data_offsets": [0, 1 << 40]}, 0),
        ({"data_offsets": [24, 0]}, 0),
        ({"data_offsets": [0, 8]}, 0),
        ({"dtype": "F64"}, 0),
        ({"dtype": "I32"}, 0),
        ({"dtype": "Q9"}, 0),
        ({}, 5),
        ({}, -5),
        ({}, 1 << 62),
    ],
)
def test_a_header_that_lies_is_refused(weights: Path, change: dict, count: int) -> None:
    lying(weights, {})
    load_weights(weights, Net())  # a header without checksum is one of an earlier version
    lying_copy = weights.with_name("lying")
    save_weights(lying_copy, Net())
    lying(lying_copy, change, count)
    with pytest.raises(UserError, match="damaged, or of other settings"):
        load_weights(lying_copy, Net())


def test_weights_of_an_earlier_version_are_read_and_another_model_s_are_not(tmp_path: Path) -> None:
    path = tmp_path / "old"
    save_file(Net(5).state_dict(), path)
    net = Net()
    load_weights(path, net)
    assert int(net.count) == 5
    save_weights(path, nn.Linear(3, 2))
    with pytest.raises(UserError, match="other settings"):
        load_weights(path, net)


def test_no_flipped_bit_of_a_state_passes(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, STATE)
    assert same(load_state(path), STATE)
    whole = path.read_bytes()
    values = whole.index(STATE["model"]["w"].numpy().tobytes())
    silent = 0
    for data in [*flips(whole, 400), *(changed(whole, values + at, 4) for at in range(24))]:
        path.write_bytes(data)
        try:
            found = load_state(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: damaged") and "\n" not in str(error)
        else:  # padding, or a time that nobody reads
            assert same(found, STATE)
            silent += 1
    assert silent < 300  # of a tiny file much is padding and the zip's own headers


def test_torch_alone_would_not_notice(tmp_path: Path) -> None:
    """Why `load_state` looks at the checksums itself."""
    path = tmp_path / "state.pt"
    save_state(path, STATE)
    data = path.read_bytes()
    path.write_bytes(changed(data, data.index(STATE["model"]["w"].numpy().tobytes()) + 7, 1))
    assert not same(torch.load(path, weights_only=True), STATE)
    with pytest.raises(UserError, match="wrong checksum"):
        load_state(path)


class Evil:
    """Unpickled, it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_code_in_a_state_is_refused_and_does_not_run(tmp_path: Path, plain: bool) -> None:
    path, evil = tmp_path / "state.pt", {**STATE, "extra": Evil(tmp_path / "owned")}
    if plain:
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path)
    with pytest.raises(UserError, match="damaged"):
        load_state(path)
    assert not (tmp_path / "owned").exists()


def unsafe(source: str) -> list[str]:
    """Calls in `source` that could run a pickle or code from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name.split(".")[0] in ("pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"):
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name in ("eval", "exec", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "torch.hub.load"):
            found.append(name)
        if given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code", "False") != "False":
            found.append(f"{name} with pickles or code")
        if name.endswith("from_pretrained") and given.get("use_safetensors", "True") != "True":
            found.append(f"{name} without safetensors")
    return found


def test_nothing_in_rd_loads_a_pickle(root: Path) -> None:
    files = sorted((root / "rd").rglob("*.py"))
    assert len(files) > 100
    assert {str(file): found for file in files if (found := unsafe(file.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "eval(text)",
        "AutoModel.from_pretrained(n, use_safetensors=False)",
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
    ],
)
def test_the_scan_finds_them(source: str) -> None:
    assert unsafe(source)
