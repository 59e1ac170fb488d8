"""Pictures as an animation, one after the other."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from darkroom.callbacks.plotting.images import INK, PAPER

_MOST_BYTES = 3_000_000
_STRIP, _HELD = 26, 2500  # pixels below a picture for its caption; milliseconds that the last one stays


def animate(
    frames: Sequence[Path | Tensor],
    captions: Sequence[str],
    path: Path,
    most_frames: int = 50,
    most_side: int = 400,
    skip: int = 0,
    colours: int = 64,
) -> None:
    """Writes a GIF that never ends, of some seconds whatever the number of frames, and stays on the last one for a while.
    Pictures that would make it larger than 3 MB are reduced further.

    Args:
        frames: pictures uint8 (3, H, W), or files of such, in order; those of another size than the last are left out.
        captions: what is written below each.
        path: of the GIF.
        most_frames: of more, so many are taken evenly, the first and the last among them.
        most_side: larger pictures are reduced to this longer side in pixels.
        skip: pixels at a picture's top that are left out: a title that the caption repeats.
        colours: of all pictures together, at most 256.
    """
    size = _opened(frames[-1]).size
    shown = [(frame, text) for frame, text in zip(frames, captions, strict=True) if _opened(frame).size == size]
    chosen = torch.linspace(0, len(shown) - 1, min(len(shown), most_frames)).round().long().tolist()
    pictures = _shared_palette([_frame(*shown[index], most_side, skip) for index in chosen], colours)
    pause = min(500, max(80, 6000 // len(pictures)))
    first, *rest = pictures
    times = [pause] * len(rest) + [_HELD]
    first.save(path, save_all=True, append_images=rest, duration=times, loop=0, disposal=1)
    excess = path.stat().st_size / _MOST_BYTES
    if excess > 1 and most_side > 100:
        animate(frames, captions, path, most_frames, int(most_side * 0.95 / excess**0.5), skip, colours)


def _opened(frame: Path | Tensor) -> Image.Image:
    return Image.open(frame) if isinstance(frame, Path) else Image.fromarray(frame.permute(1, 2, 0).numpy())


def _frame(frame: Path | Tensor, caption: str, most_side: int, skip: int) -> Image.Image:
    """A picture with its caption."""
    picture = _opened(frame).convert("RGB")
    picture = picture.crop((0, skip, *picture.size))
    picture.thumbnail((most_side, most_side), Image.Resampling.LANCZOS)
    width, height = picture.size
    frame = Image.new("RGB", (width, height + _STRIP), PAPER)
    frame.paste(picture)
    ImageDraw.Draw(frame).text(
        (width / 2, height + _STRIP / 2 - 4), caption, INK, ImageFont.load_default(13), anchor="mm"
    )
    return frame


def _shared_palette(frames: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """The frames in the colours that suit a few of them best: a GIF then keeps only what changes from one to the next."""
    few = [frames[index] for index in torch.linspace(0, len(frames) - 1, min(8, len(frames))).round().long().tolist()]
    width, height = frames[0].size
    together = Image.new("RGB", (width, height * len(few)))
    for index, frame in enumerate(few):
        together.paste(frame, (0, height * index))
    palette = together.quantize(colours)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
