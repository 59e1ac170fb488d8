"""Ensemble: the product of the probabilities of several trained models (Noh, Hong, Han 2015)."""

from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.utils.safe_load import read_safely


class Ensemble(SemanticSegmentation):
    """Ensemble of checkpoints: the product of their class probabilities, as DeconvNet's authors combine it with FCN.

    For test and prediction only: ``darkroom test --model Ensemble --model.members '[a.ckpt, b.ckpt]' --data ...``.

    Args:
        members: checkpoints of any segmentation methods for the same classes.
        num_classes: classes, background included.
    """

    is_trained: ClassVar[bool] = True  # needs no checkpoint of its own

    def __init__(self, members: Sequence[str], num_classes: int | None = None, **kwargs: Any) -> None:
        if len(members) < 2:
            raise UsageError(f"model.members must be two checkpoints or more, got {list(members)}")
        models = [load_method(Path(path)) for path in members]
        num_classes = models[0].num_classes if num_classes is None else num_classes
        for path, model in zip(members, models, strict=True):
            if model.num_classes != num_classes:
                raise UsageError(f"model.members: {path} must have {num_classes} classes, got {model.num_classes}")
        super().__init__(nn.ModuleList(models), num_classes=num_classes, init_from=None, **kwargs)
        self._members = tuple(models)  # a tuple: registered once, in the network

    def setup(self, stage: str) -> None:
        if stage == "fit":
            raise UsageError("Ensemble cannot be trained; train its members, then test or predict with it")
        super().setup(stage)

    def forward(self, image: Tensor) -> Tensor:
        return self._product([model(image) for model in self._members])

    def infer(self, batch: dict[str, Any]) -> Tensor:
        """Combine the logits of the members, each with its own options (proposals, tiles, flips)."""
        return self._product([model.infer(batch) for model in self._members])

    @staticmethod
    def _product(logits: list[Tensor]) -> Tensor:
        return torch.stack([one.float().log_softmax(1) for one in logits]).mean(0)


def load_method(path: Path) -> SemanticSegmentation:
    """Load the model of a checkpoint of the command line, on the CPU.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    if not path.is_file():
        raise UsageError(f"model.members: {path} does not exist; set it to checkpoints of trained models")
    checkpoint = read_safely("model.members:", path, mmap=True)
    try:
        kind = _find_class(checkpoint["hyper_parameters"].get("_class_path"))
        return kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"model.members: {path} cannot be loaded as a segmentation model ({error})") from error


def _find_class(class_path: str | None) -> type[SemanticSegmentation]:
    """Find the class that a checkpoint of the command line names."""
    found = locate(class_path or "")
    if not (isinstance(found, type) and issubclass(found, SemanticSegmentation)):
        raise UsageError(f"the class must be a segmentation method, got {class_path}; train it by `darkroom fit`")
    return found
