"""VideoFiles: overlay video and table of each predicted video, written frame by frame."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torchcodec.encoders import Encoder, VideoStream


class VideoFiles:
    """Writer of ``<name>.mp4`` (H.264) and ``<name>.csv``; one video after another, whose frames are not kept in memory.

    Args:
        folder: folder of the files.
        columns: names of the columns of the table.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.folder, self.columns = folder, columns
        self._name: str | None = None
        self._encoder: Encoder
        self._stream: VideoStream
        self._table: IO[str]

    def add(self, name: str, rate: float, overlay: Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a frame of a video; the first one of another video closes the files of the last.

        Args:
            name: name of the video.
            rate: frames per second of the overlay video.
            overlay: uint8 (3, H, W), of one size for all frames; an odd side grows by a pixel, which H.264 requires.
            rows: rows of the table.
        """
        padding = (0, overlay.shape[2] % 2, 0, overlay.shape[1] % 2)
        overlay = F.pad(overlay[None].float(), padding, "replicate").byte().cpu()
        if name != self._name:
            self.close()
            self._open(name, rate, overlay.shape[2], overlay.shape[3])
        self._stream.add_frames(overlay.contiguous())
        csv.DictWriter(self._table, self.columns).writerows(rows)

    def close(self) -> None:
        """Finish the files of the current video."""
        if self._name is not None:
            self._name = None
            self._encoder.close()
            self._table.close()

    def _open(self, name: str, rate: float, height: int, width: int) -> None:
        from torchcodec.encoders import Encoder

        self.folder.mkdir(parents=True, exist_ok=True)
        self._table = (self.folder / f"{name}.csv").open("w", newline="", encoding="utf-8")
        csv.DictWriter(self._table, self.columns).writeheader()
        self._encoder = Encoder()
        self._stream = self._encoder.add_video(
            height=height,
            width=width,
            frame_rate=rate,
            device="cpu",
            codec="libx264",
            pixel_format="yuv420p",
            crf=20,
            preset="veryfast",
        )
        self._encoder.open_file(str(self.folder / f"{name}.mp4"))
        self._name = name
