"""Playground of a run: ``play/index.html`` in its folder, a page that runs the model."""

import tempfile
from pathlib import Path

from darkroom.datamodules.base import VisionDataModule
from darkroom.export.checkpoint import TrainedMethod
from darkroom.lightning_modules.generation.base import Generative
from darkroom.play.generation import generation
from darkroom.play.page import Content, write_page
from darkroom.play.perception import perception
from darkroom.play.runtime import Runtime
from darkroom.report.run import Run

FOLDER = "play"  # in the run folder


def write_playground(run: Run, trained: TrainedMethod, data: VisionDataModule, runtime: Runtime) -> Path:
    """Write the page of a run; return its path.

    Args:
        run: whose folder gets the page.
        trained: its checkpoint.
        data: of the run, for examples and for the comparison of the graphs with ``predict``.
        runtime: files of onnxruntime-web.

    Raises:
        UsageError: the method has no page, or cannot be exported.
        DataError: a graph disagrees with ``predict``, or the data cannot be read.
    """
    path = run.folder / FOLDER / "index.html"
    with tempfile.TemporaryDirectory() as folder:
        build = generation if isinstance(trained.model, Generative) else perception
        content, graphs = build(trained, data, Path(folder))
        method = type(trained.model).__name__
        parameters = sum(one.numel() for network in trained.model.networks() for one in network.parameters())
        facts: list[tuple[str, object]] = [
            ("Checkpoint", trained.path.name),
            ("Step", f"{trained.step:,}"),
            ("Parameters", f"{parameters:,}"),
        ]
        page = Content(" on ".join(filter(None, [method, run.data])), run.name, facts, content, graphs)
        write_page(path, page, runtime)
    return path
