"""Scale of images with more than 8 bits per channel: one for all files, since each of them may be dark."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from PIL import Image

from darkroom.datamodules.io.image_files import ImageSource, Pixels, read_header, read_pixels
from darkroom.errors import DataError, UsageError

FILES = 32  # whose largest values decide
_WHITE_16 = 65535


def _is_upper_half(pixels: Pixels) -> bool:
    """Return True for colours of 16 bits, of which Pillow returns the upper 8."""
    return pixels.header.deep and not pixels.image.mode.startswith(("I", "F"))


def _largest(pixels: Pixels) -> float:
    """Return the largest value of a file; of colours with 16 bits, an upper bound."""
    largest = np.asarray(pixels.image).max()
    return float(largest) * 256 + 255 if _is_upper_half(pixels) and largest else float(largest)


def _white(largest: float) -> int:
    """Return the largest value of the least even number of bits, 8 or more, that holds a value."""
    bits = max(8, int(largest).bit_length())
    return 2 ** (bits + bits % 2) - 1


class PixelScale:
    """Conversion of images with more than 8 bits per channel to 8 bits, the same for all images of a datamodule.

    Args:
        max_value: pixel value that becomes white (255); larger values become white too. None: the largest value of 8, 10,
            12, 14 or 16 bits that the images reach.

    Attributes:
        max_value: the pixel value that becomes white; None until ``decide`` finds it.
    """

    def __init__(self, max_value: float | None = None) -> None:
        if max_value is not None and not 0 < max_value < np.inf:
            raise UsageError(f"data.max_value must be a finite number above 0, got {max_value}")
        self.stated, self.max_value = max_value is not None, max_value
        self._seen: list[tuple[float, str]] = []
        self._warned = False

    def decide(self, paths: Sequence[Path], split: str, max_pixels: int | None = None) -> None:
        """Choose the scale by up to 32 files, spread over a split; files of later splits are only compared.

        Args:
            paths: files of the images.
            split: name of the split, for messages.
            max_pixels: files with more pixels are left out; reading them raises an error.
        """
        if self.stated or not paths:
            return
        for index in np.unique(np.linspace(0, len(paths) - 1, min(FILES, len(paths))).astype(int)):
            path = paths[index]
            try:
                if read_header(path, max_pixels).deep:
                    pixels = read_pixels(path, max_pixels=max_pixels)
                    if pixels.image.mode != "F" and (largest := _largest(pixels)) > 0:
                        self._seen.append((largest, str(path)))
            except (DataError, OSError):  # reading the sample reports it
                continue
        if not self._seen:
            return
        if self.max_value is None:
            self.max_value = _white(max(self._seen)[0])
            rank_zero_info(
                f"images of the {split} split have more than 8 bits per channel; the value {self.max_value} becomes white. "
                "Set data.max_value for another one"
            )
        self._warn_of_several_depths()

    def _warn_of_several_depths(self) -> None:
        """Warn once of two files whose largest values need different numbers of bits."""
        (least, dark), (greatest, bright) = min(self._seen), max(self._seen)
        if self._warned or _white(least) == _white(greatest):
            return
        self._warned = True
        rank_zero_warn(
            f"{dark} has values up to {least:.0f}, {bright} up to {greatest:.0f}, as if their bit depths differed; the "
            f"value {self.max_value:.0f} becomes white in all images. Set data.max_value to {self.max_value:.0f} if that "
            "is right, else save all images with one bit depth"
        )

    def state_dict(self) -> dict[str, float]:
        """Return the scale, so that a test uses that of the training."""
        return {} if self.max_value is None else {"max_value": self.max_value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the scale.

        Raises:
            UsageError: the user states another one.
        """
        saved = state.get("max_value", self.max_value)
        if self.stated and saved != self.max_value:
            raise UsageError(
                f"data.max_value is {self.max_value:g}, but the checkpoint was trained with {saved:g}; set it to {saved:g}"
            )
        self.max_value = saved

    def to_8_bits(self, pixels: Pixels, file: ImageSource) -> Image.Image:
        """Return an image with 8 bits per channel; one that has them is unchanged.

        Raises:
            DataError: the scale is not known, or the image has negative, infinite or larger values.
        """
        if not pixels.header.deep:
            return pixels.image
        if _is_upper_half(pixels):
            return self._check_upper_half(pixels, file)
        if self.max_value is None or (pixels.image.mode == "F" and not self.stated):
            kind = "floating-point pixels" if pixels.image.mode == "F" else "pixels with more than 8 bits"
            raise DataError(
                f"{file} has {kind} of unknown range; set data.max_value to the value that is white, such as 1.0 or 4095, "
                "or save it with 8 bits"
            )
        values = np.asarray(pixels.image).astype(np.float64)
        if not np.isfinite(values).all():
            raise DataError(f"{file} has pixels that are not finite; all must be numbers from 0 on")
        if values.min() < 0:
            raise DataError(f"{file} has the value {values.min():g}; pixels must be 0 or more: shift or clip them")
        if values.max() > self.max_value and not self.stated:
            raise DataError(
                f"{file} has the value {values.max():g}, but the values of the first images read need at most "
                f"{self.max_value:.0f}; set data.max_value to {_white(values.max())}"
            )
        return Image.fromarray((values * 255 / self.max_value).clip(0, 255).round().astype(np.uint8))

    def _check_upper_half(self, pixels: Pixels, file: ImageSource) -> Image.Image:
        if self.max_value not in (None, _WHITE_16):
            raise DataError(
                f"{file} has 16 bits per colour channel, which are read with their upper 8 alone, but data.max_value is "
                f"{self.max_value:g}; set it to {_WHITE_16} for images that dark, or save them with 8 bits per channel"
            )
        return pixels.image
