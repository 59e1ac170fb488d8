"""SegmentationMaskLogger: input, truth, prediction and errors of the same samples in every epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FirstSamplesLogger, WandbImages
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.images import colorize, error_map, to_uint8_rgb
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.callbacks.plotting.style import IGNORE
from darkroom.errors import UsageError

Sample = tuple[Tensor, Tensor, Tensor]  # image, truth, prediction


class SegmentationMaskLogger(FirstSamplesLogger[Sample]):
    """Shows predictions for the first samples of the validation (and test) set, the same in every epoch.

    The predictions are those that the step returned (``SegmentationOutputs``); the network does not run again. In W&B the
    masks are overlays that can be switched on and off. The file ``figures/<stage>_masks/<step>.png`` shows them in rows.

    Args:
        num_samples: number of samples.
        every_n_validations: log figures after every n-th validation.
    """

    what = "masks"

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        """Return image, truth and prediction of each sample, on the CPU.

        Raises:
            UsageError: the step did not return ``prediction``.
        """
        if not isinstance(outputs, Mapping) or "prediction" not in outputs:
            raise UsageError(
                f"SegmentationMaskLogger: the step of {type(pl_module).__name__} must return a dict with 'prediction', "
                "class ids (B, H, W); use the callback with semantic segmentation"
            )
        images = self.data(trainer).denormalize(batch["image"])
        predictions = outputs["prediction"][: len(images)]
        return list(zip(map(to_uint8_rgb, images), batch["mask"].cpu(), predictions.cpu(), strict=True))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[ImagePage, WandbImages]:
        """Draw rows of input, truth, prediction and errors; return the figure and the overlays for W&B."""
        names = self.data(trainer).class_names
        images, truths, predictions = zip(*samples, strict=True)
        legend = {name: index for index, name in enumerate(names)}
        if any((truth == IGNORE).any() for truth in truths):
            legend["ignored"] = IGNORE
        figure = contact_sheet(
            {
                "input": images,
                "truth": [colorize(m, len(names)) for m in truths],
                "prediction": [colorize(m, len(names)) for m in predictions],
                "errors": [error_map(*sample) for sample in zip(images, predictions, truths, strict=True)],
            },
            legend=legend,
        )
        labels = {**dict(enumerate(names)), IGNORE: "ignore"}
        masks = [
            {
                "prediction": {"mask_data": prediction.numpy().astype(np.uint8), "class_labels": labels},
                "ground_truth": {"mask_data": truth.numpy().astype(np.uint8), "class_labels": labels},
            }
            for _, truth, prediction in samples
        ]
        return figure, {"images": [image.permute(1, 2, 0).numpy() for image in images], "masks": masks}
