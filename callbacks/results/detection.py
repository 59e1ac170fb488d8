"""DetectionRecorder: true objects and detections of each test image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from darkroom.callbacks.plotting.boxes import filter_by_score, find_ambiguous, find_mistakes
from darkroom.callbacks.results.base import WORST, Sample, TaskRecorder, has_tensors
from darkroom.callbacks.results.box_matches import true_positives
from darkroom.callbacks.results.image_keeper import Files, Group, share_budget
from darkroom.callbacks.results.wandb_charts import (
    image_table,
    labelled_image,
    points_of_curves,
    precision_at_recalls,
    precision_chart,
)

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
        pairs = zip(samples, found, truths, strict=True)
        offered = {sample.number: error_scores(detected, truth) for sample, detected, truth in pairs}
        self.offer(samples, offered, batch["image"], self._files)

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

    def wandb_media(self) -> dict[str, Any]:
        """Return precision by recall of each class, and the table of the images with most errors, with their boxes.

        The mean of a curve's precision is about ``test/VOC_AP50/<class>``.
        """
        points, labels = points_of_curves(len(self.class_names)), dict(enumerate(self.class_names, 1))
        matched = true_positives(self.blocks["detections"], self.blocks["truths"], IOU)
        curves = {labels[label]: precision_at_recalls(right, objects, points) for label, right, objects in matched}
        blocks = {name: {int(block[0, 0]): block for block in self.blocks[name] if len(block)} for name in self.tables}
        rows = []
        for row, files in self.worst():
            boxes = {
                "ground_truth": self._wandb_boxes(row, blocks["truths"].get(row["sample"]), 2, labels),
                "predictions": self._wandb_boxes(row, blocks["detections"].get(row["sample"]), 3, labels),
            }
            image = labelled_image(files[""], labels, boxes=boxes)
            rows.append((image, row["sample"], row["objects"], row["detections"]))
        return precision_chart(curves) | image_table(("sample", "objects", "detections"), rows)

    def _wandb_boxes(
        self, row: Mapping[str, Any], block: np.ndarray | None, start: int, labels: Mapping[int, str]
    ) -> dict[str, Any]:
        """Return the boxes of a table, whose corners begin at a column, as W&B's, in fractions of the image."""
        boxes: list[dict[str, Any]] = []
        for cells in [] if block is None else block.tolist():
            x0, y0, x1, y1 = cells[start : start + 4]
            scores = {"scores": {"score": cells[2]}} if start == 3 else {}
            sides = (x0 / row["width"], y0 / row["height"], x1 / row["width"], y1 / row["height"])
            position = dict(zip(("minX", "minY", "maxX", "maxY"), sides, strict=True))
            boxes.append({"position": position, "class_id": int(cells[1]), **scores})
        return {"box_data": boxes, "class_labels": dict(labels)}

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
