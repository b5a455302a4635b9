"""Where a number comes from: code version, data, libraries, hardware, date (protocol, last rule)."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "accelerate", "pytorch-crf", "sacrebleu", "nltk", "vaderSentiment", "numpy")


def code_version() -> str:
    """The commit of this checkout, with -dirty where tracked files differ; the package version outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "-dirty" if git("status", "--porcelain", "-uno", "--", here) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return f"rd {_version('rd')}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def provenance(**facts: Any) -> dict[str, Any]:
    """The given facts (config hash, seed, data, sample count) with code version, libraries, hardware, date in UTC."""
    return {
        **facts,
        "code": code_version(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "hardware": _processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
