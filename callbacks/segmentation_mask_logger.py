"""SegmentationMaskLogger: input, truth, prediction and errors of the same scenes, epoch after epoch."""

from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.drawing import IGNORE, colorize, contact_sheet, error_map, to_picture
from callbacks.pictures import PictureCallback


class SegmentationMaskLogger(PictureCallback):
    """Draws the first samples of the validation (and test) set, which never change, so that epochs can be compared.

    In W&B the masks are overlays that can be switched on and off; the file ``pictures/<stage>_masks/<step>.png`` shows
    them in rows.

    Args:
        num_samples: how many samples.
        every_n_validations: draw after every n-th validation.
    """

    def __init__(self, num_samples: int = 8, every_n_validations: int = 1) -> None:
        self.num_samples, self.every_n_validations = num_samples, every_n_validations
        self._validations = 0
        self._samples: list[tuple[Tensor, Tensor, Tensor]] = []  # picture, truth, prediction

    def _wanted(self, trainer: Trainer) -> bool:
        drawn = trainer.testing or self._validations % self.every_n_validations == 0
        return drawn and trainer.is_global_zero and not trainer.sanity_checking

    def _collect(self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Any]) -> None:
        missing = self.num_samples - len(self._samples)
        if missing <= 0 or not self._wanted(trainer):
            return
        some = {key: value[:missing] for key, value in batch.items()}
        with trainer.precision_plugin.forward_context():
            predictions = pl_module.predict_step(some, 0)
        images = trainer.datamodule.denormalize(some["image"])
        self._samples += zip(map(to_picture, images), some["mask"].cpu(), predictions.cpu(), strict=True)

    def _draw(self, trainer: Trainer, stage: str) -> None:
        samples, self._samples = self._samples, []
        if not samples:
            return
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
        images = [picture.permute(1, 2, 0).numpy() for picture in pictures]
        self.publish(trainer, f"{stage}_masks", sheet, wandb={"images": images, "masks": masks})

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect(trainer, pl_module, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._collect(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "val")
        self._validations += not trainer.sanity_checking

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "test")
