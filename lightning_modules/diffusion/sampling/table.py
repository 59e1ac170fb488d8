"""Table of a sampler: its steps as numbers, for programs that sample with an exported network."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization
from darkroom.lightning_modules.diffusion.sampling.flow_heun import correction
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import integral, large_variance, step_variances
from darkroom.lightning_modules.diffusion.sampling.times import Pairs


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of the network, and update of the state x after it.

    The predicted image is ``to_x0[0] * state + to_x0[1] * output``, thresholded. Then the state becomes ``x * state + sum_i
    x0[i] * image of the i-th last evaluation + noise * normal noise``.

    Args:
        t: time that the network is evaluated at.
        guidance: weight of the condition.
        to_x0: factors of the state and of the network's output.
        x: factor of the state.
        x0: factors of the predicted and thresholded images, of this evaluation first.
        noise: factor of the noise. With two numbers it is exp((f log(second) + (1 - f) log(first)) / 2) for every value,
            where f = (v + 1) / 2 and v is the network's learned variance. 0: no noise.
        input: factor of the state in the network's input; not 1 only for predictions of edm.
    """

    t: float
    guidance: float
    to_x0: tuple[float, float]
    x: float
    x0: tuple[float, ...]
    noise: float | tuple[float, float] = 0.0
    input: float = 1.0


Rows = Iterator[tuple[float, float, tuple[float, ...], float | tuple[float, float]]]  # t, x, x0 and noise


def tabulate(
    sampling: Sampling, schedule: NoiseSchedule, parameterization: Parameterization, guidance: float
) -> list[Evaluation]:
    """Return the evaluations of a sampler in order.

    Args:
        sampling: options of the sampler.
        schedule: of the noise.
        parameterization: of the network's output.
        guidance: weight of the condition, where ``sampling.guidance_interval`` has it.

    Raises:
        UsageError: the sampler adds noise before an evaluation.
    """
    if sampling.churn and sampling.sampler == "heun":
        raise UsageError(
            f"model.sampling.churn is {sampling.churn}, but the table of an exported sampler has no noise before an "
            "evaluation: set --model.sampling.churn 0"
        )
    updates = {
        "ancestral": _ancestral,
        "ddim": _ddim,
        "dpm_solver++": _dpm_solver_pp,
        "heun": _heun,
        "flow_heun": _flow_heun,
    }
    low, high = (schedule.num_steps * end for end in sampling.guidance_interval or (-math.inf, math.inf))
    return [
        Evaluation(
            t=t,
            guidance=guidance if low <= t < high else 1.0,
            to_x0=_to_x0(parameterization, *schedule.at(t)),
            x=x,
            x0=x0,
            noise=noise,
            input=float(parameterization.input_scale(*schedule.at(t))),
        )
        for t, x, x0, noise in updates[sampling.sampler](sampling, sampling.pairs(schedule), schedule)
    ]


def _to_x0(parameterization: Parameterization, alpha: float, sigma: float) -> tuple[float, float]:
    """Return the factors of the state and of the network's output in x0, which is linear in both."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    to_x0 = parameterization.to_x0
    of_state, of_output = to_x0(zero, one, alpha, sigma), to_x0(one, zero, alpha, sigma)
    return of_state.item(), of_output.item()


def _ancestral(sampling: Sampling, pairs: Pairs, schedule: NoiseSchedule) -> Rows:
    for t, t_prev in pairs:
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        beta, beta_tilde = step_variances(schedule, t, t_prev)
        large = large_variance(schedule, t, t_prev)
        noise: float | tuple[float, float] = math.sqrt(large if sampling.variance == "large" else beta_tilde)
        if sampling.variance == "learned":
            noise = beta_tilde, large
        x, x0 = alpha / alpha_prev * (sigma_prev / sigma) ** 2, alpha_prev * beta / sigma**2
        yield t, x, (x0,), 0.0 if t_prev == -1 else noise


def _ddim(sampling: Sampling, pairs: Pairs, schedule: NoiseSchedule) -> Rows:
    for t, t_prev in pairs:
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        variance = sampling.eta**2 * step_variances(schedule, t, t_prev)[1]
        towards_x = math.sqrt(max(sigma_prev**2 - variance, 0.0))
        yield t, towards_x / sigma, (alpha_prev - towards_x * alpha / sigma,), math.sqrt(variance)


def _dpm_solver_pp(sampling: Sampling, pairs: Pairs, schedule: NoiseSchedule) -> Rows:
    for index, (t, t_prev) in enumerate(pairs):
        count = min(index + 1, sampling.order, len(pairs) - index)
        unit = torch.eye(count, dtype=torch.float64)  # the integral is linear in the predictions
        known = [(schedule.half_log_snr(pairs[index - i][0]), unit[i]) for i in range(count)]
        ahead = math.inf if t_prev == -1 else schedule.half_log_snr(t_prev) - known[0][0]
        alpha_prev, sigma_prev = schedule.at(t_prev)
        x0 = tuple((alpha_prev * integral(known, ahead)).tolist())
        yield t, sigma_prev / schedule.at(t)[1], x0, 0.0


def _heun(sampling: Sampling, pairs: Pairs, schedule: NoiseSchedule) -> Rows:
    for t, t_prev in pairs:
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        yield t, sigma_prev / sigma, (alpha_prev - sigma_prev * alpha / sigma,), 0.0
        if t_prev != -1:
            # Half the difference of the slopes: (x - alpha_prev x0) / sigma_prev for the x0 of both evaluations.
            half = (sigma_prev - alpha_prev * sigma / alpha) * alpha_prev / sigma_prev / 2
            yield t_prev, 1.0, (-half, half), 0.0


def _flow_heun(sampling: Sampling, pairs: Pairs, schedule: NoiseSchedule) -> Rows:
    for t, t_prev in pairs:
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t_prev)
        yield t, sigma_prev / sigma, (alpha_prev - sigma_prev * alpha / sigma,), 0.0
        if t_prev != -1:
            factor = correction(schedule, t, t_prev)
            yield t_prev, 1.0, (-factor, factor), 0.0
