# `make run` and `make test` are all that a fresh clone needs. Both install into .venv first; the second time there is
# nothing to install and they start at once. Extra arguments for pip: PIP_ARGS="...", for pytest: PYTEST_ARGS="..."
# (tests run in two processes, a file in one of them; with -n 0 in one alone).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Two makes at once, in two terminals, install one after the other.
LOCK := $(if $(shell command -v flock),flock $(VENV).lock)
PIP := $(LOCK) $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
SERVE_ARGS ?=
PYTEST_ARGS ?=

.PHONY: help run test lint format example bench bench-papers bench-prunability bench-ranking bench-wide \
	bench-accuracy bench-embedded bench-analysis bench-large fuzz soak clean

help:
	@echo 'make run           install and serve on http://127.0.0.1:8000   (SERVE_ARGS="--port 9000")'
	@echo 'make test          install and run the whole test suite        (PYTEST_ARGS="tests/cli")'
	@echo 'make lint          ruff check, ruff format --check, mypy'
	@echo 'make format        let ruff format and repair'
	@echo 'make example       train the digits network of examples/ into out/'
	@echo 'make bench         time from POST to result beside the time of the engine; memory during uploads'
	@echo 'make bench-papers  the tables and curves of five papers, beside the figures of each  (PAPERS_ARGS="--quick")'
	@echo 'make bench-prunability  half of every group over many models: exact, kept, time, memory, beside other pruners'
	@echo 'make bench-ranking  how well each criterion ranks units, and what the exact ranking costs'
	@echo 'make bench-wide  distinctiveness of 4,096 units over 50,000 samples: memory and time'
	@echo 'make bench-accuracy  accuracy after pruning, distilling and rounding, beside other pruners  (ACCURACY_ARGS="--quick")'
	@echo 'make bench-embedded  small networks as firmware: estimates beside what compiler and emulator say'
	@echo 'make bench-analysis  the tie analysis over ten million points, and over deep graphs'
	@echo 'make bench-large  a 1.5 GB model, job by job: memory in sizes of the model   (LARGE_ARGS="--jobs default,merge")'
	@echo 'make fuzz          thousands of random graphs, each cut exactly or printed small  (FUZZ_ARGS="--graphs 300")'
	@echo 'make soak          jobs for minutes while parts are killed; fails on any loss  (SOAK_ARGS="--minutes 30")'
	@echo 'make clean         remove what the other targets made; jobs in .espalier stay'

run: $(VENV)/.embedded
	@exec $(BIN)/espalier serve $(SERVE_ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

example: $(VENV)/.dev
	$(BIN)/python examples/digits.py

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.turnaround
	$(BIN)/python -m benchmarks.upload

bench-papers: $(VENV)/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.papers $(PAPERS_ARGS)

# BENCH_RIVALS_PYTHON names an interpreter with torch, onnx, onnxruntime, torch-pruning and onnxsim to compare with.
bench-prunability: $(VENV)/.dev
	$(BIN)/python -m benchmarks.prunability $(PRUNABILITY_ARGS)

bench-ranking: $(VENV)/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.ranking $(RANKING_ARGS)

bench-accuracy: $(VENV)/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.accuracy $(ACCURACY_ARGS)

bench-wide: $(VENV)/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.wide $(WIDE_ARGS)

# The compiler and the emulator are packages of the system; what is missing is installed where that can be done.
bench-embedded: $(VENV)/.dev
	@command -v arm-none-eabi-gcc >/dev/null && command -v qemu-system-arm >/dev/null \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends \
			gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm; } \
		|| { echo 'Install gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm first' >&2; exit 1; }
	$(BIN)/python -m benchmarks.firmware $(EMBEDDED_ARGS)

bench-analysis: $(VENV)/.dev
	$(BIN)/python -m benchmarks.analysis

bench-large: $(VENV)/.dev
	$(BIN)/python -m benchmarks.large $(LARGE_ARGS)

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak $(SOAK_ARGS)

clean:
	rm -rf $(VENV) $(VENV).lock out build dist espalier.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What tests need includes what the service needs, so installing the first also marks the second as done; neither ever
# takes away from the other.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $(VENV)/.embedded $@

$(VENV)/.embedded: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[embedded]'
	@touch $@

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'There is no python3. On Debian: apt install python3 python3-venv' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is older than Python 3.11; name a newer one: make run PYTHON=/path/to/python3.11' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo '$(PYTHON) cannot make virtual environments. On Debian: apt install python3-venv' >&2; exit 1; }
	$(LOCK) sh -c "test -x $(BIN)/python || '$(PYTHON)' -m venv $(VENV)"
