"""Samplers: from noise to images, as pure functions of a model that predicts x0.

A sampler takes a step for each pair (t, t_prev) of times, in the given order: it predicts x0 at t, and computes x at
t_prev. Times and coefficients are Python numbers; states are tensors on the device of x. All noise comes from
``sample_noise``, so an image with its own generator does not depend on its batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.times import Pairs
from darkroom.lightning_modules.utils.random import Generators, sample_noise
from darkroom.protocols import X0Output, X0Predictor

Variance = Literal["small", "large", "learned"]


class X0Prediction(NamedTuple):
    """Prediction of a model for x_t.

    Args:
        x0: predicted image, thresholded, float32 (B, C, H, W).
        variance: v in [-1, 1] of a learned variance, of the same shape (Nichol & Dhariwal 2021, equation 15); None: the
            variance is not learned.
    """

    x0: Tensor
    variance: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """Step of a sampler: number ``index`` of ``count``, from time t to t_prev.

    Args:
        x: state after the step, x at t_prev, (B, C, H, W).
        x0: image predicted from x at t, (B, C, H, W).
    """

    index: int
    count: int
    t: float
    t_prev: float
    x: Tensor
    x0: Tensor


OnStep = Callable[[Step], None]


# --- stochastic samplers ----------------------------------------------------------------------------------------------


def ancestral(
    denoise: X0Predictor,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    variance: Variance = "large",
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by Algorithm 2 of DDPM (Ho et al. 2020), also in fewer steps (Nichol & Dhariwal 2021, section 4).

    Args:
        denoise: predicts x0.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: falling times (t, t_prev); see ``time_pairs``.
        schedule: of the noise.
        variance: of a step: small is the posterior's, optimal for a single image; large that of the forward process,
            optimal for images that are noise; learned that of the model.
        generator: determines the noise.
        on_step: called after every step.

    Returns:
        Images (B, C, H, W): x at the last pair's t_prev.
    """
    for index, (t, t_prev) in enumerate(pairs):
        denoised = denoise(x, t)
        x = ancestral_step(denoised, x, schedule, t, t_prev, variance, generator)
        _call(on_step, index, pairs, x, denoised.x0)
    return x


def ancestral_step(
    denoised: X0Output,
    x: Tensor,
    schedule: NoiseSchedule,
    t: float,
    t_prev: float,
    variance: Variance = "large",
    generator: Generators = None,
) -> Tensor:
    """Sample x at t_prev from p(x_{t_prev} | x_t): one step of ``ancestral``, which documents the arguments."""
    alpha, sigma = schedule.at(t)
    alpha_prev, sigma_prev = schedule.at(t_prev)
    beta, beta_tilde = step_variances(schedule, t, t_prev)
    of_x0, of_x = alpha_prev * beta / sigma**2, alpha / alpha_prev * (sigma_prev / sigma) ** 2
    mean = of_x0 * denoised.x0 + of_x * x  # Ho et al. 2020, equation 7
    if t_prev == -1:  # Algorithm 2, line 3: no noise at the last step
        return mean
    noise, large = sample_noise(x.shape, x.device, generator), large_variance(schedule, t, t_prev)
    if variance != "learned":
        return mean + math.sqrt(large if variance == "large" else beta_tilde) * noise
    if denoised.variance is None:
        raise UsageError("model.sampling.variance is learned, but the model predicts no variance; use small or large")
    fraction = (denoised.variance + 1) / 2
    # Nichol & Dhariwal 2021, equation 15
    log_variance = fraction * math.log(large) + (1 - fraction) * math.log(beta_tilde)
    return mean + (log_variance / 2).exp() * noise


