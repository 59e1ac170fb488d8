"""CaptionedImages: what data sets of picture files with captions share; made for models that draw from a text."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from PIL import Image, ImageChops, ImageOps
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.captions.caption_text import DrawnCaption, UnsidedFlip, most_frequent_words
from darkroom.datamodules.images.base import LabelledImages, centre_square
from darkroom.datamodules.io.read_images import PhotoFolder, read_image, to_tensor
from darkroom.errors import UsageError

Background = Literal["black", "white"]


class CaptionedFile(NamedTuple):
    """A picture's file and what it shows, said in one way or several."""

    path: Path
    captions: tuple[str, ...]


class PictureFormat(NamedTuple):
    """How pictures of any kind become uint8 (channels, size, size); see ``CaptionedImages``."""

    size: int
    channels: int
    background: Background

    def read(self, file: Path | IO[bytes]) -> Any:
        """The middle square of a picture, scaled."""
        image = read_image(file, self.channels)
        if self.background == "white":
            with Image.open(file) as stored:
                if stored.has_transparency_data:
                    alpha = ImageOps.exif_transpose(stored).convert("RGBA").getchannel("A")
                    # On black it is alpha * colour; on white alpha * colour + (1 - alpha) * 255.
                    image = ImageChops.add(image, ImageOps.invert(alpha).convert(image.mode))
        return to_tensor(centre_square(image, self.size))


class CaptionedFiles(Dataset):
    """``{"image": uint8 (C, size, size), "caption": the first of its captions, "captions": all, "path"}`` of each file.

    Args:
        files: pictures and their captions.
        picture_format: how they are read.
        all_captions: whether a sample has its ``captions``.
    """

    def __init__(self, files: Sequence[CaptionedFile], picture_format: PictureFormat, all_captions: bool) -> None:
        self.paths, self.captions = [file.path for file in files], [file.captions for file in files]
        self.picture_format, self.all_captions = picture_format, all_captions

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, captions = self.paths[index], self.captions[index]
        sample = {"image": self.picture_format.read(path), "caption": captions[0], "path": str(path)}
        return sample | {"captions": captions} if self.all_captions else sample


class _Photos(Dataset):
    """Photos to predict on, read as the others are: ``{"image": uint8 (C, size, size), "path"}``."""

    def __init__(self, paths: list[Path], picture_format: PictureFormat) -> None:
        self.paths, self.picture_format = paths, picture_format

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.picture_format.read(self.paths[index]), "path": str(self.paths[index])}


class CaptionedPictures(LabelledImages):
    """Base of data sets of captioned pictures in any store; there are no classes, and the network sees [-1, 1].

    Of a picture with several captions one is drawn anew in every epoch, by (seed, epoch, index), and the first is taken
    in evaluation.

    Args:
        size: side in pixels that all pictures are scaled to; of oblong ones the middle square.
        channels: 3 for colour, 1 for grey; pictures of the other kind are converted.
        background: what transparent pixels show.
        flip: mirror half of the training pictures left-right, but those whose caption says left or right; ``augment``
            replaces it.
        max_words: at most so many ``words``, the most frequent.
        limit, mean, std: see ``LabelledImages``.
    """

    class_names = ()

    def __init__(
        self,
        size: int = 64,
        channels: Literal[1, 3] = 3,
        background: Background = "black",
        flip: bool = False,
        max_words: int = 10_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=size, flip=flip, **kwargs)
        if max_words < 1:
            raise UsageError(f"data.max_words is {max_words}; it must be at least 1")
        self.picture_format, self.max_words = PictureFormat(size, channels, background), max_words

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.picture_format.channels, self.size, self.size

    @property
    def words(self) -> list[str]:
        """The words of the captions to train on, sorted."""
        raise NotImplementedError

    def fit_to_batch(self) -> list[v2.Transform]:
        return [DrawnCaption()]

    def default_augment(self) -> list[v2.Transform]:
        return [UnsidedFlip()] if self.flip else []

    def supplied(self, dataset: Dataset) -> Dataset:
        """Photos to predict on are brought to the size of the others."""
        return _Photos(dataset.paths, self.picture_format) if isinstance(dataset, PhotoFolder) else dataset


class CaptionedImages(CaptionedPictures):
    """Base of data sets of picture files with captions. A data set adds ``files``."""

    def files(self, split: Literal["train", "val", "test"]) -> list[CaptionedFile]:
        """The pictures of a split."""
        raise NotImplementedError

    @cached_property
    def words(self) -> list[str]:
        captions = (caption for file in self.files("train") for caption in file.captions)
        return most_frequent_words(captions, self.max_words)

    def dataset(self, split: Literal["train", "val", "test", "predict"]) -> Dataset:
        files = self.files("test" if split == "predict" else split)
        files = self.limited(files) if split == "train" else files
        return CaptionedFiles(files, self.picture_format, all_captions=split == "train")
