"""Predictions of flow and of EDM's preconditioned network: formulas of the papers, weights and allowed schedules."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    ZeroTerminalSNR,
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

FLOW, EDM, ZERO = RectifiedFlow(50), EDMSchedule(50), ZeroTerminalSNR(CosineSchedule(50))
REAL = {"flow": torch.tensor([-0.5, 3.25, 30.0, 49.0]), "edm": torch.tensor([0.0, 7.5, 30.0, 49.0])}
SIGMA_DATA = 0.7


def images_and_noise(count: int) -> tuple[Tensor, Tensor]:
    """Return images in [-1, 1] and noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 2, 3, 3)
    return torch.rand(shape, generator=generator) * 2 - 1, torch.randn(shape, generator=generator)


# --- rectified flow ---------------------------------------------------------------------------------------------------


def test_flow_target_is_derivative_of_path() -> None:
    x, noise = images_and_noise(1)
    later, earlier = ((1 - s) * x + s * noise for s in (0.4 + 1e-2, 0.4 - 1e-2))
    torch.testing.assert_close(Parameterization("flow").target(x, noise, 0.6, 0.4), (later - earlier) / 2e-2)


def test_flow_loss_is_that_of_rectified_flow() -> None:
    """Check Liu et al. 2022, equation 1: the squared error of the velocity, uniform in time."""
    (x, noise), output = images_and_noise(4), torch.randn(4, 2, 3, 3)
    loss = loss_of(Parameterization("flow"), Unweighted(), output, x, noise, FLOW, REAL["flow"])
    torch.testing.assert_close(loss, (output - (noise - x)).square().mean((1, 2, 3)))


@pytest.mark.parametrize("prediction", ["x0", "flow", "edm"])
def test_predictions_convert_on_straight_path(prediction: Prediction) -> None:
    (x, noise), t, kind = images_and_noise(4), REAL["flow"], Parameterization(prediction)
    alpha, sigma = FLOW.alpha_sigma(t)
    x_t = FLOW.add_noise(x, noise, t)
    output = kind.target(x, noise, alpha, sigma)
    torch.testing.assert_close(kind.to_x0(output, x_t, alpha, sigma), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(kind.to_eps(output, x_t, alpha, sigma), noise, atol=2e-4, rtol=0)
    torch.testing.assert_close(kind.from_x0(x, x_t, alpha, sigma), output, atol=2e-4, rtol=0)


@pytest.mark.parametrize("prediction", ["x0", "v", "flow", "edm"])
def test_predictions_are_finite_where_alpha_is_zero(prediction: Prediction) -> None:
    (x, noise), kind = images_and_noise(3), Parameterization(prediction)
    output = kind.target(x, noise, 0.0, 1.0)
    torch.testing.assert_close(kind.to_x0(output, noise, 0.0, 1.0), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(kind.to_eps(output, noise, 0.0, 1.0), noise, atol=1e-6, rtol=0)


# --- EDM --------------------------------------------------------------------------------------------------------------


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return c_skip, c_out, c_in and lambda of Karras et al. 2022, Table 1."""
    total = sigma**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total.sqrt(), total**-0.5, total / (sigma * SIGMA_DATA) ** 2


def test_preconditioning_matches_table_1() -> None:
    """Check D(x; sigma) = c_skip x + c_out F(c_in x) in EDM's coordinates, x / alpha and sigma / alpha."""
    kind, t = Parameterization("edm", SIGMA_DATA), REAL["edm"]
    alpha, sigma = EDM.alpha_sigma(t)
    (x, noise), level = images_and_noise(4), sigma / alpha
    x_t, output = EDM.add_noise(x, noise, t), torch.randn(4, 2, 3, 3)
    noisy = x + level * noise
    skip, out, scale, _ = preconditioning(level)
    torch.testing.assert_close(kind.input_scale(alpha, sigma) * x_t, scale * noisy, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kind.to_x0(output, x_t, alpha, sigma), skip * noisy + out * output, atol=1e-5, rtol=1e-4)
    target = kind.target(x, noise, alpha, sigma)
    torch.testing.assert_close(out * target, x - skip * noisy, atol=1e-5, rtol=1e-4)


def test_edm_loss_is_lambda_times_error_of_image() -> None:
    """Check equation 8 with the weight lambda of Table 1."""
    kind, t, output = Parameterization("edm", SIGMA_DATA), REAL["edm"], torch.randn(4, 2, 3, 3)
    (x, noise), (alpha, sigma) = images_and_noise(4), EDM.alpha_sigma(t)
    error = kind.to_x0(output, EDM.add_noise(x, noise, t), alpha, sigma) - x
    weight = preconditioning(sigma / alpha)[3].flatten()
    loss = loss_of(kind, Unweighted(), output, x, noise, EDM, t)
    torch.testing.assert_close(loss[1:], (weight * error.square().mean((1, 2, 3)))[1:], rtol=2e-3, atol=0)
    assert loss[0].item() == pytest.approx((output[0] - kind.target(x, noise, alpha, sigma)[0]).square().mean().item())


def test_edm_input_and_target_have_unit_variance() -> None:
    kind, generator = Parameterization("edm", SIGMA_DATA), torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 40_000, 1, 1, 1, generator=generator)
    for t in (0, 25, 49):
        alpha, sigma = EDM.at(t)
        scaled = kind.input_scale(alpha, sigma) * (alpha * SIGMA_DATA * x + sigma * noise)
        for values in (scaled, kind.target(SIGMA_DATA * x, noise, alpha, sigma)):
            assert values.std().item() == pytest.approx(1, abs=0.02)


def test_edm_for_data_of_variance_1_is_minus_v() -> None:
    (x, noise), (alpha, sigma) = images_and_noise(2), LinearSchedule(50).at(20)
    edm, v = (kind.target(x, noise, alpha, sigma) for kind in (Parameterization("edm", 1.0), Parameterization("v")))
    torch.testing.assert_close(edm, -v)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [Simple(), MinSNR(), P2(), Unweighted()], ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("schedule", [FLOW, EDM, ZERO], ids=["flow", "edm", "zero"])
@pytest.mark.parametrize("prediction", ["x0", "flow", "edm"])
def test_losses_are_finite_at_all_times(weight: LossWeight, schedule: NoiseSchedule, prediction: Prediction) -> None:
    t = schedule.times_at(torch.linspace(2**-24, 1, 200))
    x, noise = images_and_noise(len(t))
    output = torch.randn_like(x).requires_grad_()
    loss = loss_of(Parameterization(prediction), weight, output, x, noise, schedule, t)
    assert loss.isfinite().all()
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("prediction", ["x0", "v", "flow", "edm"])
def test_last_time_of_zero_terminal_snr_is_trained(prediction: Prediction) -> None:
    """It is the first of every sampler."""
    Objective(prediction=prediction).check_schedule(ZERO)
    last = torch.tensor([ZERO.num_steps - 1])
    assert Unweighted()(Parameterization(prediction), ZERO, last) > 0


@pytest.mark.parametrize("weight", [MinSNR(), P2()], ids=lambda it: type(it).__name__)
def test_weighted_loss_depends_only_on_predicted_image(weight: LossWeight) -> None:
    t = torch.tensor([2.5, 20.0, 44.1])
    x, noise = images_and_noise(3)
    alpha, sigma = FLOW.alpha_sigma(t)
    x_t, guess = FLOW.add_noise(x, noise, t), x + 0.3
    losses = []
    for prediction in ("eps", "x0", "flow", "edm"):
        kind = Parameterization(prediction)
        losses.append(loss_of(kind, weight, kind.from_x0(guess, x_t, alpha, sigma), x, noise, FLOW, t))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-3, atol=1e-6)


