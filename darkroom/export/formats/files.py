"""Write exported files: ONNX, torch.export and safetensors."""

import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision  # noqa: F401  # registers the operators of detection
from torch.export import ExportedProgram

from darkroom.errors import UsageError
from darkroom.export.description import EXTRA_FILE, KEY, Description
from darkroom.export.formats.trace import quiet
from darkroom.paths import install_command

Format = Literal["onnx", "torch_export", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
_LARGEST = 2**63 - 1


def require_onnx() -> None:
    """Raise a UsageError if a package for ONNX is missing; switch off the telemetry of ONNX Runtime.

    Official builds of ONNX Runtime send events to Microsoft, and store them and a device's id in the user's cache. The
    variable is read once, before the first import; a value that the user has set stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"format onnx needs the package {error.name}: {install_command('export')}, or use --format torch_export"
        ) from None


def write_onnx(program: ExportedProgram, description: Description, path: Path) -> None:
    """Write a traced graph as ONNX, with the description in its metadata."""
    require_onnx()
    with quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[spec.name for spec in description.inputs],
            output_names=[spec.name for spec in description.outputs],
            custom_translation_table=_translations(),
        )
        assert exported is not None
        exported.model.metadata_props[KEY] = description.to_json()
        exported.save(path)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return translations of operators to ONNX where onnxscript's fail."""
    return {operator.le: _at_most, torch.ops.torchvision.roi_pool.default: _roi_pool}


def _roi_pool(maps: Any, rois: Any, scale: float, height: int, width: int) -> tuple[Any, Any]:
    """Translate torchvision's RoI pooling; its second output, the positions of the maxima, is for training."""
    from onnxscript import opset18

    pooled = opset18.MaxRoiPool(maps, rois, pooled_shape=[height, width], spatial_scale=scale)
    return pooled, pooled


def _at_most(one: Any, other: Any) -> Any:
    """Translate a comparison of symbolic extents; bounds of tracing, without effect, may exceed 64 bits."""
    from onnxscript import opset18

    return opset18.LessOrEqual(one, min(other, _LARGEST) if isinstance(other, int) else other)


def write_program(program: ExportedProgram, description: Description, path: Path) -> None:
    """Write a traced graph as a file of torch.export, with the description as an extra file."""
    with quiet():
        torch.export.save(program, path, extra_files={EXTRA_FILE: description.to_json()})
