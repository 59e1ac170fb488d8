"""Sources of images: Shapes, the synthetic dataset, and files."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.speed.harness import Options, Result, Side, compare, entry, one_thread
from darkroom.datamodules.segmentation.image_mask_folder import ImageMaskFolder
from darkroom.datamodules.shapes.scenes import SceneGenerator
from darkroom.datamodules.shapes.segmentation import SegmentationScenes


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
