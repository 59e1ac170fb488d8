"""Trace a graph with axes of any extent, or of fewer where the method has its own sizes."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from darkroom.protocols.export import BATCH, HEIGHT, WIDTH, ExportGraph, TensorSpec

_DTYPES = {"uint8": torch.uint8, "int64": torch.int64, "float32": torch.float32, "bool": torch.bool}
_STRIDE = 32  # of networks that take only sides which five halvings divide


@dataclass(frozen=True)
class Attempt:
    """Choice of the axes of any extent.

    Args:
        sizes: extents of the named axes while tracing.
        steps: axes of any extent that is a multiple of this number; the others are constant.
    """

    sizes: Mapping[str, int]
    steps: Mapping[str, int]

    @property
    def fixed(self) -> dict[str, int]:
        """Extents of the constant axes."""
        return {name: size for name, size in self.sizes.items() if name not in self.steps}


def attempts(graph: ExportGraph, height: int, width: int) -> Iterator[Attempt]:
    """Yield choices of axes, the most general first.

    Args:
        graph: to be traced.
        height, width: of the images of the data, for constant axes.
    """
    names = {axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)}
    others = dict.fromkeys(names - {HEIGHT, WIDTH}, 1)
    traced = {name: 3 + index for index, name in enumerate(sorted(others))}
    if HEIGHT in names:
        # Odd and different sides: conditions on sizes that hold for them hold in general, or raise an error.
        odd = {HEIGHT: (height | 1) + 4, WIDTH: (width | 1) + 10}
        yield Attempt(traced | odd, others | {HEIGHT: 1, WIDTH: 1})
        blocks = [-(-side // _STRIDE) + more for side, more in ((height, 0), (width, 1))]
        even = {HEIGHT: _STRIDE * max(2, blocks[0]), WIDTH: _STRIDE * max(3, blocks[1])}
        yield Attempt(traced | even, others | {HEIGHT: _STRIDE, WIDTH: _STRIDE})
    sides = {HEIGHT: height, WIDTH: width} if HEIGHT in names else {}
    yield Attempt(traced | sides, others)
    if BATCH in names:
        yield Attempt(traced | sides | {BATCH: 1}, {name: 1 for name in others if name != BATCH})


def example_inputs(graph: ExportGraph, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs of a graph, with these extents of the named axes."""
    generator = torch.Generator().manual_seed(seed)

    def example(spec: TensorSpec) -> Tensor:
        if spec.name in graph.examples:
            return graph.examples[spec.name](sizes)
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if spec.dtype == "float32":
            return torch.randn(shape, generator=generator)
        return torch.randint(0, 256, shape, generator=generator, dtype=_DTYPES[spec.dtype])

    return tuple(map(example, graph.inputs))


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings and log messages of torch on its own code."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@torch.no_grad()
def trace(graph: ExportGraph, attempt: Attempt) -> ExportedProgram:
    """Trace a graph by torch.export."""
    dims = {  # an extent of 0 would leave open whether a map is empty
        name: _STRIDE * Dim(f"{name}_{step}", min=1) if step > 1 else Dim.DYNAMIC(min=1)
        for name, step in attempt.steps.items()
    }
    shapes = tuple(
        {place: dims[axis] for place, axis in enumerate(spec.shape) if isinstance(axis, str) and axis in dims}
        for spec in graph.inputs
    )
    shapes = tuple(signature(graph.module.forward).bind(*shapes).arguments.values())  # *inputs have one tuple
    # A batch or a side of 1 must not be a special case.
    patched = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]  # set on import
    with quiet(), patched:
        program = torch.export.export(graph.module, example_inputs(graph, attempt.sizes), dynamic_shapes=shapes)
    _remove_assertions(program)
    return program


def _remove_assertions(program: ExportedProgram) -> None:
    """Remove run-time assertions on numbers of candidates: tracing assumes at least 2, but 0 and 1 are valid too."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
