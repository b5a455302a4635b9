# What both workflows share: the settings that both know, the notebooks in order, and how one of them runs.
import os
import shlex
import shutil
import sys
from pathlib import Path

NOTEBOOKS = [
    "00_start",
    "01_annotation",
    "02_era",
    "03_encoder",
    "04_diffusion",
    "05_intent_twice",
    "06_response",
    "07_baselines",
    "08_evaluation",
    "09_human_ab",
    "10_cases",
]

PYTHON = shlex.quote(sys.executable)
PRESET = str(config.get("preset") or "mini")
DATA = str(config.get("data") or "")
# papermill saves after every cell, so it writes beside the target, which appears only when all cells (and the checks)
# went through.
PAPERMILL = (
    " TQDM_MININTERVAL=${{TQDM_MININTERVAL:-5}}"
    " {PYTHON} -m papermill -k python3 --cwd . --log-output --no-progress-bar"
    " -r preset {params.preset:q} -p seed {params.seed} -r data {params.data} -r out {params.out:q}"
)

shell.executable(shutil.which("bash"))
