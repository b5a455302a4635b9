# Order of the notebooks, driven by `rd reproduce`:
#   snakemake --cores N --config preset=mini|paper seed=0 data=FOLDER out=results
# A notebook runs again when its source, the code, its parameters or the notebook before it changed. papermill saves
# after every cell, so it writes beside the target, which appears only when all cells (and the checks) went through.
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
    "08_evaluation",
]

PYTHON = shlex.quote(sys.executable)
PRESET = str(config.get("preset") or "mini")
SEED = int(config.get("seed") or 0)
DATA = str(config.get("data") or "")
OUT = str(config.get("out") or "results")
DONE = f"runs/{PRESET}/notebooks"  # not committed: on a real corpus these copies show its text
TABLE = f"{OUT}/{PRESET}/table.md"
RESULTS = {"08_evaluation": [TABLE]}  # what a notebook must leave besides its executed copy
# Only copies that show nothing but the bundled corpus are published.
PUBLISHED = f"{OUT}/mini/notebooks" if PRESET == "mini" and not DATA else ""
CODE = sorted(str(path) for path in Path("rd").rglob("*.py"))

shell.executable(shutil.which("bash"))


rule table:
    input:
        last=f"{DONE}/{NOTEBOOKS[-1]}.ipynb",
        table=TABLE,
    shell:
        "cat {input.table:q}"


for before, name in zip([None, *NOTEBOOKS], NOTEBOOKS):

    rule:
        name:
            f"notebook_{name}"
        input:
            source=f"notebooks/{name}.ipynb",
            before=[f"{DONE}/{before}.ipynb"] if before else [],
            code=CODE,
        output:
            copy=f"{DONE}/{name}.ipynb",
            results=RESULTS.get(name, []),
        params:
            running=f"{DONE}/{name}.running.ipynb",
            preset=PRESET,
            seed=SEED,
            data=DATA,
            out=OUT,
            published=PUBLISHED,
        threads: workflow.cores
        shell:
            "TQDM_MININTERVAL=${{TQDM_MININTERVAL:-5}}"
            " {PYTHON} -m papermill -k python3 --cwd . --log-output --no-progress-bar"
            " -r preset {params.preset:q} -p seed {params.seed} -r data {params.data:q} -r out {params.out:q}"
            " {input.source:q} {params.running:q}\n"
            "for result in {output.results:q}; do test -s $result; done\n"
            "if [ -n {params.published:q} ]; then\n"
            "  mkdir -p {params.published:q}; cp {params.running:q} {params.published:q}/$(basename {output.copy:q})\n"
            "fi\n"
            "mv {params.running:q} {output.copy:q}"
