"""Numeric tests pass under several instruction sets and thread counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# `make test` itself uses the best instruction set of the processor, MKL's default and one thread. The three settings vary
# each of them once. AVX-512 is not among them, because float32 has the same kernels under all of its extensions.
# ATEN_CPU_CAPABILITY=default is PyTorch's code without vector instructions.
SETTINGS = {
    "AVX2, two threads": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2"},
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
}

FILES = ("tests/lightning_modules", "tests/test_ranks.py", "tests/test_ranks_are_one.py")
ONE_PROCESS = FILES[:1]  # threads of two processes on two cores are slower than one thread each
# Overfit contracts of all methods, equality with torchvision and diffusers, losses and metrics; ranks.
SELECTED = (
    "((overfits_one_batch or match_torchvision or matches_torchvision or diffusers"
    " or test_boxes or test_svm or test_yolo or test_losses or test_parameterization or test_samplers"
    " or test_noise_schedules or test_sample_scores or test_ranks_are_one)"
    " or (agree and (torchvision_faster_rcnn or unet or vae) and not conditional)) and not bf16"
    " and not compiled"  # without vector instructions g++ rejects the transposes in inductor's C++
)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_numeric_tests_pass_on_every_instruction_set(setting: str) -> None:
    names = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_CBWR")
    environment = {
        key: value for key, value in os.environ.items() if key not in names and not key.startswith("PYTEST_")
    }
    one_thread = SETTINGS[setting]["OMP_NUM_THREADS"] == "1"
    files = ["-n", "auto", *FILES] if one_thread else ONE_PROCESS
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rf", *files, "-k", SELECTED]
    outcome = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment | SETTINGS[setting])
    assert outcome.returncode == 0, outcome.stdout[-5000:]
    print(outcome.stdout.splitlines()[-1])
