# make demo and make test do all the set-up they need, in .venv; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := darkroom lightning_modules datamodules callbacks benchmarks tests

# Every command and every process of a test imports some 3,600 files, which take 15 s to compile and 7 s to load compiled.
# Many containers forbid Python to write compiled files; here it may.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test slow fuzz faults cluster test-all types lint bench clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv && \
	  $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]' || \
	  $(BIN)/python -m pip install --quiet --compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q $(PACKAGES)
	touch $@

$(BIN)/.bench: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

# bf16 where the processor computes in it: steps a quarter shorter.
BF16 := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo --config configs/trainer/bf16.yaml)

demo: $(BIN)/.installed
	$(BIN)/darkroom fit --config configs/segmentation/unet.yaml $(BF16) --experiment demo
	$(BIN)/darkroom test --config configs/segmentation/unet.yaml $(BF16) --experiment demo --ckpt_path best

# Tests run in lanes, by marker; the unit lane is everything without one of these markers.
# One process per core and one thread each: threads on busy cores wait for each other, many times longer than they save.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test: $(BIN)/.installed
	$(PYTEST) -n auto --dist worksteal -m "not (slow or fuzz or fault or cluster)" $(COVERAGE)

slow: $(BIN)/.installed
	$(PYTEST) -n auto -m "slow and not cluster" --ignore tests/test_instruction_sets.py
	$(PYTEST) tests/test_instruction_sets.py

# DARKROOM_FUZZ=20 make fuzz: twenty times as many examples, and others every time.
fuzz: $(BIN)/.installed
	$(PYTEST) -n auto tests/fuzz

# What a run has to survive, and a report of it.
faults: $(BIN)/.installed
	$(PYTEST) -n auto -m fault

# A real Slurm of one machine and of two nodes, where it is installed (tests/cluster/slurm_one_host.sh install), and torchrun.
cluster: $(BIN)/.installed
	$(PYTEST) -m cluster -rs

test-all: test slow fuzz faults cluster

# Links that have the folders where the installed package has them: type checkers and editors follow no import hooks.
types:
	@mkdir -p build/types/darkroom && rm -f build/types/darkroom/*
	@for part in darkroom/*.py darkroom/py.typed darkroom/cli darkroom/protocols darkroom/runtime lightning_modules datamodules callbacks; do \
	  ln -sfn ../../../$$part build/types/darkroom/; done

lint: $(BIN)/.installed types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p darkroom -p benchmarks -p tests.contracts -p tests.fakes -m tests.conftest

bench: $(BIN)/.bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist *.egg-info
