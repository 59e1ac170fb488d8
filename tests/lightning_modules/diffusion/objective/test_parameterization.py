"""Parameterizations: conversions between eps, x0 and v, and one loss per predicted image."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
)
from darkroom.lightning_modules.diffusion.objective.parameterization import (
    P2,
    VLB,
    LossWeight,
    MinSNR,
    Parameterization,
    Prediction,
    Simple,
    Unweighted,
    loss_of,
)

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
SCHEDULES = [LinearSchedule(), CosineSchedule(), CosineSchedule(2), SigmoidSchedule(100)]
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda it: f"{type(it).__name__}-{it.num_steps}")
every_weight = pytest.mark.parametrize(
    "weight", [Simple(), MinSNR(), P2(), P2(0.5, 2.0), VLB()], ids=lambda it: type(it).__name__
)


def images_and_noise(times: int) -> tuple[Tensor, Tensor]:
    """Return one image in [-1, 1] and noise for each time."""
    generator = torch.Generator().manual_seed(0)
    shape = (times, 2, 3, 3)
    return torch.rand(shape, generator=generator) * 2 - 1, torch.randn(shape, generator=generator)


def snr(schedule: NoiseSchedule) -> Tensor:
    """Return the SNR at all times, float64 (T,)."""
    alpha, sigma = torch.tensor([schedule.at(t) for t in range(schedule.num_steps)], dtype=torch.float64).T
    return (alpha / sigma).square()


@every_prediction
@pytest.mark.parametrize("t", [0, 40, 99])
def test_target_converts_to_image_and_noise(prediction: Prediction, t: int) -> None:
    schedule, (x, noise) = LinearSchedule(100), images_and_noise(4)
    alpha, sigma = schedule.at(t)
    kind = Parameterization(prediction)
    x_t, said = alpha * x + sigma * noise, kind.target(x, noise, alpha, sigma)
    torch.testing.assert_close(kind.to_x0(said, x_t, alpha, sigma), x, atol=1e-6 / alpha, rtol=0)
    torch.testing.assert_close(kind.to_eps(said, x_t, alpha, sigma), noise, atol=1e-6 / sigma, rtol=0)
    torch.testing.assert_close(kind.from_x0(x, x_t, alpha, sigma), said, atol=1e-6 / sigma, rtol=0)


@every_prediction
@pytest.mark.parametrize("t", [0, 40, 99])
def test_conversions_are_inverse(prediction: Prediction, t: int) -> None:
    """Check arbitrary outputs; image and noise must combine to x_t."""
    (x_t, output), (alpha, sigma) = torch.randn(2, 4, 1, 3, 3), SigmoidSchedule(100).at(t)
    kind = Parameterization(prediction)
    x0, eps = (convert(output, x_t, alpha, sigma) for convert in (kind.to_x0, kind.to_eps))
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kind.from_x0(x0, x_t, alpha, sigma), output, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(kind.target(x0, eps, alpha, sigma), output, atol=2e-4, rtol=1e-4)


@every_prediction
def test_conversions_use_time_of_each_image(prediction: Prediction) -> None:
    schedule, t, (x_t, output) = CosineSchedule(10), torch.tensor([0, 4, 9]), torch.randn(2, 3, 2, 4, 4)
    kind = Parameterization(prediction)
    for convert in (kind.to_x0, kind.to_eps, kind.from_x0, kind.target):
        together = convert(output, x_t, *schedule.alpha_sigma(t))
        alone = [convert(output[i], x_t[i], *schedule.at(int(t[i]))) for i in range(3)]
        torch.testing.assert_close(together, torch.stack(alone))


@every_prediction
def test_half_precision_outputs_are_converted_in_float32(prediction: Prediction) -> None:
    (x_t, output), alpha, sigma = torch.randn(2, 2, 1, 4, 4).bfloat16(), 0.6, 0.8
    kind = Parameterization(prediction)
    for convert in (kind.to_x0, kind.to_eps, kind.from_x0, kind.target):
        found = convert(output, x_t, alpha, sigma)
        assert torch.equal(found, convert(output.float(), x_t.float(), alpha, sigma))
        assert found.dtype == torch.float32


def test_diffusers_velocity_is_equal() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule, t, (x, noise) = LinearSchedule(), torch.tensor([0, 10, 500, 999]), images_and_noise(4)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear").get_velocity(x, noise, t)
    torch.testing.assert_close(
        Parameterization("v").target(x, noise, *schedule.alpha_sigma(t)), theirs, atol=1e-5, rtol=1e-5
    )


@every_schedule
@every_weight
def test_loss_depends_only_on_predicted_image(weight: LossWeight, schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    (x, noise), (alpha, sigma) = images_and_noise(len(t)), schedule.alpha_sigma(t)
    guess = torch.where(alpha > sigma, x + 0.1 * sigma * torch.randn_like(x), torch.randn_like(x))
    exact = (alpha.double() / sigma.double() * (guess.double() - x.double())).square().flatten(1).mean(1)
    for prediction in PREDICTIONS:
        a, s = alpha.double(), sigma.double()
        eps = (a * x + s * noise - a * guess) / s
        output = {  # in float64, because from_x0 loses precision in float32 at low noise
            "eps": eps,
            "x0": guess.double(),
            "v": (a * (a * x + s * noise) - guess * (a.square() + s.square())) / s,
            "flow": eps - guess,
            "edm": (2 * s * guess - a * eps / 2) / (s.square() + a.square() / 4).sqrt(),  # sigma_data 0.5
        }[prediction]
        loss = loss_of(Parameterization(prediction), weight, output, x, noise, schedule, t)
        assert loss.shape == t.shape
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), weight.of_eps(schedule, t) * exact, rtol=2e-3, atol=1e-9)


def test_unweighted_loss_is_error_of_output() -> None:
    schedule, t, (x, noise) = CosineSchedule(10), torch.arange(10), images_and_noise(10)
    for prediction in PREDICTIONS:
        kind, output = Parameterization(prediction), torch.randn_like(x)
        plain = (output - kind.target(x, noise, *schedule.alpha_sigma(t))).square().mean((1, 2, 3))
        torch.testing.assert_close(loss_of(kind, Unweighted(), output, x, noise, schedule, t), plain)


def test_simple_eps_loss_matches_ddpm() -> None:
    schedule, t, (x, noise) = LinearSchedule(100), torch.arange(0, 100, 10), images_and_noise(10)
    output = torch.randn_like(x)
    plain = (output - noise).square().mean((1, 2, 3))
    torch.testing.assert_close(loss_of(Parameterization(), Simple(), output, x, noise, schedule, t), plain)


@every_schedule
def test_min_snr_has_published_forms(schedule: NoiseSchedule) -> None:
    t, ratio = torch.arange(schedule.num_steps), snr(schedule)
    capped = ratio.clamp(max=5)
    for prediction, expected in (("eps", capped / ratio), ("x0", capped), ("v", capped / (ratio + 1))):
        found = MinSNR(5.0)(Parameterization(prediction), schedule, t)
        torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=0)


def test_simple_weight_of_x0_is_snr() -> None:
    weight = Simple()(Parameterization("x0"), LinearSchedule(), torch.tensor([0, 100]))
    torch.testing.assert_close(weight, torch.tensor([9999.0, 8.5]), rtol=5e-3, atol=0)


@every_schedule
def test_p2_matches_paper(schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    expected = 1 / (1 + snr(schedule))
    torch.testing.assert_close(P2()(Parameterization(), schedule, t), expected.float(), rtol=1e-5, atol=0)
    torch.testing.assert_close(P2(0.5, 2)(Parameterization(), schedule, t), ((2 + snr(schedule)) ** -0.5).float())
    torch.testing.assert_close(P2(0)(Parameterization(), schedule, t), Simple()(Parameterization(), schedule, t))


@every_schedule
def test_vlb_weight_matches_equation_12(schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    kept = torch.tensor([schedule.at(i)[0] for i in range(-1, schedule.num_steps)], dtype=torch.float64).square()
    step = kept[1:] / kept[:-1]  # alpha_t of the paper
    expected = (1 - step) / (2 * step * (1 - kept[1:]))
    torch.testing.assert_close(VLB()(Parameterization(), schedule, t), expected.float(), rtol=1e-5, atol=0)


@every_schedule
@pytest.mark.parametrize("weight", [Simple(), MinSNR(), P2(), VLB(), Unweighted()], ids=lambda it: type(it).__name__)
def test_losses_and_gradients_are_finite_at_all_times(weight: LossWeight, schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    x, noise = images_and_noise(len(t))
    for prediction in PREDICTIONS:
        output = torch.randn_like(x).requires_grad_()
        loss = loss_of(Parameterization(prediction), weight, output, x, noise, schedule, t)
        (gradient,) = torch.autograd.grad(loss.sum(), output)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MinSNR(0), "model.objective.loss_weight.gamma must be above 0, got 0"),
        (lambda: MinSNR(float("nan")), "model.objective.loss_weight.gamma must be above 0, got nan"),
        (lambda: P2(gamma=-1), "model.objective.loss_weight.gamma must be .*got -1"),
        (lambda: P2(k=0), "model.objective.loss_weight.k must be above 0, got 0"),
    ],
)
def test_out_of_range_arguments_raise(build: Callable[[], LossWeight], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