def test_simple_weight_of_flow_has_closed_form() -> None:
    """Check that an error of eps is (1 - s) times an error of the flow for a fixed x_t."""
    weight = Simple()(Parameterization("flow"), FLOW, REAL["flow"])
    torch.testing.assert_close(weight, (1 - (REAL["flow"] + 1) / 50).square())


# --- combinations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "schedule", "message"),
    [
        ({}, FLOW, "prediction eps does not determine the image at the last time of RectifiedFlow.*must be flow"),
        ({}, ZERO, "prediction eps does not determine the image at the last time of ZeroTerminalSNR"),
        ({"prediction": "v"}, FLOW, r"prediction v needs alpha\^2 \+ sigma\^2 = 1, which RectifiedFlow"),
        ({"prediction": "flow", "learned_variance": True}, FLOW, "learned_variance must be false for RectifiedFlow"),
        ({"prediction": "edm", "learned_variance": True}, EDM, "learned_variance must be false for EDMSchedule"),
        ({"prediction": "flow", "loss_weight": VLB()}, FLOW, "loss_weight VLB .*RectifiedFlow"),
        ({"prediction": "edm", "loss_weight": VLB()}, EDM, "loss_weight VLB .*EDMSchedule"),
        ({"prediction": "v", "loss_weight": VLB()}, ZERO, "loss_weight VLB .*ZeroTerminalSNR"),
        (
            {"prediction": "v", "loss_weight": MinSNR()},
            ZERO,
            "loss_weight MinSNR is 0 at the last time .*use Unweighted",
        ),
        ({"prediction": "v", "loss_weight": P2()}, ZERO, "loss_weight P2 is 0 at the last time"),
        ({"prediction": "x0", "loss_weight": Simple()}, ZERO, "loss_weight Simple is 0 at the last time"),
    ],
)
def test_undefined_combinations_raise(options: dict[str, Any], schedule: NoiseSchedule, message: str) -> None:
    with pytest.raises(UsageError, match=f"model.objective.{message}"):
        Objective(**options).check_schedule(schedule)


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan])
def test_invalid_sigma_data_raises(sigma_data: float) -> None:
    with pytest.raises(UsageError, match="model.objective.sigma_data must be above 0"):
        Objective(sigma_data=sigma_data)
