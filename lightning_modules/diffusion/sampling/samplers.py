"""Samplers: from noise to pictures, as pure functions of a denoiser.

A sampler goes through pairs (t, t_prev) of times, in the order given: it asks the denoiser at t, and moves on to t_prev; no
time is worked out from another. Times and coefficients are Python's numbers, states are tensors on their device, and all
noise comes from ``draw_noise``: a picture with its own generator does not depend on its batch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.lightning_modules.utils.random import Generators, draw_noise

Variance = Literal["small", "large", "learned"]
Spacing = Literal["uniform", "quadratic", "log_snr", "karras"]
Pairs = Sequence[tuple[float, float]]  # (t, t_prev); -1 is the picture itself


class Denoised(NamedTuple):
    """What a denoiser says of x_t.

    Args:
        x0: the picture predicted, thresholded if it is to be: float32 (B, C, H, W).
        variance: v in [-1, 1], of the same shape, of a network that learned the variance of a step (Nichol & Dhariwal 2021,
            equation 15).
    """

    x0: Tensor
    variance: Tensor | None = None


class Step(NamedTuple):
    """What a sampler has just done: step ``index`` of ``count``, from time t to t_prev.

    Args:
        x: where it is now: x at t_prev, (B, C, H, W).
        x0: the picture that it predicted from x at t, (B, C, H, W).
    """

    index: int
    count: int
    t: float
    t_prev: float
    x: Tensor
    x0: Tensor


Denoise = Callable[[Tensor, float], Denoised]  # (x_t (B, C, H, W), t)
OnStep = Callable[[Step], None]


# --- times ------------------------------------------------------------------------------------------------------------


NOISIEST = 80.0  # sigma / alpha; a picture is 1 / 80 of it


def time_pairs(schedule: NoiseSchedule, steps: int, spacing: Spacing = "uniform") -> list[tuple[float, float]]:
    """Pairs (t, t_prev) of a sampler's steps: each begins where the last one ended, and the last one ends at -1.

    Args:
        schedule: says how many steps there are, and how noisy each is.
        steps: how many pairs, at least 1.
        spacing: uniform and quadratic (Song et al. 2021, appendix D.2; denser towards the picture) are whole numbers from
            T - 1 on, all different, so at most T; with T of them every step is taken. log_snr is even in log SNR (Lu et al.
            2022b), karras in (sigma / alpha)^(1 / 7) (Karras et al. 2022, equation 5). Their times are fractions; of two
            pairs or more the last is (0, -1), and the first begins where sigma / alpha is 80, as in EDM, if T - 1 is
            noisier: noise is as good there, and a cosine schedule would spend its steps, and Heun's method its precision,
            on nothing.

    Raises:
        UsageError: fewer steps than 1, or more than the schedule has.
    """
    whole = check_choice("model.spacing", spacing, Spacing) in ("uniform", "quadratic")
    if steps < 1 or (whole and steps > schedule.num_steps):
        most = f" and at most the schedule's {schedule.num_steps}" if whole else ""
        raise UsageError(f"model.steps is {steps}; with {spacing} spacing it must be at least 1{most}")
    times = (_whole_times if whole else _fractional_times)(schedule, steps, spacing)
    return list(zip(times, [*times[1:], -1], strict=True))


def _whole_times(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> list[int]:
    total, power = schedule.num_steps, 1 if spacing == "uniform" else 2
    # Near the picture squares are less than a step apart, so steps are taken one by one there.
    return [max(i, round(total * (i / steps) ** power)) - 1 for i in range(steps, 0, -1)]


def _fractional_times(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> list[float]:
    rho = 7
    noisiest, cleanest = (-schedule.half_log_snr(t) for t in (schedule.num_steps - 1, 0))  # log(sigma / alpha)
    first, last = min(noisiest, math.log(NOISIEST)), cleanest
    if spacing == "karras":
        first, last = math.exp(first / rho), math.exp(last / rho)
    levels = [first + (last - first) * i / max(steps - 1, 1) for i in range(steps)]
    if spacing == "karras":
        levels = [rho * math.log(level) for level in levels]
    return [round(schedule.time_of(-level), 9) for level in levels]  # whole at the ends


# --- stochastic samplers ----------------------------------------------------------------------------------------------


def ancestral(
    denoise: Denoise,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    variance: Variance = "large",
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Algorithm 2 of DDPM (Ho et al. 2020), also of fewer steps (Nichol & Dhariwal 2021, section 4).

    Args:
        denoise: predicts the picture.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: times (t, t_prev), falling; see ``time_pairs``.
        schedule: says what the times mean.
        variance: of a step: small is the posterior's, right for one picture; large that of the forward process, right for
            pictures that are noise; learned what the denoiser says.
        generator: decides the noise.
        on_step: is told of every step.

    Returns:
        Pictures (B, C, H, W): x at the last pair's t_prev.
    """
    for index, (t, t_prev) in enumerate(pairs):
        denoised = denoise(x, t)
        x = ancestral_step(denoised, x, schedule, t, t_prev, variance, generator)
        _tell(on_step, index, pairs, x, denoised.x0)
    return x


