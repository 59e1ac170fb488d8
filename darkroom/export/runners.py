"""Run exported files: ONNX by ONNX Runtime, .pt2 by torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from darkroom.errors import DataError
from darkroom.export.description import EXTRA_FILE, KEY, Description
from darkroom.export.formats.files import require_onnx
from darkroom.export.formats.trace import quiet

Arrays = Mapping[str, np.ndarray]


class Runner(Protocol):
    """Exported model in memory."""

    description: Description

    def __call__(self, inputs: Arrays, /) -> dict[str, np.ndarray]:
        """Compute the outputs by name from the inputs by name."""
        ...


class OnnxRunner:
    """Run an ONNX file on the CPU, or on CUDA where ONNX Runtime has it.

    Args:
        path: the file.

    Raises:
        DataError: the file is damaged or was not written by ``darkroom export``.
    """

    def __init__(self, path: Path) -> None:
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
        # Without TF32, whose products have a tenth of the digits.
        wanted: list[tuple[str, dict[str, str]]] = [
            ("CUDAExecutionProvider", {"use_tf32": "0"}),
            ("CPUExecutionProvider", {}),
        ]
        available = onnxruntime.get_available_providers()
        providers = [provider for provider in wanted if provider[0] in available]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise DataError(f"ckpt_path {path} is damaged, or no ONNX file ({_first_line(error)})") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = Description.from_json(metadata.get(KEY), path)

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute the outputs by name from the inputs by name."""
        names = [spec.name for spec in self.description.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


class ProgramRunner:
    """Run a file of torch.export, on the CPU.

    Args:
        path: the file.

    Raises:
        DataError: the file is damaged or was not written by ``darkroom export``.
    """

    def __init__(self, path: Path) -> None:
        import torchvision  # noqa: F401  # registers the operators of detection

        extra = {EXTRA_FILE: ""}
        try:
            with quiet():
                self._module = torch.export.load(path, extra_files=extra).module()
        except Exception as error:  # a file can be damaged in many ways
            raise DataError(
                f"ckpt_path {path} is damaged, or no file of torch.export ({_first_line(error)})"
            ) from error
        self.description = Description.from_json(extra[EXTRA_FILE], path)

    @torch.no_grad()
    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute the outputs by name from the inputs by name."""
        outputs = self._module(*(torch.from_numpy(inputs[spec.name]) for spec in self.description.inputs))
        names = [spec.name for spec in self.description.outputs]
        return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}


def open_runner(path: Path) -> Runner:
    """Open an exported file by its suffix, .onnx or .pt2."""
    return OnnxRunner(path) if path.suffix == ".onnx" else ProgramRunner(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
