# make demo: set up, then segment an embedded data set and show the result in demo/
# make test: set up, then lint, types and tests; its end says which tests were not run, and why.
#     WORKERS processes test at once, each with one thread (default: one per core, four at most)
# make test-fast: the tests but for the slow ones, those in a browser and those on a GPU;
#     TESTS='tests/bids tests/cli' for some of them
# make test-gpu: the tests that need a GPU
# make test-pythons: the fast tests on every Python from 3.10 to 3.13 that is installed, with the
#     newest dependencies that it allows (constraints.txt pins those of 3.11, and torch)
# make test-parity: compare with SynthSeg in Keras (needs python3.11) and in DIPY
# make test-smriprep: sMRIPrep, in an environment of its own, collects what --precomputed writes
# make docs: build the documentation into docs/_build/html; warnings are errors
# make bench: time and memory beside TensorFlow and DIPY, and of training, on a quiet machine
# make gpu: on a machine with a GPU, within ten minutes: tests, agreement with the CPU, speed of
#     generator, network and whole scans, and a training; gpu_run/gpu.json has all numbers. make gpu
#     DEVICE=cpu rehearses it with tiny sizes. Packages, label maps and a scan for a machine without
#     network: make gpu-files GPU_FILES_OPTIONS='--label-maps DIR --scan FILE'
# make scale: time, memory and files of datasets of 10 to 10,000 tiny scans, and scans per minute;
#     hours, on a quiet machine; SCALE_OPTIONS='--sizes 10 100' takes minutes
# make docker: build the image with docker, or where it does not run with buildah or podman; it
#     computes on GPUs and CPUs. make docker DEVICE=cpu: the small one, for CPUs alone
# make singularity: build synthseg-bids.sif from its definition file; the same DEVICE
# make test-docker, make test-singularity: build, then run on a real scan as users do; these want
#     buildah, podman and Apptainer, or $(TOOLS) with scripts that set them up
# make samseg: SAMSEG in an environment of its own (needs python3.11), for --method samseg
# make test-slurm: start jobs of Slurm; where none answers, $(SLURM_UP) may be a script that brings
#     one up and leaves its settings in $$SLURM_TEST_DIR/env.sh
# make release-check: build wheel and sdist of the commit, install the wheel elsewhere and try it,
#     compare contents and versions; both are in dist/ then. Where pip's index has builds of PyTorch
#     for CUDA alone: RELEASE_OPTIONS='--torch-index https://download.pytorch.org/whl/cpu'
# make accuracy: segment and evaluate scans, then rewrite docs/accuracy.rst; with
#     ACCURACY_OPTIONS='--parts real repeatability', '--model FILE --docs DIR', ...
# make ablation: train small networks on variants of the generative model, ten to twenty
#     minutes each
# make paper: train and compare the four systems of the paper, then rewrite docs/paper.rst; with
#     PAPER_OPTIONS='--steps 5000', '--size paper --device cuda', '--samseg-tree DIR', ...
# These three read ../shared/data; elsewhere the data are named in ACCURACY_OPTIONS, '--data DIR',
#     ABLATION_OPTIONS and PAPER_OPTIONS, '--bids DIR --references DIR --label-maps DIR'
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed
PYTHONS ?= 3.10 3.11 3.12 3.13
KERAS = $(VENV)/keras
SAMSEG = $(VENV)/samseg
SMRIPREP = $(VENV)/smriprep
# Build of PyTorch in images, and where "make gpu" computes: cuda or cpu.
DEVICE ?= cuda
WORKERS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc); echo $$((n < 4 ? n : 4)))
# The tests of a module share what is costly to make, and so are run by one process; they come in
# the order of tests/conftest.py. Many processes import the package, which is compiled once.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) \
	--dist loadfile --no-loadscope-reorder
# test-fast runs the tests in these files or folders (default: all).
TESTS ?=
VERSION := $(shell sed -n "s/^__version__ = '\(.*\)'/\1/p" synthseg_bids/__init__.py)

# docker/README.rst lists what may be in BUILD_OPTIONS.
IMAGE ?= synthseg-bids
BUILD_OPTIONS ?=
TAG = $(VERSION)$(if $(filter cuda,$(DEVICE)),,-$(DEVICE))
TAGS = $(TAG) $(if $(filter cuda,$(DEVICE)),latest)
REVISION = $(shell git rev-parse HEAD)
CREATED := $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
# The weights are a layer of their own. A cache would give labels of an earlier build.
BUILDAH = buildah bud --layers --no-cache --format oci
BUILDER ?= $(shell docker info >/dev/null 2>&1 && echo docker build \
	|| { command -v buildah >/dev/null && echo $(BUILDAH); } || echo podman build --no-cache)
# Labels are in the Dockerfile; what "docker build" makes has no annotations.
ANNOTATIONS = title=synthseg-bids version=$(VERSION) revision=$(REVISION) created=$(CREATED) \
	licenses=Apache-2.0
ANNOTATE = $(if $(filter docker,$(BUILDER)),, \
	$(ANNOTATIONS:%=--annotation org.opencontainers.image.%))
APPTAINER ?= apptainer
SIF ?= synthseg-bids.sif
TOOLS ?= ../shared/tools
SET_UP_OCI = if [ -f $(TOOLS)/oci_up.sh ]; then bash $(TOOLS)/oci_up.sh \
	&& . $${OCI_TEST_DIR:-/var/tmp/oci-test}/env.sh; fi
SET_UP_APPTAINER = if [ -f $(TOOLS)/apptainer_up.sh ]; then bash $(TOOLS)/apptainer_up.sh \
	&& export APPTAINER='apptainer-box apptainer'; fi
