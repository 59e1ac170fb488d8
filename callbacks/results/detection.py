"""DetectionRecorder: true objects and detections of each test image."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from darkroom.callbacks.plotting.boxes import filter_by_score, find_ambiguous, find_mistakes
from darkroom.callbacks.results.base import WORST, Sample, TaskRecorder, has_tensors
from darkroom.callbacks.results.image_keeper import Files, Group, share_budget

SCORE, IOU, NEAR = 0.5, 0.5, 0.1  # of the errors that select images
_CORNERS = {"x0": float, "y0": float, "x1": float, "y1": float}


class DetectionRecorder(TaskRecorder):
    """Records detections and targets. Masks of objects are not recorded.

    Images are those with most errors; for each class those with missed objects, false detections, objects detected as
    another class and badly located ones (IoU of 0.1 to 0.5); and those of each pair of a true and a detected class, where 0
    is the background. Errors are those at a score of at least 0.5 and an IoU of 0.5.
    """

    task = "detection"
    expected = "detections, a dict of 'boxes', 'scores' and 'labels' for each image, with 'target' in the batch"
    tables = {
        "truths": {"sample": int, "class": int, **_CORNERS, "ignored": int},
        "detections": {"sample": int, "class": int, "score": float, **_CORNERS},
    }

    @property
    def columns(self) -> list[str]:
        """Columns of ``samples.csv`` after ``sample`` and ``name``."""
        return ["width", "height", "objects", "detections"]

    def limits(self) -> dict[str, int]:
        """Return the number of samples of the groups of each kind, besides ``WORST``."""
        classes, most = len(self.class_names), self.subject.examples
        kinds = ("missed", "false", "wrong", "located")
        return {
            **dict.fromkeys(kinds, share_budget(len(kinds) * classes, most)),
            "cell": share_budget((classes + 1) ** 2, most),
        }

    def accepts(self, outputs: Any, batch: Any) -> bool:
        """Return True if there are detections and a target for each image."""
        targets = batch.get("target") if isinstance(batch, Mapping) else None
        return (
            isinstance(outputs, list | tuple)
            and isinstance(targets, list | tuple)
            and all(has_tensors(one, boxes=2, labels=1) for one in targets)
            and all(has_tensors(one, boxes=2, scores=1, labels=1) for one in outputs)
        )

    def add(self, samples: Sequence[Sample], outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        truths = [_on_cpu(one, "boxes", "labels", "iscrowd", "difficult") for one in batch["target"]]
        found = [_on_cpu(one, "boxes", "labels", "scores") for one in outputs]
        for sample, image, truth, detected in zip(samples, batch["image"], truths, found, strict=True):
            self._add_rows(sample, image, truth, detected)
            self.images.offer(sample.number, error_scores(detected, truth), partial(self._files, image))

    def _add_rows(
        self, sample: Sample, image: Tensor, truth: Mapping[str, Tensor], found: Mapping[str, Tensor]
    ) -> None:
        size = {"width": image.shape[-1], "height": image.shape[-2]}
        ignored = find_ambiguous(truth)
        counts = {"objects": int((~ignored).sum()), "detections": len(found["labels"])}
        self.rows.append({"sample": sample.number, "name": sample.name, **size, **counts})
        for name, columns in {
            "truths": (truth["labels"], truth["boxes"], ignored),
            "detections": (found["labels"], found["scores"], found["boxes"]),
        }.items():
            number = torch.full_like(columns[0], sample.number)
            self.blocks[name].append(torch.column_stack([number, *columns]).double().numpy())

    def _files(self, image: Tensor) -> Files:
        return {"": self.encode_image(image)}


def _on_cpu(objects: Mapping[str, Any], *names: str) -> dict[str, Tensor]:
    return {name: objects[name].cpu() for name in names if name in objects}


def error_scores(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[Group, float]:
    """Return the groups of an image that ``DetectionRecorder`` describes, with its score in each.

    That is the number of errors or of missed objects, and else the highest score of a detection.

    Args:
        found: ``boxes``, ``scores`` and ``labels`` of the detections, on the CPU.
        truth: ``boxes``, ``labels`` and optional ``iscrowd`` and ``difficult`` of the objects, on the CPU.
    """
    found = filter_by_score(found, SCORE)
    false, missed = find_mistakes(found, truth, IOU)
    scores: dict[Group, float] = {WORST: float(false.sum() + missed.sum())}

    def claim(group: Group, score: float) -> None:
        scores[group] = max(score, scores.get(group, 0.0))

    for label, count in zip(*(one.tolist() for one in truth["labels"][missed].unique(return_counts=True)), strict=True):
        claim(("missed", label), count)
        claim(("cell", label, 0), count)
    overlap = box_iou(found["boxes"], truth["boxes"]) if len(truth["labels"]) else torch.zeros(len(false), 1)
    labels = truth["labels"] if len(truth["labels"]) else torch.zeros(1, dtype=torch.long)
    for row, label, score, wrong in zip(
        overlap, found["labels"].tolist(), found["scores"].tolist(), false.tolist(), strict=True
    ):
        if not wrong:
            claim(("cell", label, label), score)
            continue
        same = labels == label
        other = row.where(~same, 0).max(0)
        if other.values >= IOU:
            claim(("wrong", label), score)
            claim(("cell", int(labels[other.indices]), label), score)
        else:
            near = NEAR <= row.where(same, 0).max() < IOU
            claim(("located" if near else "false", label), score)
            claim(("cell", 0, label), score)
    return scores
