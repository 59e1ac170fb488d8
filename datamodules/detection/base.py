"""DetectionDataModule: what every data set of pictures and boxes shares."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import v2

from darkroom.datamodules.bad_samples import UNREADABLE, BadSample
from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.detection.annotations import Annotation, checked
from darkroom.datamodules.io.read_images import list_images, read_image, to_tensor
from darkroom.datamodules.loading import SeededSampler
from darkroom.datamodules.proposals.cache import ProposalCache, WithProposals, fill, processors
from darkroom.datamodules.proposals.methods import Proposals
from darkroom.errors import DataError, UsageError


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures directly in a folder by their names without ending, in the order of names.

    Raises:
        DataError: two differ in their endings alone.
    """
    pictures: dict[str, Path] = {}
    for path in list_images(folder):
        if (other := pictures.setdefault(path.stem, path)) != path:
            raise DataError(f"{other} and {path} have the same name; which one do the labels mean? Remove the other")
    return pictures


class DetectionImages(Dataset):
    """Pictures and their objects: ``{"image": uint8 (C, H, W), "target": {...}, "path": str, "size": (height, width)}``.

    ``target`` holds ``boxes`` float32 (N, 4), xyxy in pixels of the image, ``labels`` int64 (N,), ``image_id`` int, and,
    where the annotations have them, ``difficult`` and ``iscrowd`` bool (N,) and ``masks`` uint8 (N, H, W).
    """

    def __init__(self, annotations: Sequence[Annotation], max_side: int | None = None, masks: bool = False) -> None:
        self.annotations, self.max_side, self.masks = list(annotations), max_side, masks
        self.paths = [annotation.path for annotation in self.annotations]

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> dict[str, Any]:
        annotation = self.annotations[index]
        picture = read_image(annotation.path)
        if (picture.height, picture.width) != annotation.size:
            turned = " (after its EXIF turn, if any)" if picture.size == annotation.size else ""
            raise DataError(
                f"{annotation.path} has {picture.width} x {picture.height} pixels{turned}, but {annotation.source} says "
                f"{annotation.size[1]} x {annotation.size[0]}"
            )
        image = to_tensor(picture, self.max_side)
        scale = torch.tensor(image.shape[-2:]) / torch.tensor(annotation.size)
        target: dict[str, Any] = {
            "boxes": torch.from_numpy(annotation.boxes.astype(np.float32)).view(-1, 4) * scale.flip(0).repeat(2),
            "labels": torch.from_numpy(annotation.labels.astype(np.int64)),
            "image_id": annotation.image_id,
        }
        for name in ("difficult", "iscrowd"):
            if (flag := getattr(annotation, name)) is not None:
                target[name] = torch.from_numpy(flag)
        if self.masks and annotation.masks is not None:
            target["masks"] = _resized(torch.from_numpy(annotation.masks()), image.shape[-2:])
        size = torch.tensor(annotation.size)
        return {"image": image, "target": target, "path": str(annotation.path), "size": size}


def _resized(masks: Tensor, size: torch.Size) -> Tensor:
    """Masks uint8 (N, H, W) at another size."""
    if masks.shape[-2:] == size or not len(masks):
        return masks.new_zeros(len(masks), *size) if not len(masks) else masks
    return F.interpolate(masks[None], tuple(size), mode="nearest-exact")[0]


