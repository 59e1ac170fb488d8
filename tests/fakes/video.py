"""Small videos, as cameras and tools write them; FFmpeg's command must be installed."""

import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FFmpeg is not installed")


def write_video(
    path: Path, frames: Iterable[np.ndarray], times: Sequence[float] | None = None, codec: str = "libx264"
) -> Path:
    """Write frames uint8 (H, W, 3), of even sides, with their times in seconds; None: 25 frames per second."""
    first, *others = frames
    height, width = first.shape[:2]
    command = [
        "ffmpeg",
        "-y",
        "-v",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        "25",
    ]
    command += ["-i", "-", "-c:v", codec, "-pix_fmt", "yuv420p"]
    if times is not None:
        command += ["-vf", f"settb=1/1000,setpts=({_choose(times)})/TB", "-fps_mode", "passthrough"]
        command += ["-enc_time_base", "1/1000", "-bf", "0"]
    command += ["-crf", "4", "-preset", "ultrafast"] if codec == "libx264" else []
    pixels = b"".join(np.ascontiguousarray(frame).tobytes() for frame in (first, *others))
    subprocess.run([*command, str(path)], input=pixels, check=True)
    return path


def _choose(times: Sequence[float]) -> str:
    """Return the expression of FFmpeg that has the value ``times[N]`` for frame N."""
    text = str(times[-1])
    for index in range(len(times) - 2, -1, -1):
        text = f"if(eq(N\\,{index})\\,{times[index]}\\,{text})"
    return text


def rotate_clockwise(path: Path) -> None:
    """Set the matrix of an MP4 file that telephones write for portraits: players turn the frames by 90 degrees."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # after the header of the box, times, duration, layer and volume
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
