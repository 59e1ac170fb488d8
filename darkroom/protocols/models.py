"""Interfaces of methods for callbacks, metrics, inference and samplers."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor, nn

# A sequence has one generator per sample. None: torch's global generator.
Generators = torch.Generator | Sequence[torch.Generator] | None


@runtime_checkable
class SegmentationModel(Protocol):
    """Segmentation model, as ``Inference`` uses it."""

    num_classes: int

    @property
    def network(self) -> nn.Module:
        """Network from images to logits."""
        ...

    def __call__(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K, H, W)."""
        ...

    def logits_within(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits (B, K, *size) of the area within the network's margin."""
        ...


class SegmentationOutputs(TypedDict):
    """Outputs of the validation and test step of a segmentation model."""

    prediction: Tensor
    """Class ids int64 (B, H, W), at the size of the images."""


class ClassificationOutputs(TypedDict):
    """Outputs of the validation and test step of an image classifier."""

    probabilities: Tensor
    """Float32 (B, K)."""

    losses: Tensor
    """Cross-entropy of each image, float32 (B,)."""


class ReconstructionOutputs(TypedDict):
    """Outputs of the test step of an autoencoder."""

    errors: Tensor
    """Squared error of each reconstruction, summed over the values of the image in [-1, 1], float32 (B,)."""


@runtime_checkable
class TaskModel(Protocol):
    """Module whose test step returns the outputs of a task, from which ``ResultRecorder`` records results."""

    task: ClassVar[str]
    """Name of the task, see ``darkroom.runtime.records.results``."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None without classes."""
        ...


@runtime_checkable
class ExplainedModel(Protocol):
    """Image classifier that shows which places of an image raise the logit of a class."""

    def explain(self, image: Tensor, classes: Tensor, /) -> Tensor:
        """Compute heat maps float32 (B, h, w) in [0, 1] of a class int64 (B,) of each image (B, C, H, W)."""
        ...


@runtime_checkable
class TrainedModel(Protocol):
    """Module that counts the optimizer steps it was trained for."""

    trained_steps: int


@runtime_checkable
class GuidedModel(Protocol):
    """Module that samples with guidance, or states the reason why it cannot."""

    @property
    def unguided(self) -> str | None:
        """Reason why the model cannot be guided, with the remedy; None: it can."""
        ...


@runtime_checkable
class SearchingEncoder(Protocol):
    """Module that states if ``encode`` searches for a latent, which takes many passes."""

    @property
    def encodes_by_search(self) -> bool:
        """True if ``encode`` searches for each latent."""
        ...


@runtime_checkable
class ImageModel(Protocol):
    """Module whose outputs are images."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        ...

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
class CodedImages(Protocol):
    """Autoencoder, as latent diffusion uses it: images <-> codes, flattened."""

    image_shape: tuple[int, int, int]
    num_classes: int | None
    latent_shape: tuple[int, ...]

    def encode(self, x: Tensor) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] as codes (B, D)."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Decode codes (B, D) to images (B, C, H, W) in [-1, 1]."""
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
    """One step of a sampler: number ``index`` of ``count``, at time ``t``."""

    @property
    def index(self) -> int:
        """Number of the step, from 0."""
        ...

    @property
    def count(self) -> int:
        """Number of steps in all."""
        ...

    @property
    def t(self) -> float:
        """Time of the step."""
        ...

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
    def num_steps(self) -> int:
        """Number of times T."""
        ...

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor, /) -> Tensor:
        """Sample x_t of images x (B, C, H, W) at times int64 (B,), with the given noise."""
        ...

    def at(self, t: float, /) -> tuple[float, float]:
        """Return alpha and sigma at a time, which may be fractional; -1: no noise."""
        ...


@runtime_checkable
class DiffusionModel(LabelledModel, Protocol):
    """Diffusion model that samples from noise, by class if ``num_classes`` is not None."""

    @property
    def schedule(self) -> DiffusionSchedule:
        """Noise schedule."""
        ...

    def draw_latents(self, n: int, generator: Generators, /) -> Tensor:
        """Sample noise x_T, (n, C, H, W)."""
        ...

    def to_codes(self, images: Tensor, /) -> Tensor:
        """Return x_0 of images (N, C, H, W), as the model diffuses it: the images, or their codes."""
        ...

    def to_images(self, x: Tensor, /) -> Tensor:
        """Return the images (N, C, H, W) of states x of the sampler."""
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
        """Sample n images (n, C, H, W); None: the model's own value of an option."""
        ...


@runtime_checkable
class TextModel(ImageModel, Protocol):
    """Text-conditional image model."""

    def sample(
        self, captions: Sequence[str], *, guidance: float | None, steps: int | None, generator: Generators
    ) -> Tensor:
        """Sample an image for each caption, (n, C, H, W); None: the model's own value of an option."""
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
    def augmentation(self) -> float:
        """Noise level added to the small image, in [0, 1]."""
        ...


@runtime_checkable
class CascadeModel(ImageModel, Protocol):
    """Text-conditional cascade; its settings take precedence over those of the stages, where they are not None."""

    @property
    def stages(self) -> Sequence[CascadeStage]:
        """Stages, smallest first."""
        ...

    @property
    def guidance(self) -> Sequence[float | None]:
        """Guidance weight of each stage; None: the stage's own."""
        ...

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
        """Upsample small images bicubically."""
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
        """Sample the large images of small ones; None: the model's own value of an option."""
        ...


@runtime_checkable
class ReportsSteps(Protocol):
    """Model that calls ``on_step`` after each step of its sampler in ``predict_step``."""

    on_step: Callable[[SamplerStep], None] | None


class ImageSampler(Protocol):
    """Module that samples, as ``SampleScores`` uses it."""

    num_classes: int | None

    @property
    def device(self) -> Any:
        """Device of the parameters."""
        ...

    def to_uint8(self, images: Tensor, /) -> Tensor:
        """Convert images in the model's value range to uint8."""
        ...

    def sample(self, n: int, /, *, labels: Tensor | None, generator: Any) -> Tensor:
        """Sample n images (n, C, H, W)."""
        ...


class CaptionSampler(Protocol):
    """Module that samples captions, as ``CaptionScores`` uses it."""

    @property
    def device(self) -> Any:
        """Device of the parameters."""
        ...

    def to_uint8(self, images: Tensor, /) -> Tensor:
        """Convert images in the model's value range to uint8."""
        ...

    def sample(self, captions: Sequence[str], /, *, generator: Any) -> Any:
        """Sample an image for each caption, (n, C, H, W)."""
        ...


class UpsamplingSampler(Protocol):
    """Module that upsamples, as ``UpsamplingScores`` uses it."""

    @property
    def device(self) -> Any:
        """Device of the parameters."""
        ...

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
