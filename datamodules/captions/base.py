"""CaptionDataModule: the base of the data sets of images with captions, for text-to-image models."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.base import LabelledSplit, Split, Statistics, VisionDataModule
from darkroom.datamodules.captions.caption_text import CaptionSafeFlip, RandomCaption, most_frequent_words
from darkroom.datamodules.datasets import limit_items
from darkroom.datamodules.images.base import centred_statistics, check_square_options
from darkroom.datamodules.io.image_files import ImageSource
from darkroom.datamodules.io.read_images import ImageReader, centre_square, to_tensor
from darkroom.datamodules.prediction.photos import Photos, SquarePhotos
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset

Background = Literal["black", "white"]


class CaptionedFile(NamedTuple):
    """File of an image and its captions, at least one."""

    path: Path
    captions: tuple[str, ...]


class ImageFormat(NamedTuple):
    """Format in which images are read: a square of ``size`` pixels."""

    size: int
    reader: ImageReader

    def read(self, file: ImageSource) -> Tensor:
        """Read the middle square of an image, scaled to ``size``: uint8 (channels, size, size)."""
        return to_tensor(centre_square(self.reader(file), self.size))


class CaptionedFiles(Dataset[dict[str, Any]]):
    """``{"image": uint8 (C, size, size), "caption": the first of its captions, "captions": all, "path"}`` of each file.

    Args:
        files: images and their captions.
        image_format: see ``ImageFormat``.
        all_captions: add ``captions`` to every sample.
    """

    def __init__(self, files: Sequence[CaptionedFile], image_format: ImageFormat, all_captions: bool) -> None:
        self.paths, self.captions = [file.path for file in files], [file.captions for file in files]
        self.image_format, self.all_captions = image_format, all_captions

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, captions = self.paths[index], self.captions[index]
        sample = {"image": self.image_format.read(path), "caption": captions[0], "path": str(path)}
        return sample | {"captions": captions} if self.all_captions else sample


class CaptionDataModule(VisionDataModule):
    """Base of the data sets of images with captions, without classes, normalized to [-1, 1].

    Subclasses for image files define ``files``; those with another store define ``dataset`` and ``words``. Training
    chooses one of several captions in every epoch by (seed, epoch, index); evaluation uses the first.

    Args:
        size: side in pixels that the middle square of all images is scaled to.
        channels: 3 for colour, 1 for grey; other images are converted.
        background: colour of transparent pixels.
        flip: mirror half of the training images left-right, except those whose caption mentions left or right;
            ``augment`` replaces it.
        max_words: maximum number of ``words``, the most frequent ones; None: all.
        limit: maximum number of training images, chosen by ``seed``; None: all.
        mean, std: per channel in [0, 1]; None: 0.5.
    """

    class_names: Sequence[str] = ()

    def __init__(
        self,
        size: int = 64,
        channels: Literal[1, 3] = 3,
        background: Background = "black",
        flip: bool = False,
        max_words: int = 10_000,
        limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_square_options(size, limit, self.max_side)
        if max_words < 1:
            raise UsageError(f"data.max_words must be at least 1, got {max_words}")
        self.size, self.flip, self.limit, self.max_words, self.background = size, flip, limit, max_words, background
        self.image_shape = channels, size, size

    def default_statistics(self) -> Statistics:
        """Return mean and std of 0.5 per channel, which normalize images to [-1, 1]."""
        return centred_statistics(self.image_shape[0])

    def image_format(self, paths: Sequence[Path], split: str) -> ImageFormat:
        """Return the format in which the images of a split are read."""
        return ImageFormat(self.size, self.with_background(self.image_reader(paths, split)))

    def with_background(self, reader: ImageReader) -> ImageReader:
        """Return a reader that shows transparent pixels in the colour of ``background``."""
        return replace(reader, background=255 if self.background == "white" else 0)

    def files(self, split: LabelledSplit) -> list[CaptionedFile]:
        """Return the images of a split."""
        raise NotImplementedError

    @cached_property
    def words(self) -> list[str]:
        """Words of the training captions, sorted."""
        captions = (caption for file in self.files("train") for caption in file.captions)
        return most_frequent_words(captions, self.max_words)

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``CaptionedFiles`` of a split; prediction uses the test split."""
        files = self.files("test" if split == "predict" else split)
        files = limit_items(files, self.limit, self.seed) if split == "train" else files
        image_format = self.image_format([file.path for file in files], split)
        return CaptionedFiles(files, image_format, all_captions=split == "train")

    def fit_to_batch(self) -> list[v2.Transform]:
        """Return the random choice of one caption; the files are read at one size."""
        return [RandomCaption()]

    def default_augment(self) -> list[v2.Transform]:
        """Return the flip that leaves out captions with left or right, if ``flip`` is set."""
        return [CaptionSafeFlip()] if self.flip else []

    def prepare_dataset(self, dataset: SizedDataset) -> SizedDataset:
        """Convert photos for prediction to the format of the data set's images."""
        if not isinstance(dataset, Photos):
            return dataset
        dataset.reader = self.with_background(dataset.reader)
        return SquarePhotos(dataset, self.size)
