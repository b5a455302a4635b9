# make reproduce [PRESET=mini|paper] [DATA=folder]   all notebooks headless, in order, then the table
# make test      make lab      make lint             each makes the environment if it is missing
PYTHON = python3
PRESET = mini
DATA =
VENV = .venv
READY = $(VENV)/.ready

reproduce: $(READY)
	@set --; if [ -n "$(DATA)" ]; then set -- --data "$(DATA)"; fi; \
	$(VENV)/bin/rd reproduce --preset $(PRESET) "$$@"

# The notebooks run as copies in a folder of their own (nbmake starts a kernel where its notebook lies), in number
# order, so that 08 reads what 06 wrote and no committed result is touched. One thread: sums come out the same anywhere.
# The unit tests run beside them, on the second core; what they say is printed when both are done.
test: $(READY)
	@rm -rf runs/smoke && mkdir -p runs/smoke
	@for n in notebooks/[0-9]*.ipynb; do if [ -f "$$n" ]; then cp "$$n" runs/smoke/; fi; done
	@if [ -d papers ]; then ln -s ../../papers runs/smoke/papers; fi
	@export OMP_NUM_THREADS=1 TQDM_DISABLE=1; \
	$(VENV)/bin/python -m pytest -q tests > runs/tests.log 2>&1 & unit=$$!; trap "kill $$unit 2>/dev/null" INT TERM; \
	$(VENV)/bin/python -m pytest -q --nbmake --nbmake-timeout=900 runs/smoke; notebooks=$$?; \
	wait $$unit; tests=$$?; cat runs/tests.log; [ $$notebooks = 0 ] && [ $$tests = 0 ]

# Kernels of the lab start in the root of the project, as under papermill, so that paths mean the same.
lab: $(READY)
	@mkdir -p .cache/ipython/profile_default
	@printf 'c.InteractiveShellApp.exec_lines = [r"%%cd -q %s"]\n' "$$(pwd)" > .cache/ipython/profile_default/ipython_kernel_config.py
	IPYTHONDIR="$$(pwd)/.cache/ipython" $(VENV)/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $$(if [ "$$(id -u)" = 0 ]; then echo --allow-root; fi)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	if [ ! -x $(VENV)/bin/python ]; then $(PYTHON) -m venv $(VENV); fi
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps -e .
	@touch $(READY)

.PHONY: reproduce test lab lint
