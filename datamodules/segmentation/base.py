"""SegmentationFiles: the base of the segmentation data sets of files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torchvision.transforms import v2

from darkroom.datamodules.absent_classes import warn_of_absent_values
from darkroom.datamodules.base import LabelledSplit, Split, VisionDataModule
from darkroom.datamodules.datasets import unwrap
from darkroom.datamodules.io.exif import Exif, warn_of_ambiguous_rotation
from darkroom.datamodules.io.read_images import IGNORE, ImageMaskPairs
from darkroom.datamodules.io.read_mask import read_mask
from darkroom.datamodules.transforms.border_map import BorderMap
from darkroom.datamodules.transforms.deconvnet_crops import CROPS, padded_random_crop
from darkroom.errors import UsageError
from darkroom.protocols import SizedDataset


class SegmentationFiles(VisionDataModule):
    """Base of all segmentation data sets of files: crops for training, whole images for evaluation.

    Training takes a random ``crop`` x ``crop`` window and mirrors half of them left-right. A smaller image is padded with
    ``mean``, its mask with 255, which is ignored. Validation and test use whole images, one at a time by default, since
    their sizes differ.

    Args:
        class_names: classes in the order of their values in the masks, background included.
        ignore_values: mask values that loss and metrics ignore.
        crop: side of the training window in pixels.
        channels: 3 for colour, 1 for grey; other images are converted.
        crops: windows for training: "random", or the two stages of DeconvNet. "objects" scales one object to the crop and
            sets the rest to background; "windows" are scaled, overlap an object and keep all classes.
        borders: add ``border`` to every sample, the distance to the two nearest instances (a weight in U-Net's loss), and
            in training set pixels where instances touch to background. With ``mask_values`` nonzero the ids in the
            masks are the instances, else every connected component of a class. Class 0 must be background.
        exif: what to do with the EXIF orientation of photos: "transpose" them, "ignore" it, or None: what gives the size
            of the mask, with one warning if that does not decide.
    """

    class_names: Sequence[str] = ()
    mask_values: Literal["index", "nonzero"] = "index"
    read_mask = staticmethod(read_mask)  # overridden by data sets without index masks

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_values: Sequence[int] = (IGNORE,),
        crop: int = 256,
        channels: Literal[1, 3] = 3,
        eval_batch_size: int = 1,
        crops: Literal["random", "objects", "windows"] = "random",
        borders: bool = False,
        exif: Exif | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **kwargs)
        if len(class_names) < 2:
            raise UsageError(
                f"data.class_names must have two classes or more, background included, got {list(class_names)}"
            )
        if crop < 16:
            raise UsageError(f"data.crop must be at least 16 pixels, got {crop}")
        self.class_names, self.ignore_values = tuple(class_names), tuple(ignore_values)
        self.crop, self.channels, self.crops, self.borders = crop, channels, crops, borders
        self.exif = exif
        self.image_shape = channels, crop, crop

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for split, keyed in self._datasets.items():
            dataset = unwrap(keyed.dataset)
            if split != "predict" and isinstance(dataset, ImageMaskPairs):
                warn_of_absent_values(dataset, self.class_names, split)
                if self.exif is None:
                    warn_of_ambiguous_rotation(dataset.stated_sizes(), split)

    def default_augment(self) -> list[v2.Transform]:
        """Return a left-right flip of half of the images."""
        return [v2.RandomHorizontalFlip()]

    def fit_to_batch(self) -> list[v2.Transform]:
        """Return the transform that crops training images and masks to ``crop`` x ``crop`` pixels."""
        fill = [round(255 * mean) for mean in self.mean]
        if self.crops == "random":
            return [padded_random_crop(self.crop, fill)]
        return [CROPS[self.crops](self.crop, fill, keep_instances=self.borders)]

    def finish(self, split: Split) -> list[v2.Transform]:
        """Return the transform that adds ``border``, if ``borders`` is set."""
        return [BorderMap(separate=split == "train")] if self.borders else []

    def pairs(self, split: LabelledSplit) -> list[tuple[Path, Path]]:
        """Return the files of image and mask of one split; subclasses define it."""
        raise UsageError(f"{type(self).__name__} does not define the files of the {split} split")

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``ImageMaskPairs`` of a split; prediction uses the test split."""
        pairs = self.pairs("test" if split == "predict" else split)
        instances = self.borders or (split == "train" and self.crops != "random")
        return ImageMaskPairs(
            pairs,
            num_classes=self.num_classes,
            mask_values=self.mask_values,
            ignore_values=self.ignore_values,
            reader=self.image_reader([image for image, _ in pairs], split),
            max_side=self.max_side,
            instances=instances,
            read_mask=self.read_mask,
            exif=self.exif,
        )
