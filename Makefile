# `make help` lists what can be made.
PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-peers
BIN    := $(VENV)/bin
# More arguments for pip, for instance PyTorch's CPU index (see the README).
PIP_ARGS ?=
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench docs torch-sparse peers tensorboard

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## create .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The demo's operations are small: a second thread costs more than it brings.
demo: export OMP_NUM_THREADS = 1
# And it asks for the same few megabytes again and again: the C library shall keep them, not give them back each time.
demo: export MALLOC_MMAP_THRESHOLD_ = 268435456
demo: export MALLOC_TRIM_THRESHOLD_ = 268435456
demo: setup ## train three SAEs on the toybox, test them, say where to look
	$(BIN)/tide fit --config configs/quickstart.yaml
	$(BIN)/tide test
	@run=$$(readlink -f runs/quickstart/latest); echo; \
	echo "Run folder:   $$run"; \
	echo "Report:       $$run/report/index.html"; \
	echo "TensorBoard:  make tensorboard   (then open http://localhost:6006)"

test: setup ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: setup ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## time whole training steps, ours and dense ones
	$(BIN)/python -m benchmarks.step --preset quick

docs: $(VENV)/.documented ## build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m tools.documentation.outside site
	@echo "Open site/index.html, or, to search as well: $(BIN)/python -m http.server --directory site"

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/pip install $(PIP_ARGS) --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

torch-sparse: setup ## build (once) and install the torch-sparse backend
	$(BIN)/python tools/build_torch_sparse.py

peers: $(PEERS)/.installed ## build (once) the environment of tests/peers, which has other SAE libraries

# torch comes with what it needs; of the rest, the list is whole. Compiling it all ahead would take as long as the tests.
$(PEERS)/.installed: tests/peers/requirements.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install $(PIP_ARGS) --quiet --no-compile --constraint $< torch
	$(PEERS)/bin/pip install $(PIP_ARGS) --quiet --no-compile --no-deps --requirement $<
	@touch $@

tensorboard: setup ## show all runs at http://localhost:6006
	$(BIN)/tide tensorboard
