"""Contract of every method that can be exported: its graph, run by torch, gives what ``predict`` gives."""

from typing import Any

import pytest
import torch

from darkroom.export.check import Reference, compare, require_agreement
from darkroom.export.description import Description
from darkroom.export.formats.trace import example_inputs
from darkroom.lightning_modules.base import Technique
from darkroom.protocols.export import BATCH, HEIGHT, WIDTH, ExportableModel, ExportGraph


class EagerRunner:
    """Graph of a method, run by torch without an exported file."""

    def __init__(self, graph: ExportGraph) -> None:
        self.graph = graph
        empty: dict[str, list[float]] = {}
        self.description = Description("", "", graph.inputs, graph.outputs, "", empty, tiles=graph.tiles)

    @torch.no_grad()
    def __call__(self, inputs: Any) -> dict[str, Any]:
        outputs = self.graph.module(*(torch.from_numpy(inputs[spec.name]) for spec in self.graph.inputs))
        return {spec.name: value.numpy() for spec, value in zip(self.graph.outputs, outputs, strict=True)}


def reference_of(model: Technique, channels: int = 3) -> Reference:
    """Return a method as ``predict`` runs it, with a normalization of its own."""
    normalization = [0.0] * channels, [1.0] * channels
    if isinstance(model, ExportableModel) and model.task != "detection":
        normalization = [0.4] * channels, [0.25] * channels
    assert isinstance(model, ExportableModel)
    return Reference(model.eval(), model.export_graph(normalization), model.task, normalization)


class ExportContract:
    """Part of the contracts of the families; ``build`` is theirs."""

    exported_sides = [(64, 64), (45, 37)]

    def build(self, **kwargs: Any) -> Any:
        raise NotImplementedError

    @pytest.mark.parametrize("batch", [1, 3])
    def test_export_graph_agrees_with_predict(self, batch: int) -> None:
        torch.manual_seed(0)
        reference = reference_of(self.build())
        graph = reference.graph
        for height, width in self.exported_sides:
            sizes = {BATCH: batch, HEIGHT: height, WIDTH: width, "proposals": 12}
            agreement = compare(reference, EagerRunner(graph), [example_inputs(graph, sizes)])
            require_agreement(agreement, "decisions", f"{height} x {width}")
