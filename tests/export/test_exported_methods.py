"""Every perception method exports to both graph formats and agrees with predict, also on other sizes and batches."""

import os
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from torch.export import ExportedProgram

from darkroom.export.check import SAME_DECISIONS, SAME_ON_NOISE, Reference, as_arrays
from darkroom.export.formats.trace import Attempt, attempts, trace
from darkroom.export.runners import open_runner
from darkroom.export.samples import data_samples
from darkroom.export.write import WRITERS, check_graph, describe
from darkroom.protocols.export import HEIGHT, ExportGraph
from tests.export.methods import PERCEPTION, build_method
from tests.test_configs import config_of


def one_of_each_method() -> list[str]:
    """Return the first config of each class of methods, and of each network that a config names by its class."""
    first: dict[tuple[str, str], str] = {}
    for name in PERCEPTION:
        model = config_of(name)["model"]
        network = (model["init_args"].get("network") or {}).get("class_path", "")
        first.setdefault((model["class_path"], network), name)
    return list(first.values())


def trace_most_general(graph: ExportGraph, height: int, width: int, any_size: bool) -> tuple[ExportedProgram, Attempt]:
    """Return the graph with the most axes of any extent, as ``write_graph`` finds it.

    Without ``any_size`` only the batch is free: torch solves the sides of many networks for minutes.
    """
    failures: list[str] = []
    for attempt in attempts(graph, height, width):
        if not any_size and HEIGHT in attempt.steps:
            continue
        try:
            return trace(graph, attempt), attempt
        except Exception as error:
            failures.append(str(error))
    raise AssertionError(failures)


# torchvision's own detectors read the number of regions in Python, which tracing does not know.
OF_OTHERS = pytest.mark.xfail(reason="torchvision's pooling of regions cannot be traced", strict=False)


# The files of the others take minutes: DARKROOM_EXPORT=all pytest tests/export/test_exported_methods.py
CHOSEN = (
    "classification/kinds_vgg11.yaml",
    "segmentation/unet.yaml",
    "detection/yolo.yaml",
    "detection/fast_rcnn.yaml",
)


def marked(name: str) -> ParameterSet:
    """Return the name of a config as a parameter."""
    marks = [OF_OTHERS] if name.startswith("detection/torchvision_") else []
    if name not in CHOSEN and os.environ.get("DARKROOM_EXPORT") != "all":
        marks.append(pytest.mark.skip(reason="takes minutes: DARKROOM_EXPORT=all"))
    return pytest.param(name, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("name", map(marked, sorted({*one_of_each_method(), *CHOSEN})))
def test_exported_method_agrees_with_predict(name: str, tmp_path: Path) -> None:
    """Trace once, write both files, and compare each on data, on 7 images, on 1 x 1 and on 37 x 101 pixels."""
    trained, data = build_method(name, tmp_path)
    detects = name.startswith("detection/")
    graph = trained.exportable.export_graph(trained.normalization)
    reference = Reference(trained.model, graph, trained.exportable.task, trained.normalization)
    samples = data_samples(graph, data, 2)
    height, width = samples[0][0].shape[-2:]
    program, attempt = trace_most_general(graph, height, width, any_size=name.startswith("classification/"))
    for kind, path in (("torch_export", tmp_path / "model.pt2"), ("onnx", tmp_path / "model.onnx")):
        description = describe(trained, reference).with_fixed_axes(attempt.fixed)
        WRITERS[kind](program, description, path)
        run = open_runner(path)
        assert run.description.to_json() == description.to_json()
        # Random weights have many nearly equal scores.
        check_graph(reference, run, attempt, samples, least=SAME_ON_NOISE if detects else SAME_DECISIONS)
        inputs = as_arrays(graph, samples[0])
        one, other = run(inputs), run(inputs)
        assert all(np.array_equal(one[key], other[key]) for key in one)
