"""Description: the JSON beside and inside every exported file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from darkroom.errors import DataError
from darkroom.protocols.export import TensorSpec, TileRule

KEY = "darkroom"  # of the description in the metadata of an ONNX or safetensors file
EXTRA_FILE = "darkroom.json"  # in a file of torch.export

Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class Description:
    """Contents of an exported file.

    Args:
        method: class name of the method.
        task: determines what the outputs mean and which files ``darkroom predict`` writes; generation for parts.
        inputs, outputs: in the order of the graph.
        resizing: what the graph does to the size of images.
        normalization: ``mean`` and ``std`` per channel of images in [0, 1], applied inside the graph.
        class_names: in the order of the ids; for detection label i is ``class_names[i - 1]``.
        options: thresholds and other constants of the graph.
        tiles: division of large images, done by the caller of the graph; None: whole images.
        precision: of weights and activations.
        checkpoint: name of the file that was exported.
        step: optimizer steps of the training.
        version: of Darkroom.
        part: name of the graph, such as encoder, of a method that is exported as several; "": the graph is the method.
    """

    method: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    resizing: str
    normalization: Mapping[str, list[float]]
    class_names: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    tiles: TileRule | None = None
    precision: Precision = "float32"
    checkpoint: str = ""
    step: int = 0
    version: str = ""
    part: str = ""

    def to_json(self) -> str:
        """Return the description as JSON text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, path: Path) -> "Description":
        """Read a description.

        Args:
            text: JSON; None: the file has none.
            path: file that has it, for messages.

        Raises:
            DataError: the file was not written by ``darkroom export``.
        """
        try:
            values = json.loads(text or "")
            ports = {
                name: tuple(TensorSpec(**{**one, "shape": tuple(one["shape"])}) for one in values[name])
                for name in ("inputs", "outputs")
            }
            tiles = values["tiles"] and TileRule(**values["tiles"])
            return cls(**{**values, **ports, "tiles": tiles, "class_names": tuple(values["class_names"])})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"ckpt_path {path} must be a file of `darkroom export`; it has no description of a model "
                f"({type(error).__name__}); export the checkpoint again"
            ) from error

    def with_fixed_axes(self, sizes: Mapping[str, int]) -> "Description":
        """Return the description of the same graph for these extents of named axes only."""
        inputs, outputs = (tuple(fix_axes(one, sizes) for one in ports) for ports in (self.inputs, self.outputs))
        return replace(self, inputs=inputs, outputs=outputs)

    def axes(self) -> set[str]:
        """Return the names of the axes of any extent."""
        return {axis for one in self.inputs for axis in one.shape if isinstance(axis, str)}


def fix_axes(spec: TensorSpec, sizes: Mapping[str, int]) -> TensorSpec:
    """Return an input or output with numbers instead of the names of axes that have a size."""
    return replace(spec, shape=tuple(sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape))


def format_spec(spec: TensorSpec) -> str:
    """Return an input or output as text, such as ``image uint8 (batch, 3, height, width)``."""
    return f"{spec.name} {spec.dtype} ({', '.join(map(str, spec.shape))})"
