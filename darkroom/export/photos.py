"""Photos: images for an exported file whose run is not at hand."""

from collections.abc import Sequence

from darkroom.datamodules.base import Split, VisionDataModule
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset


class Photos(VisionDataModule):
    """Images and videos, with the names of classes that an exported file states.

    Args:
        class_names: of the exported file.
        channels: of its images.
        others: see VisionDataModule; ``predict`` must be set.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        channels: int = 3,
        predict: str | list[str] | None = None,
        num_workers: int | None = None,
        max_side: int | None = None,
        max_pixels: int = 178956970,
        max_value: float | None = None,
    ) -> None:
        super().__init__(
            batch_size=1,
            num_workers=num_workers,
            predict=predict,
            max_side=max_side,
            max_pixels=max_pixels,
            max_value=max_value,
        )
        self.class_names = tuple(class_names)
        self.image_shape = channels, 1, 1

    def dataset(self, split: Split) -> SizedDataset:
        """Raise a UsageError: the images are those of ``predict``."""
        raise UsageError("data.predict must be set to images or folders: the exported file has no config beside it")
