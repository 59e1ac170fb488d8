"""Data sets of images and of the frames of videos, without annotations."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from darkroom.datamodules.datasets import DatasetWrapper
from darkroom.datamodules.io.read_images import ImageReader, centre_square, to_tensor
from darkroom.datamodules.prediction.videos import VIDEO_EXTENSIONS, Video


class Photos(Dataset[dict[str, Any]]):
    """Images and frames of videos: ``{"image": uint8 (C, H, W), "path": str, "size": (height, width) in the file}``.

    Frames also have ``frame``, their number from 0, ``time`` in seconds after the first, and ``rate``, the average number
    of frames per second of the video.

    Args:
        files: images and videos.
        reader: reads an image.
        max_side: see ``to_tensor``.

    Attributes:
        paths: file of each sample; a video has one sample for each frame.
    """

    def __init__(self, files: Sequence[Path], reader: ImageReader, max_side: int | None = None) -> None:
        self.reader, self.max_side = reader, max_side
        self._sources = [Video(path) if is_video(path) else path for path in files]
        counts = [len(source) if isinstance(source, Video) else 1 for source in self._sources]
        self._starts = list(accumulate(counts, initial=0))
        self.paths = [path for path, count in zip(files, counts, strict=True) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def has_videos(self) -> bool:
        """True if a source is a video."""
        return any(isinstance(source, Video) for source in self._sources)

    @property
    def have_one_size(self) -> bool:
        """True if all images are frames of one video."""
        return self.has_videos and len(self._sources) == 1

    def read(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Read an image, 8 bits, and the other entries of its sample."""
        place = bisect_right(self._starts, index) - 1
        source = self._sources[place]
        about: dict[str, Any] = {"path": str(self.paths[index])}
        if isinstance(source, Video):
            number = index - self._starts[place]
            frame = source.read(number)
            # float32: some devices have no float64
            about |= {"frame": number, "time": torch.tensor(frame.time), "rate": torch.tensor(source.rate)}
            return frame.image.convert("RGB" if self.reader.channels == 3 else "L"), about
        return self.reader(source), about

    def name_of(self, index: int) -> str:
        """Return the name of a sample: its file and, of a video, the number of the frame."""
        place = bisect_right(self._starts, index) - 1
        video = isinstance(self._sources[place], Video)
        return f"{self.paths[index]}, frame {index - self._starts[place]}" if video else str(self.paths[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        source = self._sources[bisect_right(self._starts, index) - 1]
        if isinstance(source, Video):
            frame, about = self.read(index)
            return {
                "image": to_tensor(frame, self.max_side),
                "size": torch.tensor([frame.height, frame.width]),
                **about,
            }
        image, size = self.reader.read_tensor(source, max_side=self.max_side)
        return {"image": image, "size": torch.tensor(size), "path": str(source)}


class SquarePhotos(DatasetWrapper):
    """Photos of which the middle square is scaled: ``{"image": uint8 (C, size, size), "path": str}``; frames as above.

    Args:
        photos: the photos.
        size: side in pixels.
    """

    def __init__(self, photos: Photos, size: int) -> None:
        super().__init__(photos)
        self.photos, self.size = photos, size

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, about = self.photos.read(index)
        return {"image": to_tensor(centre_square(image, self.size)), **about}


def is_video(path: Path) -> bool:
    """Return True if a file has the extension of a video."""
    return path.suffix.lower() in VIDEO_EXTENSIONS