def ddim(
    denoise: X0Predictor,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    eta: float = 0.0,
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by DDIM (Song et al. 2021).

    Args:
        denoise: predicts x0.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: falling times (t, t_prev); see ``time_pairs``.
        schedule: of the noise.
        eta: in [0, 1]: 0 adds no noise, so x determines the image; 1 is ``ancestral`` with the small variance.
        generator: determines the noise.
        on_step: called after every step.

    Returns:
        Images (B, C, H, W): x at the last pair's t_prev.
    """
    if not 0 <= eta <= 1:
        raise UsageError(f"model.sampling.eta must be from 0 (no noise) to 1 (as much as the posterior has), got {eta}")
    for index, (t, t_prev) in enumerate(pairs):
        x0 = denoise(x, t).x0
        variance = eta**2 * step_variances(schedule, t, t_prev)[1]  # equation 16
        alpha_prev, sigma_prev = schedule.at(t_prev)
        towards_x = math.sqrt(max(sigma_prev**2 - variance, 0.0))
        x = alpha_prev * x0 + towards_x * _eps(x, x0, schedule, t)  # equation 12
        if variance > 0:
            x = x + math.sqrt(variance) * sample_noise(x.shape, x.device, generator)
        _call(on_step, index, pairs, x, x0)
    return x


# --- samplers of the probability flow ODE -----------------------------------------------------------------------------


def dpm_solver_pp(
    denoise: X0Predictor,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    order: Literal[1, 2, 3] = 2,
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by multistep DPM-Solver++ (Lu et al. 2022b): one prediction a step, and earlier ones for higher orders.

    The order is lower at the start, where there are fewer predictions, and at the end. The last step has order 1, which is
    exact towards the image itself; the step before it has at most order 2.

    Args:
        denoise: predicts x0.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: falling times (t, t_prev); see ``time_pairs``.
        schedule: of the noise.
        order: 1 is DDIM; 2 is Algorithm 2; 3 is less stable under guidance.
        generator: not used; an argument of all samplers.
        on_step: called after every step.

    Returns:
        Images (B, C, H, W): x at the last pair's t_prev.
    """
    predictions: list[tuple[float, Tensor]] = []  # (lambda, x0), newest first; lambda is log(alpha / sigma)
    for index, (t, t_prev) in enumerate(pairs):
        predictions = [(schedule.half_log_snr(t), denoise(x, t).x0), *predictions[: order - 1]]
        (_, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        ahead = math.inf if t_prev == -1 else schedule.half_log_snr(t_prev) - predictions[0][0]
        x = sigma_prev / sigma * x + alpha_prev * integral(predictions[: len(pairs) - index], ahead)
        _call(on_step, index, pairs, x, predictions[0][1])
    return x


def integral(predictions: Sequence[tuple[float, Tensor]], ahead: float) -> Tensor:
    """Integrate e^(u - h) x0(u) over u = 0 ... h, where x0 is a Taylor polynomial in log SNR / 2 through the given
    predictions (Lu et al. 2022b, equation 9), newest first; ``ahead`` is h.
    """
    (now, x0), grown = predictions[0], -math.expm1(-ahead)
    if len(predictions) == 1:
        return grown * x0
    before, x0_before = predictions[1]
    slope = (x0 - x0_before) / (now - before)
    if len(predictions) == 2:
        return grown * (x0 + ahead / 2 * slope)  # Algorithm 2, with h / 2 for (h - grown) / grown
    long_before, x0_long_before = predictions[2]
    slope_before = (x0_before - x0_long_before) / (before - long_before)
    curve = (slope - slope_before) / (now - long_before)  # half the second derivative
    slope = slope + (now - before) * curve  # now, not half-way to the prediction before
    return grown * x0 + (ahead - grown) * slope + (ahead**2 - 2 * ahead + 2 * grown) * curve


def heun(
    denoise: X0Predictor,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample by Heun's method in x / alpha over sigma / alpha (EDM; Karras et al. 2022, Algorithms 1 and 2).

    It predicts twice a step, but once in a step that ends at the image itself: 2 n - 1 times.

    Args:
        denoise: predicts x0.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: times (t, t_prev), falling; see ``time_pairs``.
        schedule: of the noise; churn does not exceed its noisiest time.
        churn: S_churn: amount of noise that is added and removed over all steps; 0: the deterministic method.
        churn_range: S_tmin and S_tmax, the range of sigma / alpha with churn.
        churn_noise: S_noise: factor of the standard deviation of the added noise.
        generator: determines the noise.
        on_step: called after every step.

    Returns:
        Images (B, C, H, W): x at the last pair's t_prev.

    Raises:
        UsageError: the first time has alpha 0.
    """
    check_alpha(pairs, schedule)
    for index, (t, t_prev) in enumerate(pairs):
        noise_level, later = math.exp(-schedule.half_log_snr(t)), t
        if churn > 0 and churn_range[0] <= noise_level <= churn_range[1]:
            gamma = min(churn / len(pairs), math.sqrt(2) - 1)
            later = max(t, schedule.time_of(schedule.half_log_snr(t) - math.log1p(gamma)))
            x = diffuse(x, schedule, t, later, generator, scale=churn_noise)  # line 6
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(later), schedule.at(t_prev)
        x0 = denoise(x, later).x0
        eps = _eps(x, x0, schedule, later)  # the slope, line 7
        x = alpha_prev * x0 + sigma_prev * eps  # Euler's step, line 8
        if t_prev != -1:
            eps_prev = _eps(x, denoise(x, t_prev).x0, schedule, t_prev)  # line 10
            x = x + (sigma_prev - alpha_prev * sigma / alpha) * (eps_prev - eps) / 2  # line 11
        _call(on_step, index, pairs, x, x0)
    return x


def check_alpha(pairs: Pairs, schedule: NoiseSchedule) -> None:
    """Raise a UsageError if ``heun`` would start where alpha is 0."""
    if schedule.at(pairs[0][0])[0] == 0:
        raise UsageError(
            f"model.sampling.sampler heun divides by alpha, which is 0 at the last time of {type(schedule).__name__}; use "
            "flow_heun"
        )


def ddim_invert(
    denoise: X0Predictor, x: Tensor, pairs: Pairs, schedule: NoiseSchedule, *, on_step: OnStep | None = None
) -> Tensor:
    """Invert DDIM: compute noise from which ``ddim`` with the same pairs samples approximately these images (Song et al.
    2021, section 4.3). The error falls with the number of steps.

    Args:
        denoise: predicts x0; a threshold increases the error.
        x: images (B, C, H, W): x at the last pair's t_prev.
        pairs: of ``ddim``, falling; used from the last to the first.
        schedule: of the noise.
        on_step: called after every step with rising times: ``t_prev`` is the time after the step.

    Returns:
        Noise (B, C, H, W): x at the first pair's t.
    """
    backwards = [(t_prev, t) for t, t_prev in reversed(pairs)]
    for index, (t, t_next) in enumerate(backwards):
        (alpha, sigma), (alpha_next, sigma_next) = schedule.at(t), schedule.at(t_next)
        noisy = t_next if t == -1 else t  # a model predicts nothing for an image without noise
        x_noisy = schedule.at(noisy)[0] / alpha * x
        x0 = denoise(x_noisy, noisy).x0
        eps = _eps(x_noisy, x0, schedule, noisy)
        x = alpha_next / alpha * x + (sigma_next - alpha_next * sigma / alpha) * eps  # equation 14, Euler's step
        _call(on_step, index, backwards, x, x0)
    return x


# --- shared by samplers -----------------------------------------------------------------------------------------------


def step_variances(schedule: NoiseSchedule, t: float, t_prev: float) -> tuple[float, float]:
    """Compute beta, the variance that the forward process adds from t_prev to t, and beta tilde, that of
    q(x_{t_prev} | x_t, x_0) (Ho et al. 2020, equation 7; for a schedule of these two times only).
    """
    (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
    power, power_prev = schedule.power(t), schedule.power(t_prev)
    beta = power * (1 - (alpha / alpha_prev) ** 2 * power_prev / power)
    return beta, beta * (sigma_prev / sigma) ** 2


def large_variance(schedule: NoiseSchedule, t: float, t_prev: float) -> float:
    """Compute the variance of x_{t_prev}, given x_t, if x_0 is standard normal: beta where alpha^2 + sigma^2 = 1 (Ho et
    al. 2020, section 3.2).
    """
    return step_variances(schedule, t, t_prev)[0] * schedule.power(t_prev) / schedule.power(t)


def diffuse(
    x: Tensor, schedule: NoiseSchedule, t: float, later: float, generator: Generators = None, scale: float = 1.0
) -> Tensor:
    """Sample x at a later time from q(x_later | x_t), the forward process.

    Args:
        x: at time t, (B, C, H, W).
        schedule: of the noise.
        t, later: the times; x itself is returned if they are equal.
        generator: determines the noise.
        scale: factor of the noise; 1 is the forward process.
    """
    if t == later:
        return x
    beta = step_variances(schedule, later, t)[0]
    noise = sample_noise(x.shape, x.device, generator)
    kept = math.sqrt((schedule.power(later) - beta) / schedule.power(t))
    return kept * x + scale * math.sqrt(beta) * noise  # Ho et al. 2020, equation 2


def _eps(x: Tensor, x0: Tensor, schedule: NoiseSchedule, t: float) -> Tensor:
    """Compute the noise in x_t for a given x0, so that both are consistent also after thresholding."""
    alpha, sigma = schedule.at(t)
    return (x - alpha * x0) / sigma


def _call(on_step: OnStep | None, index: int, pairs: Pairs, x: Tensor, x0: Tensor) -> None:
    if on_step is not None:
        on_step(Step(index, len(pairs), *pairs[index], x, x0))
