# Everything a fresh machine needs: `make demo` and `make test` set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test slow check bench bench-cuda families frontier pruning clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $(READY)

demo: setup  ## the main job on the embedded default
	$(BIN)/python scripts/demo.py

test: setup  ## the tests, a few minutes
	$(BIN)/python -m pytest -m "not slow"

slow: setup  ## simulations of coverage, kill -9, browsers: some ten minutes
	$(BIN)/python -m pytest -m slow

check: setup  ## format, lint, types, docs
	scripts/check

BENCHMARKS := observe layer kernels lens numerics sweep stream export

bench: setup  ## ratios against baselines, written to benchmarks/results/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name; done

bench-cuda: setup  ## the resident engine on a CUDA device
	$(BIN)/python -m benchmarks.cuda

frontier: setup  ## rewrite the tables of docs/frontier.md from the embedded model
	$(BIN)/python -m benchmarks.frontier

pruning: setup  ## rewrite docs/pruning-demo.md: every criterion and budget on the embedded model
	$(BIN)/python -m benchmarks.pruning

families: setup  ## rewrite docs/families.md from what the tests find
	$(BIN)/python -m pytest tests/engine/test_families.py --write-families

clean:
	rm -rf $(VENV) build dist
