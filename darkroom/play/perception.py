"""Contents of the pages of classification, segmentation and detection."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from darkroom.callbacks.plotting.style import IGNORE, class_palette
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import UsageError
from darkroom.export.checkpoint import TrainedMethod, load_trained
from darkroom.export.write import write_method
from darkroom.lightning_modules.classification.image_classifier import ImageClassifier
from darkroom.lightning_modules.detection import ObjectDetection
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.lightning_modules.segmentation import DeconvNet, SemanticSegmentation
from darkroom.play.activation import with_activation_maps
from darkroom.play.examples import Example, as_data, read_examples
from darkroom.play.receptive import measure_fields
from darkroom.play.references import references_of

Graphs = dict[str, Path]
_CHECKED = 4  # images on which a graph is compared with predict
# Options of a detector for all its candidates: the page applies thresholds and suppression.
_LOWEST_SCORE, _CANDIDATES = 0.02, 4000
_SHOWN_SCORE = 0.3  # at which the page starts
_FIELD_IMAGES = 2  # of which receptive fields are the mean


def perception(trained: TrainedMethod, data: VisionDataModule, folder: Path) -> tuple[dict[str, Any], Graphs]:
    """Export a method for its page, and return the page's data.

    Args:
        trained: classifier, segmentation model or detector.
        data: of its run.
        folder: for the graphs.
    """
    examples = read_examples(data)
    names = list(trained.class_names) or [f"class {index}" for index in range(data.num_classes)]
    content: dict[str, Any] = {"classes": names, "image_shape": list(examples[0].image.shape)}
    if isinstance(trained.model, SemanticSegmentation):
        trained, more = _segmentation(trained, examples, len(names))
    elif isinstance(trained.model, ImageClassifier):
        trained, more = _classification(trained, examples)
    elif isinstance(trained.model, ObjectDetection):
        trained, more = _detection(trained, examples, len(names))
    else:
        raise UsageError(f"{type(trained.model).__name__} has no page; see docs/guides/playground.md")
    (written,) = write_method(trained, data, "onnx", folder / "model.onnx", _CHECKED)
    content |= {"examples": as_data(examples), "graphs": {"model": describe(written.description)}} | more
    return content, {"model": written.path}


def describe(description: Any) -> dict[str, Any]:
    """Return what the script must know of a graph."""
    specs = asdict(description)
    return {
        name: [{key: one[key] for key in ("name", "dtype", "shape")} for one in specs[name]]
        for name in ("inputs", "outputs")
    } | {"options": specs["options"]}


def _normalized(trained: TrainedMethod, examples: list[Example]) -> torch.Tensor:
    return ImageNormalization(*trained.normalization)(torch.stack([one.image for one in examples]))


def _classification(trained: TrainedMethod, examples: list[Example]) -> tuple[TrainedMethod, dict[str, Any]]:
    assert isinstance(trained.model, ImageClassifier)
    maps = with_activation_maps(trained.model, _normalized(trained, examples[:1]))
    return trained if maps is None else replace(trained, exportable=maps), {"kind": "classification"}


def _segmentation(trained: TrainedMethod, examples: list[Example], count: int) -> tuple[TrainedMethod, dict[str, Any]]:
    assert isinstance(trained.model, SemanticSegmentation)
    options = _whole_images(trained.model)
    if options:
        trained = load_trained(trained.path, options)
    assert isinstance(trained.model, SemanticSegmentation)
    fields = measure_fields(_Logits(trained.model), _normalized(trained, examples[:_FIELD_IMAGES]))
    shown = min(max(count, 2), IGNORE)
    palette = class_palette(shown)
    return trained, {
        "kind": "segmentation",
        "colours": palette[:shown].tolist(),
        "examples": as_data(examples, palette),
        "receptive": fields and fields.as_data(),
    }


def _whole_images(model: SemanticSegmentation) -> Mapping[str, Any]:
    """Return the options by which a graph takes whole images."""
    options: dict[str, Any] = {} if model.inference.tile is None else {"inference": {"tile": None}}
    return options | ({"proposals": 0} if isinstance(model, DeconvNet) and model.proposals else {})


def _detection(trained: TrainedMethod, examples: list[Example], count: int) -> tuple[TrainedMethod, dict[str, Any]]:
    assert isinstance(trained.model, ObjectDetection)
    limits = trained.model.limits
    # Masks of all candidates take long: those of low scores are left out.
    lowest = limits.score_threshold if trained.model.masks else min(limits.score_threshold, _LOWEST_SCORE)
    whole = {"tile": None, "score_threshold": lowest, "nms_threshold": 1.0, "max_detections": _CANDIDATES}
    trained = load_trained(trained.path, {"inference": whole})
    references = references_of(trained.model, _normalized(trained, examples[:1]))
    last = min(count + 1, IGNORE)
    return trained, {
        "kind": "detection",
        "colours": class_palette(last)[1:last].tolist(),  # the first one is that of the background
        "limits": {
            "score_threshold": limits.score_threshold,
            "nms_threshold": limits.nms_threshold,
            "max_detections": limits.max_detections,
        },
        "lowest_score": lowest,
        "shown_score": _SHOWN_SCORE,
        "anchors": references and references.as_data(),
    }


class _Logits(torch.nn.Module):
    def __init__(self, model: SemanticSegmentation) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model.infer({"image": image})
