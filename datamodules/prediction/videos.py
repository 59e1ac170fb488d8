"""Frames of video files, decoded in turn: a video of any length takes the memory of a few frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from darkroom.errors import DataError, UsageError
from darkroom.paths import install_command

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

VIDEO_EXTENSIONS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


class Frame(NamedTuple):
    """Frame of a video: RGB, upright, with its time in seconds after the first frame."""

    image: Image.Image
    time: float


class Video:
    """Video file whose frames are read by number, fast in ascending order.

    The frames between two that are read are decoded too, since each depends on those before it. Going back starts again.

    Args:
        path: the file.

    Raises:
        DataError: the file cannot be read, or has no frames.
        UsageError: PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._next, self._failure = path, 0, ""
        self._frames: Iterator[tuple[VideoFrame, float]] | None = None
        self._count = self._count_frames()

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> Frame:
        """Decode a frame.

        Raises:
            DataError: the frame is damaged, or the video ends before it.
        """
        import av

        if self._frames is None or index < self._next:
            self._frames, self._next, self._failure = self._decode(), 0, "the video ends before"
        try:
            for frame, time in self._frames:
                self._next += 1
                if self._next > index:
                    turned = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    return Frame(Image.fromarray(np.ascontiguousarray(turned)), time)
        except av.FFmpegError as error:  # the decoder stops there, and later frames fail alike
            self._failure = str(error)
        raise DataError(
            f"{self.path}: frame {index} of {len(self)} cannot be decoded ({self._failure}); repair or replace the video"
        )

    def _decode(self) -> Iterator[tuple["VideoFrame", float]]:
        """Yield the frames with their times, in seconds after the first."""
        import av

        with av.open(str(self.path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            start: float | None = None
            for frame in container.decode(video=0):
                time = frame.time or 0.0
                start = time if start is None else start
                yield frame, time - start

    def _count_frames(self) -> int:
        """Count the frames by the packets of the file, without decoding them; headers may lack the number or lie."""
        try:
            import av
        except ImportError:
            raise UsageError(
                f"{self.path} is a video, and reading it needs the package av: {install_command('video')}"
            ) from None
        try:
            with av.open(str(self.path)) as container:
                count = sum(packet.size > 0 for packet in container.demux(video=0)) if container.streams.video else 0
        except (av.FFmpegError, OSError) as error:
            raise DataError(f"{self.path} cannot be read as a video ({error}); replace or remove it") from error
        if not count:
            raise DataError(f"{self.path} has no frames; replace or remove it")
        return count
