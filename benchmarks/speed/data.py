"""Sources of images: Shapes, the synthetic dataset, files with masks or boxes, and region proposals."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
    compare,
    entry,
    one_thread,
    training_loss,
    without_trainer,
)
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.datamodules.io import image_files
from darkroom.datamodules.io.read_images import ImageReader
from darkroom.datamodules.loading import KeyedSamples, collate
from darkroom.datamodules.proposals.cache import ProposalCache, fill
from darkroom.datamodules.proposals.methods import GridProposals, SelectiveSearch
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.shapes.detection import DetectionScenes, ShapesDetection
from darkroom.datamodules.shapes.scenes import SceneGenerator
from darkroom.datamodules.shapes.segmentation import SegmentationScenes
from darkroom.lightning_modules.segmentation import UNet


@entry
def shapes_scenes(options: Options) -> Result:
    """Measure rendered scenes per second and core, 64 x 64, with masks and boxes: in batches of 32, and one by one."""
    data, world = SegmentationScenes(SceneGenerator(), "train", 10**6), SceneGenerator()

    def batch() -> None:
        scenes = world.describe("train", range(32))
        _ = scenes.images, scenes.semantic(), scenes.boxes()

    def singles() -> None:
        for index in range(32):
            _ = data[index]

    sides = [Side("32 at once, image + mask + boxes", batch, 32), Side("one by one, image + mask", singles, 32)]
    with one_thread():
        return compare("Shapes, scenes/s on one core", sides, Options(rounds=options.rounds * 5))


class FloatPipeline(Dataset):
    """Usual pipeline: decode, convert to float, crop, flip and normalise each sample in the loader."""

    def __init__(self, root: Path) -> None:
        self.pairs = list(zip(sorted((root / "images").iterdir()), sorted((root / "masks").iterdir()), strict=True))
        normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        to_float = v2.ToDtype(torch.float32, scale=True)
        self.transform = v2.Compose([v2.ToImage(), v2.RandomCrop(224), v2.RandomHorizontalFlip(), to_float, normalise])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = (Image.open(path) for path in self.pairs[index])
        return self.transform(image.convert("RGB"), tv_tensors.Mask(np.array(mask)))


@entry
def augmented_files(options: Options) -> Result:
    """Measure images per second and core from PNG files, 256 -> 224 px, random crop and flip of image and mask."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        root, rng = Path(folder), np.random.default_rng(0)
        for name in ("images", "masks"):
            (root / name).mkdir()
        for index in range(32):
            smooth = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((256, 256))
            smooth.save(root / "images" / f"{index}.png")
            Image.fromarray(rng.integers(0, 2, (16, 16), dtype=np.uint8)).resize((256, 256), 0).save(
                root / "masks" / f"{index}.png"
            )
        data = ImageMaskFolder(root=folder, crop=224, batch_size=32, val_fraction=0.04, test_fraction=0, num_workers=0)
        data.setup("fit")
        keyed = data._datasets["train"]
        usual = FloatPipeline(root)

        def ours() -> None:
            for index in range(24):
                _ = keyed[0, index]

        def theirs() -> None:
            for index in range(24):
                _ = usual[index]

        sides = [
            Side("darkroom: uint8, normalised later on the device", ours, 24),
            Side("float in the loader", theirs, 24),
        ]
        return compare("Augmented images/s from PNG files on one core", sides, Options(rounds=options.rounds))


def _write_photos(folder: Path, count: int) -> list[Path]:
    """Write photos of 640 x 480, JPEG of quality 85 with smooth and noisy areas, about 55 kB each, and masks for them."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 6, (480, 640, 1)) * (np.arange(640) > 320)[:, None]
        photo = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"{index:03d}.jpg", quality=85)
        mask = Image.fromarray(rng.integers(0, 2, (12, 16), np.uint8)).resize((640, 480), Image.Resampling.NEAREST)
        mask.save(folder / "masks" / f"{index:03d}.png")
    return sorted((folder / "images").iterdir())


def _by_pillow(step: Callable[[], object]) -> Callable[[], None]:
    """Return a step in which TorchCodec is not used."""

    def run() -> None:
        with patch.object(image_files, "fast_decoders", return_value={}):
            step()

    return run


@entry
def decoded_files(options: Options) -> Result:
    """Measure reading of photos, JPEG of 640 x 480, as uint8 tensors on one core: by TorchCodec and by Pillow."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        paths, reader = _write_photos(Path(folder), 32), ImageReader()

        def read() -> None:
            for path in paths:
                _ = reader.read_tensor(path)

        sides = [Side("TorchCodec", read, 32), Side("Pillow", _by_pillow(read), 32)]
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        return compare(f"Photos/s from JPEG files of {size:.0f} kB on one core", sides, options)


@entry
def training_from_files(options: Options) -> Result:
    """Measure training on one core, loading included: U-Net with 4 base channels, crops of 64 px of 640 x 480 photos."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        _write_photos(Path(folder), 20)
        data = ImageMaskFolder(root=folder, crop=64, batch_size=8, val_fraction=0.1, test_fraction=0.1, num_workers=0)
        data.setup("fit")
        unet = without_trainer(UNet(num_classes=2, base_channels=4))
        optimizer = torch.optim.SGD(unet.parameters(), 1e-3)

        def step() -> None:
            batch = data.on_after_batch_transfer(collate([data._datasets["train"][0, index] for index in range(8)]))
            optimizer.zero_grad()
            training_loss(unet, batch).backward()
            optimizer.step()

        sides = [Side("TorchCodec", step, 8), Side("Pillow", _by_pillow(step), 8)]
        return compare("Training images/s from JPEG files on one core", sides, options)


@entry
def selective_search(options: Options) -> Result:
    """Measure Selective Search on 16 scenes of 256 px: in this process, in two workers, and from the cache."""
    scenes = DetectionScenes(ShapesDetection(side=256).generator, "val", 16)
    images = [scene["image"].permute(1, 2, 0).numpy() for scene in (scenes[index] for index in range(16))]
    method = SelectiveSearch()
    with tempfile.TemporaryDirectory() as folder:
        cache = ProposalCache(method, folder)
        fill(scenes, cache, 0)

        def compute(workers: int) -> None:
            with tempfile.TemporaryDirectory() as empty:
                fill(scenes, ProposalCache(method, empty), workers)

        sides = [
            Side("this process", lambda: compute(0), 16),
            Side("two workers", lambda: compute(2), 16),
            Side("from the cache", lambda: [cache.get(image) for image in images], 16),
        ]
        return compare("Selective Search (fast), 16 scenes of 256 px", sides, Options(rounds=min(3, options.rounds)))


def _write_boxes(root: Path, count: int = 24) -> DetectionDataModule:
    """Write images of 500 x 375 with six boxes each, as text labels; return their datamodule with SSD's augmentation."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
            smooth.save(root / "images" / split / f"{index}.jpg", quality=90)
            boxes = np.concatenate([rng.uniform(0.25, 0.75, (6, 2)), rng.uniform(0.1, 0.4, (6, 2))], 1)
            lines = [" ".join(["0", *(f"{value:.4f}" for value in box)]) for box in boxes]
            (root / "labels" / split / f"{index}.txt").write_text("\n".join(lines))
    ssd = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(), v2.RandomIoUCrop(), v2.RandomHorizontalFlip()]
    return YoloFolder(root=str(root), class_names=["one"], augment=ssd, num_workers=0)


def _read_samples(samples: KeyedSamples, count: int) -> list[dict[str, Any]]:
    return [samples[0, index] for index in range(count)]


@entry
def boxes_from_files(options: Options) -> Result:
    """Compare ways of loading JPEG files of 500 x 375 with six boxes, on one core.

    The ways are flips, SSD's whole augmentation, and flips with grid proposals.
    """
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        data = _write_boxes(Path(folder, "data"))
        plain = YoloFolder(root=str(Path(folder, "data")), class_names=["one"], num_workers=0)
        grid = YoloFolder(root=str(Path(folder, "data")), class_names=["one"], num_workers=0, proposals=GridProposals())
        sides = []
        for name, one in {"flip": plain, "SSD's augmentation": data, "flip, grid proposals": grid}.items():
            one.setup("fit")
            sides.append(Side(name, partial(_read_samples, one._datasets["train"], 24), 24))
        return compare("Images with boxes from JPEG files, one core", sides, Options(rounds=options.rounds))
