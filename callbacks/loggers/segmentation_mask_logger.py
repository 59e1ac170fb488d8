"""SegmentationMaskLogger: input, truth, prediction and errors of the same scenes, epoch after epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FirstSamplesLogger
from darkroom.callbacks.plotting.images import IGNORE, colorize, contact_sheet, error_map, to_picture

Sample = tuple[Tensor, Tensor, Tensor]  # picture, truth, prediction


class SegmentationMaskLogger(FirstSamplesLogger):
    """Draws the first samples of the validation (and test) set, which never change, so that epochs can be compared.

    In W&B the masks are overlays that can be switched on and off; the file ``pictures/<stage>_masks/<step>.png`` shows
    them in rows.

    Args:
        num_samples: how many samples.
        every_n_validations: draw after every n-th validation.
    """

    what = "masks"

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        with trainer.precision_plugin.forward_context():
            predictions = pl_module.predict_step(batch, 0)
        images = trainer.datamodule.denormalize(batch["image"])
        return list(zip(map(to_picture, images), batch["mask"].cpu(), predictions.cpu(), strict=True))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[Tensor, dict[str, Sequence[Any]]]:
        names = trainer.datamodule.class_names
        pictures, truths, predictions = zip(*samples, strict=True)
        sheet = contact_sheet(
            {
                "input": pictures,
                "truth": [colorize(m, len(names)) for m in truths],
                "prediction": [colorize(m, len(names)) for m in predictions],
                "errors": [error_map(*sample) for sample in zip(pictures, predictions, truths, strict=True)],
            },
            legend={name: index for index, name in enumerate(names)},
        )
        labels = {**dict(enumerate(names)), IGNORE: "ignore"}
        masks = [
            {
                "prediction": {"mask_data": prediction.numpy().astype(np.uint8), "class_labels": labels},
                "ground_truth": {"mask_data": truth.numpy().astype(np.uint8), "class_labels": labels},
            }
            for _, truth, prediction in samples
        ]
        return sheet, {"images": [picture.permute(1, 2, 0).numpy() for picture in pictures], "masks": masks}
