"""SegmentationRecorder: IoU of each test image, the confusion matrix of all pixels, and the objects of the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from scipy import ndimage
from torch import Tensor

from darkroom.callbacks.results import wandb_charts
from darkroom.callbacks.results.base import WORST, Sample, Subject, TaskRecorder, has_tensors
from darkroom.callbacks.results.image_keeper import Files, Group, share_budget
from darkroom.callbacks.writers.prediction_files import gather_rows
from darkroom.protocols import IgnoresIndex
from darkroom.runtime.records.tables import write_table

IGNORED = 255  # in the masks that are written
_EDGES = ndimage.generate_binary_structure(2, 1)  # pixels are connected by their edges; built once, which takes time


class SegmentationRecorder(TaskRecorder):
    """Records ``SegmentationOutputs``.

    Images are those with the lowest mIoU of all samples, with the lowest and the highest IoU of each class, and with most
    pixels of each pair of a true and another predicted class.
    """

    task = "segmentation"
    expected = "a dict of 'prediction', class ids (B, H, W), with 'mask' (B, H, W) in the batch"
    tables = {"objects": {"sample": int, "class": int, "pixels": int, "found": float}}

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        module = subject.module
        self.ignore_index = module.ignore_index if isinstance(module, IgnoresIndex) else IGNORED
        self.confusion = np.zeros((len(self.class_names),) * 2, np.int64)

    @property
    def columns(self) -> list[str]:
        """Columns of ``samples.csv`` after ``sample`` and ``name``."""
        return ["mIoU", "pixel_accuracy", *(f"IoU/{name}" for name in self.class_names)]

    def limits(self) -> dict[str, int]:
        """Return the number of samples of the groups of each kind, besides ``WORST``."""
        classes, most = len(self.class_names), self.subject.examples
        of_class = share_budget(2 * classes, most)
        return {"class": of_class, "best": of_class, "cell": share_budget(classes * (classes - 1), most)}

    def accepts(self, outputs: Any, batch: Any) -> bool:
        """Return True if there are a predicted and a true class of every pixel."""
        return has_tensors(outputs, prediction=3) and has_tensors(batch, mask=3)

    def add(self, samples: Sequence[Sample], outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        mask = batch["mask"]
        maps = torch.stack([mask.where(mask != self.ignore_index, IGNORED), outputs["prediction"]])
        truths, predictions = maps.to(torch.uint8).cpu().numpy()
        confusions = confusion_of_images(truths, predictions, len(self.class_names))
        self.confusion += confusions.sum(0)
        offered = {}
        for sample, truth, prediction, confusion in zip(samples, truths, predictions, confusions, strict=True):
            self.blocks["objects"].append(connected_objects(sample.number, truth, prediction))
            offered[sample.number] = self._add_row(sample, confusion)
        images = list(zip(batch["image"], truths, predictions, strict=True))
        self.offer(samples, offered, images, lambda maps: self._files(*maps))

    def _add_row(self, sample: Sample, confusion: np.ndarray) -> dict[Group, float]:
        """Add a row, and return the score of the sample in each group."""
        hits, pixels, present = confusion.diagonal(), confusion.sum(), confusion.sum(1) > 0
        union = confusion.sum(0) + confusion.sum(1) - hits
        row: dict[str, Any] = {"sample": sample.number, "name": sample.name}
        scores: dict[Group, float] = {}
        if pixels:
            seen = union.nonzero()[0].tolist()
            each = {label: float(hits[label] / union[label]) for label in seen}
            mean = sum(each.values()) / len(each)
            row |= {"mIoU": mean, "pixel_accuracy": float(hits.sum() / pixels)}
            row |= {f"IoU/{self.class_names[label]}": value for label, value in each.items()}
            scores[WORST] = -mean
            scores |= {("class", label): -value for label, value in each.items()}
            scores |= {("best", label): value for label, value in each.items() if present[label]}
            wrong = confusion - np.diag(hits)
            scores |= {("cell", int(i), int(j)): float(wrong[i, j]) for i, j in zip(*wrong.nonzero(), strict=True)}
        self.rows.append(row)
        return scores

    def _files(self, image: Tensor, truth: np.ndarray, prediction: np.ndarray) -> Files:
        masks = {"truth": self.encode_mask(truth), "prediction": self.encode_mask(prediction)}
        return {"": self.encode_image(image), **masks}

    def wandb_media(self) -> dict[str, Any]:
        """Return the confusion matrix of pixels and the table of the images with the lowest mIoU, with their masks."""
        labels = {**dict(enumerate(self.class_names)), IGNORED: "ignored"}
        rows = []
        for row, files in self.worst():
            masks = {
                name: {"mask_data": wandb_charts.decode(files[kind]), "class_labels": labels}
                for name, kind in {"ground_truth": "truth", "predictions": "prediction"}.items()
            }
            image = wandb_charts.labelled_image(files[""], labels, masks=masks)
            rows.append((image, row["sample"], row["mIoU"], row["pixel_accuracy"]))
        table = wandb_charts.image_table(("sample", "mIoU", "pixel accuracy"), rows)
        return wandb_charts.confusion_chart(self.confusion, self.class_names) | table

    def gather(self, trainer: Trainer) -> None:
        """Replace the content by that of all ranks, in the order of samples; every rank must call this."""
        super().gather(trainer)
        self.confusion = np.sum(gather_rows(trainer, [self.confusion]), axis=0)

    def write(self, folder: Path) -> None:
        """Write tables and images to a folder that ``create_folder`` made."""
        super().write(folder)
        columns = ["truth", *map(str, range(len(self.confusion)))]
        rows = [dict(zip(columns, [truth, *row], strict=True)) for truth, row in enumerate(self.confusion.tolist())]
        write_table(folder / "confusion.csv", columns, rows)


def confusion_of_images(truths: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each pair of a true and a predicted class, in each image.

    Args:
        truths: class ids or 255, uint8 (B, H, W).
        predictions: class ids, uint8 (B, H, W).
        num_classes: K.

    Returns:
        int64 (B, K, K), with the truth along the rows.
    """
    batch, k = len(truths), num_classes
    # A row of its own for ignored pixels, which is cut off: faster than to select the others.
    cells = np.minimum(truths, k).astype(np.int64)
    cells += (k + 1) * np.arange(batch)[:, None, None]
    cells *= k
    cells += predictions
    return np.bincount(cells.ravel(), minlength=batch * (k + 1) * k).reshape(batch, k + 1, k)[:, :k]


def connected_objects(sample: int, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the areas of one true class whose pixels are connected by their edges.

    Args:
        sample: number of the image.
        truth: class ids or 255, uint8 (H, W).
        prediction: class ids, uint8 (H, W).

    Returns:
        float64 (n, 4): sample, class, pixels, and the fraction of them that are predicted as this class.
    """
    ids = np.where(truth == IGNORED, 0, truth.astype(np.int32) + 1)
    rows = []
    for label, box in enumerate(ndimage.find_objects(ids)):
        if box is not None:
            areas, count = ndimage.label(ids[box] == label + 1, _EDGES)
            pixels = np.bincount(areas.ravel()).tolist()[1:]
            found = np.bincount(areas[prediction[box] == label], minlength=count + 1).tolist()[1:]
            rows += [(sample, label, size, right / size) for size, right in zip(pixels, found, strict=True)]
    return np.array(rows, np.float64).reshape(-1, 4)