def ancestral_step(
    denoised: Denoised,
    x: Tensor,
    schedule: NoiseSchedule,
    t: float,
    t_prev: float,
    variance: Variance = "large",
    generator: Generators = None,
) -> Tensor:
    """x at t_prev, drawn from p(x_{t_prev} | x_t): one step of ``ancestral``, where the arguments are explained."""
    alpha, sigma = schedule.at(t)
    alpha_prev, sigma_prev = schedule.at(t_prev)
    beta, beta_tilde = step_variances(schedule, t, t_prev)
    of_x0, of_x = alpha_prev * beta / sigma**2, alpha / alpha_prev * (sigma_prev / sigma) ** 2
    mean = of_x0 * denoised.x0 + of_x * x  # Ho et al. 2020, equation 7
    if t_prev == -1:  # Algorithm 2, line 3: no noise at the last step
        return mean
    noise = draw_noise(x.shape, x.device, generator)
    if variance != "learned":
        return mean + math.sqrt(beta if variance == "large" else beta_tilde) * noise
    if denoised.variance is None:
        raise UsageError(
            "the variance of ancestral steps is to be learned, but the denoiser learned none; use small or large"
        )
    part = (denoised.variance + 1) / 2
    log_variance = part * math.log(beta) + (1 - part) * math.log(beta_tilde)  # Nichol & Dhariwal 2021, equation 15
    return mean + (log_variance / 2).exp() * noise


