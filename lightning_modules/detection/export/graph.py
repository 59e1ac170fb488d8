"""Graph of detectors whose candidates are computed for a whole batch at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
import torchvision
from torch import Tensor, nn

from darkroom.lightning_modules.detection.export.select import extents, select, suppress
from darkroom.lightning_modules.detection.inference import Limits
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.protocols.export import BATCH, HEIGHT, WIDTH, ExportGraph, TensorSpec, image_spec

COUNT, PROPOSALS = "detections", "proposals"


class CandidateModel(Protocol):
    """Detector that scores a fixed number of candidates of every image."""

    limits: Limits

    def candidates(self, image: Tensor, /) -> tuple[Tensor, Tensor]:
        """Compute boxes (B, P, 4) or (B, P, K, 4), xyxy in pixels, and scores (B, P, K) of images (B, C, H, W)."""
        ...


class ProposalModel(Protocol):
    """Detector that scores the proposals of every image."""

    limits: Limits

    def candidates(self, image: Tensor, proposals: Tensor, /) -> tuple[Tensor, Tensor]:
        """Compute boxes (B, P, 4) or (B, P, K, 4) and scores (B, P, K) of proposals (B, P, 4), xyxy in pixels."""
        ...


class CandidateGraph(nn.Module):
    """Uint8 images (B, C, H, W) -> the values of ``Selected``.

    Args:
        model: its ``candidates`` are selected.
        normalization: of the data.
    """

    def __init__(self, model: CandidateModel, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        self.normalize, self.model = ImageNormalization(*normalization), model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.model.candidates(self.normalize(image))
        return tuple(select(boxes, scores, image.shape[-2:], self.model.limits))


class ProposalGraph(nn.Module):
    """Uint8 images (B, C, H, W) and proposals (B, P, 4) -> the values of ``Selected``.

    Args:
        model: its ``candidates`` are selected.
        normalization: of the data.
    """

    def __init__(self, model: ProposalModel, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        self.normalize, self.model = ImageNormalization(*normalization), model

    def forward(self, image: Tensor, proposals: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.model.candidates(self.normalize(image), proposals)
        return tuple(select(boxes, scores, image.shape[-2:], self.model.limits))


class NetworkGraph(nn.Module):
    """One uint8 image (1, C, H, W) -> ``Selected`` and the masks, for any network with torchvision's interface.

    Args:
        network: maps a list of images to a list of detections.
        normalization: of the data.
        masks: True if the network predicts masks.
    """

    def __init__(self, network: nn.Module, normalization: tuple[Sequence[float], Sequence[float]], masks: bool) -> None:
        super().__init__()
        self.normalize, self.network, self.masks = ImageNormalization(*normalization), network, masks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        with _traceable_suppression():
            (found,) = self.network([self.normalize(image)[0]])
        selected = (found["boxes"], found["scores"], found["labels"], torch.zeros_like(found["labels"]))
        return (*selected, found["masks"][:, 0] >= 0.5) if self.masks else selected


@contextmanager
def _traceable_suppression() -> Iterator[None]:
    """Replace torchvision's ``batched_nms``, whose algorithm depends on the number of boxes, by ``suppress``."""
    before = torchvision.ops.boxes.batched_nms
    torchvision.ops.boxes.batched_nms = suppress
    try:
        yield
    finally:
        torchvision.ops.boxes.batched_nms = before


def network_graph(
    network: nn.Module, limits: Limits, normalization: tuple[Sequence[float], Sequence[float]], masks: bool
) -> ExportGraph:
    """Return the graph of a network with torchvision's interface, for batches of one image."""
    graph = NetworkGraph(network, normalization, masks)
    found = detection_graph(graph, limits, len(normalization[0]), "as the network resizes images", masks=masks)
    image = replace(found.inputs[0], shape=(1, *found.inputs[0].shape[1:]))
    return replace(found, inputs=(image,), options={})


def detection_graph(
    module: nn.Module,
    limits: Limits,
    channels: int,
    resizing: str,
    proposals: bool = False,
    masks: bool = False,
) -> ExportGraph:
    """Return the graph of a detector with the names of its inputs and outputs.

    Args:
        module: maps the inputs to ``Selected``, and to masks if there are some.
        limits: that the module applies.
        channels: of the images.
        resizing: what the module does to the size of images.
        proposals: True if it takes proposals.
        masks: True if it returns masks.
    """
    inputs = [image_spec(channels)]
    if proposals:
        meaning = "regions of each image, xyxy in pixels; repeat one of them where an image has fewer"
        inputs.append(TensorSpec(PROPOSALS, "float32", (BATCH, PROPOSALS, 4), meaning))
    outputs = [
        TensorSpec("boxes", "float32", (COUNT, 4), "xyxy in pixels of the image"),
        TensorSpec("scores", "float32", (COUNT,), "in [0, 1], descending"),
        TensorSpec("labels", "int64", (COUNT,), "class, from 1: the name of label i is class_names[i - 1]"),
        TensorSpec("image_index", "int64", (COUNT,), "index in the batch of the image that the detection belongs to"),
    ]
    if masks:
        outputs.append(TensorSpec("masks", "bool", (COUNT, HEIGHT, WIDTH), "pixels of the object"))
    options = {
        "score_threshold": limits.score_threshold,
        "nms_threshold": limits.nms_threshold,
        "max_detections": limits.max_detections,
    }
    examples: Mapping[str, Callable[[Mapping[str, int]], Tensor]] = {PROPOSALS: _example_proposals}
    return ExportGraph(module, tuple(inputs), tuple(outputs), resizing, options, None, examples if proposals else {})


def _example_proposals(sizes: Mapping[str, int]) -> Tensor:
    """Return random boxes within an image."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(sizes[BATCH], sizes[PROPOSALS], 2, 2, generator=generator)
    low, high = corners.amin(2), corners.amax(2)
    return torch.cat([low, low + (high - low).clamp(min=0.1)], -1) * extents(sizes[HEIGHT], sizes[WIDTH])
