"""DetectionWriter: overlays and COCO JSON of ``darkroom predict`` for detection."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from darkroom.callbacks.base import require_data, run_folder
from darkroom.callbacks.plotting.boxes import draw_boxes, filter_by_score
from darkroom.callbacks.plotting.images import save, to_uint8_rgb
from darkroom.callbacks.writers.prediction_files import PredictedFiles, check_detections, gather_rows, place_of_frame
from darkroom.callbacks.writers.tracks import Tracker
from darkroom.callbacks.writers.video_files import VideoFiles
from darkroom.errors import UsageError
from darkroom.protocols import CategoryData, ClassData

# Of the table of a video.
_COLUMNS = ("frame", "time", "track", "class", "score", "x", "y", "width", "height", "area")


class DetectionWriter(Callback):
    """Writes detections as overlays and as COCO JSON, to ``predictions/`` in the run folder.

    ``overlays/<name>.png`` shows boxes and masks over each network input. ``detections.json`` is a data set in COCO's
    format: images, categories, and the detections as annotations with a ``score``. ``results.json`` holds the detections
    alone, as the list that COCO's evaluation takes (``loadRes``).

    The JSON files use pixels of the image files, in the orientation that the model saw. Boxes are x, y, width, height;
    masks are compressed run lengths. Categories have the ids of the data set, or the labels, from 1. Images have the ids of
    their targets, which are those of the JSON that was given (``CocoDetection``), or their index in the set, from 0.

    A video is not in these files. It has ``videos/<name>.mp4``, its frames with the overlay, and ``videos/<name>.csv``, a
    row for each detection: frame from 0, time in seconds, track, class, score, box and area in pixels of the video. A track
    is the number of an object that is followed from frame to frame, see ``Tracker``; it may be empty.

    Args:
        score_threshold: minimum score, in [0, 1], of the detections written.
        overlay_threshold: the same for overlays, and for the first box of a track.
        track_iou: minimum IoU, in [0, 1], of the boxes of a track in two frames; null: no tracks.
        track_age: number of frames in a row that a track may miss.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        overlay_threshold: float = 0.3,
        track_iou: float | None = 0.3,
        track_age: int = 10,
    ) -> None:
        fractions = {"score_threshold": score_threshold, "overlay_threshold": overlay_threshold, "track_iou": track_iou}
        for name, value in fractions.items():
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"DetectionWriter.{name} must be in [0, 1], got {value}")
        if track_age < 0:
            raise UsageError(f"DetectionWriter.track_age must be at least 0, got {track_age}")
        self.score_threshold, self.overlay_threshold = score_threshold, overlay_threshold
        self.track_iou, self.track_age = track_iou, track_age

    _videos: VideoFiles | None = None  # data that cannot be read end the command before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_data(trainer, ClassData, self)
        self.folder = run_folder(trainer) / "predictions"
        self._videos = VideoFiles(self.folder / "videos", _COLUMNS)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []  # an image and its annotations
        self._files = PredictedFiles(trainer.predict_dataloaders)
        self._video = ""
        data = require_data(trainer, ClassData, self)
        ids = data.category_ids if isinstance(data, CategoryData) else range(1, len(data.class_names) + 1)
        self._category_ids = list(ids)
        if trainer.is_global_zero:  # remove overlays of an earlier predict
            for path in (self.folder / "overlays").glob("*.png"):
                path.unlink()
        trainer.strategy.barrier()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        data = require_data(trainer, ClassData, self)
        found = check_detections(outputs, self, pl_module)
        for index, (one, image) in enumerate(zip(found, batch["image"], strict=True)):
            number = len(self._rows) * trainer.world_size + trainer.global_rank
            seen = image.shape[-2], image.shape[-1]
            height, width = batch["size"][index].tolist() if "size" in batch else seen
            video = self._files.video(batch, index)
            if video is not None:
                photo, place = to_uint8_rgb(data.denormalize(image)), place_of_frame(batch, index)
                rate = float(batch["rate"][index])
                self._add_frame(video, rate, place, photo, one, (height, width), data.class_names)
                continue
            name, path = self._files.name(batch, index, number), self._files.path(batch, index)
            best = filter_by_score(one, self.overlay_threshold)
            overlay = draw_boxes(to_uint8_rgb(data.denormalize(image)), best, data.class_names)
            save(overlay, self.folder / "overlays" / f"{name}.png")
            entry = {
                "id": batch["target"][index]["image_id"] if "target" in batch else number,
                "file_name": path.as_posix() if path else f"{name}.png",
                "width": width,
                "height": height,
            }
            written = filter_by_score(one, self.score_threshold)
            annotations = coco_annotations(written, seen, (height, width), self._category_ids)
            self._rows.append((entry, [{"image_id": entry["id"], **annotation} for annotation in annotations]))

    def _add_frame(
        self,
        video: str,
        rate: float,
        place: Mapping[str, Any],
        image: Tensor,
        found: Mapping[str, Tensor],
        size: tuple[int, int],
        class_names: Sequence[str],
    ) -> None:
        """Write the detections of a frame, with their tracks, to the files of its video."""
        if video != self._video:
            self._video, self._tracker = video, Tracker(self.track_iou or 0.0, self.track_age, self.overlay_threshold)
        found = filter_by_score(found, min(self.score_threshold, self.overlay_threshold))
        if self.track_iou is not None:
            tracks = self._tracker.update(found["boxes"], found["labels"], found["scores"])
            found = {**found, "tracks": tracks}
        overlay = draw_boxes(image, filter_by_score(found, self.overlay_threshold), class_names)
        written = filter_by_score(found, self.score_threshold)
        annotations = coco_annotations(written, (image.shape[1], image.shape[2]), size, self._category_ids)
        numbers = written["tracks"].tolist() if "tracks" in written else [0] * len(annotations)
        rows = [
            {
                **place,
                "track": number or "",
                "class": class_names[label - 1],
                "score": one["score"],
                **dict(zip(("x", "y", "width", "height"), one["bbox"], strict=True)),
                "area": one["area"],
            }
            for one, label, number in zip(annotations, written["labels"].tolist(), numbers, strict=True)
        ]
        assert self._videos is not None, "setup comes first"
        self._videos.add(video, rate, overlay, rows)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._videos is not None:
            self._videos.close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._videos is not None, "setup comes first"
        self._videos.close()
        # Ids of a JSON may be numbers or text.
        rows = sorted(gather_rows(trainer, self._rows), key=lambda row: (isinstance(row[0]["id"], str), row[0]["id"]))
        if not trainer.is_global_zero or not rows:  # only videos
            return
        categories = zip(self._category_ids, require_data(trainer, ClassData, self).class_names, strict=True)
        annotations = [annotation for _, some in rows for annotation in some]
        data_set = {
            "info": {"description": f"Detections of {type(pl_module).__name__}"},
            "images": [image for image, _ in rows],
            "categories": [{"id": id, "name": name} for id, name in categories],
            # Ids from 1: COCO's evaluation ignores an object with id 0.
            "annotations": [{"id": id, **annotation} for id, annotation in enumerate(annotations, 1)],
        }
        of_results = ("image_id", "category_id", "bbox", "score", "segmentation")
        results = [{key: one[key] for key in of_results if key in one} for one in annotations]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "detections.json").write_text(json.dumps(data_set))
        (self.folder / "results.json").write_text(json.dumps(results))


