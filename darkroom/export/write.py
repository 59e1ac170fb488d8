"""Write a trained method as a file that has been compared with ``predict``."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.export import ExportedProgram

from darkroom import __version__
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import DataError, UsageError, UserError
from darkroom.export.check import SAME_DECISIONS, SAME_ON_NOISE, Check, Reference, compare, is_valid, require_agreement
from darkroom.export.checkpoint import TrainedMethod
from darkroom.export.description import Description, Precision
from darkroom.export.formats.files import SUFFIXES, Format, write_onnx, write_program
from darkroom.export.formats.precision import write_dynamic, write_half, write_static
from darkroom.export.formats.trace import Attempt, attempts, example_inputs, trace
from darkroom.export.metrics import headline_metric
from darkroom.export.outputs import TASKS, Agreement
from darkroom.export.runners import Runner, open_runner
from darkroom.export.samples import data_samples, random_side
from darkroom.protocols.export import BATCH, HEIGHT, WIDTH, ExportableModel, ExportGraph

Samples = list[tuple[Tensor, ...]]

WRITERS: dict[Format, Callable[[ExportedProgram, Description, Path], None]] = {
    "onnx": write_onnx,
    "torch_export": write_program,
}
# Batches and sides that a graph for any size is compared on, beside the samples.
_SIZES = ((1, 1, 1), (3, 37, 101))
_LONGEST = 200  # characters of an error of a library


@dataclass(frozen=True)
class Written:
    """Exported file.

    Args:
        path: the file; its description is beside it.
        description: of the graph.
        check: comparison with ``predict``.
        notes: sentences on limits of the file.
    """

    path: Path
    description: Description
    check: Check
    notes: tuple[str, ...] = ()


def describe(trained: TrainedMethod, reference: Reference, part: str = "") -> Description:
    """Return the description of the graph of a method, or of one part of it."""
    graph, (mean, std) = reference.graph, trained.normalization
    return Description(
        method=type(trained.model).__name__,
        task=reference.task,
        inputs=graph.inputs,
        outputs=graph.outputs,
        resizing=graph.resizing,
        normalization={"mean": list(mean), "std": list(std)},
        class_names=tuple(trained.class_names),
        options=dict(graph.options),
        tiles=graph.tiles,
        checkpoint=trained.path.name,
        step=trained.step,
        version=__version__,
        part=part,
    )


def write_method(
    trained: TrainedMethod, data: VisionDataModule | None, kind: Format, path: Path, samples: int = 16
) -> list[Written]:
    """Write the graph of a method, or each of its parts as ``<stem>.<part>.<suffix>``; arguments as of ``write_graph``."""
    if isinstance(trained.exportable, ExportableModel):
        return [write_graph(trained, data, kind, path, samples)]
    graphs = trained.exportable.export_graphs(trained.normalization)
    with tempfile.TemporaryDirectory() as folder:  # all parts, or none
        written = [
            _write(trained, graph, data, kind, Path(folder, f"{path.stem}.{part}{path.suffix}"), samples, part)
            for part, graph in graphs.items()
        ]
        for one in written:
            move_into_place(one.path, one.description, path.parent / one.path.name)
    return [replace(one, path=path.parent / one.path.name) for one in written]


def write_graph(
    trained: TrainedMethod, data: VisionDataModule | None, kind: Format, path: Path, samples: int = 16
) -> Written:
    """Trace, write and check a method; a file that disagrees with ``predict`` is not written.

    Args:
        trained: method of a checkpoint.
        data: whose validation images are compared; None: random images.
        kind: onnx or torch_export.
        path: of the file.
        samples: number of images that are compared.

    Raises:
        DataError: the graph disagrees with ``predict``, or the data cannot be read.
        UsageError: the method cannot be exported.
    """
    assert isinstance(trained.exportable, ExportableModel), "see write_method"
    return _write(trained, trained.exportable.export_graph(trained.normalization), data, kind, path, samples)


def _write(
    trained: TrainedMethod,
    graph: ExportGraph,
    data: VisionDataModule | None,
    kind: Format,
    path: Path,
    samples: int,
    part: str = "",
) -> Written:
    task = trained.exportable.task if isinstance(trained.exportable, ExportableModel) else "generation"
    reference = Reference(trained.model, graph, task, trained.normalization)
    images, source, notes = _samples(reference, data, samples)
    height, width = images[0][0].shape[-2:] if images else random_side(graph)
    reasons: list[str] = []
    for attempt in attempts(graph, height, width):
        some = images or [example_inputs(graph, {**attempt.sizes, BATCH: 1, HEIGHT: height, WIDTH: width})]
        with tempfile.TemporaryDirectory() as folder:
            unchecked = Path(folder, f"model{SUFFIXES[kind]}")
            description = describe(trained, reference, part).with_fixed_axes(attempt.fixed)
            try:
                WRITERS[kind](trace(graph, attempt), description, unchecked)
                run = open_runner(unchecked)
                check = Check(check_graph(reference, run, attempt, some), source).timed(reference, run, some[0])
            except Exception as error:  # of networks, torch.export and the exporter to ONNX: many classes
                reasons.append(_shorten(error))
                continue
            move_into_place(unchecked, description, path)
        return Written(path, description, check, (*graph.notes, *notes, *_limits(attempt, reasons)))
    raise DataError(
        f"{type(trained.model).__name__} cannot be exported as {kind}: {' | '.join(dict.fromkeys(reasons))}"
    )


def _samples(reference: Reference, data: VisionDataModule | None, count: int) -> tuple[Samples, str, tuple[str, ...]]:
    """Return samples of the data, where they come from, and notes; without data, no samples."""
    if reference.graph.inputs[0].name != "image":
        return [], "random inputs", ()
    if data is None:
        return [], "random images", ("no data: the checkpoint has no config beside it, and --config is not set",)
    try:
        images = data_samples(reference.graph, data, count)
    except UserError as error:
        return [], "random images", (f"no data: {error}",)
    return images, f"{len(images)} validation images", ()


def check_graph(
    reference: Reference, run: Runner, attempt: Attempt, samples: Samples, least: float = SAME_DECISIONS
) -> Agreement:
    """Compare on samples, on a larger batch and, for a graph of any size, on other sizes.

    Args:
        reference: method that the graph computes.
        run: runs the exported file.
        attempt: axes of the graph.
        samples: inputs of the graph.
        least: fraction of the decisions on the samples that must be the same.

    Raises:
        DataError: the graph disagrees with ``predict``.
    """
    decisions = TASKS[reference.task].decisions
    agreement = compare(reference, run, samples)
    require_agreement(agreement, decisions, "the samples", reference.graph.continuous, least)
    height, width = samples[0][0].shape[-2:]
    if BATCH in attempt.steps:
        _check_size(reference, run, attempt, (7, height, width))
    for batch, height, width in _SIZES if attempt.steps.get(HEIGHT) == 1 else ():
        _check_size(reference, run, attempt, (batch, height, width))
    return agreement


def _check_size(reference: Reference, run: Runner, attempt: Attempt, size: tuple[int, int, int]) -> None:
    batch, height, width = size
    random = example_inputs(reference.graph, {**attempt.sizes, BATCH: batch, HEIGHT: height, WIDTH: width})
    if not is_valid(reference, random):
        return
    decisions = TASKS[reference.task].decisions
    where = f"a batch of {batch}" + (f" images of {height} x {width} pixels" if HEIGHT in attempt.sizes else "")
    require_agreement(compare(reference, run, [random]), decisions, where, reference.graph.continuous, SAME_ON_NOISE)


def _shorten(error: Exception) -> str:
    """Return the beginning of an error in one line."""
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _limits(attempt: Attempt, reasons: Sequence[str]) -> list[str]:
    """Return a sentence on the axes that are not free, with the reason."""
    limits = [f"{name} is {size}" for name, size in attempt.fixed.items()]
    limits += [f"{name} must be a multiple of {step}" for name, step in attempt.steps.items() if step > 1]
    return [f"{', '.join(limits)}, since a more general graph failed ({reasons[-1]})"] if limits and reasons else []


def move_into_place(part: Path, description: Description, path: Path) -> None:
    """Move a checked file to its place, with its description beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json")
    new = path.with_name(f"{path.name}.part")
    shutil.move(part, new)
    beside.write_text(description.to_json() + "\n", encoding="utf-8")
    new.replace(path)


