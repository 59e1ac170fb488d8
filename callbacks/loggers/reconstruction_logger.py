"""ReconstructionLogger: what comes back of the same pictures, epoch after epoch."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FirstSamplesLogger
from darkroom.callbacks.plotting.grids import as_pictures, tile_size
from darkroom.callbacks.plotting.images import contact_sheet

Sample = tuple[Tensor, Tensor | None]  # image as the network sees it, label


class ReconstructionLogger(FirstSamplesLogger):
    """Draws the first samples of the validation (and test) set over their reconstructions, and how much they differ.

    The difference is black where they agree. The file is ``pictures/<stage>_reconstructions/<step>.png``.

    Args:
        num_samples: how many samples; for a DCGAN, which must search for each one's latent, a few.
        every_n_validations: draw after every n-th validation of a fit, and in every other command.
    """

    what = "reconstructions"
    methods = ("reconstruct", "labels_of", "to_uint8")

    def __init__(self, num_samples: int = 12, every_n_validations: int = 1) -> None:
        super().__init__(num_samples, every_n_validations)

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        images, labels = batch["image"].cpu(), pl_module.labels_of(batch)
        return list(zip(images, [None] * len(images) if labels is None else labels.cpu(), strict=True))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[Tensor, None]:
        module = trainer.lightning_module
        images, labels = zip(*samples, strict=True)
        images = torch.stack(images).to(module.device)
        labels = None if labels[0] is None else torch.stack(labels).to(module.device)
        with trainer.precision_plugin.forward_context():
            back = module.reconstruct(images, labels=labels)
        inputs, outputs = (as_pictures(module.to_uint8(pictures)) for pictures in (images, back))
        difference = (inputs.int() - outputs.int()).abs().to(torch.uint8)
        rows = {"input": inputs, "reconstruction": outputs, "difference": difference}
        side = max(tile_size(*images.shape[-2:], len(images), smallest=80))
        return contact_sheet(rows, side=side), None
