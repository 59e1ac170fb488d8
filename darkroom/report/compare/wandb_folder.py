"""Runs from the folders that W&B writes without a server, ``wandb/offline-run-<time>-<id>/``."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from darkroom.errors import DataError
from darkroom.report.run import Point, Run, is_run, read_run

_BLOCK, _HEADER = 0x8000, 7  # bytes; the file is a LevelDB log
_FULL, _LAST = 1, 4  # types of the part that completes a record


def is_wandb_folder(folder: Path) -> bool:
    """Return True for a folder of W&B that holds a run."""
    return any(folder.glob("run-*.wandb"))


def read_wandb_folder(folder: Path) -> Run:
    """Read a run from W&B's file; a folder within the folder of a run stands for that run.

    Raises:
        DataError: the file has no metrics, such as after a kill at its start.
    """
    if len(folder.absolute().parents) > 1 and is_run(folder.absolute().parents[1]):
        return read_run(folder.absolute().parents[1])
    path = next(folder.glob("run-*.wandb"))
    config: dict[str, Any] = {}
    metrics: dict[str, list[Point]] = {}
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        for update in {"config": [record.config], "run": [record.run.config]}.get(kind, []):
            for item in update.update:
                keys = list(item.nested_key) or [item.key]
                if not keys[0].startswith("_"):  # W&B's own, such as the time of the start
                    _set(config, keys, json.loads(item.value_json))
        if kind == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            _add_row(metrics, row)
    if not metrics:
        raise DataError(
            f"{path} has no metrics, because its process was killed early; give the folder of the run instead"
        )
    notes = ["The run is read from W&B's file, which has no results of single test samples."]
    return Run(folder, config, metrics, None, None, notes)


def _set(config: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a value at nested keys."""
    for key in keys[:-1]:
        inner = config.get(key)
        config[key] = inner if isinstance(inner, dict) else {}
        config = config[key]
    config[keys[-1]] = value


def _add_row(metrics: dict[str, list[Point]], row: dict[str, Any]) -> None:
    step = int(row.get("trainer/global_step", row.get("_step", 0)))
    epoch = int(row["epoch"]) if "epoch" in row else None
    for name, value in row.items():
        if isinstance(value, int | float) and not name.startswith("_") and name not in ("epoch", "trainer/global_step"):
            metrics.setdefault(name, []).append(Point(step, epoch, float(value)))


def _records(path: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B; the end of a file that is cut off is left out.

    Raises:
        DataError: the file is not W&B's, or damaged.
    """
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    if data[:4] != b":W&B":
        raise DataError(f"{path} must be a file of W&B, but does not start with its mark")
    position, record = _HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        if left < _HEADER or (kind, length) == (0, 0):  # the rest of a block is padding
            position += left
            continue
        record += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if position > len(data):
            return
        if kind in (_FULL, _LAST):
            message = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # generated without types
            try:
                message.ParseFromString(record)
            except Exception as error:  # a class of protobuf that differs between its implementations
                raise DataError(f"{path} is damaged at byte {position} ({error})") from error
            record = b""
            yield message
