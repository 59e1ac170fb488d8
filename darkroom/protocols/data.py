"""Interfaces of datamodules and data sets for callbacks, modules and metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor


@runtime_checkable
class ProposalMethod(Protocol):
    """Method of region proposals, as the cache of proposals uses it."""

    limit: int | None
    """Maximum number of boxes that are returned for an image; None: all."""

    @property
    def by_shape(self) -> bool:
        """True if all images of one shape have the same proposals."""
        ...

    @property
    def key(self) -> str:
        """All settings that ``propose`` depends on besides the image, as text."""
        ...

    def propose(self, image: np.ndarray) -> np.ndarray:
        """Propose boxes float32 (P, 4), xyxy in pixels, for an image uint8 (H, W, 3), RGB."""
        ...


@runtime_checkable
class DescribesBatches(Protocol):
    """Datamodule that names the samples of a training batch."""

    def describe_batch(self, epoch: int, batch_idx: int) -> str:
        """Return the names of the samples of a training batch of this rank: their files, or their indices."""
        ...


@runtime_checkable
class ImageData(Protocol):
    """Datamodule of normalized images."""

    def denormalize(self, image: Tensor, /) -> Tensor:
        """Undo the normalization: float (..., C, H, W) -> float32 in [0, 1]."""
        ...


@runtime_checkable
class ClassData(ImageData, Protocol):
    """Datamodule of normalized images with class names, which may be empty."""

    class_names: Sequence[str]


@runtime_checkable
class CategoryData(Protocol):
    """Datamodule whose labels are numbers of categories: label i has the id ``category_ids[i - 1]``."""

    @property
    def category_ids(self) -> Sequence[int]:
        """Category id of each label, in the order of labels."""
        ...


@runtime_checkable
class PhotoData(Protocol):
    """Datamodule that may predict on photos."""

    predict: str | list[str] | None


@runtime_checkable
class WrappedDataset(Protocol):
    """Data set of a loader that wraps the data set of a split."""

    dataset: object


@runtime_checkable
class NumberedLoader(Protocol):
    """Loader that states which samples of the data set are in a batch."""

    def samples_of(self, batch: int, /) -> list[int]:
        """Return the indices of the samples in a batch of an evaluation that was yielded; none if they are unknown."""
        ...


@runtime_checkable
class FileDataset(Protocol):
    """Data set that has a file for each sample."""

    paths: Sequence[Path]


@runtime_checkable
class NamedClasses(Protocol):
    """Module or datamodule with class names, which may be empty."""

    class_names: Sequence[str]


@runtime_checkable
class NormalizedData(Protocol):
    """Datamodule that normalizes images."""

    @property
    def mean(self) -> Sequence[float]:
        """Mean per channel that the normalization subtracts, in [0, 1]."""
        ...

    @property
    def std(self) -> Sequence[float]:
        """Standard deviation per channel that the normalization divides by."""
        ...


@runtime_checkable
class SizedDataset(Protocol):
    """Map-style data set of samples, each a dict, addressed by int."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@runtime_checkable
class BatchedDataset(SizedDataset, Protocol):
    """Data set that reads many samples at once."""

    def __getitems__(self, indices: Sequence[int], /) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a whole batch, or a list of samples to be collated."""
        ...


@runtime_checkable
class NamedSamples(Protocol):
    """Data set that names its samples for messages, if a sample is not a file."""

    def name_of(self, index: int) -> str:
        """Return the name of a sample."""
        ...


@runtime_checkable
class DownscaledDataset(Protocol):
    """Data set that may scale its images down when it reads them."""

    max_side: int | None


@runtime_checkable
class Captioned(Protocol):
    """Datamodule whose samples have captions."""

    @property
    def words(self) -> list[str]:
        """Words of the training captions, sorted."""
        ...


class BadSampleCounter(Protocol):
    """Samples of a datamodule that could not be read."""

    def count(self, split: str) -> int:
        """Count the bad samples of a split that all ranks have found so far."""
        ...


@runtime_checkable
class SkipsBadSamples(Protocol):
    """Datamodule that may skip samples that cannot be read."""

    @property
    def bad_samples(self) -> BadSampleCounter | None:
        """Skipped samples; None: the datamodule raises instead."""
        ...


@runtime_checkable
class ShapedData(Protocol):
    """Datamodule whose images have one shape."""

    image_shape: tuple[int, int, int] | None
    """(C, H, W); None for prompts, which have no images."""


@runtime_checkable
class RangedData(Protocol):
    """Datamodule whose normalized images have a known range."""

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and greatest value of a normalized image."""
        ...


@runtime_checkable
class FactorData(Protocol):
    """Datamodule whose batches have ``factors``, the true factors of variation."""

    factor_names: Sequence[str]


@runtime_checkable
class LabelDataset(Protocol):
    """Data set that has all labels in memory."""

    labels: Sequence[int]


@runtime_checkable
class TargetDataset(Protocol):
    """Data set that has all labels in memory under torchvision's name."""

    targets: Sequence[int]


@runtime_checkable
class LabelledData(Protocol):
    """Datamodule of images with labels, on which a classifier can train."""

    image_shape: tuple[int, int, int]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    def dataset(self, split: Any, /) -> Any:
        """Return the data set of a split: a ``SizedDataset`` of ``image`` uint8 (C, H, W) and ``label``."""
        ...


@runtime_checkable
class OpensDatasets(Protocol):
    """Datamodule whose data sets can be opened without a loader."""

    def open_dataset(self, split: Any, /) -> Any:
        """Return the data set of a split, with bad samples replaced."""
        ...


@runtime_checkable
class NamesAttributes(Protocol):
    """Datamodule that names the attributes of its images."""

    @property
    def attribute_names(self) -> Sequence[str]:
        """Names of the attributes."""
        ...


@runtime_checkable
class NamesAttributeValues(Protocol):
    """Datamodule that names the values of the attributes of its images."""

    @property
    def attribute_values(self) -> Sequence[Sequence[str]]:
        """Names of the values of each attribute."""
        ...


@runtime_checkable
class HoldsOutObjects(Protocol):
    """Datamodule that holds some objects out of training."""

    @property
    def held_out_objects(self) -> Mapping[str, Sequence[Mapping[str, int]]]:
        """Values of attributes, by the attribute's name, that mean such an object, by its name such as ``red star``.

        There is one mapping for each place of an object in a caption. An empty result: nothing is held out.
        """
        ...


@runtime_checkable
class AttributeData(Protocol):
    """Datamodule of images with known attributes, on which a judge can train."""

    image_shape: tuple[int, int, int]

    @property
    def attribute_names(self) -> Sequence[str]:
        """Names of the attributes."""
        ...

    @property
    def attribute_sizes(self) -> Sequence[int]:
        """Number of values of each attribute."""
        ...

    def judging_dataset(self, length: int, /) -> Any:
        """Return a ``BatchedDataset`` of ``image`` uint8 (C, H, W) and ``attributes`` int64 (A,), -1 without a meaning."""
        ...


@runtime_checkable
class CaptionForms(Protocol):
    """Datamodule whose captions have several forms; batches have ``form``, an index into ``form_names``."""

    @property
    def form_names(self) -> Sequence[str]:
        """Names of the forms."""
        ...
