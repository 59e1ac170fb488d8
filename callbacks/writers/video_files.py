"""VideoFiles: overlay video and table of each predicted video, written frame by frame."""

import csv
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_TICKS = 90_000  # of the overlay's clock, per second


class VideoFiles:
    """Writer of ``<name>.mp4`` (H.264) and ``<name>.csv``; one video after another, whose frames are not kept in memory.

    Args:
        folder: folder of the files.
        columns: names of the columns of the table.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.folder, self.columns = folder, columns
        self._name: str | None = None
        self._container: OutputContainer
        self._stream: VideoStream
        self._table: IO[str]

    def add(self, name: str, time: float, overlay: Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a frame of a video; the first one of another video closes the files of the last.

        Args:
            name: name of the video.
            time: seconds after its first frame.
            overlay: uint8 (3, H, W), of one size for all frames; an odd side grows by a pixel, which H.264 requires.
            rows: rows of the table.
        """
        import av

        overlay = F.pad(overlay[None].float(), (0, overlay.shape[2] % 2, 0, overlay.shape[1] % 2), "replicate")[
            0
        ].byte()
        if name != self._name:
            self.close()
            self._open(name, overlay.shape[1], overlay.shape[2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(overlay.permute(1, 2, 0).numpy()), format="rgb24")
        frame.pts, frame.time_base = round(time * _TICKS), Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))
        csv.DictWriter(self._table, self.columns).writerows(rows)

    def close(self) -> None:
        """Finish the files of the current video."""
        if self._name is not None:
            self._name = None
            self._container.mux(self._stream.encode())
            self._container.close()
            self._table.close()

    def _open(self, name: str, height: int, width: int) -> None:
        import av

        self.folder.mkdir(parents=True, exist_ok=True)
        self._table = (self.folder / f"{name}.csv").open("w", newline="", encoding="utf-8")
        csv.DictWriter(self._table, self.columns).writeheader()
        self._container = av.open(str(self.folder / f"{name}.mp4"), "w")
        self._stream = self._container.add_stream("libx264", rate=30, options={"crf": "20", "preset": "veryfast"})
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._name = name
