"""Every perception config exports to both graph formats and agrees with predict, also on odd sizes and other batches."""

from pathlib import Path

import numpy as np
import pytest
from torch.export import ExportedProgram

from darkroom.export.check import Reference, as_arrays
from darkroom.export.formats.trace import Attempt, attempts, trace
from darkroom.export.runners import open_runner
from darkroom.export.samples import data_samples
from darkroom.export.write import WRITERS, check_graph, describe
from darkroom.protocols.export import ExportGraph
from tests.export.methods import PERCEPTION, build_method


def trace_most_general(graph: ExportGraph, height: int, width: int) -> tuple[ExportedProgram, Attempt]:
    """Return the graph with the most axes of any extent, as ``write_graph`` finds it."""
    failures: list[str] = []
    for attempt in attempts(graph, height, width):
        try:
            return trace(graph, attempt), attempt
        except Exception as error:
            failures.append(str(error))
    raise AssertionError(failures)


@pytest.mark.slow
@pytest.mark.parametrize("name", PERCEPTION)
def test_exported_method_agrees_with_predict(name: str, tmp_path: Path) -> None:
    """Trace once, write both files, and compare each on data, on 7 images, on 1 x 1 and on 37 x 101 pixels."""
    trained, data = build_method(name, tmp_path)
    graph = trained.exportable.export_graph(trained.normalization)
    reference = Reference(trained.model, graph, trained.exportable.task, trained.normalization)
    samples = data_samples(graph, data, 2)
    height, width = samples[0][0].shape[-2:]
    program, attempt = trace_most_general(graph, height, width)
    for kind, path in (("torch_export", tmp_path / "model.pt2"), ("onnx", tmp_path / "model.onnx")):
        description = describe(trained, reference).with_fixed_axes(attempt.fixed)
        WRITERS[kind](program, description, path)
        run = open_runner(path)
        assert run.description.to_json() == description.to_json()
        check_graph(reference, run, attempt, samples)
        inputs = as_arrays(graph, samples[0])
        one, other = run(inputs), run(inputs)
        assert all(np.array_equal(one[key], other[key]) for key in one)
