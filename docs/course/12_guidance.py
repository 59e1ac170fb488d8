# %% [markdown]
# # Lesson 12: Guidance and Imagen
#
# A conditional diffusion model samples from $p(x|c)$, where $c$ is a class or a text. Its samples follow the condition only
# loosely. Guidance makes them follow it more, at the cost of variety. Imagen
# ([Saharia et al. 2022](https://arxiv.org/abs/2205.11487)) adds a frozen text encoder, a cascade of resolutions, and
# thresholds that strong guidance needs.
#
# ## The idea
#
# By Bayes' rule $\nabla \log p(c|x) = \nabla \log p(x|c) - \nabla \log p(x)$. A network that predicts the noise with and
# without the condition thus contains a classifier, whose gradient can be scaled by a weight $w$
# ([Ho & Salimans 2022](https://arxiv.org/abs/2207.12598)):
#
# $$\hat\varepsilon = \varepsilon(x_t) + w \, (\varepsilon(x_t, c) - \varepsilon(x_t))$$
#
# - $w = 0$ is the unconditional model, $w = 1$ the conditional one, $w > 1$ amplifies the condition.
# - One network learns both: in training the condition is replaced by a *null condition* with a probability of about 0.1.
#
# The paper's $w$ is 1 below this one. Look at which convention a program uses before you compare numbers.
#
# ## The code

# %%
import torch
from torch import nn

from darkroom.callbacks.plotting.curves import curves
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.callbacks.plotting.scatter import scatter
from darkroom.course.notebook import show, show_source
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided, dynamic_threshold, static_threshold
from darkroom.lightning_modules.diffusion.sampling.samplers import X0Prediction, ddim
from darkroom.lightning_modules.diffusion.sampling.times import time_pairs

# %%
show_source(Guided.forward, dynamic_threshold)

# %% [markdown]
# `Guided` runs both predictions in one pass of twice the batch.
#
# ## Experiment 1: weights, with a perfect network
#
# Two classes in the plane that overlap, three normal distributions each. The noise that the best network would predict has
# a closed form, with and without the class.

# %%
modes = torch.tensor([[-1.0, 0.0], [-0.3, 0.9], [-0.3, -0.9], [1.0, 0.0], [0.3, 0.9], [0.3, -0.9]])
classes, spread, null = torch.tensor([0, 0, 0, 1, 1, 1]), 0.35, 2
schedule = CosineSchedule()


class PerfectNetwork(nn.Module):
    """Best prediction of the noise, as a network: x (B, 2, 1, 1), times (B,), labels (B,), 2 for no condition."""

    def forward(self, x, t, label):
        alpha, sigma = schedule.at(float(t[0]))
        variance = alpha**2 * spread**2 + sigma**2
        offset = x.flatten(1)[:, None] - alpha * modes
        chance = -offset.square().sum(-1) / (2 * variance)
        chance = chance.masked_fill((label[:, None] != null) & (classes != label[:, None]), -torch.inf).softmax(1)
        return (chance[..., None] * sigma / variance * offset).sum(1)[..., None, None]


def sample(weight, label, count=1500):
    """Sample points of a class by DDIM with a guidance weight."""
    network = Guided(PerfectNetwork(), weight, {"label": null})
    labels = torch.full((count,), label)

    def denoise(x, t):
        alpha, sigma = schedule.at(t)
        return X0Prediction((x - sigma * network(x, torch.full((count,), t), label=labels)) / alpha)

    noise = torch.randn(count, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    return ddim(denoise, noise, time_pairs(schedule, 40, "log_snr"), schedule).flatten(1)


def certainty(points):
    """Return the probability of class 0 by Bayes' rule."""
    chance = (-(points[:, None] - modes).square().sum(-1) / (2 * spread**2)).softmax(1)
    return chance[:, classes == 0].sum(1)


weights = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0]
samples = {weight: sample(weight, 0) for weight in weights}
right = torch.tensor([[weight, float(certainty(samples[weight]).mean())] for weight in weights])
variety = torch.tensor([[weight, float(samples[weight].std(0).mean())] for weight in weights])
show(
    curves(
        [right, variety],
        ["probability of the class", "standard deviation"],
        axes=("guidance weight w", "value of the samples"),
    ),
    "12_weights",
    "With the guidance weight the probability of the class rises to 1, and the standard deviation of the samples falls.",
)

# %%
chosen = [1.0, 3.0, 8.0]
points = torch.cat([samples[weight][:400] for weight in chosen])
labels = torch.arange(len(chosen)).repeat_interleave(400)
show(
    scatter(points, labels, [f"w = {weight:g}" for weight in chosen], axes=("x", "y"), width=4.5),
    "12_points",
    "Samples of class 0: with larger weights they move to the left, away from the other class, and closer together.",
)

# %% [markdown]
# With $w = 1$ the samples have the distribution of the class. With more they move away from the *other* class: beyond the
# data, and with less variety. So guided samples look more typical than the data, and a score such as FID, which measures
# variety too, is best for a moderate weight.
#
# ## Experiment 2: thresholds
#
# Guidance with a large weight predicts images beyond $[-1, 1]$. Clipping them (static) saturates colours. Imagen rescales
# each image by a percentile of its absolute values (dynamic). Here the image is amplified instead of guided:

# %%
images = ShapesImages(side=32, background="textured").dataset("test").__getitems__(range(6))["image"] / 127.5 - 1
strong = 3 * images + 0.4
rows = {
    "image": images,
    "static": static_threshold(strong),
    "dynamic": dynamic_threshold(strong, 0.995),
}
show(
    image_grid([[to_uint8_rgb((one + 1) / 2) for one in row] for row in rows.values()], list(rows), smallest=64),
    "12_thresholds",
    "Six images amplified three times: static thresholds lose the texture, dynamic ones keep it.",
)

# %% [markdown]
# ## Imagen in this project
#
# [`TextToImage`](<code:lightning_modules/diffusion/imagen/text_to_image.py#TextToImage>) conditions the base model on the
# output of a text encoder, and
# [`SuperResolution`](<code:lightning_modules/diffusion/imagen/super_resolution.py#SuperResolution>) enlarges its images,
# conditioned on the small image with some noise on it. See [Text to image](../methods/text_to_image.md).
#
# ## What goes wrong
#
# The two predictions are exchanged. With $w = 1$ the result is unconditional, and with a larger weight the samples *avoid*
# the condition. They are still clean, so it takes a classifier to notice:

# %%
for weight in (1.0, 3.0):
    exchanged = sample(1 - weight, 0)
    print(
        f"w = {weight:g}: probability of the class {float(certainty(sample(weight, 0)).mean()):.2f}, "
        f"with exchanged predictions {float(certainty(exchanged).mean()):.2f}"
    )
