"""Importing does nothing: no words, no network, no file, no seed, no other default type."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROBE = """
import importlib, pkgutil, random, socket, sys
import numpy, torch

def refused(*args, **kwargs):
    raise AssertionError("importing rd reached for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
state, kind, before = torch.get_rng_state(), torch.get_default_dtype(), random.getstate()
arrays = numpy.random.get_state()[1].copy()
import rd
names = [m.name for m in pkgutil.walk_packages(rd.__path__, "rd.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
assert len(names) > 10, names
assert torch.equal(state, torch.get_rng_state()), "torch's chance moved"
assert before == random.getstate() and (arrays == numpy.random.get_state()[1]).all(), "chance moved"
assert kind is torch.get_default_dtype(), "the default type changed"
assert not torch.cuda.is_initialized(), "a device was opened"
"""


def test_importing_everything_is_silent(root: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, cwd=tmp_path, env=env, timeout=300)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b""), run.stderr.decode()
    assert list(tmp_path.iterdir()) == []
