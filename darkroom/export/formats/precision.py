"""Lower precision of an ONNX file: float16, or int8 by static or dynamic quantization."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from darkroom.export.check import as_arrays
from darkroom.export.description import KEY, Description
from darkroom.protocols.export import ExportGraph

# Layers whose weights are quantized; all others, and all of the decoding, stay in float32.
_LAYERS = ["Conv", "MatMul", "Gemm"]


def write_half(source: Path, description: Description, path: Path) -> None:
    """Convert a file to float16; inputs and outputs keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    _save(model, description, path)


def write_static(
    source: Path, description: Description, path: Path, graph: ExportGraph, samples: Sequence[Sequence[Tensor]]
) -> None:
    """Quantize weights and activations of convolutions and linear layers, with ranges of activations from samples."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Samples one by one."""

        def __init__(self) -> None:
            self._left = iter([as_arrays(graph, inputs) for inputs in samples])

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next sample; None at the end."""
            return next(self._left, None)

    _quantize(
        source,
        description,
        path,
        lambda prepared, to: quantize_static(
            prepared,
            to,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_LAYERS,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        ),
    )


def write_dynamic(source: Path, description: Description, path: Path) -> None:
    """Quantize the weights of convolutions and linear layers; ranges of activations are computed for every input."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _quantize(
        source,
        description,
        path,
        lambda prepared, to: quantize_dynamic(
            prepared, to, op_types_to_quantize=_LAYERS, per_channel=True, weight_type=QuantType.QUInt8
        ),
    )


def _quantize(source: Path, description: Description, path: Path, quantize: Callable[[Path, Path], None]) -> None:
    """Prepare a file, quantize it, and write the description into the result."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, raw = path.with_name("prepared.onnx"), path.with_name("quantized.onnx")
    with _quiet():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize(prepared, raw)
    _save(onnx.load(raw), description, path)


def _save(model: Any, description: Description, path: Path) -> None:
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: description.to_json()})
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of the converters, which advise options of their own."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            root.setLevel(logging.ERROR)
            yield
        finally:
            root.setLevel(level)
