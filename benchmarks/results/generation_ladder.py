"""Compare generative models: ``python -m benchmarks.results.generation_ladder RUN [RUN ...] --names NAME ... --out FILE``.

A RUN is the folder of a trained run; all runs must have the same data. The figure shows test images, their reconstructions
and samples of each method. A conditional method samples its classes in turn.
"""

import argparse
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from lightning import LightningModule
from torch import Tensor

from darkroom.callbacks.plotting.grids import contact_sheet
from darkroom.callbacks.plotting.images import to_uint8_rgb
from darkroom.cli.catalog import import_all
from darkroom.datamodules.base import VisionDataModule
from darkroom.lightning_modules.generation.base import Generative
from darkroom.renames import update_config

Kind = TypeVar("Kind")


def opened(run: Path, checkpoint: str = "best") -> tuple[VisionDataModule, Generative]:
    """Load the data of a run, set up for the test, and its method at the best or the last checkpoint."""
    config = update_config(yaml.safe_load((run / "config.yaml").read_text()))["data"]
    kinds = {kind.__name__: kind for kind in _below(VisionDataModule)}
    data = kinds[config["class_path"].rsplit(".", 1)[-1]](**{**config["init_args"], "num_workers": 0})
    data.setup("test")
    method = LightningModule.load_from_checkpoint(run / "checkpoints" / f"{checkpoint}.ckpt").cpu().eval()
    assert isinstance(method, Generative)
    return data, method


def _below(kind: type[Kind]) -> list[type[Kind]]:
    return [kind, *(one for child in kind.__subclasses__() for one in _below(child))]


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.generation_ladder", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", required=True)
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--drawn-only", action="store_true", help="leave out test images and reconstructions")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import_all()
    rows: dict[str, list[Tensor]] = {}
    samples: dict[str, list[Tensor]] = {}
    for name, run in zip(arguments.names, arguments.runs, strict=True):
        data, method = opened(run)
        dataset = data.dataset("test")
        chosen = [dataset[index] for index in range(arguments.columns)]
        image = torch.stack([sample["image"] for sample in chosen])
        x = data.on_after_batch_transfer({"image": image})["image"]
        own = asked = None
        if method.num_classes is not None:
            own = torch.stack([torch.as_tensor(sample["label"]) for sample in chosen])
            asked = torch.arange(len(x)) % method.num_classes
        generator = torch.Generator().manual_seed(arguments.seed)

        def to_rgb(images: Tensor, data: VisionDataModule = data) -> list[Tensor]:
            return [to_uint8_rgb(data.denormalize(image)) for image in images]

        rows.setdefault("test images", to_rgb(x))
        if not method.encodes_by_search:
            rows[f"{name}, reconstructed"] = to_rgb(method.reconstruct(x, labels=own))
        samples[f"{name}, sampled"] = to_rgb(method.sample(len(x), labels=asked, generator=generator))
    sheet = contact_sheet(samples if arguments.drawn_only else rows | samples, side=arguments.side)
    sheet.save(arguments.out.with_suffix(""))


if __name__ == "__main__":
    main()
