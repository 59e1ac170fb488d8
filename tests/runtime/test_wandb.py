"""W&B without login: runs offline without prompt and saves everything to its file."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONFIGS


def records(path: Path) -> Iterator[Any]:
    """Read an offline run: a LevelDB log of blocks of 32 KiB, each record a protocol buffer."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process may still be writing
    data, position, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 0x8000 - position % 0x8000
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if (length, kind) == (0, 0):
            position += left
            continue
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read(path: Path) -> tuple[dict, dict, dict, set]:
    """Return config, history (last value of each key), summary and run ids."""
    config, history, summary, ids = {}, {}, {}, set()

    def take(into: dict, items: Any) -> None:
        into.update({".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})

    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            ids.add(record.run.run_id)
            take(config, record.run.config.update)
        elif kind == "config":
            take(config, record.config.update)
        elif kind == "history":
            take(history, record.history.item)
        elif kind == "summary":
            take(summary, record.summary.update)
    return config, history, summary, ids


@pytest.mark.slow
def test_offline_run_contains_config_metrics_and_media(darkroom: Callable, tiny: list[str]) -> None:
    labels = [
        "--trainer.logger.group",
        "ablation",
        "--trainer.logger.job_type",
        "fit",
        "--trainer.logger.tags",
        "[a, b]",
        "--trainer.logger.log_model",
        "true",
    ]
    outcome = darkroom("fit", *tiny, "--config", CONFIGS / "logger/wandb.yaml", *labels)
    assert outcome.code == 0
    (folder,) = Path("runs/tiny/0/wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    config, history, summary, ids = read(file)
    assert config["model"]["init_args"]["base_channels"] == 4
    assert config["model"]["init_args"]["num_classes"] == 6  # resolved: what was linked is there
    assert {"num_classes", "base_channels"}.isdisjoint(config)  # once, in "model"
    assert config["data"]["class_path"].endswith("ShapesSegmentation")
    assert {"train/loss", "val/mIoU", "val/IoU/star", "trainer/global_step"} <= history.keys()
    assert summary["checkpoint/best"].endswith("checkpoints/best.ckpt")
    assert Path(summary["checkpoint/last"]).is_file()

    found = list(records(file))
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.job_type, sorted(run.tags)) == ("ablation", "fit", ["a", "b"])
    (goal,) = [record.metric for record in found if record.metric.name == "val/mIoU"]
    assert (goal.summary.max, goal.summary.min, goal.summary.last) == (True, False, True)

    requests = [record.request for record in found if record.WhichOneof("record_type") == "request"]
    logged = [request.log_artifact.artifact for request in requests if request.HasField("log_artifact")]
    logged += [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"]
    (model,) = [one for one in logged if one.type == "model"]
    assert {"best", "epoch-0"} <= set(model.aliases)

    assert history["val_masks.count"] == 4
    masks = history["val_masks.all_masks"][0]
    assert set(masks) == {"prediction", "ground_truth"}  # toggleable overlays of W&B
    assert all((folder / "files" / mask["path"]).is_file() for mask in masks.values())
    assert Path("runs/tiny/0/metrics.csv").is_file()  # local files are written as well
    assert list(Path("runs/tiny/0/figures/val_masks").glob("*.png"))

    # a resumed run keeps its id
    again = darkroom(
        "fit", *tiny, "--config", CONFIGS / "logger/wandb.yaml", "--trainer.max_epochs", 2, "--ckpt_path", "last"
    )
    assert again.code == 0
    files = [file for run in Path("runs/tiny/0/wandb").glob("offline-run-*") for file in run.glob("*.wandb")]
    assert len({file.stem for file in files}) == 1
    assert ids == {files[0].stem.removeprefix("run-")}
