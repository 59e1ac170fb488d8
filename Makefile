# make demo and make test do all the set-up they need, in .venv; nothing is installed elsewhere.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults cluster types lint bench clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv && \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]' || \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(BIN)/.bench: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

# bf16 where the processor computes in it: steps a quarter shorter.
BF16 := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo --config configs/trainer/bf16.yaml)

demo: $(BIN)/.installed
	$(BIN)/darkroom fit --config configs/segmentation/unet.yaml $(BF16) --experiment demo
	$(BIN)/darkroom test --config configs/segmentation/unet.yaml $(BF16) --experiment demo --ckpt_path best

# One process per core and one thread each: threads on busy cores wait for each other, many times longer than they save.
test: $(BIN)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not cluster"

# What a run has to survive, and a report of it.
faults: $(BIN)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m fault

# A real Slurm of one machine and of two nodes, where it is installed (tests/cluster/slurm_one_host.sh install), and torchrun.
cluster: $(BIN)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster -rs

# Links that have the folders where the installed package has them: type checkers and editors follow no import hooks.
types:
	@mkdir -p build/types/darkroom && rm -f build/types/darkroom/*
	@for part in darkroom/*.py darkroom/py.typed darkroom/cli darkroom/runtime lightning_modules datamodules callbacks; do \
	  ln -sfn ../../../$$part build/types/darkroom/; done

lint: $(BIN)/.installed types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p darkroom

bench: $(BIN)/.bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist *.egg-info
