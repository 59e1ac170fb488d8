"""Frames of video files, decoded in turn: a video of any length takes the memory of a few frames."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from darkroom.errors import DataError, UsageError
from darkroom.paths import install_command

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

# Without MPEG program streams (.mpg), whose frames TorchCodec 0.17 does not find by number.
VIDEO_EXTENSIONS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")


class Frame(NamedTuple):
    """Frame of a video: RGB, upright, with its time in seconds after the first frame."""

    image: Image.Image
    time: float


class Video:
    """Video file whose frames are read by number, fast in ascending order.

    Args:
        path: the file.

    Raises:
        DataError: the file cannot be read, or has no frames.
        UsageError: TorchCodec or FFmpeg is not installed.

    Attributes:
        rate: average number of frames per second.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not kept: processes of a loader must not share an open file.
        decoder = open_decoder(path)
        self._count, self.rate = len(decoder), float(decoder.metadata.average_fps or 25)
        self._start = float(decoder.metadata.begin_stream_seconds or 0)
        self._decoder: VideoDecoder | None = None

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> Frame:
        """Decode a frame.

        Raises:
            DataError: the frame is damaged, or the video ends before it.
        """
        self._decoder = self._decoder or open_decoder(self.path)
        try:
            frame = self._decoder.get_frame_at(index)
        except (RuntimeError, IndexError) as error:
            raise DataError(
                f"{self.path}: frame {index} of {len(self)} cannot be decoded ({_first_line(error)}); repair or replace "
                "the video"
            ) from error
        if index == len(self) - 1:
            self._decoder = None  # a folder may have many videos
        return Frame(Image.fromarray(frame.data.permute(1, 2, 0).numpy()), frame.pts_seconds - self._start)


def open_decoder(path: Path) -> "VideoDecoder":
    """Open a video, whose packets are read once for the times of all frames, because headers may lack them or lie.

    Raises:
        DataError: the file cannot be read, or has no frames.
        UsageError: TorchCodec or FFmpeg is not installed.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except ImportError:
        raise UsageError(
            f"{path} is a video, and reading it needs the package torchcodec: {install_command('video')}"
        ) from None
    try:
        decoder = VideoDecoder(str(path), seek_mode="exact")
    except (RuntimeError, ValueError, OSError) as error:
        if "libtorchcodec" in str(error):
            raise UsageError(
                f"{path} is a video, and reading it needs the libraries of FFmpeg, such as those of apt install ffmpeg"
            ) from error
        raise DataError(f"{path} cannot be read as a video ({_first_line(error)}); replace or remove it") from error
    if not len(decoder):
        raise DataError(f"{path} has no frames; replace or remove it")
    return decoder


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
