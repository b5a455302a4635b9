"""All notebooks of a preset by Snakemake, and the lock that keeps two workflows out of one folder of results."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from rd.data.corpus import read_corpus
from rd.errors import UserError
from rd.locks import take
from rd.settings import settings

ROOT = Path(__file__).parent.parent
LOCK = ".workflow.lock"


def reproduce(preset: str, seed: int = 0, data: str = "", out: str = "results") -> None:
    """Run the notebooks that are not done yet, in order, then the table and the report (workflow/reproduce.smk).

    out: from the root of the checkout, as the notebooks see it.
    Raises UserError for a preset or folder that is not there, a seed or corpus that is none, a failed notebook, and
    where another one is at work.
    """
    settings(preset, seed)
    if not out:
        raise UserError("--out: an empty name; give a folder, such as results")
    if data and not Path(data).is_dir():
        raise UserError(f"--data {data}: no such folder")
    if data:
        read_corpus(data)  # seconds, where the notebooks take hours and the first does not need it
    snakefile = ROOT / "workflow" / "reproduce.smk"
    if not snakefile.is_file():
        raise UserError(f"{snakefile}: missing; run rd reproduce from a checkout of the project")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(ROOT)]
    command += ["--cores", "1", "--rerun-incomplete", "--nolock"]  # Snakemake's own lock would outlive a kill
    command += ["--config", f"preset={preset}", f"seed={seed}", f"out={out}"]
    command += [f"data={Path(data).resolve()}"] if data else []
    with ExitStack() as stack:
        # results, and the executed copies, which all values of `out` share
        held = [stack.enter_context(hold(ROOT / place / preset)) for place in dict.fromkeys((out, "runs"))]
        shared = [file.fileno() for file in held]
        # Standard input is what every descendant inherits: a notebook that outlives a killed `rd` holds the lock too.
        if subprocess.run(command, stdin=held[0], pass_fds=shared).returncode:
            raise UserError("a notebook failed: its log is above; the same command goes on from the one that failed")


def hold(folder: Path) -> IO[str]:
    """An open file whose kernel lock keeps other workflows out of `folder` until every process that has it is gone.

    A kill leaves no stale lock; the file itself stays. Raises UserError where somebody else has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+", encoding="utf-8")
    if take(file) is False:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise UserError(
            f"{folder}: another rd reproduce or workflow is at work here ({holder}, or what it started); "
            "wait for its end, or end it"
        )
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file
