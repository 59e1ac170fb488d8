"""DetectionWriter: what ``darkroom predict`` leaves behind for detection: overlays and COCO's JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import faster_coco_eval.core.mask as coco_mask
import numpy as np
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.base import PictureCallback
from darkroom.callbacks.plotting.boxes import confident, draw_boxes
from darkroom.callbacks.plotting.images import save, to_picture
from darkroom.callbacks.writers.prediction_files import PredictedFiles, detections, of_all_ranks
from darkroom.errors import UsageError


class DetectionWriter(PictureCallback):
    """Writes detections as overlays and as COCO's JSON, in ``predictions/`` of the run's folder.

    ``overlays/<name>.png`` shows boxes and masks over each picture as the network saw it. ``detections.json`` is a data set
    in COCO's format: pictures, categories, and the detections as annotations with a ``score``. ``results.json`` holds the
    detections alone, the list that COCO's evaluation takes (``loadRes``).

    The JSONs count in pixels of the pictures' files (turned as their EXIF data says): boxes are x, y, width, height, masks
    compressed run lengths. Categories have the ids of the data set, or the labels, from 1; pictures the ids of their
    targets, or their place in the set, from 0.

    Args:
        score_threshold: detections with a lower score, in [0, 1], are not written.
        overlay_threshold: the same for overlays.
    """

    def __init__(self, score_threshold: float = 0.05, overlay_threshold: float = 0.3) -> None:
        for name, value in {"score_threshold": score_threshold, "overlay_threshold": overlay_threshold}.items():
            if not 0 <= value <= 1:
                raise UsageError(f"DetectionWriter.{name} is {value}; scores lie in [0, 1]")
        self.score_threshold, self.overlay_threshold = score_threshold, overlay_threshold

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []  # a picture and its annotations
        self._files = PredictedFiles(trainer)
        names = trainer.datamodule.class_names
        self._category_ids = list(getattr(trainer.datamodule, "category_ids", range(1, len(names) + 1)))
        if trainer.is_global_zero:  # what an earlier predict has left
            for path in (self.folder / "predictions" / "overlays").glob("*.png"):
                path.unlink()
        trainer.strategy.barrier()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        found = detections(outputs, self, pl_module)
        for index, (one, image) in enumerate(zip(found, batch["image"], strict=True)):
            number = len(self._rows) * trainer.world_size + trainer.global_rank
            name, path = self._files.name(batch, index, number), self._files.path(batch, index)
            shown = confident(one, self.overlay_threshold)
            picture = to_picture(trainer.datamodule.denormalize(image))
            drawn = draw_boxes(picture, shown, trainer.datamodule.class_names)
            save(drawn, self.folder / "predictions" / "overlays" / f"{name}.png")
            seen = tuple(image.shape[-2:])
            height, width = batch["size"][index].tolist() if "size" in batch else seen
            entry = {
                "id": int(batch["target"][index]["image_id"]) if "target" in batch else number,
                "file_name": path.as_posix() if path else f"{name}.png",
                "width": width,
                "height": height,
            }
            written = confident(one, self.score_threshold)
            annotations = coco_annotations(written, seen, (height, width), self._category_ids)
            self._rows.append((entry, [{"image_id": entry["id"], **annotation} for annotation in annotations]))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = sorted(of_all_ranks(trainer, self._rows), key=lambda row: row[0]["id"])
        if not trainer.is_global_zero:
            return
        categories = zip(self._category_ids, trainer.datamodule.class_names, strict=True)
        annotations = [annotation for _, some in rows for annotation in some]
        data_set = {
            "info": {"description": f"Detections of {type(pl_module).__name__}"},
            "images": [image for image, _ in rows],
            "categories": [{"id": id, "name": name} for id, name in categories],
            # From 1: COCO's evaluation takes an object with the id 0 for none.
            "annotations": [{"id": id, **annotation} for id, annotation in enumerate(annotations, 1)],
        }
        of_results = ("image_id", "category_id", "bbox", "score", "segmentation")
        results = [{key: one[key] for key in of_results if key in one} for one in annotations]
        folder = self.folder / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "detections.json").write_text(json.dumps(data_set))
        (folder / "results.json").write_text(json.dumps(results))


def run_lengths(mask: np.ndarray, size: tuple[int, int]) -> list[int]:
    """COCO's run lengths of a mask at another size: how many pixels in turn are off and on, column after column.

    Every pixel takes the nearest one of the mask. The mask is not enlarged: where its rows begin is enough.

    Args:
        mask: bool (h, w).
        size: height and width that it is meant for.
    """
    rows, columns = ((2 * np.arange(to) + 1) * side // (2 * to) for side, to in zip(mask.shape, size, strict=True))
    rows, starts = np.unique(rows, return_index=True)
    values = mask[rows].T[columns].ravel()
    column, row = np.divmod(np.flatnonzero(np.diff(values, prepend=False)), len(rows))
    return np.diff(column * size[0] + starts[row], prepend=0, append=size[0] * size[1]).tolist()


def compressed(runs: list[int], size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths as COCO's JSON has them, for a picture of a height and a width."""
    packed = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    return {"size": list(size), "counts": packed["counts"].decode()}


def coco_annotations(
    found: Mapping[str, Tensor], seen: tuple[int, int], size: tuple[int, int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Detections of one image as COCO's annotations, without ids.

    Args:
        found: on the CPU.
        seen: height and width of the image that they were found in.
        size: height and width of the image that the annotations are for.
        category_ids: that of label i is ``category_ids[i - 1]``.
    """
    scale = torch.tensor([size[1] / seen[1], size[0] / seen[0]] * 2, dtype=torch.float64)
    corners = found["boxes"].double() * scale
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
    annotations = []
    for index, (box, label, score) in enumerate(
        zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ):
        annotation = {
            "category_id": category_ids[label - 1],
            "bbox": [round(side, 3) for side in box],
            "score": round(score, 6),
            "area": round(box[2] * box[3], 3),
            "iscrowd": 0,
        }
        if "masks" in found:
            runs = run_lengths(found["masks"][index].bool().numpy(), size)
            annotation["segmentation"] = compressed(runs, size)
            annotation["area"] = sum(runs[1::2])
        annotations.append(annotation)
    return annotations
