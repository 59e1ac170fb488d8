"""Small videos, as cameras and tools write them."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path, frames: Sequence[np.ndarray], times: Sequence[float] | None = None, codec: str = "libx264"
) -> Path:
    """Write frames uint8 (H, W, 3), of even sides, with their times in seconds; None: 25 frames per second."""
    times = times or [index / 25 for index in range(len(frames))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "4", "preset": "ultrafast"}
            stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(frames, times, strict=True):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if codec == "libx264":
                image.pts, image.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def rotate_clockwise(path: Path) -> None:
    """Set the matrix of an MP4 file that telephones write for portraits: players turn the frames by 90 degrees."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # after the header of the box, times, duration, layer and volume
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
