"""ExportedModel: an exported file as a method, so that ``darkroom predict`` reads and writes as with a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.export.outputs import TASKS
from darkroom.export.runners import open_runner
from darkroom.export.tiles import run_whole
from darkroom.lightning_modules.base import Technique
from darkroom.protocols import ImageData
from darkroom.protocols.export import TensorSpec
from darkroom.runtime.lightning_compat import datamodule_of


class ExportedModel(Technique):
    """Model of a file of ``darkroom export``, for prediction.

    Args:
        path: .onnx or .pt2 file.
    """

    is_trained: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, type]] = {}

    def __init__(self, path: str) -> None:
        super().__init__()
        self._run = open_runner(Path(path))
        self.path, self.description = path, self._run.description

    def networks(self) -> list[nn.Module]:
        """Return no modules: the graph is not of torch."""
        return []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "predict":
            raise UsageError(f"ckpt_path {self.path} can only be used by predict, not by {stage}; give a checkpoint")

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Any:
        """Predict as the exported method does, from images that the datamodule has normalized."""
        images = [self._raw(image) for image in batch["image"]]
        found = [self._predict_image(image, self._others(batch, index)) for index, image in enumerate(images)]
        return torch.cat(found) if isinstance(found[0], Tensor) else [one for some in found for one in some]

    def _raw(self, image: Tensor) -> np.ndarray:
        """Return an image uint8 (1, C, H, W), as it was before the normalization."""
        data = datamodule_of(self.trainer)
        if not isinstance(data, ImageData):
            raise UsageError(f"ckpt_path {self.path} needs a datamodule of images; use a VisionDataModule")
        return (data.denormalize(image) * 255).round().to(torch.uint8)[None].cpu().numpy()

    def _others(self, batch: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
        """Return the other inputs of an image, with a batch axis.

        Raises:
            UsageError: the data lack one of them.
        """
        found = {}
        for spec in self.description.inputs[1:]:
            if spec.name not in batch:
                raise UsageError(f"ckpt_path {self.path} needs {spec.name} ({spec.meaning}); set data.{spec.name}")
            found[spec.name] = batch[spec.name][index][None].float().cpu().numpy()
        return found

    def _predict_image(self, image: np.ndarray, others: Mapping[str, np.ndarray]) -> Any:
        spec = self.description.inputs[0]
        if not _fits(image.shape[1:], spec):
            channels, height, width = spec.shape[1:]
            raise UsageError(
                f"ckpt_path {self.path} takes images of {channels} channels and {height} x {width} pixels, got "
                f"{image.shape[1]} and {image.shape[2]} x {image.shape[3]}; use the data of its training, or resize images"
            )
        outputs = run_whole(self._run, {spec.name: image, **others})
        return TASKS[self.description.task].to_prediction(outputs, 1)


def _fits(shape: Sequence[int], spec: TensorSpec) -> bool:
    return all(isinstance(axis, str) or axis == side for side, axis in zip(shape, spec.shape[1:], strict=True))
