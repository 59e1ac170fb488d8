"""Predictions on videos: overlay video, table and tracks of each, in constant memory."""

import csv
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from darkroom.callbacks.plotting.boxes import captions
from darkroom.callbacks.writers.classification_writer import ClassificationWriter
from darkroom.callbacks.writers.detection_writer import DetectionWriter
from darkroom.callbacks.writers.prediction_writer import PredictionWriter
from darkroom.callbacks.writers.tracks import Tracker
from darkroom.datamodules.prediction.videos import Video
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from tests.fakes.video import needs_ffmpeg, write_video

pytestmark = needs_ffmpeg


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Bright(LightningModule):
    """Finds the bright pixels of an image, in any task."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        bright = [image[0] > image[0].max() - 0.3 for image in batch["image"]]
        if self.task == "segmentation":
            return torch.stack(bright).long()
        if self.task == "classification":
            return torch.eye(5)[batch["frame"] % 5]
        return [self.box(mask) for mask in bright]

    @staticmethod
    def box(mask: Tensor) -> dict[str, Tensor]:
        y, x = mask.nonzero().unbind(1)
        if len(y) == mask.numel():  # nothing is brighter than the rest
            return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])[None].float()
        return {"boxes": box, "labels": torch.tensor([2]), "scores": torch.tensor([0.9]), "masks": mask[None]}


def predict(task: str, writer: Callback, predict: str | list[str], **kwargs: Any) -> None:
    data = {"detection": ShapesDetection, "segmentation": ShapesSegmentation, "classification": ShapesImages}[task]
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[writer], default_root_dir=".", **options)
    trainer.predict(Bright(task), data(predict=predict, num_workers=0, **kwargs), return_predictions=False)


def moving_square(count: int) -> Iterator[np.ndarray]:
    """Yield frames of 32 x 48 pixels with a bright square of 8 pixels that moves by 2; the fourth has none."""
    for index in range(count):
        frame = np.zeros((32, 48, 3), np.uint8)
        if index != 3:
            frame[8:16, 4 + 2 * index : 12 + 2 * index] = 255
        yield frame


def table(name: str) -> list[dict[str, str]]:
    with Path(f"predictions/{name}").open(newline="") as file:
        return list(csv.DictReader(file))


def frames(name: str) -> tuple[list[np.ndarray], list[float]]:
    video = Video(Path(f"predictions/videos/{name}.mp4"))
    found = [video.read(index) for index in range(len(video))]
    return [np.array(frame.image) for frame in found], [frame.time for frame in found]


def test_detections_of_video_have_boxes_times_and_tracks() -> None:
    times = [0.0, 0.04, 0.1, 0.14, 0.2, 0.5]
    write_video(Path("walk.mp4"), list(moving_square(6)), times)
    predict("detection", DetectionWriter(), "walk.mp4", eval_batch_size=4)
    rows = table("videos/walk.csv")
    assert list(rows[0]) == ["frame", "time", "track", "class", "score", "x", "y", "width", "height", "area"]
    assert [int(row["frame"]) for row in rows] == [0, 1, 2, 4, 5]
    assert [float(row["time"]) for row in rows] == pytest.approx([*times[:3], *times[4:]], abs=1e-3)
    assert [float(row["x"]) for row in rows] == [4, 6, 8, 12, 14]
    assert {(row["y"], row["width"], row["height"], row["area"]) for row in rows} == {("8.0", "8.0", "8.0", "64")}
    assert {(row["track"], row["class"], row["score"]) for row in rows} == {("1", "square", "0.9")}
    images, seconds = frames("walk")
    assert len(images) == 6
    assert seconds[-1] == pytest.approx(times[-1], abs=0.05)  # at the average rate
    assert images[0].shape == (192, 288, 3)  # enlarged, so that lines and names are readable
    assert sorted(path.name for path in Path("predictions").iterdir()) == ["videos"]


def test_boxes_are_in_pixels_of_the_video() -> None:
    write_video(Path("walk.mp4"), list(moving_square(2)))
    predict("detection", DetectionWriter(track_iou=None), "walk.mp4", max_side=24)
    (first, _) = table("videos/walk.csv")
    assert [float(first[key]) for key in ("x", "y", "width", "height")] == [4, 8, 8, 8]
    assert first["track"] == ""


def test_areas_of_video_and_files_of_photos() -> None:
    write_video(Path("walk.mp4"), list(moving_square(3)))
    Path("more").mkdir()
    write_video(Path("more/walk.mp4"), [np.full((18, 22, 3), 50, np.uint8)] * 2)
    Image.new("RGB", (9, 5)).save("a.png")
    predict("segmentation", PredictionWriter(), ["walk.mp4", "a.png", "more/walk.mp4"])
    rows = table("videos/walk_mp4.csv")
    assert list(rows[0])[:5] == ["frame", "time", "height", "width", "background"]
    assert [(row["frame"], row["height"], row["width"], row["circle"]) for row in rows] == [
        (str(index), "32", "48", "64") for index in range(3)
    ]
    assert len(table("videos/more_walk_mp4.csv")) == len(frames("more_walk_mp4")[0]) == 2
    assert [row["name"] for row in table("areas.csv")] == ["a"]
    assert [path.name for path in Path("predictions/masks").iterdir()] == ["a.png"]


def test_odd_frames_are_written() -> None:
    write_video(Path("walk.mp4"), list(moving_square(2)))
    predict("segmentation", PredictionWriter(), "walk.mp4", max_side=37)
    assert {image.shape for image in frames("walk")[0]} == {(26, 38, 3)}


def test_classes_of_frames_are_rows() -> None:
    write_video(Path("walk.mp4"), list(moving_square(4)))
    predict("classification", ClassificationWriter(top=1), "walk.mp4")
    rows = table("predictions.csv")
    assert [(row["path"], row["frame"], row["probability"]) for row in rows] == [
        ("walk.mp4", str(index), "1.0000") for index in range(4)
    ]
    assert [float(row["time"]) for row in rows] == [0, 0.04, 0.08, 0.12]


def test_interrupted_prediction_leaves_playable_video() -> None:
    class Stops(Callback):
        def on_predict_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
            if batch_idx == 5:
                raise RuntimeError("stopped")

    write_video(Path("walk.mp4"), list(moving_square(9)))
    writer = PredictionWriter()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[writer, Stops()], enable_progress_bar=False)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.predict(
            Bright("segmentation"), ShapesSegmentation(predict="walk.mp4", num_workers=0, eval_batch_size=1)
        )
    assert len(frames("walk")[0]) == len(table("videos/walk.csv")) == 5


# --- tracks -----------------------------------------------------------------------------------------------------------


def update(
    tracker: Tracker, boxes: list[list[float]], labels: list[int], scores: list[float] | None = None
) -> list[int]:
    places = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return tracker.update(places, torch.tensor(labels).long(), torch.tensor(scores or [0.9] * len(labels))).tolist()


def box(x: float, y: float = 0) -> list[float]:
    return [x, y, x + 10, y + 10]


def test_tracks_follow_objects_and_classes() -> None:
    tracker = Tracker()
    assert update(tracker, [box(0), box(30), box(0, 1)], [1, 1, 2]) == [1, 2, 3]
    assert update(tracker, [box(32), box(2, 1), box(3)], [1, 2, 1]) == [2, 3, 1]
    assert update(tracker, [box(100)], [1]) == [4]


def test_assignment_is_best_in_sum() -> None:
    """The second box overlaps the first track most, but only the first box has nothing else."""
    tracker = Tracker(min_iou=0.1)
    update(tracker, [box(0), box(6)], [1, 1])
    assert update(tracker, [box(-5), box(2)], [1, 1]) == [1, 2]


def test_tracks_end_after_max_age() -> None:
    for missed, track in ((2, 1), (3, 2)):
        tracker = Tracker(max_age=2)
        update(tracker, [box(0)], [1])
        for _ in range(missed):
            assert update(tracker, [], []) == []
        assert update(tracker, [box(1)], [1]) == [track]


def test_weak_boxes_continue_tracks_but_start_none() -> None:
    tracker = Tracker(start_score=0.5)
    assert update(tracker, [box(0), box(40)], [1, 1], [0.9, 0.2]) == [1, 0]
    assert update(tracker, [box(1), box(40)], [1, 1], [0.1, 0.6]) == [1, 2]


def test_track_is_written_beside_class() -> None:
    found = {
        "labels": torch.tensor([1, 2, 2]),
        "scores": torch.tensor([0.5, 0.4, 0.3]),
        "tracks": torch.tensor([7, 0, 2]),
    }
    assert captions(found, ("cat", "dog")) == ["cat #7 0.50", "dog 0.40", "dog #2 0.30"]
    assert captions(found, ("", "")) == ["#7 0.50", "0.40", "#2 0.30"]


@pytest.mark.parametrize(("name", "value"), [("track_iou", 1.5), ("track_age", -1)])
def test_invalid_options_of_tracks_raise(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"DetectionWriter.{name} must be .*got {value}"):
        DetectionWriter(**{name: value})


@pytest.mark.slow  # 10,000 frames take 30 seconds
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads the memory of the process from Linux")
def test_memory_is_constant_over_10000_frames() -> None:
    """Compare the memory after 2,000 frames with its peak from there to the end."""
    pages = []

    class Measures(Callback):
        def on_predict_batch_end(self, *args: Any) -> None:
            pages.append(int(Path("/proc/self/statm").read_text().split()[1]))

    noise = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    write_video(Path("long.mp4"), [noise[index % 10] for index in range(10_000)])
    callbacks = [PredictionWriter(), Measures()]
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=callbacks, enable_progress_bar=False)
    data = ShapesSegmentation(predict="long.mp4", num_workers=0, eval_batch_size=20)
    trainer.predict(Bright("segmentation"), data, return_predictions=False)
    assert len(table("videos/long.csv")) == 10_000
    assert (max(pages[100:]) - pages[100]) * resource.getpagesize() < 8 * 2**20
