"""UpsamplingLogger: super-resolution beside bicubic upsampling and the true image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FirstSamplesLogger, WandbImages, generators, logged_step, wandb_images
from darkroom.callbacks.plotting.grids import expand_to_rgb, image_grid, tile_size
from darkroom.callbacks.plotting.images import resize
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.protocols import UpsamplingModel

_SMALLEST, _LARGEST = 160, 320  # pixels of a small image; a larger one is cropped to its center


class Sample(NamedTuple):
    """Normalized image (C, H, W) and its caption, if it has one."""

    image: Tensor
    caption: str | None


class UpsamplingLogger(FirstSamplesLogger[Sample]):
    """Shows super-resolution of the first samples of the validation (and test) set.

    The columns are the downscaled image, its bicubic upsampling, the sample of the model, and the true image. The PSNR
    against the true image is below each image, and its mean above each column. Images of more than 320 pixels
    are cropped to their center. The noise is the same in every epoch. The file is
    ``figures/<stage>_upsampling/<step>.png``.

    Args:
        num_samples: number of samples.
        guidance: guidance weight; None: the model's own.
        augmentation: noise level added to the small image, in [0, 1]; None: the model's own.
        steps: number of steps of the sampler; None: the model's own.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
        seed: seed of the noise.
    """

    what = "upsampling"
    needs = UpsamplingModel
    supported = "SuperResolution"

    def __init__(
        self,
        num_samples: int = 6,
        guidance: float | None = None,
        augmentation: float | None = None,
        steps: int | None = None,
        every_n_validations: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_samples, every_n_validations)
        self.guidance, self.augmentation, self.steps, self.seed = guidance, augmentation, steps, seed

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        """Return image and caption of each sample, on the CPU."""
        images = batch["image"].cpu()
        return list(map(Sample, images, batch.get("caption", [None] * len(images))))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[ImagePage, WandbImages]:
        """Draw small image, bicubic upsampling, sample and true image; return the figure, and the same for W&B."""
        model = self.require(trainer.lightning_module, UpsamplingModel)
        images = torch.stack([sample.image for sample in samples]).to(model.device)
        texts = [sample.caption for sample in samples if sample.caption is not None]
        captions = texts if len(texts) == len(samples) else None
        with trainer.precision_plugin.forward_context():
            low = model.reduced(images)
            sampled = model.sample(
                captions,
                low,
                augmentation=self.augmentation,
                guidance=self.guidance,
                steps=self.steps,
                generator=generators(self.seed, len(images)),
            )
            outputs = low, model.upsampled(low), sampled, images
        columns = [expand_to_rgb(model.to_uint8(some)) for some in outputs]
        return _sheet(columns, captions, f"step {logged_step(trainer)}")


def _sheet(columns: Sequence[Tensor], captions: Sequence[str] | None, title: str) -> tuple[ImagePage, WandbImages]:
    """Draw a row for each sample from columns of images uint8 (N, 3, H, W); return the figure, and the same for W&B."""
    low, true = columns[0], columns[-1]
    height, width = true.shape[2:]
    names = [f"{low.shape[2]} x {low.shape[3]}", "bicubic", "sampled", "true"]
    values = [list(map(psnr, column, true)) for column in columns[1:3]]
    means = ["", *(f", mean {sum(some) / len(some):.1f} dB" for some in values), ""]
    heads = [name + mean for name, mean in zip(names, means, strict=True)]
    decibels = [["", *(f"{value:.1f} dB" for value in some), ""] for some in zip(*values, strict=True)]
    tile = tile_size(min(height, _LARGEST), min(width, _LARGEST), len(heads), _SMALLEST)
    rows = [list(row) for row in zip(*columns, strict=True)]
    if max(height, width) > _LARGEST:
        rows = [[crop_center(resize(image, (height, width)), _LARGEST) for image in row] for row in rows]
        title += f", center of {height} x {width} pixels"
    figure = image_grid(rows, captions or (), heads, title, captions=decibels, tile=tile)
    texts = [
        ", ".join(filter(None, (captions[index] if captions else "", name, value)))
        for index, row in enumerate(decibels)
        for name, value in zip(names, row, strict=True)
    ]
    # W&B shows all images of a step at the size of the first.
    return figure, wandb_images([resize(image, tile) for row in rows for image in row], texts)


def psnr(image: Tensor, true: Tensor) -> float:
    """Return the peak signal-to-noise ratio of an image uint8 (3, H, W) in decibels: 10 log10(255^2 / MSE)."""
    error = (image.double() - true.double()).square().mean()
    return (10 * torch.log10(255**2 / error)).item()


def crop_center(image: Tensor, most: int) -> Tensor:
    """Crop an image (3, H, W) to its center, at most ``most`` pixels on a side."""
    for axis in (1, 2):
        side = min(image.shape[axis], most)
        image = image.narrow(axis, (image.shape[axis] - side) // 2, side)
    return image
