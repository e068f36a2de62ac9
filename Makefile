# `make` lists the targets. All of them share the environment in .venv/, made on first use and
# refreshed when requirements.lock or pyproject.toml change.

PYTHON ?= python3
PIP_ARGS ?=
TRAIN_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
MUTANT_ARGS ?=
CUDA_ARGS ?=
LOCK_ARGS ?=
MATRIX_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Folders of the real data sets (INVMOD_DATA), of raw files with their right reading (INVMOD_CASES)
# and of the raw files of two data sets (INVMOD_RAW). Without them, tests that need them are skipped.
define find_folder
ifndef $(1)
ifneq ($$(wildcard ../shared/$(2)/.),)
export $(1) := $$(abspath ../shared/$(2))
endif
endif
endef
$(eval $(call find_folder,INVMOD_DATA,data))
$(eval $(call find_folder,INVMOD_CASES,cases))
$(eval $(call find_folder,INVMOD_RAW,raw))

.DEFAULT_GOAL := help
.PHONY: help install train test test-all coverage mutants lint format types docs smoke wheel-smoke bench \
	bench-quick distributed reproduce-cuda lock matrix dist clean

help: ## list the targets
	@echo "make TARGET [PYTHON=python3] [PIP_ARGS='options of pip install']"
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{ printf "  %-15s %s\n", $$1, $$2 }'

install: $(STAMP) ## make the environment in .venv/ from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"invmod needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	@$(BIN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing $$(grep -c == requirements.lock) packages in $(VENV)/ takes some minutes" \
		"(log: $(VENV)/install.log)"
	@: > $(VENV)/install.log
	@{ $(BIN) -m pip install --progress-bar off $(PIP_ARGS) -r requirements.lock && \
		$(BIN) -m pip install $(PIP_ARGS) --no-deps --no-build-isolation -e . && echo installed; } \
		2>&1 | tee $(VENV)/install.log | awk -v tty=$$(test -t 1 && echo 1) \
		'tty && /^Collecting/ { printf "\r%d packages ", ++n; fflush() } END { if (n) print "" }'
	@test "$$(tail -n 1 $(VENV)/install.log)" = installed || \
		{ cat $(VENV)/install.log; echo "The packages could not be installed; see above."; exit 1; }
	@touch $(STAMP)

train: $(STAMP) ## train KEEP on the embedded data (TRAIN_ARGS: options of train.py)
	$(BIN) examples/milk_recsys/train.py $(TRAIN_ARGS)

# One process per core, up to 8, each with one thread. All tests of a file run in one process.
PROCESSES := -n auto --maxprocesses 8 --dist loadfile

test: $(STAMP) ## run the tests that are not slow (TEST_ARGS: options of pytest)
	@echo "The tests take 5 to 8 minutes on two cores; make test-all has the slow ones too"
	OMP_NUM_THREADS=1 $(BIN) -m pytest $(PROCESSES) -m "not slow" $(TEST_ARGS)

test-all: $(STAMP) ## run all tests, in 20 to 40 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN) -m pytest $(PROCESSES) $(TEST_ARGS)

coverage: $(STAMP) ## run all tests and report branch coverage of invmod/
	OMP_NUM_THREADS=1 $(BIN) -m pytest $(PROCESSES) \
		--cov --cov-report=term-missing --cov-fail-under=95 $(TEST_ARGS)

mutants: $(STAMP) ## measure how many small faults the tests notice (MUTANT_ARGS: options)
	nice $(BIN) -m benchmarks.mutants $(MUTANT_ARGS)

lint: $(STAMP) ## check style and spelling
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .
	$(BIN) -m codespell_lib

format: $(STAMP) ## correct the style
	$(BIN) -m ruff check --fix .
	$(BIN) -m ruff format .

types: $(STAMP) ## check types
	$(BIN) -m mypy

docs: $(STAMP) ## build the documentation in docs/_build/html, and check its links and equations
	OMP_NUM_THREADS=1 $(BIN) -m sphinx -W --keep-going docs docs/_build/html
	$(BIN) docs/check_site.py docs/_build/html

lock: $(STAMP) ## write requirements.lock anew (LOCK_ARGS=--upgrade: with the newest versions)
	.ci/lock $(BIN) $(LOCK_ARGS)

matrix: $(STAMP) ## run the library's tests on other versions of Python and torch (MATRIX_ARGS)
	$(BIN) .ci/matrix.py $(MATRIX_ARGS)

dist: $(STAMP) ## build the wheel and the source archive in dist/, and check both
	rm -rf dist
	$(BIN) -m build --no-isolation
	$(BIN) -m uv tool run twine check --strict dist/*
	.ci/sdist_smoke $(BIN) dist/*.tar.gz

smoke: $(STAMP) ## make every table and figure of the paper on a tiny data set, in a minute
	OMP_NUM_THREADS=1 $(BIN) examples/milk_recsys/reproduce.py all --smoke

wheel-smoke: $(STAMP) ## build the wheel and try it in a new environment
	.ci/wheel_smoke $(BIN)

bench: $(STAMP) ## time training, ranking and parts against references (BENCH_ARGS: options)
	$(BIN) -m benchmarks $(BENCH_ARGS)

bench-quick: $(STAMP) ## check in two minutes that no ratio of the benchmark fell by half
	$(BIN) -m benchmarks --quick $(BENCH_ARGS)

# TorchRec and the packages that it imports. Without --no-deps, pip would replace the torch of the
# lock by another build. Newer versions of TorchRec do not load with the torch of the lock. On a
# GPU, use fbgemm-gpu==1.8.0 instead of fbgemm-gpu-cpu.
FBGEMM := fbgemm-gpu-cpu==1.8.0
TORCHREC := torchrec==1.8.0 $(FBGEMM) tensordict==0.15.3 pyvers==0.2.3 cloudpickle==3.1.3 \
	pyre-extensions==0.0.32 typing-inspect==0.9.0

distributed: $(STAMP) ## add TorchRec to .venv/, for user tables sharded over processes
	$(BIN) -m pip install $(PIP_ARGS) --no-deps $(TORCHREC)

# A Python given on the command line or in the environment is used as it is, else that of .venv/.
GIVEN := $(filter command environment,$(origin PYTHON))

reproduce-cuda: $(if $(GIVEN),,$(STAMP)) ## run tests, benchmarks and comparisons on a GPU
	$(if $(GIVEN),$(PYTHON),$(BIN)) -m benchmarks.reproduce_cuda $(CUDA_ARGS)

clean: ## remove built files and caches, except .venv/ and runs/
	rm -rf dist build docs/_build .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage
