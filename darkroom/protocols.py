"""Interfaces at which the parts of Darkroom meet: what one part may use of another that it never imports."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

# Several: one for each sample. None: torch's global one.
Generators = torch.Generator | Sequence[torch.Generator] | None


@runtime_checkable
class UnpaddedNetwork(Protocol):
    """Segmentation network without padding: its logits cover less than the image."""

    margin: int
    """Pixels that each side loses; 0: none, and the network takes images of any size."""

    def input_size(self, size: int) -> int:
        """Return the smallest side of an image that gives logits for at least ``size`` pixels."""
        ...


@runtime_checkable
class SeamlessNetwork(UnpaddedNetwork, Protocol):
    """Network without padding that computes the same logits for a tile as for the whole image."""

    seamless: bool


@runtime_checkable
class NeedsEntries(Protocol):
    """Loss that takes further entries of the batch, by name, beside logits and mask."""

    needs: Sequence[str]


@runtime_checkable
class IgnoresIndex(Protocol):
    """Loss that ignores pixels of one mask value."""

    ignore_index: int


@runtime_checkable
class SegmentationModel(Protocol):
    """What ``Inference`` needs of a segmentation model."""

    num_classes: int

    @property
    def network(self) -> nn.Module: ...

    def __call__(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K, H, W)."""
        ...

    def logits_within(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits (B, K, *size) of the area within the network's margin."""
        ...


@runtime_checkable
class ProposalMethod(Protocol):
    """What a cache of region proposals needs of the method that makes them."""

    limit: int | None
    """Most boxes that are returned for an image; None: all."""

    @property
    def by_shape(self) -> bool:
        """All images of one shape have the same proposals."""
        ...

    @property
    def key(self) -> str:
        """Everything that ``propose`` depends on besides the image."""
        ...

    def propose(self, image: np.ndarray) -> np.ndarray:
        """Propose boxes float32 (P, 4), xyxy in pixels, for an image uint8 (H, W, 3), RGB."""
        ...


@runtime_checkable
class DescribesBatches(Protocol):
    """A datamodule that can name the samples of a training batch."""

    def describe_batch(self, epoch: int, batch_idx: int) -> str:
        """Name the samples of a training batch of this rank: their files, or their indices."""
        ...


# --- data, for callbacks ----------------------------------------------------------------------------------------------


@runtime_checkable
class ImageData(Protocol):
    """Datamodule of normalized images."""

    def denormalize(self, image: Tensor, /) -> Tensor:
        """Undo the normalization: float (..., C, H, W) -> float32 in [0, 1]."""
        ...


@runtime_checkable
class ClassData(ImageData, Protocol):
    """Datamodule of normalized images with named classes, which may be none."""

    class_names: Sequence[str]


@runtime_checkable
class CategoryData(Protocol):
    """Datamodule whose labels stand for category ids of a data set: label i for ``category_ids[i - 1]``."""

    @property
    def category_ids(self) -> Sequence[int]: ...


@runtime_checkable
class PhotoData(Protocol):
    """Datamodule that may predict on a folder of photos."""

    predict_dir: str | None


@runtime_checkable
class WrappedDataset(Protocol):
    """Data set of a loader that wraps the data set of a split."""

    dataset: object


@runtime_checkable
class FileDataset(Protocol):
    """Data set that has a file for each sample."""

    paths: Sequence[Path]


# --- modules, for callbacks -------------------------------------------------------------------------------------------
# Callbacks check a module against these before they call it. The check covers the names of methods and of their arguments.


class SegmentationOutputs(TypedDict):
    """Outputs of the validation and test step of a segmentation model."""

    prediction: Tensor
    """Class ids int64 (B, H, W), at the size of the images."""


@runtime_checkable
class TrainedModel(Protocol):
    """Module that counts the optimizer steps it was trained for."""

    trained_steps: int


@runtime_checkable
class NamedClasses(Protocol):
    """Module or datamodule with the names of its classes, which may be none."""

    class_names: Sequence[str]


@runtime_checkable
class GuidedModel(Protocol):
    """Module that samples with guidance, or says why it cannot."""

    @property
    def unguided(self) -> str | None:
        """Reason why the model cannot be guided, with the remedy; None: it can."""
        ...


@runtime_checkable
class SearchingEncoder(Protocol):
    """Module that says whether ``encode`` searches for a latent, which takes many passes."""

    @property
    def encodes_by_search(self) -> bool: ...


@runtime_checkable
class ImageModel(Protocol):
    """Module whose outputs are images."""

    @property
    def device(self) -> torch.device: ...

    def to_uint8(self, images: Tensor, /) -> Tensor:
        """Convert images in the model's value range to uint8."""
        ...


@runtime_checkable
class LabelledModel(ImageModel, Protocol):
    """Image model that may be conditioned on a class; ``num_classes`` is None if it is not."""

    num_classes: int | None

    def labels_of(self, batch: dict[str, Any], /) -> Tensor | None:
        """Return the labels of a batch; None if the model is unconditional."""
        ...


@runtime_checkable
class ReconstructionModel(LabelledModel, Protocol):
    """Image model that reconstructs images."""

    def reconstruct(self, x: Tensor, /, *, labels: Tensor | None) -> Tensor:
        """Reconstruct images (B, C, H, W)."""
        ...


@runtime_checkable
class LatentModel(LabelledModel, Protocol):
    """Image model with a latent space."""

    def draw_latents(self, n: int, generator: Generators, /) -> Tensor:
        """Sample latents (n, ...) from the prior."""
        ...

    def encode(self, x: Tensor, /, *, labels: Tensor | None) -> Tensor:
        """Encode images (B, C, H, W) to latents (B, ...)."""
        ...

    def decode(self, z: Tensor, /, *, labels: Tensor | None) -> Tensor:
        """Decode latents (B, ...) to images (B, C, H, W)."""
        ...

    def interpolate(self, a: Tensor, b: Tensor, steps: int, /, *, labels: Tensor | None) -> Tensor:
        """Interpolate between images (B, C, H, W): (B, steps, C, H, W), both ends included."""
        ...


@runtime_checkable
class SamplingModel(ImageModel, Protocol):
    """Image model that samples, by class if ``num_classes`` is not None."""

    num_classes: int | None

    def sample(self, n: int, *, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Sample n images (n, C, H, W)."""
        ...


@runtime_checkable
class SamplerStep(Protocol):
    """One step of a sampler: number ``index`` of ``count``, taken at time ``t``."""

    @property
    def index(self) -> int: ...

    @property
    def count(self) -> int: ...

    @property
    def t(self) -> float: ...

    @property
    def x(self) -> Tensor:
        """Sample after the step, (B, C, H, W)."""
        ...

    @property
    def x0(self) -> Tensor:
        """Image that the network predicted at time t, (B, C, H, W)."""
        ...


class DiffusionSchedule(Protocol):
    """Noise schedule: alpha and sigma of q(x_t | x_0) at times 0 to ``num_steps`` - 1."""

    @property
    def num_steps(self) -> int: ...

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor, /) -> Tensor:
        """Sample x_t of images x (B, C, H, W) at times int64 (B,), with the given noise."""
        ...

    def at(self, t: float, /) -> tuple[float, float]:
        """Return alpha and sigma at a time, which may lie between two steps; -1: no noise."""
        ...


@runtime_checkable
class DiffusionModel(LabelledModel, Protocol):
    """Diffusion model that samples from noise, by class if ``num_classes`` is not None."""

    @property
    def schedule(self) -> DiffusionSchedule: ...

    def draw_latents(self, n: int, generator: Generators, /) -> Tensor:
        """Sample noise x_T, (n, C, H, W)."""
        ...

    def errors_at(self, x: Tensor, t: Tensor, /, *, labels: Tensor | None, generator: Generators) -> Tensor:
        """Return the mean squared error of the predicted noise of images at times t, (B,)."""
        ...

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        generator: Generators = None,
        callback: Callable[[SamplerStep], None] | None = None,
    ) -> Tensor:
        """Sample n images (n, C, H, W); an option that is None takes the model's own value."""
        ...


@runtime_checkable
class TextModel(ImageModel, Protocol):
    """Text-conditional image model."""

    def sample(
        self, captions: Sequence[str], *, guidance: float | None, steps: int | None, generator: Generators
    ) -> Tensor:
        """Sample an image for each caption, (n, C, H, W); an option that is None takes the model's own value."""
        ...


@runtime_checkable
class WordMapModel(ImageModel, Protocol):
    """Text-conditional image model with attention to words."""

    def word_maps(
        self, captions: Sequence[str], /, *, generator: Generators
    ) -> tuple[Tensor, list[list[str]], list[Tensor]]:
        """Sample images (n, C, H, W); return them, the words of each caption and their attention maps (words, H, W)."""
        ...


class CascadeStage(Protocol):
    """One stage of a cascade."""

    def guidance_or_default(self, guidance: float | None, /) -> float:
        """Return a guidance weight; None: the stage's own."""
        ...


@runtime_checkable
class AugmentedStage(CascadeStage, Protocol):
    """Stage of a cascade that adds noise to the image it enlarges."""

    @property
    def augmentation(self) -> float: ...


@runtime_checkable
class CascadeModel(ImageModel, Protocol):
    """Text-conditional cascade; its settings take precedence over those of the stages, where they are not None."""

    @property
    def stages(self) -> Sequence[CascadeStage]: ...

    @property
    def guidance(self) -> Sequence[float | None]: ...

    @property
    def augmentation(self) -> Sequence[float | None]:
        """One value for each stage but the first."""
        ...

    def sample(self, captions: Sequence[str], *, generator: Generators, stages: Literal[True]) -> list[Tensor]:
        """Sample the images (n, C, H, W) of every stage, smallest first."""
        ...


@runtime_checkable
class UpsamplingModel(ImageModel, Protocol):
    """Super-resolution model."""

    def reduced(self, x: Tensor, /) -> Tensor:
        """Downscale images (B, C, H, W) as in training."""
        ...

    def upsampled(self, low: Tensor, /) -> Tensor:
        """Upscale small images bicubically."""
        ...

    def sample(
        self,
        captions: Sequence[str] | None,
        low: Tensor,
        *,
        augmentation: float | None,
        guidance: float | None,
        steps: int | None,
        generator: Generators,
    ) -> Tensor:
        """Sample the large images of small ones; an option that is None takes the model's own value."""
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
        """Return a whole batch, or a list of samples that are still to be collated."""
        ...


@runtime_checkable
class NamedSamples(Protocol):
    """Data set that names its samples for messages, where no single file holds one."""

    def name_of(self, index: int) -> str:
        """Return the name of a sample."""
        ...


@runtime_checkable
class DownscaledDataset(Protocol):
    """Data set that may scale its images down when it reads them."""

    max_side: int | None


class ConfigTraits(Protocol):
    """What the command line reads from a class that a config names, before it is built.

    A class declares them as ``ClassVar``; all of them are optional.
    """

    @property
    def linked_arguments(self) -> tuple[str, ...]:
        """Constructor arguments that a config leaves open and the command line fills from the data and the model."""
        ...

    @property
    def initial_weight_arguments(self) -> tuple[str, ...]:
        """Constructor arguments that name the first weights; a checkpoint replaces them."""
        ...

    @property
    def is_trained(self) -> bool:
        """Whether the model loads trained weights itself, and predicts without a checkpoint."""
        ...

    @property
    def is_conditional(self) -> bool:
        """Whether the model uses ``num_classes``, unless its argument ``conditional`` says otherwise."""
        ...

    @property
    def monitor(self) -> tuple[str, str]:
        """Metric of the best checkpoint, and its mode: min or max."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A loader whose position can be restored."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the position."""
        ...


@runtime_checkable
class Captioned(Protocol):
    """A datamodule whose samples have captions."""

    @property
    def words(self) -> list[str]:
        """The words of the training captions, sorted."""
        ...


class BadSampleCounter(Protocol):
    """The samples of a datamodule that could not be read."""

    def count(self, split: str) -> int:
        """Count those of a split that all ranks have found so far."""
        ...


@runtime_checkable
class SkipsBadSamples(Protocol):
    """A datamodule that may skip samples that cannot be read."""

    @property
    def bad_samples(self) -> BadSampleCounter | None:
        """What it skipped; None: it raises instead."""
        ...


@runtime_checkable
class ReportsSteps(Protocol):
    """A model that calls ``on_step`` after each step of its sampler in ``predict_step``."""

    on_step: Callable[[SamplerStep], None] | None


# --- data, for generative methods and their metrics -------------------------------------------------------------------


@runtime_checkable
class ShapedData(Protocol):
    """Datamodule whose images have one shape."""

    image_shape: tuple[int, int, int] | None
    """(C, H, W); None for prompts, which have no images."""


@runtime_checkable
class RangedData(Protocol):
    """Datamodule whose normalized images have a known range."""

    @property
    def value_range(self) -> tuple[float, float]: ...


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
    def num_classes(self) -> int: ...

    def dataset(self, split: Any, /) -> Any:
        """Return the data set of a split: a ``SizedDataset`` of ``image`` uint8 (C, H, W) and ``label``."""
        ...


@runtime_checkable
class OpensDatasets(Protocol):
    """Datamodule that replaces bad samples where no loader does."""

    def open_dataset(self, split: Any, /) -> Any:
        """Return the data set of a split, bad samples replaced."""
        ...


@runtime_checkable
class NamesAttributes(Protocol):
    """Datamodule that names the attributes of its images."""

    @property
    def attribute_names(self) -> Sequence[str]: ...


@runtime_checkable
class AttributeData(Protocol):
    """Datamodule of images with known attributes, on which a judge can train."""

    image_shape: tuple[int, int, int]

    @property
    def attribute_names(self) -> Sequence[str]: ...

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
    def form_names(self) -> Sequence[str]: ...


# --- networks of diffusion models -------------------------------------------------------------------------------------


@runtime_checkable
class BuiltForModel(Protocol):
    """Network that states which model it was built for."""

    @property
    def built_for(self) -> Mapping[str, object]:
        """Arguments that it shares with its model, such as ``image_shape`` and ``learned_variance``."""
        ...


@runtime_checkable
class TextNetwork(Protocol):
    """Network that may be conditioned on text."""

    text_dim: int | None
    """Dimension of a token's embedding; None: the network takes no text."""


@runtime_checkable
class SteppedNetwork(Protocol):
    """Network whose images must have sides that are multiples of ``step``."""

    step: int


@runtime_checkable
class ResidualNetwork(Protocol):
    """Super-resolution network that may add the upsampled image to its output."""

    residual: bool


class X0Predictor(Protocol):
    """What a sampler needs of a model: the prediction of the clean image."""

    def __call__(self, x: Tensor, t: float, /) -> "X0Output":
        """Predict x_0 of noisy images x_t (B, C, H, W) at time t."""
        ...


class X0Output(Protocol):
    """Prediction of a model for a sampler."""

    @property
    def x0(self) -> Tensor:
        """Predicted image, float32 (B, C, H, W), thresholded."""
        ...

    @property
    def variance(self) -> Tensor | None:
        """v in [-1, 1] of a learned variance, (B, C, H, W); None if the variance is not learned."""
        ...


# --- modules, for metrics of samples ----------------------------------------------------------------------------------


class ImageSampler(Protocol):
    """What ``SampleScores`` needs of a module."""

    num_classes: int | None

    @property
    def device(self) -> Any: ...

    def to_uint8(self, images: Tensor, /) -> Tensor:
        """Convert images in the model's value range to uint8."""
        ...

    def sample(self, n: int, /, *, labels: Tensor | None, generator: Any) -> Tensor:
        """Sample n images (n, C, H, W)."""
        ...


class CaptionSampler(Protocol):
    """What ``CaptionScores`` needs of a module."""

    @property
    def device(self) -> Any: ...

    def to_uint8(self, images: Tensor, /) -> Tensor:
        """Convert images in the model's value range to uint8."""
        ...

    def sample(self, captions: Sequence[str], /, *, generator: Any) -> Any:
        """Sample an image for each caption, (n, C, H, W)."""
        ...


class UpsamplingSampler(Protocol):
    """What ``UpsamplingScores`` needs of a module."""

    @property
    def device(self) -> Any: ...

    def to_uint8(self, images: Tensor, /) -> Tensor:
        """Convert images in the model's value range to uint8."""
        ...

    def reduced(self, x: Tensor, /) -> Tensor:
        """Downscale images (B, C, H, W) as in training."""
        ...

    def upsampled(self, low: Tensor, /) -> Tensor:
        """Upsample small images bicubically."""
        ...

    def sample(self, captions: Sequence[str] | None, low: Tensor, /, *, generator: Any) -> Tensor:
        """Sample the large images of small ones."""
        ...
