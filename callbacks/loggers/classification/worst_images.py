"""ClassificationLogger: the images with the highest loss, with truth, prediction and Grad-CAM."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import FigureCallback, wandb_images
from darkroom.callbacks.plotting.grids import image_grid
from darkroom.callbacks.plotting.images import overlay_heat, to_uint8_rgb
from darkroom.errors import UsageError
from darkroom.protocols import ExplainedModel

_COLUMNS, _TILE = 8, 112  # images in a row, and least pixels of a side, which captions need


class _Sample(NamedTuple):
    loss: float
    image: Tensor  # float (C, H, W), normalized
    truth: int
    predicted: int
    probability: float


class ClassificationLogger(FigureCallback):
    """Shows the validation (and test) images with the highest loss, the worst first, with truth and prediction.

    Probabilities and losses are those that the step returned (``ClassificationOutputs``). Below each image, its Grad-CAM
    shows the places that raise the logit of the predicted class; for this the network runs once on these images alone. On
    several ranks the images are those of rank 0. The file is ``figures/<stage>_worst/<step>.png``.

    Args:
        num_samples: number of images.
        grad_cam: draw Grad-CAM below the images.
        every_n_validations: log figures after every n-th validation of a fit, and in every other command.
    """

    supported = "ImageClassifier"

    def __init__(self, num_samples: int = 8, grad_cam: bool = True, every_n_validations: int = 1) -> None:
        super().__init__(every_n_validations)
        self._check_at_least_1(num_samples=num_samples)
        self.num_samples, self.grad_cam = num_samples, grad_cam
        self._worst: list[_Sample] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.grad_cam and stage != "predict":  # which draws nothing, also from an exported file
            self.require(pl_module, ExplainedModel)

    def collect(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]) -> None:
        """Save the samples of a batch that are among the worst of the set so far.

        Raises:
            UsageError: the step did not return ``probabilities`` and ``losses``.
        """
        if not isinstance(outputs, Mapping) or not {"probabilities", "losses"} <= outputs.keys():
            raise UsageError(
                f"ClassificationLogger: the step of {type(pl_module).__name__} must return a dict with 'probabilities' "
                "(B, K) and 'losses' (B,); use the callback with image classification"
            )
        losses, indices = outputs["losses"].topk(min(self.num_samples, len(outputs["losses"])))
        best = outputs["probabilities"][indices].max(1)
        columns = (losses, batch["label"][indices], best.indices, best.values)
        for index, loss, truth, predicted, value in zip(
            indices.tolist(), *(column.tolist() for column in columns), strict=True
        ):
            if len(self._worst) < self.num_samples or loss > self._worst[-1].loss:
                self._worst.append(_Sample(loss, batch["image"][index].clone(), truth, predicted, value))
                self._worst = sorted(self._worst, key=lambda one: -one.loss)[: self.num_samples]

    def log_figures(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the worst images and publish the figure."""
        samples, self._worst = self._worst, []
        if not samples:
            return
        data = self.data(trainer)
        images = [to_uint8_rgb(data.denormalize(one.image)) for one in samples]
        truths = [data.class_names[one.truth] for one in samples]
        found = [f"{data.class_names[one.predicted]} {one.probability:.2f}" for one in samples]
        wandb = wandb_images(
            images, [f"true: {truth}; predicted: {guess}" for truth, guess in zip(truths, found, strict=True)]
        )
        rows, captions, names = [images], [truths], ["truth"]
        if self.grad_cam:
            model = self.require(pl_module, ExplainedModel)
            classes = torch.tensor([one.predicted for one in samples], device=pl_module.device)
            maps = model.explain(torch.stack([one.image for one in samples]), classes)
            rows.append([overlay_heat(image, heat) for image, heat in zip(images, maps, strict=True)])
            captions, names = [truths, found], ["truth", "prediction"]
        else:
            captions = [[f"{truth}: {guess}" for truth, guess in zip(truths, found, strict=True)]]
        starts = range(0, len(samples), _COLUMNS)
        figure = image_grid(
            [row[start : start + _COLUMNS] for start in starts for row in rows],
            names * len(starts) if self.grad_cam else (),
            title=f"Highest loss: {samples[0].loss:.2f} to {samples[-1].loss:.2f}",
            captions=[caption[start : start + _COLUMNS] for start in starts for caption in captions],
            smallest=_TILE,
            lines=1 if self.grad_cam else 2,
        )
        self.publish(trainer, f"{stage}_worst", figure, wandb)
