"""Compare detectors: ``python -m benchmarks.results.detection_ladder RUN [RUN ...] --names NAME ... --out DIR``.

A RUN is the folder of a run that was tested on ``ShapesDetection``. The command writes two figures as PNG, PDF and SVG.
``detection_ladder`` shows accuracy against time per image, from the metrics of the runs. ``detection`` shows the
detections of all runs in the same scenes.
"""

import argparse
from pathlib import Path

import torch
import yaml
from lightning import LightningModule
from torch import Tensor

from benchmarks.results.commands import read_newest_test
from darkroom.callbacks.plotting.boxes import class_index, draw_boxes, filter_by_score
from darkroom.callbacks.plotting.curves import set_log
from darkroom.callbacks.plotting.drawing import Plot
from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.callbacks.plotting.page import ImagePage
from darkroom.callbacks.plotting.style import COLOURS, MARKERS, WIDTHS, add_legend, label_axes, new_axes, styled
from darkroom.cli.catalog import import_all
from darkroom.datamodules.proposals.methods import Proposals, SelectiveSearch
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.renames import update_config

_NAMES = {"VOC_AP50": "VOC AP50", "mAP": "COCO AP"}


def chart(names: list[str], runs: list[Path], extra: list[float]) -> Plot:
    """Plot accuracy against milliseconds per image, with ``extra`` milliseconds added for proposals."""
    tests = [read_newest_test(run) for run in runs]
    times = [1e3 / test["images_per_second"] + more for test, more in zip(tests, extra, strict=True)]
    return accuracy_by_time(names, times, {key: [test[key] for test in tests] for key in _NAMES})


def accuracy_by_time(names: list[str], times: list[float], values: dict[str, list[float]]) -> Plot:
    """Plot metrics of detectors against their milliseconds per image.

    Args:
        names: of the detectors.
        times: milliseconds per image of each detector.
        values: average precision of each detector in [0, 1], by the key of ``_NAMES``.
    """
    width = WIDTHS["iccv"]
    with styled(width):
        figure, axes = new_axes(width, 0.55)
        for (key, some), colour, marker in zip(values.items(), COLOURS, MARKERS, strict=False):
            axes.plot(times, some, marker, color=colour, label=_NAMES[key], markersize=6)
        for index, (name, time) in enumerate(zip(names, times, strict=True)):
            both = [some[index] for some in values.values()]
            axes.plot([time, time], [min(both), max(both)], color="#9a9aa0", linewidth=0.8, zorder=0)
            # Two names at almost the same time stand on either side of it.
            shift = sum((other > time) - (other < time) for other in times if 0.95 < other / time < 1.05)
            axes.annotate(
                name, (time, max(both)), (-6 * shift, 7), textcoords="offset points", rotation=90, ha="center"
            )
        set_log(axes, "x")
        axes.set_ylim(0, 1.4)  # with room for the names
        axes.set_yticks((0, 0.2, 0.4, 0.6, 0.8, 1.0))
        axes.margins(x=0.12)
        label_axes(axes, "", ("milliseconds per image, proposals included", "average precision (0 to 1)"))
        add_legend(axes)
    return Plot(figure)


def scenes(names: list[str], runs: list[Path], indices: list[int], proposals: Proposals) -> ImagePage:
    """Draw the detections of all methods in the same scenes."""
    rows: dict[str, list[Tensor]] = {}
    for name, run in zip(names, runs, strict=True):
        config = update_config(yaml.safe_load((run / "config.yaml").read_text()))
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
    return contact_sheet(rows, legend, 144)


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
    chart(arguments.names, arguments.runs, arguments.proposals).save(arguments.out / "detection_ladder")
    method = SelectiveSearch(min_side=6)
    scenes(arguments.names, arguments.runs, arguments.scenes, method).save(arguments.out / "detection")


if __name__ == "__main__":
    main()
