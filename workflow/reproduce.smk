# All notebooks of one seed in order, one at a time: what `rd reproduce` runs.
#   snakemake --snakefile workflow/reproduce.smk --cores N --config preset=mini|paper seed=0 data=FOLDER out=results
# A notebook runs again when its source, the code, its parameters or the notebook before it changed.
include: "common.smk"


# Snakemake would hand each job one thread per core it was given; one notebook runs at a time and may use them all.
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
SEED = int(config.get("seed") or 0)
OUT = str(config.get("out") or "results")
DONE = f"runs/{PRESET}/notebooks"  # not committed: on a real corpus these copies show its text
TABLE = f"{OUT}/{PRESET}/table.md"
CASES = [f"{OUT}/{PRESET}/tables/{name}.md" for name in ("table4", "table5", "dynamics")]
RESULTS = {"08_evaluation": [TABLE], "10_cases": CASES}  # what a notebook must leave besides its executed copy
# Only copies that show nothing but the bundled corpus are published.
PUBLISHED = f"{OUT}/mini/notebooks" if PRESET == "mini" and not DATA else ""
CODE = sorted(str(path) for path in Path("rd").rglob("*.py"))

rule table:
    input:
        last=f"{DONE}/{NOTEBOOKS[-1]}.ipynb",
        table=TABLE,
        report=f"{OUT}/report.html",
    shell:
        "cat {input.table:q}; echo; echo {input.report:q}"


rule report:
    input:
        last=f"{DONE}/{NOTEBOOKS[-1]}.ipynb",
        table=TABLE,
        code=CODE,
    output:
        f"{OUT}/report.html",
    params:
        preset=PRESET,
        data=shlex.quote(DATA),
        out=OUT,
    threads: workflow.cores
    shell:
        "export OMP_NUM_THREADS={THREADS} MKL_NUM_THREADS={THREADS}\n"
        "{PYTHON} -m rd.cli tables --preset {params.preset:q} --data {params.data} --results {params.out:q}\n"
        "{PYTHON} -m rd.cli report --results {params.out:q}"


for before, name in zip([None, *NOTEBOOKS], NOTEBOOKS):

    rule:
        name:
            f"notebook_{name}"
        input:
            source=f"notebooks/{name}.ipynb",
            before=[f"{DONE}/{before}.ipynb"] if before else [],
            code=CODE,
        output:
            executed=f"{DONE}/{name}.ipynb",
            results=RESULTS.get(name, []),
        params:
            running=f"{DONE}/{name}.running.ipynb",
            preset=PRESET,
            seed=SEED,
            data=shlex.quote(DATA),  # :q would drop an empty string
            out=OUT,
            published=shlex.quote(PUBLISHED),
        threads: workflow.cores
        shell:
            "OMP_NUM_THREADS={THREADS} MKL_NUM_THREADS={THREADS}" + PAPERMILL + " {input.source:q} {params.running:q}\n"
            "for result in {output.results:q}; do test -s $result; done\n"
            "if [ -n {params.published} ]; then\n"
            "  mkdir -p {params.published}; cp {params.running:q} {params.published}/$(basename {output.executed:q})\n"
            "fi\n"
            "mv {params.running:q} {output.executed:q}"
