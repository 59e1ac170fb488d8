"""Run an exported graph on whole images: at once, or tile by tile where its description has a rule for tiles."""

import numpy as np
import torch
from torch import Tensor, nn

from darkroom.export.runners import Arrays, Runner
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from darkroom.lightning_modules.segmentation.inference import Inference
from darkroom.protocols.export import TileRule


class _Windows(nn.Module):
    """Margins of the windows of a graph, as ``Inference`` reads them from a network."""

    def __init__(self, rule: TileRule) -> None:
        super().__init__()
        self.margin, self.seamless, self._window = rule.margin, rule.abut, rule.window

    def input_size(self, size: int) -> int:
        """Return the side of the window of a tile."""
        return self._window or size


class _TiledGraph:
    """Segmentation model whose logits are those of a graph."""

    def __init__(self, run: Runner, rule: TileRule, num_classes: int) -> None:
        self.network, self.num_classes = _Windows(rule), num_classes
        self._run, self._rule = run, rule

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the logits of images (B, C, H, W) that are not larger than a tile."""
        height, width = image.shape[-2:]
        margin, window = self._rule.margin, self._rule.window
        if window is not None:
            image = mirror_pad(image, margin, window - margin - height, margin, window - margin - width)
        return self.logits_within(image, (height, width))

    def logits_within(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute the logits of tiles from their windows."""
        logits = self._run({"image": image.contiguous().numpy()})["logits"]
        return torch.from_numpy(logits)[..., : size[0], : size[1]]


def run_whole(run: Runner, inputs: Arrays) -> dict[str, np.ndarray]:
    """Compute the outputs of whole images.

    Args:
        run: exported graph.
        inputs: by name; ``image`` is uint8 (B, C, H, W).
    """
    rule = run.description.tiles
    if rule is None:
        return run(inputs)
    classes = next(spec.shape[1] for spec in run.description.outputs if spec.name == "logits")
    inference = Inference(tile=rule.tile, overlap=rule.overlap, flip=rule.flip)
    logits = inference(_TiledGraph(run, rule, int(classes)), torch.from_numpy(inputs["image"]))
    return {"mask": logits.max(1).indices.numpy(), "logits": logits.numpy()}
