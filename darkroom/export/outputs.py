"""Outputs of exported graphs by task: their names, and how far they agree with those of ``predict``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Outputs = Mapping[str, np.ndarray]

# Detections are the same if their labels are equal and they differ by no more than these.
_SAME_SCORE = 1e-3
_SAME_PLACE = 1e-3  # of the longer side of the image
_SAME_MASK = 0.999  # of the pixels


@dataclass(frozen=True)
class Agreement:
    """Agreement of exported outputs with a reference.

    Args:
        largest: largest difference of logits, probabilities or scores; of logits divided by the largest absolute one, if
            that is above 1.
        same: decisions that are the same: pixels, images or detections.
        decisions: number of all decisions.
    """

    largest: float = 0.0
    same: int = 0
    decisions: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(max(self.largest, other.largest), self.same + other.same, self.decisions + other.decisions)

    @property
    def fraction(self) -> float:
        """Fraction of decisions that are the same; 1 if there are none."""
        return self.same / self.decisions if self.decisions else 1.0


@dataclass(frozen=True)
class Task:
    """Outputs of a task.

    Args:
        name_outputs: from the result of ``predict_step`` to named outputs.
        to_prediction: from named outputs, and the number of images, to the result of ``predict_step``.
        compare: exported outputs with a reference, given the sides of the images.
        decisions: what is decided, in the plural.
    """

    name_outputs: Callable[[Any], dict[str, np.ndarray]]
    to_prediction: Callable[[Outputs, int], Any]
    compare: Callable[[Outputs, Outputs, tuple[int, int]], Agreement]
    decisions: str


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays, divided by the largest absolute value if that is above 1."""
    if one.shape != other.shape:
        return float("inf")
    if not one.size:
        return 0.0
    return float(np.abs(one - other).max() / max(1.0, np.abs(other).max()))


def _compare_masks(exported: Outputs, reference: Outputs, size: tuple[int, int]) -> Agreement:
    same = int((exported["mask"] == reference["mask"]).sum()) if _fit(exported, reference, "mask") else 0
    return Agreement(difference(exported["logits"], reference["logits"]), same, reference["mask"].size)


def _compare_probabilities(exported: Outputs, reference: Outputs, size: tuple[int, int]) -> Agreement:
    one, other = exported["probabilities"], reference["probabilities"]
    same = int((one.argmax(1) == other.argmax(1)).sum()) if one.shape == other.shape else 0
    return Agreement(difference(one, other), same, len(other))


def _fit(exported: Outputs, reference: Outputs, name: str) -> bool:
    return exported[name].shape == reference[name].shape


def name_detections(found: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """Return the detections of a batch as arrays over all images; ``image_index`` is the index of each one's image."""
    counts = torch.tensor([len(one["scores"]) for one in found])
    names = [name for name in ("boxes", "scores", "labels", "masks") if name in found[0]]
    arrays = {name: torch.cat([one[name] for one in found]).cpu().numpy() for name in names}
    return arrays | {"image_index": torch.arange(len(found)).repeat_interleave(counts).numpy()}


def split_detections(outputs: Outputs, images: int) -> list[dict[str, Tensor]]:
    """Return a dict of detections for each image, by descending score: the inverse of ``name_detections``."""
    order = np.argsort(-outputs["scores"], kind="stable")
    places = [order[outputs["image_index"][order] == index] for index in range(images)]
    names = [name for name in outputs if name != "image_index"]
    return [{name: torch.from_numpy(outputs[name][place]) for name in names} for place in places]


def _compare_detections(exported: Outputs, reference: Outputs, size: tuple[int, int]) -> Agreement:
    """Match every reference detection to the nearest exported one of its image and label that is not taken."""
    free = np.ones(len(exported["scores"]), bool)
    same, largest = 0, 0.0
    for index, score in enumerate(reference["scores"]):
        candidates = free & (exported["image_index"] == reference["image_index"][index])
        candidates &= exported["labels"] == reference["labels"][index]
        if not candidates.any():
            continue
        places = np.abs(exported["boxes"] - reference["boxes"][index]).max(1) / max(size)
        scores = np.abs(exported["scores"] - score)
        best = int(np.where(candidates, places + scores, np.inf).argmin())
        if places[best] > _SAME_PLACE or scores[best] > _SAME_SCORE or not _same_mask(exported, reference, best, index):
            continue
        free[best] = False
        same, largest = same + 1, max(largest, float(scores[best]), float(places[best]))
    return Agreement(largest, same, max(len(free), len(reference["scores"])))


def _same_mask(exported: Outputs, reference: Outputs, one: int, other: int) -> bool:
    return "masks" not in reference or bool((exported["masks"][one] == reference["masks"][other]).mean() >= _SAME_MASK)


def _compare_values(exported: Outputs, reference: Outputs, size: tuple[int, int]) -> Agreement:
    """Compare the outputs of a part of a generative method: uint8 values are decisions, others differ by numbers."""
    total = Agreement()
    for name, expected in reference.items():
        if expected.dtype != np.uint8:
            total += Agreement(difference(exported[name].astype(float), expected.astype(float)))
        else:
            same = int((exported[name] == expected).sum()) if _fit(exported, reference, name) else 0
            total += Agreement(0.0, same, expected.size)
    return total


TASKS: dict[str, Task] = {
    "segmentation": Task(
        name_outputs=lambda mask: {"mask": mask.cpu().numpy()},
        to_prediction=lambda outputs, images: torch.from_numpy(outputs["mask"]),
        compare=_compare_masks,
        decisions="pixels",
    ),
    "classification": Task(
        name_outputs=lambda probabilities: {"probabilities": probabilities.cpu().numpy()},
        to_prediction=lambda outputs, images: torch.from_numpy(outputs["probabilities"]),
        compare=_compare_probabilities,
        decisions="images",
    ),
    "detection": Task(
        name_outputs=name_detections,
        to_prediction=split_detections,
        compare=_compare_detections,
        decisions="detections",
    ),
    "generation": Task(
        name_outputs=lambda images: {"image": images.cpu().numpy()},
        to_prediction=lambda outputs, images: torch.from_numpy(outputs["image"]),
        compare=_compare_values,
        decisions="uint8 values",
    ),
}
