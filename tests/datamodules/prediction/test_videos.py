"""Frames of videos as samples of prediction."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.datamodules.images.image_folder import ImageFolder
from darkroom.datamodules.prediction.videos import Video
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import DataError, UsageError
from tests.fakes.video import needs_ffmpeg, rotate_clockwise, write_video

pytestmark = needs_ffmpeg


def grey_frames(count: int, size: tuple[int, int] = (16, 24)) -> list[np.ndarray]:
    """Frames whose grey value is ten times their number."""
    return [np.full((*size, 3), 10 * index, np.uint8) for index in range(count)]


def values(images: list[torch.Tensor]) -> list[int]:
    return [round(image.float().mean().item() / 10) for image in images]


CODECS = {"mp4": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}


@pytest.mark.parametrize("kind", CODECS)
def test_frames_are_read_in_any_order(tmp_path: Path, kind: str) -> None:
    video = Video(write_video(tmp_path / f"a.{kind}", grey_frames(20), codec=CODECS[kind]))
    assert len(video) == 20
    for index in (0, 1, 7, 19, 3, 3):
        frame = video.read(index)
        assert frame.image.size == (24, 16)
        assert np.array(frame.image).mean() == pytest.approx(10 * index, abs=4)
        assert frame.time == pytest.approx(index / 25, abs=1e-3)


def test_times_of_variable_rate_are_those_of_the_file(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.9, 4.0]
    video = Video(write_video(tmp_path / "a.mp4", grey_frames(5), times))
    assert [video.read(index).time for index in range(5)] == pytest.approx(times, abs=1e-3)


def test_rotated_video_is_upright(tmp_path: Path) -> None:
    frame = np.zeros((16, 24, 3), np.uint8)
    frame[:8] = 200  # the upper half, which is at the right once the frame is turned clockwise
    path = write_video(tmp_path / "a.mp4", [frame] * 3)
    rotate_clockwise(path)
    upright = np.array(Video(path).read(1).image)
    assert upright.shape == (24, 16, 3)
    assert upright[:, 9:].min() > 150
    assert upright[:, :7].max() < 50


def test_loader_yields_photos_and_frames_in_order(tmp_path: Path) -> None:
    Image.new("RGB", (37, 50), (30, 30, 30)).save(tmp_path / "a.png")
    write_video(tmp_path / "b.mp4", grey_frames(4))
    Image.new("RGB", (5, 5)).save(tmp_path / "c.png")
    data = ShapesSegmentation(predict=str(tmp_path), num_workers=0, eval_batch_size=3)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert len(data.predict_dataloader()) == len(batches) == 6
    assert values([batch["image"] for batch in batches]) == [3, 0, 1, 2, 3, 0]
    assert [int(batch["frame"]) for batch in batches if "frame" in batch] == [0, 1, 2, 3]
    assert [Path(batch["path"][0]).name for batch in batches] == ["a.png", *["b.mp4"] * 4, "c.png"]


def test_frames_of_one_video_are_batched(tmp_path: Path) -> None:
    path = write_video(tmp_path / "b.mp4", grey_frames(7))
    data = ShapesSegmentation(predict=str(path), num_workers=2, eval_batch_size=3, max_side=12)
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [tuple(batch["image"].shape) for batch in batches] == [(3, 3, 8, 12), (3, 3, 8, 12), (1, 3, 8, 12)]
    assert torch.cat([batch["frame"] for batch in batches]).tolist() == list(range(7))
    assert torch.cat([batch["time"] for batch in batches]).tolist() == pytest.approx(
        [i / 25 for i in range(7)], abs=1e-3
    )
    assert batches[0]["size"].tolist() == [[16, 24]] * 3


def test_square_and_grey_data_convert_frames(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = write_video(tmp_path / "b.mp4", grey_frames(3))
    data = ImageFolder(root=str(tmp_path / "images"), size=8, channels=1, predict=str(path), num_workers=0)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["image"].shape == (3, 1, 8, 8)
    assert values(list(batch["image"])) == [0, 1, 2]


def test_unreadable_videos_raise_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video" * 50)
    with pytest.raises(DataError, match=r"a.mp4 cannot be read as a video .*; replace or remove it"):
        Video(path)
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    cut = write_video(tmp_path / "cut.avi", list(noise), codec="mpeg4")
    video = Video(cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"cut.avi: frame 8 of 9 cannot be decoded \(.*\); repair or replace the video"
        ):
            video.read(8)


def test_missing_package_raises_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UsageError, match=r"a.mp4 is a video, and reading it needs the package torchcodec: .*\[video\]"):
        Video(tmp_path / "a.mp4")
