"""Lesson 11: DDPM and samplers. Write three functions and repair the fourth: darkroom check lesson 11."""

import math

from torch import Tensor


def q_sample(x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """Compute x_t of the forward process from x_0 in one step (Ho et al. 2020, equation 4).

    Args:
        x0: images (B, C, H, W) in [-1, 1].
        noise: standard normal, (B, C, H, W).
        t: int64 (B,), 0 ... T - 1; at time 0 one step of noise has been added.
        betas: variance that each step adds, (T,).

    Returns:
        (B, C, H, W).
    """
    raise NotImplementedError


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """Compute the image that belongs to x_t and to a prediction of its noise.

    Args:
        x_t: (B, C, H, W).
        eps: predicted noise, (B, C, H, W).
        alpha_bar: product of 1 - beta up to this time, in (0, 1).

    Returns:
        (B, C, H, W), not clipped.
    """
    raise NotImplementedError


def posterior_mean(x_t: Tensor, x0: Tensor, t: int, betas: Tensor) -> Tensor:
    """Compute the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, equation 7).

    Args:
        x_t, x0: (B, C, H, W).
        t: from 0; x_{-1} is the image x_0 itself.
        betas: variance that each step adds, (T,).

    Returns:
        (B, C, H, W).
    """
    raise NotImplementedError


def ddim_step(x: Tensor, eps: Tensor, t: int, t_prev: int, alphas_bar: Tensor) -> Tensor:
    """Take a step of DDIM without noise, from time t to t_prev (Song et al. 2021, equation 12).

    Args:
        x: x at time t, (B, C, H, W).
        eps: noise that the model predicts in it, (B, C, H, W).
        t: from 0 to T - 1.
        t_prev: below t, by more than 1 if steps are skipped; -1: the image itself, where alpha_bar is 1.
        alphas_bar: products of 1 - beta, (T,).

    Returns:
        x at time t_prev, (B, C, H, W).
    """
    alpha_bar = float(alphas_bar[t])
    alpha_bar_prev = float(alphas_bar[t - 1]) if t > 0 else 1.0
    x0 = (x - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
    return math.sqrt(alpha_bar_prev) * x0 + math.sqrt(1 - alpha_bar_prev) * eps
