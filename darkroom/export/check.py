"""Compare an exported graph with ``predict`` and measure the time of both."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.errors import DataError, UserError
from darkroom.export.outputs import TASKS, Agreement
from darkroom.export.runners import Runner
from darkroom.export.tiles import run_whole
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.layers.image_normalization import ImageNormalization
from darkroom.lightning_modules.segmentation import SemanticSegmentation
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph

TOLERANCE = 1e-4  # of the largest difference, see ``Agreement``
SAME_DECISIONS = 0.999
SAME_ON_NOISE = 0.9  # of random images, on which many scores are nearly equal
_TIMED_SECONDS = 2.0


@dataclass(frozen=True)
class Reference:
    """Trained method, as ``darkroom predict`` runs it.

    Args:
        model: in evaluation mode.
        graph: of the model.
        task: of the model.
        normalization: of its images.
    """

    model: Technique
    graph: ExportGraph
    task: str
    normalization: Statistics

    @torch.no_grad()
    def predict(self, inputs: Sequence[Tensor]) -> Any:
        """Return the result of ``predict_step``, or of the graph's own reference, for the inputs of the graph."""
        if self.graph.reference is not None:
            return self.graph.reference(*inputs)
        values = dict(zip([spec.name for spec in self.graph.inputs], inputs, strict=True))
        image = ImageNormalization(*self.normalization)(values.pop("image"))
        detection = self.task == "detection"
        batch = {"image": list(image) if detection else image, **{name: list(value) for name, value in values.items()}}
        return self.model.predict_step(batch, 0)

    @torch.no_grad()
    def outputs(self, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
        """Return the named outputs of ``predict``, and those of the graph that ``predict`` does not return."""
        if self.graph.reference is not None:
            names = [spec.name for spec in self.graph.outputs]
            return {name: value.numpy() for name, value in zip(names, self.predict(inputs), strict=True)}
        named = TASKS[self.task].name_outputs(self.predict(inputs))
        missing = [spec.name for spec in self.graph.outputs if spec.name not in named]
        if isinstance(self.model, SemanticSegmentation) and self.graph.tiles is not None:  # a graph of one tile
            image = ImageNormalization(*self.normalization)(inputs[0])
            return named | {"logits": self.model.infer({"image": image}).numpy()}
        computed = self.graph.module(*inputs) if missing else ()
        names = [spec.name for spec in self.graph.outputs] if missing else []
        return {name: value.numpy() for name, value in zip(names, computed, strict=True)} | named


def as_arrays(graph: ExportGraph, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Return the inputs of a graph by name."""
    return {spec.name: value.numpy() for spec, value in zip(graph.inputs, inputs, strict=True)}


def compare(reference: Reference, run: Runner, samples: Sequence[Sequence[Tensor]]) -> Agreement:
    """Compare an exported graph with ``predict`` on samples: inputs of the graph, each with a batch axis."""
    total = Agreement()
    for inputs in samples:
        exported, expected = run_whole(run, as_arrays(reference.graph, inputs)), reference.outputs(inputs)
        height, width = inputs[0].shape[-2:]
        total += TASKS[reference.task].compare(exported, expected, (height, width))
    return total


def require_agreement(
    agreement: Agreement, decisions: str, where: str, continuous: bool = True, same: float = SAME_DECISIONS
) -> None:
    """Raise a DataError if a graph does not agree with ``predict``.

    Args:
        agreement: of both.
        decisions: their name in the plural.
        where: inputs, for the message.
        continuous: False: only the decisions must agree, see ``ExportGraph``.
        same: smallest fraction of decisions that must be the same.
    """
    if (agreement.largest <= TOLERANCE or not continuous) and agreement.fraction >= same:
        return
    raise DataError(
        f"the exported graph must agree with predict, but differs on {where}: largest difference {agreement.largest:.1e} "
        f"(at most {TOLERANCE:.0e}), {agreement.fraction:.2%} of {agreement.decisions} {decisions} the same (at least "
        f"{same:.1%}); no file is written"
    )


def is_valid(reference: Reference, inputs: Sequence[Tensor]) -> bool:
    """Return True if ``predict`` accepts these inputs, such as very small images."""
    try:
        reference.predict(inputs)
    except (UserError, RuntimeError, ValueError):
        return False
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(run: Callable[[], Any], images: int) -> float:
    """Measure the time per image of a function, the median of calls within two seconds, in milliseconds."""
    run()
    times: list[float] = []
    while not times or (sum(times) < _TIMED_SECONDS and len(times) < 20):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * median(times) / images


@dataclass(frozen=True)
class Check:
    """Outcome of the comparison of an exported file with ``predict``.

    Args:
        agreement: on all samples.
        samples: number of images, and where they come from.
        torch_ms, exported_ms: per image, on one core.
    """

    agreement: Agreement
    samples: str
    torch_ms: float = float("nan")
    exported_ms: float = float("nan")

    def timed(self, reference: Reference, run: Runner, inputs: Sequence[Tensor]) -> "Check":
        """Measure the times of both on one batch."""
        arrays, images = as_arrays(reference.graph, inputs), len(inputs[0])
        with one_thread():
            ours = milliseconds(lambda: reference.predict(inputs), images)
            exported = milliseconds(lambda: run_whole(run, arrays), images)
        return replace(self, torch_ms=ours, exported_ms=exported)