class KeepVisible(v2.Transform):
    """Drops the objects that a crop has cut away, with all that is said of them: boxes thinner than ``min_side`` pixels,
    masks without a pixel."""

    def __init__(self, min_side: float = 1.0) -> None:
        super().__init__()
        self.min_side = min_side

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        sample = v2.ClampBoundingBoxes()(sample)
        target = sample["target"]
        keep = (target["boxes"][:, 2:] - target["boxes"][:, :2] >= self.min_side).all(1)
        if "masks" in target:
            # What a transform fills in beyond the picture is no object, whatever the value meant for the image.
            target = {**target, "masks": (target["masks"] == 1).to(torch.uint8)}
            keep &= target["masks"].flatten(1).any(1).bool()  # any() of bytes gives bytes
        # An operation on tv_tensors gives plain ones, which is what the batch is made of.
        rows = {name: value[keep] for name, value in target.items() if isinstance(value, Tensor)}
        if "proposals" in sample:
            boxes = sample["proposals"]
            sample = {**sample, "proposals": boxes[(boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(1)]}
        return {**sample, "target": {**target, **rows}}


def _holds(transform: Any, kind: type[v2.Transform]) -> bool:
    """Whether a transform is of a kind, or one of those that it is made of (Compose, RandomApply, RandomChoice ...)."""
    return isinstance(transform, kind) or any(_holds(part, kind) for part in getattr(transform, "transforms", ()))


class DetectionDataModule(VisionDataModule):
    """Base of the data sets of boxes. A data set states ``class_names`` and returns a split's ``annotations(split)``.

    Pictures keep their sizes, in lists (``max_side`` scales large ones down); they reach the module in [0, 1], since
    detectors normalise and resize on their own. Training leaves out crowds, and objects that are marked as difficult.

    Args:
        bad_boxes: boxes without area, with negative sides or out of their picture, and labels beyond the classes, are an
            "error" that names file and box, or are dropped ("drop"), counted and reported.
        min_box: after augmentation, objects with a side of fewer pixels are gone.
        train_on_difficult: train on objects that are marked as difficult; they are never judged in VOC's AP.
        group_by_aspect: training batches hold either upright pictures or wide ones, so that less of them is padding.
        masks: load the objects' masks too.
        proposals: method that proposes regions, for the techniques that need them: SelectiveSearch or GridProposals.
        proposals_dir: folder that keeps them; default ``~/.cache/darkroom/proposals``.
        proposal_workers: processes that make what is missing before the fit; None: one per processor, shared among
            ranks.
    """

    unstacked: ClassVar[frozenset[str]] = frozenset({"image", "target", "proposals"})

    def __init__(
        self,
        bad_boxes: Literal["error", "drop"] = "error",
        min_box: float = 1.0,
        train_on_difficult: bool = False,
        group_by_aspect: bool = True,
        masks: bool = False,
        proposals: Proposals | None = None,
        proposals_dir: str | None = None,
        proposal_workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if min_box <= 0:
            raise UsageError(f"data.min_box is {min_box}; it is a side in pixels, above 0")
        self.bad_boxes, self.min_box, self.train_on_difficult = bad_boxes, min_box, train_on_difficult
        self.group_by_aspect, self.masks = group_by_aspect, masks
        self.proposals, self.proposals_dir, self.proposal_workers = proposals, proposals_dir, proposal_workers

    # Detectors take pictures of any size; what they have in common is the channels.
    image_shape = (3, 0, 0)

    @property
    def mean(self) -> tuple[float, ...]:
        return self._mean_std[0] if self._mean_std else (0.0, 0.0, 0.0)

    @property
    def std(self) -> tuple[float, ...]:
        return self._mean_std[1] if self._mean_std else (1.0, 1.0, 1.0)

    def annotations(self, split: Literal["train", "val", "test"]) -> list[Annotation]:
        """The pictures of a split and what is in them."""
        raise UsageError(f"{type(self).__name__} has no {split} data")

    def parsed(
        self, split: str, pairs: Sequence[tuple[Path, Path]], parse: Callable[[Path, Path, int], Annotation]
    ) -> list[Annotation]:
        """The annotations of pictures that have a file each; one that cannot be read is an error, or a bad sample.

        Args:
            split: what they belong to.
            pairs: of every picture its file and that of its annotation.
            parse: is given annotation, picture and the pair's number.
        """
        found = []
        for number, (picture, path) in enumerate(pairs):
            try:
                found.append(parse(path, picture, number))
            except UNREADABLE as error:
                if self.bad_samples is None:
                    raise
                self.bad_samples.note(split, [BadSample(str(picture), str(error))])
        return found

    def setup(self, stage: str) -> None:
        names = list(self.class_names)
        if not names or not all(names) or len(set(names)) < len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            raise UsageError(
                f"the classes of {type(self).__name__} are {names}{f', {twice} more than once' if twice else ''}; "
                "data.class_names, or the file that names them, must hold one class or more, each with a name of its own"
            )
        super().setup(stage)

    def dataset(self, split: str) -> Dataset:
        split = "test" if split == "predict" else split
        annotations = checked(self.annotations(split), self.num_classes, self.bad_boxes, split)
        if split == "train":
            annotations = [annotation.only(self._trained(annotation)) for annotation in annotations]
        return DetectionImages(annotations, self.max_side, self.masks)

    def _trained(self, annotation: Annotation) -> np.ndarray:
        keep = np.ones(len(annotation.boxes), bool)
        if annotation.iscrowd is not None:
            keep &= ~annotation.iscrowd
        if annotation.difficult is not None and not self.train_on_difficult:
            keep &= ~annotation.difficult
        return keep

    def default_augment(self) -> list[v2.Transform]:
        return [v2.RandomHorizontalFlip()]

    def finish(self, split: str) -> list[v2.Transform]:
        return [KeepVisible(self.min_box)] if split == "train" else []

    def _transforms(self, split: str) -> list[v2.Transform]:
        transforms = super()._transforms(split)
        if self.proposals is not None and any(_holds(one, v2.RandomIoUCrop) for one in transforms):
            raise UsageError(
                "data.augment has RandomIoUCrop, which takes all boxes of a sample for objects, but data.proposals adds "
                "others; flips and scales go with proposals"
            )
        return transforms

    def supplied(self, dataset: Dataset) -> Dataset:
        if self.proposals is None:
            return dataset
        cache = ProposalCache(self.proposals, self.proposals_dir)
        workers = self.proposal_workers
        if workers is None and self.trainer is not None:
            workers = max(1, processors() // self.trainer.num_devices)
        fill(dataset, cache, workers, skip_bad=self.bad_samples is not None)
        return WithProposals(dataset, cache)

    def _sampler(self, split: str) -> SeededSampler:
        sampler = super()._sampler(split)
        annotations = getattr(self._datasets[split].dataset, "annotations", None)
        if split == "train" and self.group_by_aspect and annotations:
            sampler.groups = [int(annotation.size[1] > annotation.size[0]) for annotation in annotations]
            sampler.batch_size = self.batch_size
        return sampler
