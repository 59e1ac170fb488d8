"""Compare segmentation models: ``python -m benchmarks.results.segmentation_ladder RUN [RUN ...] --out FILE``.

A RUN is the folder of a run on ``ShapesSegmentation``. Rows are in the order given and named by ``--names``.
"""

import argparse
from pathlib import Path

import torch
import yaml
from torch import Tensor

from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.images import colorize, to_uint8_rgb
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules.segmentation.ensemble import load_method
from darkroom.renames import update_config


def main() -> None:
    """Draw input, truth and every method's prediction."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.segmentation_ladder", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--scenes", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    rows: dict[str, list[Tensor]] = {}
    for name, run in zip(arguments.names, arguments.runs, strict=True):
        config = update_config(yaml.safe_load((run / "config.yaml").read_text()))["data"]["init_args"]
        data = ShapesSegmentation(**{**config, "num_workers": 0})
        scenes = [data.dataset("test")[index] for index in arguments.scenes]
        image = data.on_after_batch_transfer({"image": torch.stack([scene["image"] for scene in scenes])})["image"]
        technique = load_method(run / "checkpoints" / "best.ckpt").eval()
        with torch.inference_mode():
            masks = technique.predict_step({"image": image})
        classes = len(data.class_names)
        # The same scenes at every side: the first run's are shown.
        rows.setdefault("input", [to_uint8_rgb(one) for one in data.denormalize(image)])
        rows.setdefault("truth", [colorize(scene["mask"], classes) for scene in scenes])
        rows[name] = [colorize(mask, classes) for mask in masks]
    names = ShapesSegmentation.class_names
    sheet = contact_sheet(rows, legend={name: index for index, name in enumerate(names)})
    sheet.save(arguments.out.with_suffix(""))


if __name__ == "__main__":
    main()
