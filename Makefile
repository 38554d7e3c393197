# Two commands set everything up on a machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test test-quick check bench site clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed  ## .venv with everything that was tested

# Ranges are in pyproject.toml; constraints.txt pins what was tested.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("krishi-bench needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## run, compare, promote, serve and predict, on the bundled sample
	$(BIN)/python benchmarks/demo.py

# Two at a time: more would disturb those that load a server.
test: install  ## every test
	$(BIN)/python -m pytest -n 2 --dist worksteal -p no:benchmark

test-quick: install  ## those that need no runtime, server or browser
	$(BIN)/python -m pytest -n 2 --dist worksteal -p no:benchmark -m "not integration and not e2e and not real and not gpu"

check: install  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict --no-incremental

bench: install  ## speed and memory, as ratios; never part of the tests
	$(BIN)/python -m pytest benchmarks --benchmark-only -s

site: install  ## the documentation as pages, in site/
	$(BIN)/mkdocs build --strict --quiet

clean:  ## what was made here
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
