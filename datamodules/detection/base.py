"""DetectionDataModule: the base of the data sets of images with boxes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.absent_classes import warn_of_absent_objects
from darkroom.datamodules.bad_samples import UNREADABLE, BadSample
from darkroom.datamodules.base import LabelledSplit, Split, Statistics, VisionDataModule
from darkroom.datamodules.datasets import processor_count, unwrap
from darkroom.datamodules.detection.annotations import Annotation
from darkroom.datamodules.detection.check_annotations import BadBoxes, check_annotations
from darkroom.datamodules.io.exif import Exif, rotates, warn_of_ambiguous_rotation
from darkroom.datamodules.io.image_files import list_images
from darkroom.datamodules.io.read_images import ImageReader
from darkroom.datamodules.loading import SeededSampler
from darkroom.datamodules.proposals.cache import ProposalCache, WithProposals, fill
from darkroom.datamodules.proposals.methods import Proposals
from darkroom.datamodules.transforms.objects import KeepVisible, contains, keep_in_step
from darkroom.errors import DataError, UsageError
from darkroom.protocols import SizedDataset


def list_images_by_stem(folder: Path) -> dict[str, Path]:
    """List the images directly in a folder by their names without extension, in the order of names.

    Raises:
        DataError: two names differ only in their extensions.
    """
    images: dict[str, Path] = {}
    direct, inside = list_images(folder), list_images(folder, subfolders=True)
    if len(inside) > len(direct):
        first = min(set(inside) - set(direct))
        message = f"{folder} has {len(inside) - len(direct)} images in folders inside it, such as {first}"
        if not direct:
            raise DataError(f"{message}, and none itself; move them up, or give the folder that holds them")
        rank_zero_warn(f"{message}; they are left out. Move them up to use them")
    for path in direct:
        if (other := images.setdefault(path.stem, path)) != path:
            raise DataError(f"{other} and {path} have the same name, so the labels are ambiguous; remove one")
    return images


class DetectionImages(Dataset[dict[str, Any]]):
    """Images and their objects: ``{"image": uint8 (C, H, W), "target": {...}, "path": str, "size": (height, width)}``.

    ``target`` holds ``boxes`` float32 (N, 4), xyxy in pixels of the image, ``labels`` int64 (N,), ``image_id``, and, where
    the annotations have them, ``difficult`` and ``iscrowd`` bool (N,), ``area`` float32 (N,) and ``masks`` uint8 (N, H, W).
    """

    def __init__(
        self,
        annotations: Sequence[Annotation],
        max_side: int | None = None,
        masks: bool = False,
        exif: Exif | None = None,
        reader: ImageReader | None = None,
    ) -> None:
        self.reader = reader or ImageReader()
        self.annotations, self.max_side, self.masks, self.exif = list(annotations), max_side, masks, exif
        self.paths = [annotation.path for annotation in self.annotations]

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        annotation = self.annotations[index]
        rotate = partial(rotates, size=annotation.size, exif=self.exif)
        image, size = self.reader.read_tensor(annotation.path, rotate, self.max_side)
        if size != annotation.size:
            turned = " (after EXIF rotation, if any)" if size[::-1] == annotation.size else ""
            raise DataError(
                f"{annotation.path} has {size[1]} x {size[0]} pixels{turned}, but {annotation.source} states "
                f"{annotation.size[1]} x {annotation.size[0]}; correct one of them"
            )
        scale = torch.tensor(image.shape[-2:]) / torch.tensor(annotation.size)
        target: dict[str, Any] = {
            "boxes": torch.from_numpy(annotation.boxes.astype(np.float32)).view(-1, 4) * scale.flip(0).repeat(2),
            "labels": torch.from_numpy(annotation.labels.astype(np.int64)),
            "image_id": annotation.image_id,
        }
        for name, flag in {"difficult": annotation.difficult, "iscrowd": annotation.iscrowd}.items():
            if flag is not None:
                target[name] = torch.from_numpy(flag)
        if annotation.area is not None:
            target["area"] = torch.from_numpy(annotation.area) * scale.prod()
        if self.masks and annotation.masks is not None:
            target["masks"] = _resize_masks(torch.from_numpy(annotation.masks()), image.shape[-2:])
        return {"image": image, "target": target, "path": str(annotation.path), "size": torch.tensor(size)}


def _resize_masks(masks: Tensor, size: torch.Size) -> Tensor:
    """Resize masks uint8 (N, H, W)."""
    if masks.shape[-2:] == size or not len(masks):
        return masks.new_zeros(len(masks), *size) if not len(masks) else masks
    return F.interpolate(masks[None], tuple(size), mode="nearest-exact")[0]


class DetectionDataModule(VisionDataModule):
    """Base of the data sets of images with boxes. Subclasses define ``class_names`` and ``annotations(split)``.

    Images keep their sizes, in lists (``max_side`` scales large ones down). They reach the module in [0, 1], since
    detectors normalize and resize themselves. Training omits crowds, and objects marked as difficult.

    Args:
        bad_boxes: handling of invalid objects: boxes with no area, negative sides or pixels outside their image, labels
            beyond the classes, masks that cannot be read. "error" raises an error with file and object. "drop" drops,
            counts and reports them. "clip" does so too, but clips boxes that reach out of their image to it.
        min_box: least side of a box in pixels, after augmentation; smaller objects are dropped.
        train_on_difficult: train on objects marked as difficult; VOC's AP always ignores them.
        group_by_aspect: fill each training batch with either upright or wide images, for less padding.
        masks: load the masks of the objects too.
        proposals: region proposals for the methods that need them: SelectiveSearch or GridProposals.
        proposals_dir: folder of the cache of proposals; default ``~/.cache/darkroom/proposals``.
        exif: what to do with the EXIF orientation of photos: "transpose" them, "ignore" it, or None: what gives the size
            that the annotation states, with one warning if that does not decide.
        proposal_workers: processes that compute missing proposals before the fit; None: one per processor, shared among
            ranks.
    """

    augments_on_device: ClassVar[bool] = (
        False  # images of a batch differ in size, and objects outside of them are dropped
    )
    unstacked: ClassVar[frozenset[str]] = frozenset({"image", "target", "proposals"})

    def __init__(
        self,
        bad_boxes: BadBoxes = "error",
        min_box: float = 1.0,
        train_on_difficult: bool = False,
        group_by_aspect: bool = True,
        masks: bool = False,
        proposals: Proposals | None = None,
        proposals_dir: str | None = None,
        proposal_workers: int | None = None,
        exif: Exif | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min_box <= 0:
            raise UsageError(f"data.min_box must be above 0 pixels, got {min_box}")
        self.bad_boxes, self.min_box, self.train_on_difficult = bad_boxes, min_box, train_on_difficult
        self.group_by_aspect, self.masks, self.exif = group_by_aspect, masks, exif
        self.proposals, self.proposals_dir, self.proposal_workers = proposals, proposals_dir, proposal_workers

    image_shape = (3, 0, 0)  # images have any size

    def default_statistics(self) -> Statistics:
        """Return mean 0 and std 1: images stay in [0, 1]."""
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def annotations(self, split: LabelledSplit) -> list[Annotation]:
        """Return the images of a split and their objects; subclasses define it."""
        raise UsageError(f"{type(self).__name__} has no {split} data")

    def parse_pairs(
        self, split: LabelledSplit, pairs: Sequence[tuple[Path, Path]], parse: Callable[[Path, Path, int], Annotation]
    ) -> list[Annotation]:
        """Parse annotations in one file per image; a file that cannot be read is an error, or a bad sample.

        Args:
            split: of the images.
            pairs: files of image and annotation.
            parse: called with annotation file, image file and number of the pair.
        """
        found = []
        for number, (image, path) in enumerate(pairs):
            try:
                found.append(parse(path, image, number))
            except UNREADABLE as error:
                if self.bad_samples is None:
                    raise
                self.bad_samples.note(split, [BadSample(str(image), str(error))])
        return found

    def setup(self, stage: str) -> None:
        names = list(self.class_names)
        if not names or not all(map(str.strip, names)) or len(set(names)) < len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            raise UsageError(
                f"the classes of {type(self).__name__} are {names}{f', {twice} more than once' if twice else ''}; "
                "data.class_names, or the file of the classes, must have one class or more, with distinct names"
            )
        super().setup(stage)

    def dataset(self, split: Split) -> SizedDataset:
        """Return the ``DetectionImages`` of a split; prediction uses the test split.

        Raises:
            DataError: a box or label is invalid and ``bad_boxes`` is "error".
        """
        split = "test" if split == "predict" else split
        annotations = check_annotations(self.annotations(split), self.num_classes, self.bad_boxes, split)
        if split == "train":
            # Only evaluation judges objects by the area of the file, which augmentation would not change.
            annotations = [replace(one.select(self.select_trained(one)), area=None) for one in annotations]
        counted = [one.labels if one.iscrowd is None else one.labels[~one.iscrowd] for one in annotations]
        warn_of_absent_objects(counted, self.class_names, split)
        if self.exif is None:
            warn_of_ambiguous_rotation(((one.path, one.size) for one in annotations), split)
        reader = self.image_reader([annotation.path for annotation in annotations], split)
        return DetectionImages(annotations, self.max_side, self.masks, self.exif, reader)

    def select_trained(self, annotation: Annotation) -> np.ndarray:
        """Return a mask of the objects that are trained on: bool (N,)."""
        keep = np.ones(len(annotation.boxes), bool)
        if annotation.iscrowd is not None:
            keep &= ~annotation.iscrowd
        if annotation.difficult is not None and not self.train_on_difficult:
            keep &= ~annotation.difficult
        return keep

    def default_augment(self) -> list[v2.Transform]:
        """Return a left-right flip of half of the images."""
        return [v2.RandomHorizontalFlip()]

    def finish(self, split: Split) -> list[v2.Transform]:
        """Return, for training, the transform that drops objects outside of the augmented image."""
        return [KeepVisible(self.min_box)] if split == "train" else []

    def adapt_augment(self, augment: list[v2.Transform]) -> list[v2.Transform]:
        """Return the user's transforms, made to drop everything that belongs to a box with it.

        Raises:
            UsageError: one of them cannot tell objects from proposals.
        """
        if self.proposals is not None and any(contains(one, v2.RandomIoUCrop) for one in augment):
            raise UsageError(
                "data.augment has RandomIoUCrop, which treats data.proposals as objects; use flips and scales instead, "
                "or remove data.proposals"
            )
        return [keep_in_step(one) for one in augment]

    def prepare_dataset(self, dataset: SizedDataset) -> SizedDataset:
        """Compute missing proposals and return the data set with ``proposals`` added, if they are configured."""
        if self.proposals is None:
            return dataset
        cache = ProposalCache(self.proposals, self.proposals_dir)
        workers = self.proposal_workers
        if workers is None and self.trainer is not None:
            workers = max(1, processor_count() // self.trainer.num_devices)
        fill(dataset, cache, workers, skip_bad=self.bad_samples is not None)
        return WithProposals(dataset, cache)

    def _sampler(self, split: Split) -> SeededSampler:
        sampler = super()._sampler(split)
        dataset = unwrap(self._datasets[split].dataset)
        if split == "train" and self.group_by_aspect and isinstance(dataset, DetectionImages):
            sampler.groups = [int(annotation.size[1] > annotation.size[0]) for annotation in dataset.annotations]
            sampler.batch_size = self.batch_size
        return sampler