SCALE_OPTIONS ?=
SLURM_UP ?= $(wildcard $(TOOLS)/slurm_up.sh)
SET_UP_SLURM = if ! sinfo >/dev/null 2>&1 && [ -n "$(SLURM_UP)" ]; then \
	env -u OMP_NUM_THREADS bash $(SLURM_UP) \
	&& . $${SLURM_TEST_DIR:-/var/tmp/slurm-test}/env.sh; fi

.PHONY: gpu gpu-files
.PHONY: demo test test-parity lint docs bench scale accuracy ablation paper samseg docker singularity
.PHONY: test-smriprep test-docker test-singularity test-slurm test-fast test-gpu test-pythons
.PHONY: release-check clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py demo

test: $(INSTALLED) lint
	$(PYTEST)

test-fast: $(INSTALLED)
	$(PYTEST) -m fast $(TESTS)

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -v -rs -m gpu

test-pythons:
	@failed=; for version in $(PYTHONS); do \
		if ! python$$version --version >/dev/null 2>&1; then \
			echo "python$$version: not installed, left out"; continue; fi; \
		$(MAKE) PYTHON=python$$version VENV=$(VENV)/python$$version test-fast || failed="$$failed $$version"; \
	done; [ -z "$$failed" ] || { echo "failed with Python$$failed"; exit 1; }

test-parity: $(INSTALLED) $(KERAS)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[parity]'
	KERAS_PYTHON=$(abspath $(KERAS))/bin/python $(BIN)/python -m pytest -q -m parity tests/parity

# With sMRIPrep comes indexed_gzip, with which nibabel reads in another way.
test-smriprep: $(INSTALLED)
	$(PYTHON) -m venv $(SMRIPREP)
	$(SMRIPREP)/bin/pip install --quiet 'smriprep>=0.19'
	SMRIPREP_PYTHON=$(abspath $(SMRIPREP))/bin/python $(BIN)/python -m pytest -q \
		tests/bids/test_precomputed.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W --keep-going --fresh-env --quiet docs docs/_build/html
	@echo 'docs/_build/html/index.html'

bench: $(INSTALLED) $(KERAS)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[parity]'
	KERAS_PYTHON=$(abspath $(KERAS))/bin/python $(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/training.py

RELEASE_OPTIONS ?=
release-check: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[release]'
	$(BIN)/python release/release_check.py $(RELEASE_OPTIONS)

scale: $(INSTALLED)
	$(BIN)/python benchmarks/scale.py $(SCALE_OPTIONS)
	$(BIN)/python benchmarks/throughput.py

# On a GPU with the machine's own PyTorch, which was built for it.
GPU_PYTHON ?= $(if $(filter cpu,$(DEVICE)),$(BIN)/python,$(PYTHON))
GPU_OPTIONS ?=
GPU_FILES_OPTIONS ?=
gpu: $(if $(filter cpu,$(DEVICE)),$(INSTALLED))
	PYTHONPATH=benchmarks $(GPU_PYTHON) -m gpu --device $(DEVICE) \
		$(if $(filter cpu,$(DEVICE)),--tiny) $(GPU_OPTIONS)

gpu-files: $(INSTALLED)
	PYTHONPATH=benchmarks $(BIN)/python -m gpu.files gpu_files $(GPU_FILES_OPTIONS)

ACCURACY_OPTIONS ?=
accuracy: $(INSTALLED)
	PYTHONPATH=benchmarks $(BIN)/python -m accuracy $(ACCURACY_OPTIONS)

ABLATION_OPTIONS ?=
ablation: $(INSTALLED)
	$(BIN)/python benchmarks/ablation.py $(ABLATION_OPTIONS)

PAPER_OPTIONS ?=
paper: $(INSTALLED)
	PYTHONPATH=benchmarks PATH="$$PATH:$(abspath $(SAMSEG))/bin" \
		$(BIN)/python -m paper $(PAPER_OPTIONS)

docker:
	$(BUILDER) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		--build-arg CREATED=$(CREATED) --build-arg TAG=$(TAG) --build-arg DEVICE=$(DEVICE) \
		$(ANNOTATE) $(BUILD_OPTIONS) $(TAGS:%=--tag $(IMAGE):%) --file docker/Dockerfile .

singularity:
	$(APPTAINER) build --fakeroot --force --build-arg VERSION=$(VERSION) \
		--build-arg DEVICE=$(DEVICE) $(BUILD_OPTIONS) $(SIF) singularity/synthseg-bids.def

test-docker: $(INSTALLED)
	$(SET_UP_OCI) && $(BIN)/python -m pytest -v -rsP -m containers tests/containers/test_docker.py

test-singularity: $(INSTALLED)
	$(SET_UP_OCI) && $(SET_UP_APPTAINER) && $(SET_UP_SLURM) && \
		$(BIN)/python -m pytest -v -rsP -m containers tests/containers/test_singularity.py

test-slurm: $(INSTALLED)
	$(SET_UP_SLURM) && sinfo && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -rs -m slurm tests/slurm

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,demo,docs]'
	touch $@

# The last versions that build the reference network, in an environment of their own.
$(KERAS)/installed: tests/parity/requirements.txt
	python3.11 -m venv $(KERAS)
	$(KERAS)/bin/pip install --quiet --requirement tests/parity/requirements.txt
	touch $@

# It needs NumPy below 2, which we are not tested with.
samseg:
	python3.11 -m venv $(SAMSEG)
	$(SAMSEG)/bin/pip install --quiet samseg==0.4a0
	@echo 'export SYNTHSEG_BIDS_SAMSEG=$(abspath $(SAMSEG))/bin/run_samseg'

clean:
	rm -rf $(VENV) demo docs/_build
