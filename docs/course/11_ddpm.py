# %% [markdown]
# # Lesson 11: DDPM and samplers
#
# A diffusion model ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)) adds noise to images until nothing is left of them,
# and learns to remove it. A sampler starts from noise alone and removes it step by step.
#
# ## The idea
#
# The forward process is fixed: step $t$ multiplies the image by $\sqrt{1 - \beta_t}$ and adds noise of variance $\beta_t$.
# Because sums of normal variables are normal, $T$ steps are as cheap as one. With $\bar\alpha_t = \prod_{s \leq t} (1 -
# \beta_s)$,
#
# $$x_t = \sqrt{\bar\alpha_t} \, x_0 + \sqrt{1 - \bar\alpha_t} \, \varepsilon, \quad \varepsilon \sim \mathcal{N}(0, 1)$$
#
# So a training step is short: choose an image, a time and noise, and let the network predict the noise from $x_t$. The
# network sees all noise levels, but never a whole chain.
#
# A sampler goes backwards. If $x_0$ were known, $q(x_{t-1} | x_t, x_0)$ would be a normal distribution with a known mean.
# The network's prediction takes the place of $x_0$.
#
# ## The code

# %%
import math

import torch

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, LinearSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.samplers import (
    X0Prediction,
    ancestral,
    ancestral_step,
    ddim,
    dpm_solver_pp,
)
from darkroom.lightning_modules.diffusion.sampling.times import time_pairs

# %%
show_source(NoiseSchedule.add_noise, ancestral_step, ddim)

# %% [markdown]
# `alpha` is $\sqrt{\bar\alpha_t}$ and `sigma` is $\sqrt{1 - \bar\alpha_t}$. Time $-1$ is the image itself. Both samplers
# take *pairs* of times, so that steps can be skipped. Training is
# [`Diffusion.training_step`](<code:lightning_modules/diffusion/base.py#Diffusion.training_step>).
#
# ## Experiment 1: schedules
#
# How fast the noise grows is a choice. The linear schedule of DDPM leaves little of the image in the second half, where the
# network can only guess. The cosine schedule ([Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672)) is slower.

# %%
image = ShapesImages(side=32, background="textured").dataset("test").__getitems__([3])["image"] / 127.5 - 1
noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
times = [0, 125, 250, 375, 500, 625, 750, 875, 999]
rows = []
for schedule in (LinearSchedule(), CosineSchedule()):
    noisy = [schedule.add_noise(image, noise, torch.tensor([t]))[0] for t in times]
    rows.append([to_uint8_rgb((x + 1) / 2) for x in noisy])
show(
    image_grid(rows, ["linear", "cosine"], [f"t = {t}" for t in times], smallest=64),
    "11_forward",
    "One image under growing noise: with the linear schedule the shape is gone by t = 500, with the cosine by t = 875.",
)

# %% [markdown]
# ## Experiment 2: samplers, with a perfect network
#
# How good is a sampler, apart from the network? Take data for which the best prediction is known: points in the plane
# from a mixture of eight normal distributions. Given $x_t$, the expected $x_0$ has a closed form, a mean over the
# components. No network is trained here.

# %%
angles = torch.arange(8) * math.pi / 4
modes, spread = torch.stack([angles.cos(), angles.sin()], 1), 0.15
schedule = LinearSchedule()


def denoise(x, t):
    """Return E[x_0 | x_t] for the mixture; x is (B, 2, 1, 1), as images of one pixel."""
    alpha, sigma = schedule.at(t)
    variance = alpha**2 * spread**2 + sigma**2
    offset = x.flatten(1)[:, None] - alpha * modes  # (B, 8, 2)
    chance = (-offset.square().sum(-1) / (2 * variance)).softmax(1)
    of_each = modes + alpha * spread**2 / variance * offset
    return X0Prediction((chance[..., None] * of_each).sum(1)[..., None, None])


def sample_data(count, generator):
    """Return points of the mixture."""
    chosen = torch.randint(8, (count,), generator=generator)
    return modes[chosen] + spread * torch.randn(count, 2, generator=generator)


truth = sample_data(20_000, torch.Generator().manual_seed(3))
directions = torch.stack([torch.linspace(0, math.pi, 33)[:-1].cos(), torch.linspace(0, math.pi, 33)[:-1].sin()])


def error(points):
    """Return the sliced Wasserstein distance of points from those of the mixture."""
    one, other = (torch.sort(sample @ directions, 0).values for sample in (points.flatten(1), truth))
    return float((one - other).abs().mean())


start = torch.randn(20_000, 2, 1, 1, generator=torch.Generator().manual_seed(1))
counts = [2, 4, 8, 16, 32, 64, 128]
samplers = {"ancestral (DDPM)": ancestral, "DDIM": ddim, "DPM-Solver++": dpm_solver_pp}
series = []
for name, sampler in samplers.items():
    generator = torch.Generator().manual_seed(2)
    errors = [
        error(sampler(denoise, start, time_pairs(schedule, count, "log_snr"), schedule, generator=generator))
        for count in counts
    ]
    series.append(torch.tensor([[float(count), value] for count, value in zip(counts, errors, strict=True)]))
    print(f"{name:17}", *(f"{count} steps: {value:.3f}  " for count, value in zip(counts, errors, strict=True)))
print(f"the mixture itself {error(sample_data(20_000, torch.Generator().manual_seed(4))):.3f}")
show(
    curves(series, list(samplers), axes=("steps", "sliced Wasserstein distance"), log_x=True, log_y=True),
    "11_samplers",
    "Errors of three samplers by the number of steps; at 16 and 32 steps DPM-Solver++ has the smallest.",
)

# %% [markdown]
# The prediction is the same, the sampler differs. The distance of the last line is that of the mixture's own points.
#
# - DDIM ([Song et al. 2021](https://arxiv.org/abs/2010.02502)) adds no noise: its start determines the sample. It follows
#   an ordinary differential equation by Euler's method, whose error falls in proportion to the length of a step.
# - Ancestral sampling adds noise in every step, which covers up errors of the steps before. Here it needs fewer steps than
#   DDIM.
# - [DPM-Solver++](https://arxiv.org/abs/2211.01095) follows the same equation as DDIM with a method of second order. At 16
#   and 32 steps it has the smallest error of the three. Its error does not fall with every step: it is .021 at 4 steps and
#   .056 at 8.
#
# From 64 steps on, all three are at the level of the mixture's own points.
#
# With a trained network, its own errors are added: see the figures of [Diffusion](../methods/diffusion.md).
#
# ## What goes wrong
#
# Samplers mix up times: the step from $t$ must end at the time at which the next one begins. A step that ends at $t - 1$,
# though the next one starts at $t - 50$, removes too little noise. No error is raised, and samples are noisy or
# grey. A widely used library had a related fault: it read $\bar\alpha$ one time too early, and its last step led from 0 to
# 0 ([issue 81](https://github.com/lucidrains/denoising-diffusion-pytorch/issues/81)). The project's samplers take pairs of
# times for this reason:

# %%
for name, pairs in {
    "right": time_pairs(schedule, 20),
    "always to t - 1": [(t, t - 1) for t, _ in time_pairs(schedule, 20)],
}.items():
    print(f"{name:16} error {error(ddim(denoise, start, pairs, schedule)):.2f}")