def run_lengths(mask: np.ndarray, size: tuple[int, int]) -> list[int]:
    """Compute COCO's run lengths of a mask at another size: the numbers of pixels that are off and on in turn, column by
    column.

    Every pixel takes the nearest one of the mask. The mask is not resized; runs follow from the first pixels of its rows.

    Args:
        mask: bool (h, w).
        size: height and width of the result.
    """
    rows, columns = ((2 * np.arange(to) + 1) * side // (2 * to) for side, to in zip(mask.shape, size, strict=True))
    rows, starts = np.unique(rows, return_index=True)
    values = mask[rows].T[columns].ravel()
    column, row = np.divmod(np.flatnonzero(np.diff(values, prepend=False)), len(rows))
    return np.diff(column * size[0] + starts[row], prepend=0, append=size[0] * size[1]).tolist()


def compress_runs(runs: list[int], size: tuple[int, int]) -> dict[str, Any]:
    """Compress run lengths as in COCO's JSON, for an image of a height and a width."""
    from faster_coco_eval.core import mask as coco_mask  # imports OpenCV where that is installed: 0.1 s of every start

    packed = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    return {"size": list(size), "counts": packed["counts"].decode()}


def coco_annotations(
    found: Mapping[str, Tensor], seen: tuple[int, int], size: tuple[int, int], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Convert detections of one image to COCO's annotations, without ids.

    Args:
        found: detections of the image, on the CPU.
        seen: height and width of the network input.
        size: height and width of the annotated image.
        category_ids: the id of label i is ``category_ids[i - 1]``.
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
            annotation["segmentation"] = compress_runs(runs, size)
            annotation["area"] = sum(runs[1::2])
        annotations.append(annotation)
    return annotations
