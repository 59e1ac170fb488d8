"""Lesson 10: GAN."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from darkroom.course.exercise import Exercise, Inputs, Mistake
from darkroom.lightning_modules.adversarial.losses import discriminator_loss, generator_loss
from darkroom.lightning_modules.adversarial.losses import gradient_penalty as penalty_of_logits

Discriminator = Callable[[Tensor], Tensor]


class SmallDiscriminator(nn.Module):
    """Discriminator with random weights, (B, 2, 4, 4) -> (B,).

    Args:
        generator: of the weights.
        norm: it has a batch norm.
    """

    def __init__(self, generator: Generator, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.head = nn.Conv2d(3, 1, 2)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).tanh()).flatten()


def _logits(generator: Generator) -> Sequence[Inputs]:
    return [
        {"real": scale * torch.randn(4, generator=generator), "fake": scale * torch.randn(4, generator=generator)}
        for scale in (1.0, 3.0, 1000.0)
    ]


def _fake_logits(generator: Generator) -> Sequence[Inputs]:
    return [{"fake": one["fake"]} for one in _logits(generator)]


def _images(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "discriminator": SmallDiscriminator(generator, norm=False),
            "images": torch.randn(count, 2, 4, 4, generator=generator),
        }
        for count in (1, 3)
    ]


def _batches(generator: Generator) -> Sequence[Inputs]:
    return [
        {
            "discriminator": SmallDiscriminator(generator, norm=True),
            "real": torch.randn(count, 2, 4, 4, generator=generator),
            "fake": torch.randn(count, 2, 4, 4, generator=generator) + 1,
        }
        for count in (2, 5)
    ]


def _gradient_penalty(discriminator: Discriminator, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    return penalty_of_logits(discriminator(images), images)


def _summed(discriminator: Discriminator, images: Tensor) -> Tensor:
    return len(images) * _gradient_penalty(discriminator, images)


def _mean_logit(discriminator: Discriminator, images: Tensor) -> Tensor:
    return _gradient_penalty(discriminator, images) / len(images) ** 2


def _without_graph(discriminator: Discriminator, images: Tensor) -> Tensor:
    return _gradient_penalty(discriminator, images).detach()


def _together(discriminator: Discriminator, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    both = discriminator(torch.cat([real, fake]))
    return both[: len(real)], both[len(real) :]


EXERCISES = (
    Exercise(
        "discriminator_loss",
        lambda real, fake: discriminator_loss("non_saturating", real, fake),
        _logits,
        (
            Mistake(
                lambda real, fake: discriminator_loss("non_saturating", fake, real),
                "real and generated images are exchanged",
            ),
            Mistake(
                lambda real, fake: -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean(),
                "the sigmoid of large logits is exactly 0 or 1 in floating point, and its logarithm infinite",
            ),
            Mistake(
                lambda real, fake: discriminator_loss("non_saturating", real, fake) / 2,
                "this is the mean of the two terms; the loss is their sum",
            ),
        ),
        differentiable=("real", "fake"),
    ),
    Exercise(
        "generator_loss",
        lambda fake: generator_loss("non_saturating", fake),
        _fake_logits,
        (
            Mistake(
                lambda fake: -F.softplus(fake).mean(),
                "this is log(1 - D), which saturates: it has no gradient while the discriminator recognizes all images",
            ),
            Mistake(
                lambda fake: F.softplus(fake).mean(),
                "this loss is small if images are recognized as generated: it is that of the discriminator",
            ),
            Mistake(
                lambda fake: -fake.sigmoid().log().mean(),
                "the sigmoid of a very negative logit is exactly 0 in floating point, and its logarithm infinite",
            ),
        ),
        differentiable=("fake",),
    ),
    Exercise(
        "gradient_penalty",
        _gradient_penalty,
        _images,
        (
            Mistake(_summed, "the penalty is summed over the batch; it must be the mean"),
            Mistake(_mean_logit, "the gradient of the mean logit is smaller by the batch size; take that of the sum"),
            Mistake(
                _without_graph,
                "the gradient is a constant for autograd, so the penalty does not change the discriminator; compute the "
                "gradient so that it has a graph of its own",
            ),
        ),
        differentiable=("discriminator",),
    ),
    Exercise(
        "discriminator_logits",
        _together,
        _batches,
        (
            Mistake(
                lambda discriminator, real, fake: (discriminator(real), discriminator(fake)),
                "batch norm sees real and generated images apart, each with its own mean and variance",
            ),
        ),
        repair=True,
    ),
)
