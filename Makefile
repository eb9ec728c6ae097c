# make demo: set up, then segment an embedded data set and show the result in demo/
# make test: set up, then lint, types and tests
# make test-parity: compare with SynthSeg in Keras (needs python3.11) and in DIPY
# make bench: time and memory beside TensorFlow and DIPY, on a quiet machine
# make accuracy: segment and evaluate the scans of ../shared/data, then rewrite docs/accuracy.rst
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
KERAS = $(VENV)/keras

.PHONY: demo test test-parity lint bench accuracy clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py demo

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -q

test-parity: $(INSTALLED) $(KERAS)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[parity]'
	KERAS_PYTHON=$(abspath $(KERAS))/bin/python $(BIN)/python -m pytest -q -m parity tests/parity

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(INSTALLED) $(KERAS)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[parity]'
	$(BIN)/python benchmarks/generator.py
	KERAS_PYTHON=$(abspath $(KERAS))/bin/python $(BIN)/python benchmarks/inference.py

accuracy: $(INSTALLED)
	$(BIN)/python benchmarks/accuracy.py

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,demo]'
	touch $@

# The last versions that build the reference network, in an environment of their own.
$(KERAS)/installed: tests/parity/requirements.txt
	python3.11 -m venv $(KERAS)
	$(KERAS)/bin/pip install --quiet --requirement tests/parity/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) demo
