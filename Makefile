# make demo: set up, then segment an embedded data set and show the result in demo/
# make test: set up, then lint, types and tests
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed

.PHONY: demo test lint benchmark clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py demo

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -q

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/benchmark_generator.py

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,demo]'
	touch $@

clean:
	rm -rf $(VENV) demo
