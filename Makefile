# Each target can be run first on a fresh clone. PYTHON is the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: train test test-slow torture setup lint docs one-curve parity-table golden gpu-report growth

train: .venv/jax-installed  ## set up the JAX side and run the default job
	$(BIN)/python train.py --framework jax

test: setup  ## set up everything and run the tests
	$(BIN)/python -m pytest

test-slow: setup  ## the tests that take longer: several processes, full width
	$(BIN)/python -m pytest -n0 -m slow

MINUTES ?= 20
SEED ?= 0
torture: setup  ## thousands of faults injected: MINUTES=60 SEED=3 ONLY=kills,disk
	$(BIN)/python -m tests.torture --minutes $(MINUTES) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

setup: .venv/all-installed  ## everything into .venv, nothing run

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs-installed  ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict

one-curve: setup  ## the default job's first 50 steps in both frameworks, losses side by side
	$(BIN)/python -m tests.parity.one_curve

parity-table: setup  ## the measured numbers of docs/porting.md
	$(BIN)/python -m tests.parity.table

GPU_PAGE ?= docs/gpu.md
gpu-report: setup  ## parity and speed on a GPU, into a page: MINUTES=60 GPU_PAGE=gpu.md VARIANTS="paper bn"
	$(BIN)/python -m tests.gpu_report $(GPU_PAGE) --minutes $(MINUTES) $(if $(VARIANTS),--variants $(VARIANTS))

growth: setup  ## how the cost grows: docs/growth.md and its picture; READ=cache:DIR for readers too
	$(BIN)/python -m tests.growth docs $(READ)

DATASET ?= tfds:cifar10
reproduce-%: setup  ## a published result again, for hours: reproduce-cifar-80sec DATASET=cache:DIR
	$(BIN)/python -m tests.reproduce $* --dataset $(DATASET)

golden: setup  ## write the first losses of every recipe anew
	$(BIN)/python -m tests.golden.losses

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/jax-installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[jax]'
	@touch $@

.venv/all-installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[all,test]'
	@touch $@ .venv/jax-installed

.venv/docs-installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[docs]'
	@touch $@
