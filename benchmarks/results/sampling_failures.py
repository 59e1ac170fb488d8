"""Draw what faults of sampling look like: ``python -m benchmarks.results.sampling_failures RUN --out FILE``.

RUN is the folder of a trained DDPM that predicts v, such as one of ``configs/diffusion/ddpm_conditional.yaml``. Each row
shows samples of the same noise and classes, after one change of the model or of its sampler. ``--x0`` is the folder of a
run of the same config that predicts the image with the weights of the noise's error (``Simple``).
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.results.generation_ladder import opened
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.cli.catalog import import_all
from darkroom.datamodules.base import VisionDataModule
from darkroom.lightning_modules.diffusion import DDPM, CosineSchedule, LinearSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization


def read_v_as_noise(model: DDPM) -> None:
    """Interpret the network's output as noise."""
    model.parameterization = Parameterization("eps")


def swap_schedule(model: DDPM) -> None:
    """Sample with the other of the linear and the cosine schedule."""
    steps = model.schedule.num_steps
    linear = isinstance(model.schedule, LinearSchedule)
    model.schedule = CosineSchedule(steps) if linear else LinearSchedule(steps)


def delay_average(model: DDPM, share: float = 0.9) -> None:
    """Mix this share of random initial weights into the average, as a decay of 0.9999 does without warm-up after 1,050
    steps: 0.9999^1050 = 0.9.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in model.sampling_network.parameters():
        # The deviation of the trained weights stands for that of the initial ones.
        start = torch.randn(weight.shape, generator=generator) * weight.std(correction=0)
        weight.data.lerp_(start, share)


def take_few_ancestral_steps(model: DDPM) -> None:
    """Sample by 10 ancestral steps of the large variance."""
    model.sampling = replace(model.sampling, sampler="ancestral", steps=10, variance="large")
    model.fixed_variance = "large"


def guide_too_strongly(model: DDPM) -> None:
    """Sample with guidance 12."""
    model.sampling = replace(model.sampling, guidance=12.0)


def ignore_condition(model: DDPM) -> None:
    """Sample with the null condition, whatever the class is."""
    model.sampling = replace(model.sampling, guidance=0.0)


def shift_times(model: DDPM) -> None:
    """Pass the network a time 100 steps later than that of its input."""
    network = model.sampling_network
    forward = network.forward
    network.forward = lambda x, t, **condition: forward(x, (t + 100).clamp(max=999), **condition)


def keep(model: DDPM) -> None:
    """Change nothing."""


FAILURES: dict[str, Callable[[DDPM], None]] = {
    "as trained": keep,
    "v read as noise": read_v_as_noise,
    "another noise schedule": swap_schedule,
    "average of weights too slow": delay_average,
    "times off by 100": shift_times,
    "10 ancestral steps": take_few_ancestral_steps,
    "guidance 12": guide_too_strongly,
    "condition ignored": ignore_condition,
}
X0 = "x0 predicted, weights of eps"


def sample_after(change: Callable[[DDPM], None], run: Path, count: int, seed: int) -> list[Tensor]:
    """Sample ``count`` images uint8 (3, H, W) of a run's model after a change."""
    data, model = opened(run)
    assert isinstance(model, DDPM)
    change(model)
    labels = None if model.num_classes is None else torch.arange(count) % model.num_classes
    images = model.sample(count, labels=labels, generator=torch.Generator().manual_seed(seed))
    return _to_rgb(images, data)


def _to_rgb(images: Tensor, data: VisionDataModule) -> list[Tensor]:
    return [to_uint8_rgb(data.denormalize(image)) for image in images]


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.sampling_failures", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--x0", type=Path, help="run that predicts x0 with the loss weight Simple")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import_all()
    rows = {
        name: sample_after(change, arguments.run, arguments.columns, arguments.seed)
        for name, change in FAILURES.items()
    }
    if arguments.x0:
        rows[X0] = sample_after(keep, arguments.x0, arguments.columns, arguments.seed)
    tile = (arguments.side, arguments.side)
    image_grid(list(rows.values()), list(rows), gap=4, tile=tile).save(arguments.out.with_suffix(""))


if __name__ == "__main__":
    main()