def write_reduced(
    trained: TrainedMethod, data: VisionDataModule | None, precision: Precision, path: Path, samples: int = 16
) -> Written:
    """Write a method as ONNX in lower precision, after the graph in float32 has been compared with ``predict``.

    Of int8's static and dynamic quantization the file has the one with the better metric. Its own differences from
    ``predict`` are in the result, and may be of any size.

    Args:
        trained: method of a checkpoint.
        data: whose validation set gives the metric; also its images calibrate int8.
        precision: float16 or int8.
        path: of the file.
        samples: number of images that are compared, and that calibrate.

    Raises:
        UsageError: data are missing, or the method has several graphs.
    """
    if not isinstance(trained.exportable, ExportableModel):
        raise UsageError(
            f"half and int8 must be left out for {type(trained.model).__name__}, whose encoder, decoder or denoiser has no "
            "metric to compare by itself"
        )
    if data is None:
        raise UsageError(
            "half and int8 compare the metric on the validation set; set --config, or export a checkpoint in "
            "the folder of its run"
        )
    with tempfile.TemporaryDirectory() as folder:
        full = write_graph(trained, data, "onnx", Path(folder, "full.onnx"), samples)
        graph = trained.exportable.export_graph(trained.normalization)
        description = replace(full.description, precision=precision)
        tried: dict[str, Path] = {}
        images = data_samples(graph, data, samples)
        if precision == "float16":
            tried["float16"] = Path(folder, "half.onnx")
            write_half(full.path, description, tried["float16"])
        else:
            tried = {kind: Path(folder, f"{kind}.onnx") for kind in ("int8, static", "int8, dynamic")}
            write_static(full.path, description, tried["int8, static"], graph, images)
            write_dynamic(full.path, description, tried["int8, dynamic"])
        name, before = headline_metric(open_runner(full.path), graph, data)
        after = {kind: headline_metric(open_runner(file), graph, data)[1] for kind, file in tried.items()}
        best = max(after, key=lambda kind: after[kind])
        reference = Reference(trained.model, graph, trained.exportable.task, trained.normalization)
        run = open_runner(tried[best])
        check = replace(full.check, agreement=compare(reference, run, images)).timed(reference, run, images[0])
        lines = (
            f"val/{name}: float32 {before:.4f}, " + ", ".join(f"{kind} {value:.4f}" for kind, value in after.items()),
        )
        move_into_place(tried[best], description, path)
    return Written(path, description, check, (*full.notes, *lines, f"the file has {best}"))


def require_other_options(kind: Format, half: bool, int8: bool) -> None:
    """Raise a UsageError if options of the precision exclude each other."""
    if half and int8:
        raise UsageError("half and int8 must not be set together; choose one precision")
    if kind != "onnx" and (half or int8):
        raise UsageError(f"half and int8 must be used with --format onnx, got {kind}; leave them out")
