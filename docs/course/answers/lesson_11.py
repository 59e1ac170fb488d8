"""Answers of lesson 11."""

import math

from torch import Tensor


def q_sample(x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    alpha_bar = (1 - betas).cumprod(0)[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    return (x_t - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def posterior_mean(x_t: Tensor, x0: Tensor, t: int, betas: Tensor) -> Tensor:
    alpha_bar = (1 - betas).cumprod(0)
    before = alpha_bar[t - 1] if t > 0 else alpha_bar.new_tensor(1.0)
    of_x0 = before.sqrt() * betas[t] / (1 - alpha_bar[t])
    of_x = (1 - betas[t]).sqrt() * (1 - before) / (1 - alpha_bar[t])
    return of_x0 * x0 + of_x * x_t


def ddim_step(x: Tensor, eps: Tensor, t: int, t_prev: int, alphas_bar: Tensor) -> Tensor:
    """The broken version steps to t - 1 whatever t_prev is, so it is right only if no step is skipped."""
    alpha_bar = float(alphas_bar[t])
    alpha_bar_prev = float(alphas_bar[t_prev]) if t_prev >= 0 else 1.0
    x0 = (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
    return math.sqrt(alpha_bar_prev) * x0 + math.sqrt(1 - alpha_bar_prev) * eps
