"""DetectionLogger: truth, detections and errors in the same images in every epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from darkroom.callbacks.base import FirstSamplesLogger, WandbImages
from darkroom.callbacks.plotting.boxes import captions, class_index, filter_by_score, mark_boxes, mark_mistakes
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.images import fit_size, to_uint8_rgb
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.callbacks.plotting.vector.items import Marked
from darkroom.callbacks.writers.prediction_files import check_detections
from darkroom.errors import UsageError

_CORNERS = ("minX", "minY", "maxX", "maxY")
Sample = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]  # image, truth, detections


class DetectionLogger(FirstSamplesLogger[Sample]):
    """Shows truth, detections and errors in the first samples of the validation (and test) set.

    The samples are the same in every epoch. The detections are those that the step returned; the network does not run
    again. Errors are false detections, in red, and missed objects, in dashed white, at an IoU of 0.5 as in COCO. Difficult
    objects and crowds, dashed, are neither.

    In W&B boxes and masks can be switched on and off and the boxes filtered by score; the file
    ``figures/<stage>_detections/<step>.png`` shows them in rows.

    Args:
        num_samples: number of samples.
        every_n_validations: log figures after every n-th validation.
        score_threshold: detections with a lower score, in [0, 1], are not shown.
        max_boxes: maximum number of detections shown, best first.
        side: longer side of a sample in pixels.
    """

    what = "detections"

    def __init__(
        self,
        num_samples: int = 8,
        every_n_validations: int = 1,
        score_threshold: float = 0.3,
        max_boxes: int = 100,
        side: int = 256,
    ) -> None:
        super().__init__(num_samples, every_n_validations)
        self._check_at_least_1(max_boxes=max_boxes, side=side)
        if not 0 <= score_threshold <= 1:
            raise UsageError(f"DetectionLogger.score_threshold must be in [0, 1], got {score_threshold}")
        self.score_threshold, self.max_boxes, self.side = score_threshold, max_boxes, side

    def samples(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Any]
    ) -> list[Sample]:
        """Return image, truth and the best detections of each sample, on the CPU."""
        data = self.data(trainer)
        images = [to_uint8_rgb(data.denormalize(image)) for image in batch["image"]]
        truths = [{k: v.cpu() for k, v in target.items() if isinstance(v, Tensor)} for target in batch["target"]]
        found = check_detections(outputs, self, pl_module)[: len(images)]
        best = [filter_by_score(one, self.score_threshold, self.max_boxes) for one in found]
        return list(zip(images, truths, best, strict=True))

    def draw(self, trainer: Trainer, samples: list[Sample]) -> tuple[ImagePage, WandbImages]:
        """Draw rows of truth, prediction and errors; return the figure and the images for W&B."""
        names = self.data(trainer).class_names
        tile = fit_size(samples[0][0], self.side, self.side)
        rows: dict[str, list[Tensor | Marked]] = {"truth": [], "prediction": [], "errors": []}
        for image, truth, found in samples:
            size = fit_size(image, *tile)
            rows["truth"].append(mark_boxes(image, truth, names, size))
            rows["prediction"].append(mark_boxes(image, found, names, size))
            rows["errors"].append(mark_mistakes(image, found, truth, names, size))
        legend = {name: class_index(label) for label, name in enumerate(names, 1)}
        return contact_sheet(rows, legend, self.side), for_wandb(samples, names)


def for_wandb(samples: Sequence[Sample], class_names: Sequence[str]) -> WandbImages:
    """Return arguments of ``WandbLogger.log_image``: images with the boxes and masks of truth and prediction.

    W&B shows all images of a step at the size of the first, so they are padded to one size.
    """
    height, width = (max(sides) for sides in zip(*(image.shape[1:] for image, *_ in samples), strict=True))
    labels = dict(enumerate(class_names, 1))
    images: list[Any] = []
    boxes: list[Any] = []
    masks: list[Any] = []
    for image, truth, found in samples:
        rest = (0, width - image.shape[2], 0, height - image.shape[1])
        images.append(F.pad(image, rest).permute(1, 2, 0).numpy())
        groups = {"ground_truth": truth, "predictions": found}
        boxes.append(
            {name: {"box_data": _boxes(one, class_names), "class_labels": labels} for name, one in groups.items()}
        )
        masks.append(
            {
                name: {"mask_data": F.pad(_classes(one), rest).numpy(), "class_labels": {0: "background", **labels}}
                for name, one in groups.items()
                if "masks" in one
            }
        )
    return {"images": images, "boxes": boxes} | ({"masks": masks} if any(masks) else {})


def _boxes(objects: Mapping[str, Tensor], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return objects as W&B's boxes, in whole pixels."""
    corners, labels = objects["boxes"].round().int().tolist(), objects["labels"].tolist()
    names = captions(objects, class_names)
    boxes: list[dict[str, Any]] = [
        {
            "position": dict(zip(_CORNERS, corner, strict=True)),
            "domain": "pixel",
            "class_id": label,
            "box_caption": name,
        }
        for corner, label, name in zip(corners, labels, names, strict=True)
    ]
    if "scores" in objects:
        scores = objects["scores"].tolist()
        boxes = [box | {"scores": {"score": score}} for box, score in zip(boxes, scores, strict=True)]
    return boxes


def _classes(objects: Mapping[str, Tensor]) -> Tensor:
    """Return the label of the first object that covers each pixel, 0 where there is none: int64 (H, W)."""
    classes = torch.zeros(objects["masks"].shape[1:], dtype=torch.long)
    for mask, label in reversed(list(zip(objects["masks"], objects["labels"], strict=True))):
        classes[mask.bool()] = label
    return classes
