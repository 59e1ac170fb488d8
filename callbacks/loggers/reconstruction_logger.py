"""ReconstructionLogger: reconstructions of the same images in every epoch."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FirstSamplesLogger
from darkroom.callbacks.plotting.grids import contact_sheet, expand_to_rgb, tile_size
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.protocols import ReconstructionModel

Sample = tuple[Tensor, Tensor | None]  # normalized image, label


class ReconstructionLogger(FirstSamplesLogger[Sample]):
    """Shows the first samples of the validation (and test) set over their reconstructions and the difference of both.

    The difference is black where they agree. The file is ``figures/<stage>_reconstructions/<step>.png``.

    Args:
        num_samples: number of samples. A DCGAN, which must search for each latent, needs a small number.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
    """

    what = "reconstructions"
    needs = ReconstructionModel

    def __init__(self, num_samples: int = 12, every_n_validations: int = 1) -> None:
        super().__init__(num_samples, every_n_validations)

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        """Return image and label of each sample, on the CPU."""
        images, labels = batch["image"].cpu(), self.require(pl_module, ReconstructionModel).labels_of(batch)
        return list(zip(images, [None] * len(images) if labels is None else labels.cpu(), strict=True))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[ImagePage, None]:
        """Draw inputs over reconstructions and their differences."""
        model = self.require(trainer.lightning_module, ReconstructionModel)
        images = torch.stack([image for image, _ in samples]).to(model.device)
        known = [label for _, label in samples if label is not None]
        labels = torch.stack(known).to(model.device) if known else None
        with trainer.precision_plugin.forward_context():
            reconstructions = model.reconstruct(images, labels=labels)
        inputs, outputs = (expand_to_rgb(model.to_uint8(some)) for some in (images, reconstructions))
        difference = (inputs.int() - outputs.int()).abs().to(torch.uint8)
        rows = {"input": list(inputs), "reconstruction": list(outputs), "difference": list(difference)}
        height, width = images.shape[-2:]
        side = max(tile_size(height, width, len(images), smallest=80))
        return contact_sheet(rows, side=side), None
