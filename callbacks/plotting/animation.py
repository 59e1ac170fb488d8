"""Animations of images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, PAPER
from darkroom.callbacks.plotting.style import load_font

_MOST_BYTES = 3_000_000
_STRIP, _HELD = 26, 2500  # pixels below an image for its caption; milliseconds of the last frame


def animate(
    frames: Sequence[Path | Tensor],
    captions: Sequence[str],
    path: Path,
    most_frames: int = 50,
    most_side: int = 400,
    skip: int = 0,
    colours: int = 64,
) -> None:
    """Write a GIF that loops, lasts a few seconds for any number of frames, and pauses on the last one.

    Images are scaled down until the file has at most 3 MB.

    Args:
        frames: images uint8 (3, H, W), or their files, in order; those of another size than the last are omitted.
        captions: one below each frame.
        path: file of the GIF.
        most_frames: maximum number of frames; more are thinned evenly, keeping the first and the last.
        most_side: maximum longer side in pixels.
        skip: pixels that are cut off at the top, such as a title that the caption repeats.
        colours: number of colours of all frames together, at most 256.
    """
    size = _open(frames[-1]).size
    usable = [(frame, text) for frame, text in zip(frames, captions, strict=True) if _open(frame).size == size]
    chosen = torch.linspace(0, len(usable) - 1, min(len(usable), most_frames)).round().long().tolist()
    images = _share_palette(
        [_draw_frame(frame, text, most_side, skip) for frame, text in (usable[index] for index in chosen)], colours
    )
    pause = min(500, max(80, 6000 // len(images)))
    first, *rest = images
    times = [pause] * len(rest) + [_HELD]
    first.save(path, save_all=True, append_images=rest, duration=times, loop=0, disposal=1)
    excess = path.stat().st_size / _MOST_BYTES
    if excess > 1 and most_side > 100:
        animate(frames, captions, path, most_frames, int(most_side * 0.95 / excess**0.5), skip, colours)


def _open(frame: Path | Tensor) -> Image.Image:
    return Image.open(frame) if isinstance(frame, Path) else Image.fromarray(frame.permute(1, 2, 0).numpy())


def _draw_frame(frame: Path | Tensor, caption: str, most_side: int, skip: int) -> Image.Image:
    """Draw an image over its caption."""
    image = _open(frame).convert("RGB")
    image = image.crop((0, skip, *image.size))
    image.thumbnail((most_side, most_side), Image.Resampling.LANCZOS)
    width, height = image.size
    canvas = Image.new("RGB", (width, height + _STRIP), PAPER)
    canvas.paste(image)
    ImageDraw.Draw(canvas).text((width / 2, height + _STRIP / 2 - 4), caption, INK, load_font(13), anchor="mm")
    return canvas


def _share_palette(frames: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """Convert the frames to one palette, made of a few of them, so that the GIF stores only changes between frames."""
    few = [frames[index] for index in torch.linspace(0, len(frames) - 1, min(8, len(frames))).round().long().tolist()]
    width, height = frames[0].size
    together = Image.new("RGB", (width, height * len(few)))
    for index, frame in enumerate(few):
        together.paste(frame, (0, height * index))
    palette = together.quantize(colours)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
