"""Licences of the weights that a run started from."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from darkroom.report.run import Run

NOT_STATED = "not stated"
_BACKBONES = {"efficientnet_lite0": "Apache-2.0"}
_ENCODERS = {"MiniLM": "Apache-2.0", "T5": "Apache-2.0"}
_TORCHVISION = f"{NOT_STATED}; torchvision refers to the terms of ImageNet"


class InitialWeights(NamedTuple):
    """Weights that a fit started from.

    Args:
        name: describes them.
        license: of them.
    """

    name: str
    license: str


def initial_weights(run: Run) -> Iterator[InitialWeights]:
    """Yield the weights that the config of a run names: of backbones, files and frozen text encoders."""
    for key, value in run.options.items():
        section, _, option = key.rpartition(".")
        if not key.startswith("model.") or not isinstance(value, str):
            continue
        if option in ("weights", "backbone_weights") and value == "imagenet":
            backbone = str(run.options.get(f"{section}.backbone", "the backbone"))
            yield InitialWeights(f"ImageNet weights of {backbone}", _BACKBONES.get(backbone, _TORCHVISION))
        elif option == "init_from":
            yield InitialWeights(f"initial weights of `{PurePath(value).name}`", NOT_STATED)
        elif option == "class_path" and (encoder := value.rpartition(".")[2]) in _ENCODERS:
            yield InitialWeights(f"text encoder {encoder}", _ENCODERS[encoder])