def ddim(
    denoise: Denoise,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    eta: float = 0.0,
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021).

    Args:
        denoise: predicts the picture.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: times (t, t_prev), falling; see ``time_pairs``.
        schedule: says what the times mean.
        eta: in [0, 1]: 0 draws no noise, so that x alone decides the picture; 1 is ``ancestral`` with its small variance.
        generator: decides the noise.
        on_step: is told of every step.

    Returns:
        Pictures (B, C, H, W): x at the last pair's t_prev.
    """
    if not 0 <= eta <= 1:
        raise UsageError(f"model.eta is {eta}; it is 0 (no noise) to 1 (as much as the posterior has)")
    for index, (t, t_prev) in enumerate(pairs):
        x0 = denoise(x, t).x0
        variance = eta**2 * step_variances(schedule, t, t_prev)[1]  # equation 16
        alpha_prev, sigma_prev = schedule.at(t_prev)
        towards_x = math.sqrt(max(sigma_prev**2 - variance, 0.0))
        x = alpha_prev * x0 + towards_x * _eps(x, x0, schedule, t)  # equation 12
        if variance > 0:
            x = x + math.sqrt(variance) * draw_noise(x.shape, x.device, generator)
        _tell(on_step, index, pairs, x, x0)
    return x


# --- samplers of the probability flow ODE -----------------------------------------------------------------------------


def dpm_solver_pp(
    denoise: Denoise,
    x: Tensor,
    pairs: Pairs,
    schedule: NoiseSchedule,
    *,
    order: Literal[1, 2, 3] = 2,
    generator: Generators = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++, multistep (Lu et al. 2022b): one question a step, the answers before it for the higher orders.

    Of lower order at the start, where there are fewer answers, and at the end: the last step is of order 1, which towards
    the picture itself is exact, the one before it at most of order 2.

    Args:
        denoise: predicts the picture.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: times (t, t_prev), falling; see ``time_pairs``.
        schedule: says what the times mean.
        order: 1 is DDIM; 2 is Algorithm 2; 3 is less stable under guidance.
        generator: as other samplers have it; nothing is drawn here.
        on_step: is told of every step.

    Returns:
        Pictures (B, C, H, W): x at the last pair's t_prev.
    """
    answers: list[tuple[float, Tensor]] = []  # (lambda, x0), newest first; lambda is log(alpha / sigma)
    for index, (t, t_prev) in enumerate(pairs):
        answers = [(schedule.half_log_snr(t), denoise(x, t).x0), *answers[: order - 1]]
        (_, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        ahead = math.inf if t_prev == -1 else schedule.half_log_snr(t_prev) - answers[0][0]
        x = sigma_prev / sigma * x + alpha_prev * _integral(answers[: len(pairs) - index], ahead)
        _tell(on_step, index, pairs, x, answers[0][1])
    return x


def _integral(answers: Sequence[tuple[float, Tensor]], ahead: float) -> Tensor:
    """Integral of e^(u - h) x0(u) over u = 0 ... h, x0 being a Taylor polynomial in log SNR / 2 through as many answers as
    given (Lu et al. 2022b, equation 9), newest first; ``ahead`` is h.
    """
    (now, x0), grown = answers[0], -math.expm1(-ahead)
    if len(answers) == 1:
        return grown * x0
    before, x0_before = answers[1]
    slope = (x0 - x0_before) / (now - before)
    if len(answers) == 2:
        return grown * (x0 + ahead / 2 * slope)  # Algorithm 2, with h / 2 for (h - grown) / grown
    long_before, x0_long_before = answers[2]
    slope_before = (x0_before - x0_long_before) / (before - long_before)
    curve = (slope - slope_before) / (now - long_before)  # half the second derivative
    slope = slope + (now - before) * curve  # now, no longer half-way to the answer before
    return grown * x0 + (ahead - grown) * slope + (ahead**2 - 2 * ahead + 2 * grown) * curve


def heun(
    denoise: Denoise,
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
    """Heun's method in x / alpha over sigma / alpha (EDM; Karras et al. 2022, Algorithms 1 and 2).

    It asks the denoiser twice a step, but once where the step ends at the picture itself: 2 n - 1 times.

    Args:
        denoise: predicts the picture.
        x: noise (B, C, H, W): x at the first pair's t.
        pairs: times (t, t_prev), falling; see ``time_pairs``.
        schedule: says what the times mean; noise that churn adds stays within it.
        churn: S_churn: how much noise is added, and taken away again, over all steps; 0: none, the deterministic method.
        churn_range: S_tmin and S_tmax, in sigma / alpha: only there.
        churn_noise: S_noise: its standard deviation, of what it should be.
        generator: decides the noise.
        on_step: is told of every step.

    Returns:
        Pictures (B, C, H, W): x at the last pair's t_prev.
    """
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
        _tell(on_step, index, pairs, x, x0)
    return x


def ddim_invert(
    denoise: Denoise, x: Tensor, pairs: Pairs, schedule: NoiseSchedule, *, on_step: OnStep | None = None
) -> Tensor:
    """DDIM run backwards: the noise from which ``ddim`` with the same pairs draws about these pictures (Song et al. 2021,
    section 4.3). The error falls with the number of steps.

    Args:
        denoise: predicts the picture; a threshold makes inversion worse.
        x: pictures (B, C, H, W): x at the last pair's t_prev.
        pairs: of ``ddim``: falling; they are gone through from the last to the first.
        schedule: says what the times mean.
        on_step: is told of every step; a Step's t is where it came from and t_prev where it is now, so these times rise.

    Returns:
        Noise (B, C, H, W): x at the first pair's t.
    """
    backwards = [(t_prev, t) for t, t_prev in reversed(pairs)]
    for index, (t, t_next) in enumerate(backwards):
        (alpha, sigma), (alpha_next, sigma_next) = schedule.at(t), schedule.at(t_next)
        asked = t_next if t == -1 else t  # of a picture itself a denoiser has nothing to say
        x_asked = schedule.at(asked)[0] / alpha * x
        x0 = denoise(x_asked, asked).x0
        eps = _eps(x_asked, x0, schedule, asked)
        x = alpha_next / alpha * x + (sigma_next - alpha_next * sigma / alpha) * eps  # equation 14, Euler's step
        _tell(on_step, index, backwards, x, x0)
    return x


# --- what they share --------------------------------------------------------------------------------------------------


def step_variances(schedule: NoiseSchedule, t: float, t_prev: float) -> tuple[float, float]:
    """beta, the variance that the forward process adds from t_prev to t, and beta tilde, that of q(x_{t_prev} | x_t, x_0)
    (Ho et al. 2020, equation 7; of a schedule that has these two times alone).
    """
    (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
    beta = 1 - (alpha / alpha_prev) ** 2
    return beta, beta * (sigma_prev / sigma) ** 2


def diffuse(
    x: Tensor, schedule: NoiseSchedule, t: float, later: float, generator: Generators = None, scale: float = 1.0
) -> Tensor:
    """x at a later time, drawn from q(x_later | x_t): the forward process, with noise of this scale.

    Args:
        x: at time t, (B, C, H, W).
        schedule: says what the times mean.
        t, later: the times; the same: x itself.
        generator: decides the noise.
        scale: of the noise, 1 by rights.
    """
    if t == later:
        return x
    beta = step_variances(schedule, later, t)[0]
    noise = draw_noise(x.shape, x.device, generator)
    return math.sqrt(1 - beta) * x + scale * math.sqrt(beta) * noise  # Ho et al. 2020, equation 2


def _eps(x: Tensor, x0: Tensor, schedule: NoiseSchedule, t: float) -> Tensor:
    """The noise in x_t if the picture is x0, so that the two agree whatever thresholding has done to x0."""
    alpha, sigma = schedule.at(t)
    return (x - alpha * x0) / sigma


def _tell(on_step: OnStep | None, index: int, pairs: Pairs, x: Tensor, x0: Tensor) -> None:
    if on_step is not None:
        on_step(Step(index, len(pairs), *pairs[index], x, x0))
