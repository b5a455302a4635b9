"""What all tests share: the root of the project, one thread, and chance that does not leak from test to test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests are tiny: threads only slow them down (51 s against 7 s)."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_chance() -> Iterator[None]:
    """Each test starts from the same state of torch's default generator, whatever ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The settings and the desk of a small trained ReflectDiffu: see `small_run.train_small`."""
    from small_run import train_small

    return train_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def closed_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hub's address is a port that nobody listens to."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield
