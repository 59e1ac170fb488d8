"""``darkroom shards``: write any captioned data set as WebDataset shards."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from PIL import Image

from darkroom.cli.catalog import import_all
from darkroom.cli.console import explain
from darkroom.datamodules.base import VisionDataModule
from darkroom.datamodules.captions.shards.reader import INDEX
from darkroom.errors import DataError, UsageError


def _content(sample: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of a sample by extension: its image file, or a PNG, and its captions."""
    path = Path(sample.get("path", ""))
    if path.is_file():
        files = {path.suffix[1:].lower(): path.read_bytes()}
    else:
        pixels, file = sample["image"].permute(1, 2, 0).numpy(), io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
        files = {"png": file.getvalue()}
    captions = sample.get("captions", [sample["caption"]])
    if len(captions) == 1:
        return files | {"txt": captions[0].encode()}
    return files | {"json": json.dumps({"caption": list(captions)}, ensure_ascii=False).encode()}


def write_shards(data: VisionDataModule, folder: Path, samples_per_shard: int = 1000) -> dict[str, int]:
    """Write ``{train,val,test}-<number>.tar`` and ``shards.json``; return the number of samples of each shard.

    Image files are copied unchanged; images from other sources become PNG of the data's size. Training samples are shuffled
    by the data's seed, since a reader shuffles only within a buffer. ``shards.json`` is written last: a folder without it
    is incomplete.

    Args:
        data: data set with captions.
        folder: target folder, without shards.
        samples_per_shard: samples of each shard; the last one of a split may have fewer.

    Raises:
        UsageError: the folder is invalid or has shards.
        DataError: the data have no captions.
    """
    if samples_per_shard < 1:
        raise UsageError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"folder {folder} is a file; give another folder")
    if next(folder.glob("*.tar"), None):
        state = "already" if (folder / INDEX).is_file() else f"but no {INDEX}, so they are incomplete"
        raise UsageError(f"folder {folder} has shards {state}; remove them, or give another folder")
    datasets = {split: data.dataset(split) for split in ("train", "val", "test")}
    if "caption" not in datasets["train"][0]:
        raise DataError(f"{type(data).__name__} has no captions; use data with captions")
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    for split, dataset in datasets.items():
        order = np.arange(len(dataset))
        if split == "train":
            np.random.default_rng(data.seed).shuffle(order)
        for number, start in enumerate(range(0, len(order), samples_per_shard)):
            name, some = f"{split}-{number:06d}.tar", order[start : start + samples_per_shard].tolist()
            part = folder / f"{name}.part"
            with tarfile.open(part, "w") as archive:
                for index in some:
                    for extension, content in _content(dataset[index]).items():
                        member = tarfile.TarInfo(f"{index:09d}.{extension}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
            part.rename(folder / name)
            sizes[name] = len(some)
    (folder / INDEX).write_text(json.dumps(sizes, indent=0))
    return sizes


def main(argv: list[str] | None = None) -> int:
    """Write the shards that a command line describes; return its exit code."""
    try:
        import_all()
        sizes = auto_cli(write_shards, as_positional=False, args=argv, prog="darkroom shards")
    except Exception as error:
        return explain(error)
    print(f"{sum(sizes.values())} samples in {len(sizes)} shards")
    return 0
