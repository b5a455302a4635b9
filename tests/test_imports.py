"""Importing does nothing: no words, no network, no file, no seed, no other default type."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROBE = """
import importlib, logging, pkgutil, socket
import torch

logging.getLogger("matplotlib.font_manager").setLevel("ERROR")  # a new machine's list of fonts takes a while

def refused(*args, **kwargs):
    raise AssertionError("importing rd reached for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
state, kind = torch.get_rng_state(), torch.get_default_dtype()
import rd
names = [m.name for m in pkgutil.walk_packages(rd.__path__, "rd.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
assert len(names) > 10, names
assert torch.equal(state, torch.get_rng_state()), "torch's chance moved"
assert kind is torch.get_default_dtype(), "the default type changed"
assert not torch.cuda.is_initialized(), "a device was opened"
"""


def test_importing_everything_is_silent(root: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, cwd=tmp_path, env=env, timeout=300)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b""), run.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_every_folder_of_code_is_a_package(root: Path) -> None:
    """Without __init__.py a folder is neither installed nor found by the test above."""
    folders = {path.parent for path in (root / "rd").rglob("*.py")}
    assert [str(f.relative_to(root)) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []
