"""Compare detectors: ``python -m benchmarks.results.detection_ladder RUN [RUN ...] --names NAME ... --out DIR``.

A RUN is the folder of a run that was tested on ``ShapesDetection``. The command writes two figures.
``detection_ladder.png`` shows accuracy against time per image, from the metrics of the runs. ``detection.png`` shows the
detections of all runs in the same scenes.
"""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from lightning import LightningModule
from PIL import Image
from torch import Tensor

from benchmarks.results.pyplot import import_pyplot
from darkroom.callbacks.plotting.boxes import class_index, draw_boxes, filter_by_score
from darkroom.callbacks.plotting.images import contact_sheet, save, to_uint8_rgb
from darkroom.cli.catalog import import_all
from darkroom.datamodules.proposals.methods import Proposals, SelectiveSearch
from darkroom.datamodules.shapes.detection import ShapesDetection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR = {"VOC_AP50": "#d8453e", "mAP": "#3f6fd8"}
_NAMES = {"VOC_AP50": "VOC AP50", "mAP": "COCO AP"}


def score(run: Path, name: str) -> float:
    """Return the last value of ``test/<name>`` in a run's metrics."""
    with (run / "metrics.csv").open(newline="") as file:
        values = [row.get(f"test/{name}") for row in csv.DictReader(file)]
    return float([value for value in values if value][-1])


def chart(names: list[str], runs: list[Path], extra: list[float], out: Path) -> None:
    """Plot accuracy against milliseconds per image, with ``extra`` milliseconds added for proposals."""
    figure, axes = import_pyplot().subplots(figsize=(8.4, 4.6), dpi=120)
    times = [1e3 / score(run, "images_per_second") + more for run, more in zip(runs, extra, strict=True)]
    for key in ("VOC_AP50", "mAP"):
        values = [score(run, key) for run in runs]
        axes.plot(times, values, "o", color=_COLOUR[key], label=_NAMES[key], markersize=8)
    for name, time, run in zip(names, times, runs, strict=True):
        both = [score(run, key) for key in ("VOC_AP50", "mAP")]
        axes.plot([time, time], both, color="#b8b8b8", linewidth=1, zorder=0)
        axes.annotate(name, (time, max(both)), (-2, 9), textcoords="offset points", rotation=50, fontsize=9)
    _style(axes)
    figure.tight_layout()
    figure.savefig(out)


def _style(axes: "Axes") -> None:
    axes.set_xscale("log")
    axes.set_xticks((2, 5, 10, 20, 50, 100), ("2", "5", "10", "20", "50", "100"))
    axes.set_xticks((), minor=True)
    axes.set_ylim(0, 1.35)
    axes.set_yticks((0, 0.2, 0.4, 0.6, 0.8, 1.0))
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds per image, proposals included")
    axes.set_ylabel("average precision")
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center")


def scenes(names: list[str], runs: list[Path], indices: list[int], proposals: Proposals, out: Path) -> None:
    """Draw the detections of all methods in the same scenes."""
    rows: dict[str, list[Tensor]] = {}
    for name, run in zip(names, runs, strict=True):
        config = yaml.safe_load((run / "config.yaml").read_text())
        own = {name: config["data"]["init_args"][name] for name in ("side", "seed", "objects", "occlusion")}
        data = ShapesDetection(**own, num_workers=0)
        samples = [data.dataset("test")[index] for index in indices]
        batch = {"image": [sample["image"] for sample in samples], "target": [sample["target"] for sample in samples]}
        arrays = [image.permute(1, 2, 0).numpy() for image in batch["image"]]
        batch["proposals"] = [torch.from_numpy(proposals(array)) for array in arrays]
        batch = data.on_after_batch_transfer(batch)
        # R-CNN's last stages are its last epochs; its best epoch may be one before them.
        which = "last" if config["model"]["class_path"].endswith(".RCNN") else "best"
        method = LightningModule.load_from_checkpoint(run / "checkpoints" / f"{which}.ckpt").cpu().eval()
        with torch.inference_mode():
            found = method.predict_step(batch)
        images = [to_uint8_rgb(image) for image in batch["image"]]
        truth = [draw_boxes(p, t, data.class_names) for p, t in zip(images, batch["target"], strict=True)]
        rows.setdefault("truth", truth)
        rows[name] = [
            draw_boxes(p, filter_by_score(one, 0.4), data.class_names) for p, one in zip(images, found, strict=True)
        ]
    legend = {name: class_index(label) for label, name in enumerate(ShapesDetection.class_names, 1)}
    save(contact_sheet(rows, legend, 144), out)
    Image.open(out).quantize(256).save(out, optimize=True)  # a third of the bytes, without a visible difference


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.detection_ladder", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument(
        "--proposals",
        nargs="+",
        type=float,
        required=True,
        help="milliseconds per image for proposals, of each run, or 0",
    )
    parser.add_argument("--scenes", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import_all()
    chart(
        arguments.names,
        arguments.runs,
        arguments.proposals,
        arguments.out / "detection_ladder.png",
    )
    method = SelectiveSearch(min_side=6)
    scenes(arguments.names, arguments.runs, arguments.scenes, method, arguments.out / "detection.png")


if __name__ == "__main__":
    main()
