"""Interfaces of networks and losses for methods."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class UnpaddedNetwork(Protocol):
    """Segmentation network without padding: its logits cover less than the image."""

    margin: int
    """Pixels that the logits lack on each side; 0: none, and the network takes images of any size."""

    def input_size(self, size: int) -> int:
        """Return the smallest side of an image that gives logits for at least ``size`` pixels."""
        ...


@runtime_checkable
class SeamlessNetwork(UnpaddedNetwork, Protocol):
    """Network without padding that computes the same logits for a tile as for the whole image."""

    seamless: bool


@runtime_checkable
class Unpools(Protocol):
    """Layer that may unpool a map to the positions of the maxima of another."""

    unpools: bool
    """True if it does."""


@runtime_checkable
class NeedsEntries(Protocol):
    """Loss that takes further entries of the batch, by name, beside logits and mask."""

    needs: Sequence[str]


@runtime_checkable
class IgnoresIndex(Protocol):
    """Loss that ignores pixels of one mask value."""

    ignore_index: int


@runtime_checkable
class PretrainedNetwork(Protocol):
    """Network that may start from weights that were trained on normalized images."""

    expected_normalization: tuple[Sequence[float], Sequence[float]] | None
    """Mean and standard deviation per channel of these images; None: any."""
    pretrained_layers: Sequence[str]
    """Names of the layers that start from these weights; empty: it starts from random weights."""


@runtime_checkable
class BuiltForModel(Protocol):
    """Network that states the model it was built for."""

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
    """Model, as a sampler uses it: the prediction of the clean image."""

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
