# Every target sets up what it needs; on a fresh clone nothing else has to be done first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.PHONY: help demo test test-all test-install mutate check format bench bench-merge bench-training docs release clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt tools/install_torch.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python tools/install_torch.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## recycle real fine-tunings on real data; writes demo-output/report.html
	$(BIN)/stockpot demo --output demo-output

test: $(READY)  ## the test suite with coverage (no network, no weights)
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=90

test-all: $(READY)  ## everything, also slow tests and those on real weights
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -m ''

test-install:  ## fresh environments, one for each extra, light and lowest; by hand and in CI
	$(PYTHON) tools/install_matrix.py
	$(PYTHON) tools/install_matrix.py --lowest light registry web data

mutate: $(READY)  ## change 120 things in the source at random: do the tests notice? nightly
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutate.py

check: $(READY)  ## format, lint, types, import contract, size of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py

format: $(READY)  ## rewrite files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv-docs/.ready  ## the documentation as a site, in site/; links checked, nothing asked of others
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	$(PYTHON) tools/check_site.py site

.venv-docs/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[docs]'
	@touch $@

release: check test  ## build, and try the wheel in an environment of its own; uploads nothing
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist
	$(PYTHON) tools/install_matrix.py --package dist/stockpot-*.whl light registry

bench: bench-training bench-merge  ## all benchmarks

bench-training: $(READY)  ## samples per second against a plain loop
	$(BIN)/python benchmarks/training.py

bench-merge: $(READY)  ## merging against mergekit, in its own environment
	$(BIN)/python benchmarks/merging.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venv-docs site .pytest_cache .mypy_cache .ruff_cache .coverage*
