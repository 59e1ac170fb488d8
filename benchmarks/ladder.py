"""The same scenes through several trained techniques: ``python -m benchmarks.ladder RUN [RUN ...] --out PICTURE``.

A RUN is a run's folder on ``ShapesSegmentation``; the rows are in the order given, named by ``--names``.
"""

import argparse
from pathlib import Path

import torch
import yaml

from callbacks.drawing import colorize, contact_sheet, save, to_picture
from datamodules.shapes import ShapesSegmentation
from lightning_modules.segmentation.ensemble import load_technique


def main() -> None:
    """Draws input, truth and every technique's prediction."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--scenes", nargs="+", type=int, default=list(range(8)))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    config = yaml.safe_load((arguments.runs[0] / "config.yaml").read_text())
    data = ShapesSegmentation(**{**config["data"]["init_args"], "augment": [], "num_workers": 0})
    data.setup("test")
    batch = [data.dataset("test")[index] for index in arguments.scenes]
    image = torch.stack([scene["image"] for scene in batch])
    image, masks = data.on_after_batch_transfer({"image": image})["image"], [scene["mask"] for scene in batch]
    names = data.class_names
    rows = {
        "input": [to_picture(one) for one in data.denormalize(image)],
        "truth": [colorize(mask, len(names)) for mask in masks],
    }
    for name, run in zip(arguments.names, arguments.runs, strict=True):
        technique = load_technique(run / "checkpoints" / "best.ckpt").eval()
        with torch.inference_mode():
            rows[name] = [colorize(mask, len(names)) for mask in technique.predict_step({"image": image})]
    save(contact_sheet(rows, legend={name: index for index, name in enumerate(names)}), arguments.out)


if __name__ == "__main__":
    main()
