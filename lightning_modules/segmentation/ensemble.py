"""Ensemble: several trained techniques, their probabilities multiplied (Noh, Hong, Han 2015)."""

from collections.abc import Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation.base import SemanticSegmentation
from darkroom.lightning_modules.utils.safe_load import read_safely


class Ensemble(SemanticSegmentation):
    """Checkpoints judged together: the product of their class probabilities, as DeconvNet's authors join it with FCN.

    It has nothing to train: ``darkroom test --model Ensemble --model.members '[a.ckpt, b.ckpt]' --data ...``.

    Args:
        members: checkpoints of any segmentation techniques for the same classes.
        num_classes: classes, background included.
    """

    def __init__(self, members: Sequence[str], num_classes: int | None = None, **kwargs: Any) -> None:
        if len(members) < 2:
            raise UsageError(f"model.members is {list(members)}; an ensemble needs two checkpoints or more")
        models = [load_technique(Path(path)) for path in members]
        num_classes = models[0].num_classes if num_classes is None else num_classes
        for path, model in zip(members, models, strict=True):
            if model.num_classes != num_classes:
                raise UsageError(f"model.members: {path} knows {model.num_classes} classes, not {num_classes}")
        super().__init__(nn.ModuleList(models), num_classes, **kwargs)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            raise UsageError("an ensemble has nothing to train; train its members, then test or predict with it")
        super().setup(stage)

    def forward(self, image: Tensor) -> Tensor:
        return self._product([model(image) for model in self.network])

    def infer(self, batch: dict[str, Any]) -> Tensor:
        """Every member in its own way: by proposals, tiles, flips."""
        return self._product([model.infer(batch) for model in self.network])

    @staticmethod
    def _product(logits: list[Tensor]) -> Tensor:
        return torch.stack([one.float().log_softmax(1) for one in logits]).mean(0)


def load_technique(path: Path) -> SemanticSegmentation:
    """The trained technique in a checkpoint of the command line, on the CPU. UsageError if there is none."""
    if not path.is_file():
        raise UsageError(f"model.members: {path} does not exist; give checkpoints of trained techniques")
    checkpoint = read_safely("model.members:", path, mmap=True)
    try:
        technique = _technique(checkpoint["hyper_parameters"].get("_class_path"))
        return technique.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"model.members: {path} cannot be loaded as a technique ({error})") from error


def _technique(class_path: str | None) -> type[SemanticSegmentation]:
    """The technique that a checkpoint of the command line names."""
    technique = locate(class_path or "")
    if not (isinstance(technique, type) and issubclass(technique, SemanticSegmentation)):
        raise UsageError(f"it names {class_path}, no segmentation technique; train it by `darkroom fit`")
    return technique
