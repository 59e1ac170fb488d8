"""Samplers, likelihoods and plots return finite results for any input."""

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from darkroom.callbacks.plotting.boxes import draw_boxes, mark_mistakes
from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import contact_sheet, image_grid
from darkroom.callbacks.plotting.scatter import scatter
from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    ZeroTerminalSNR,
)
from darkroom.lightning_modules.diffusion.sampling.flow_heun import flow_heun
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    X0Prediction,
    ancestral,
    ddim,
    ddim_invert,
    dpm_solver_pp,
    heun,
)
from darkroom.lightning_modules.diffusion.sampling.times import time_pairs
from tests.fuzz.strategies import examples

SEEDS = st.integers(0, 2**32 - 1)
SAMPLERS = (ancestral, ddim, dpm_solver_pp, heun, flow_heun)
EXTREMES = (0.0, -0.0, 1.0, -1.0, 1e-30, -1e4, 1e4, 88.0, -88.0)


def rescaled_cosine(num_steps: int) -> NoiseSchedule:
    return ZeroTerminalSNR(CosineSchedule(num_steps))


BuildSchedule = Callable[[int], NoiseSchedule]
SCHEDULES = (LinearSchedule, CosineSchedule, SigmoidSchedule, RectifiedFlow, EDMSchedule, rescaled_cosine)


@examples(12)
@given(
    num_steps=st.integers(1, 1500),
    steps=st.integers(0, 60),
    schedule=st.sampled_from(
        (LinearSchedule, CosineSchedule, SigmoidSchedule, RectifiedFlow, EDMSchedule, rescaled_cosine)
    ),
    spacing=st.sampled_from(("uniform", "quadratic", "log_snr", "karras")),
    sampler=st.sampled_from(SAMPLERS),
    height=st.integers(1, 9),
    seed=SEEDS,
)
def test_samplers_recover_image_from_exact_denoiser(
    num_steps: int,
    steps: int,
    schedule: Callable[[int], NoiseSchedule],
    spacing: str,
    sampler: object,
    height: int,
    seed: int,
) -> None:
    """Check that any sampler recovers the image from an exact denoiser in any number of steps."""
    generator = torch.Generator().manual_seed(seed)
    try:
        noise = schedule(num_steps)
        pairs = time_pairs(noise, steps, spacing)
        truth = torch.rand(2, 3, height, 5, generator=generator) * 2 - 1
        start = torch.randn(truth.shape, generator=generator)
        samples = sampler(lambda x, t: X0Prediction(truth), start, pairs, noise, generator=generator)
    except UsageError:
        assert num_steps < 20 or not 0 < steps <= num_steps or (noise.ends_in_noise and sampler is heun)
        return
    assert pairs[-1][1] == -1
    torch.testing.assert_close(samples, truth, atol=2e-3, rtol=1e-3)
    assert ddim_invert(lambda x, t: X0Prediction(truth), truth, pairs, noise).isfinite().all()


@examples(40)
@given(seed=SEEDS, channels=st.sampled_from((1, 3)), height=st.integers(1, 7))
def test_likelihoods_are_finite_with_gradient(seed: int, channels: int, height: int) -> None:
    """Check that log likelihood, gradient and mean are finite for any network output."""
    random = Random(seed)
    count = 2 * channels * height * 3
    for likelihood in (Bernoulli(), Gaussian(0.1), Gaussian("learned"), DiscretizedLogistic()):
        parameters = torch.tensor([random.choice(EXTREMES) for _ in range(count)]).view(2, channels, height, 3)
        parameters.requires_grad_()
        x = torch.tensor([random.choice((-1.0, 1.0, 0.0, 1 / 255)) for _ in range(count)]).view(parameters.shape)
        log_prob = likelihood.log_prob(parameters, x)
        assert log_prob.shape == (2,)
        assert log_prob.isfinite().all()
        log_prob.sum().backward()
        assert parameters.grad.isfinite().all()
        assert likelihood.mean(parameters).isfinite().all()


def is_image(image: Tensor) -> bool:
    return image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0


@examples(25)
@given(seed=SEEDS, height=st.sampled_from((1, 2, 17, 64)), width=st.sampled_from((1, 3, 33, 90)))
def test_box_figures_accept_any_boxes(seed: int, height: int, width: int) -> None:
    """Check empty, outlying, huge and missing boxes."""
    random = Random(seed)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    names = [*["a name", "é", ""], *map(str, range(300))][: random.choice((1, 2, 3, 300))]

    def objects() -> dict[str, Tensor]:
        count = random.choice((0, 1, 5, 30))
        ends = [random.choice((-5.0, 0.0, 0.5, 3.0, float(width), 1e3)) for _ in range(4 * count)]
        labels = torch.tensor([random.randint(1, len(names)) for _ in range(count)], dtype=torch.long)
        return {"boxes": torch.tensor(ends).view(count, 4), "labels": labels, "scores": torch.rand(count)}

    found, truth = objects(), {key: value for key, value in objects().items() if key != "scores"}
    assert is_image(draw_boxes(image, found, names))
    page = contact_sheet({"errors": [mark_mistakes(image, found, truth, names)]})
    assert is_image(page.raster())
    with TemporaryDirectory() as folder:
        page.save(Path(folder) / "page")


@examples(25)
@given(seed=SEEDS)
def test_plots_accept_any_points(seed: int) -> None:
    """Check non-finite, equal and missing points on linear and logarithmic axes."""
    random = Random(seed)
    values = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1.0, 1e-12, 1e12, 3.0)
    series = [
        torch.tensor([random.choice(values) for _ in range(2 * n)]).view(n, 2)
        for n in (random.randint(0, 9) for _ in range(random.randint(1, 4)))
    ]
    names = [f"curve {i}" for i in range(len(series))]
    assert is_image(curves(series, names, "title", log_x=random.random() < 0.5, log_y=random.random() < 0.5).raster())
    n = random.randint(1, 20)
    points = torch.tensor([random.choice((0.0, 1.0, -3.0, 1e6)) for _ in range(2 * n)]).view(n, 2)
    labels = torch.tensor([random.randint(0, 40) for _ in range(n)]) if random.random() < 0.7 else None
    assert is_image(scatter(points, labels, ["a", "b"], "title").raster())
    rows = [[torch.zeros(3, random.randint(1, 40), random.randint(1, 40), dtype=torch.uint8)] * random.randint(1, 5)]
    assert is_image(image_grid(rows * random.randint(1, 3), captions=(), title=random.choice(("", "é" * 200))).raster())
