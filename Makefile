# make quickstart | test | test-full | lint | bench | compat: each sets up .venv by itself; make .venv does only that.
# make .venv-NAME sets up an environment of its own from requirements-NAME.txt, for what cannot live in .venv.
#   PYTHON    the interpreter to start from; one that already has a fitting torch (a CUDA image) keeps it
#   PIP_ARGS  arguments for pip, e.g. --no-index --find-links wheels on a machine without internet
#   BENCH     the benchmark: extract; samples, training or recipe, which need texts in ARGS
#   ARGS      its arguments, e.g. the files of a dump and --output_file bench/results/extract.json; or those of compat.py

PYTHON ?= python3
PIP_ARGS ?=
BENCH ?= extract
ARGS :=
BIN := .venv/bin
SCRIPTS := $(wildcard *.sh) .ci/run

.PHONY: quickstart test test-full lint bench compat

quickstart: .venv
	$(BIN)/python quickstart.py

test: .venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not full" -n 2 --dist worksteal

test-full: .venv
	FULL=1 $(BIN)/python -m pytest -q --timeout 3600

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck $(SCRIPTS)

bench: .venv
	$(BIN)/python bench/bench_$(BENCH).py $(ARGS)

compat: .venv .venv-compat
	$(BIN)/python compat.py $(ARGS)

# The stamp is written last, so that an interrupted installation starts over.
.PHONY: .venv
.venv: .venv/ready

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is not Python 3.11 or newer: name one with make PYTHON=..." >&2; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	cp requirements.txt .venv/requirements.txt
	@# A fitting torch is kept: its packages are put behind our own (a virtual environment has no other way to them).
	@if $(PYTHON) -s -c 'import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)' 2>/dev/null; then \
	  echo "using the torch of $(PYTHON)"; \
	  grep -v '^torch==' requirements.txt > .venv/requirements.txt; \
	  $(BIN)/python -m pip uninstall --quiet --yes setuptools 2>/dev/null; \
	  $(PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	    > "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/base.pth"; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r .venv/requirements.txt
	touch $@

.PHONY: .venv-compat .venv-tensorflow .venv-sentence
.venv-compat .venv-tensorflow .venv-sentence: .venv-%: .venv-%/ready

.venv-%/ready: requirements-%.txt
	rm -rf .venv-$*
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-$*.txt
	touch $@
