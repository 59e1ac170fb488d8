"""UpsamplingLogger: what super-resolution makes of a reduced picture, beside bicubic up-sampling and the true picture."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FirstSamplesLogger, captioned, generators, steps_taken
from darkroom.callbacks.plotting.grids import as_pictures, picture_grid, tile_size
from darkroom.callbacks.plotting.images import resize

_SMALLEST, _LARGEST = 160, 320  # pixels of a small picture; of a larger one its middle is shown


class Sample(NamedTuple):
    """A picture as the model sees it (C, H, W), and its caption, if it has one."""

    image: Tensor
    caption: str | None


class UpsamplingLogger(FirstSamplesLogger):
    """Draws the first samples of the validation (and test) set: reduced, up-sampled bicubically, drawn by the model from
    the reduced one and true, with the PSNR against the true one, and above its mean over them.

    Of pictures of more than 320 pixels it shows the middle, pixel by pixel. The noise is the same every time; the
    file is ``pictures/<stage>_upsampling/<step>.png``.

    Args:
        num_samples: how many samples.
        guidance: weight of the caption; None: the model's own.
        augmentation: how noisy the reduced picture is made, in [0, 1]; None: the model's own.
        steps: of the sampler; None: the model's own.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
        seed: decides the noise.
    """

    what = "upsampling"
    methods = ("sample", "reduced", "upsampled", "to_uint8")
    arguments = ("captions", "low")
    techniques = "SuperResolution"

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
        images = batch["image"].cpu()
        return list(map(Sample, images, batch.get("caption", [None] * len(images))))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        module = trainer.lightning_module
        images = torch.stack([sample.image for sample in samples]).to(module.device)
        texts = [sample.caption for sample in samples]
        captions = None if None in texts else texts
        with trainer.precision_plugin.forward_context():
            low = module.reduced(images)
            drawn = module.sample(
                captions,
                low,
                augmentation=self.augmentation,
                guidance=self.guidance,
                steps=self.steps,
                generator=generators(self.seed, len(images)),
            )
            columns = low, module.upsampled(low), drawn, images
        columns = [as_pictures(module.to_uint8(pictures)) for pictures in columns]
        return _sheet(columns, captions, f"step {steps_taken(trainer)}")


def _sheet(
    columns: Sequence[Tensor], captions: Sequence[str] | None, title: str
) -> tuple[Tensor, dict[str, Sequence[Any]]]:
    """A row for each sample, of its pictures uint8 (N, 3, H, W) in each column; and the same for W&B."""
    low, true = columns[0], columns[-1]
    size = true.shape[2:]
    names = [f"{low.shape[2]} x {low.shape[3]}", "bicubic", "drawn", "true"]
    values = [list(map(psnr, column, true)) for column in columns[1:3]]
    means = ["", *(f", mean {sum(some) / len(some):.1f} dB" for some in values), ""]
    heads = [name + mean for name, mean in zip(names, means, strict=True)]
    decibels = [["", *(f"{value:.1f} dB" for value in some), ""] for some in zip(*values, strict=True)]
    tile = tile_size(*(min(side, _LARGEST) for side in size), len(heads), _SMALLEST)
    rows = [
        [resize(middle(resize(picture, size), _LARGEST), tile) for picture in row] for row in zip(*columns, strict=True)
    ]
    if max(size) > _LARGEST:
        title += f", the middle of {size[0]} x {size[1]} pixels"
    sheet = picture_grid(rows, captions or (), heads, title, captions=decibels, smallest=1)
    said = [
        ", ".join(filter(None, (captions[index] if captions else "", name, value)))
        for index, row in enumerate(decibels)
        for name, value in zip(names, row, strict=True)
    ]
    return sheet, captioned([picture for row in rows for picture in row], said)


def psnr(picture: Tensor, true: Tensor) -> float:
    """Peak signal-to-noise ratio of a picture uint8 (3, H, W) in decibels: 10 log10(255^2 / mean squared error)."""
    error = (picture.double() - true.double()).square().mean()
    return (10 * torch.log10(255**2 / error)).item()


def middle(picture: Tensor, most: int) -> Tensor:
    """The middle of a picture (3, H, W), of so many pixels on a side at most."""
    for axis in (1, 2):
        side = min(picture.shape[axis], most)
        picture = picture.narrow(axis, (picture.shape[axis] - side) // 2, side)
    return picture
