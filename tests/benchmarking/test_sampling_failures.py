"""Faults of sampling: each changes the samples of a model, and only the named part of it."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.results.sampling_failures import FAILURES
from darkroom.lightning_modules.diffusion import DDPM, CosineSchedule, DenoisingUNet, Objective
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling


@pytest.fixture(scope="module")
def model() -> DDPM:
    torch.manual_seed(0)
    network = DenoisingUNet((3, 8, 8), 4, base_channels=8, multipliers=(1,), blocks=1, attention=())
    objective, sampling = Objective(prediction="v"), Sampling(sampler="ddim", steps=5, guidance=2.0)
    model = DDPM(
        (3, 8, 8), 4, network, conditional=True, schedule=CosineSchedule(), objective=objective, sampling=sampling
    )
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.05)
    return model.eval()


@pytest.mark.parametrize("name", FAILURES)
def test_every_fault_changes_samples(name: str, model: DDPM) -> None:
    changed = copy.deepcopy(model)
    FAILURES[name](changed)
    expected, samples = (
        one.sample(3, labels=[0, 1, 2], generator=torch.Generator().manual_seed(1)) for one in (model, changed)
    )
    assert torch.equal(samples, expected) == (name == "as trained")
