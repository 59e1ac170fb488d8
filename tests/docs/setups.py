"""Files that readers of the docs have: each function writes them into the working folder."""

from pathlib import Path

import numpy as np
import torch
from torchvision.io import write_png

from tests.fakes import boxes, captions, labelled, pictures


def photos() -> None:
    """Five photos in ``photos/``."""
    Path("photos").mkdir(exist_ok=True)
    for index in range(5):
        write_png(torch.randint(256, (3, 64 + index, 72), dtype=torch.uint8), f"photos/{index}.png")


def photo_of_the_training() -> None:
    """``photo.png`` of the size that Shapes has."""
    write_png(torch.randint(256, (3, 32, 32), dtype=torch.uint8), "photo.png")


def images_and_masks() -> None:
    """Twelve images and their masks of three classes in ``my_data/images`` and ``my_data/masks``."""
    for folder in ("images", "masks"):
        Path("my_data", folder).mkdir(parents=True, exist_ok=True)
    for index in range(12):
        mask = torch.zeros(1, 64, 72, dtype=torch.uint8)
        mask[:, 10:30, 10:40] = 1
        mask[:, 35:60, 30 + index : 60] = 2
        noise = torch.randint(40, (3, 64, 72), dtype=torch.uint8)
        write_png((mask * 90 + noise).to(torch.uint8), f"my_data/images/{index:02d}.png")
        write_png(mask, f"my_data/masks/{index:02d}.png")


def own_project() -> None:
    """Mark the reader's folders as packages: the tests have the repository's folders of these names on the path too."""
    for folder in ("lightning_modules", "datamodules", "callbacks"):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "__init__.py").touch()


def scans() -> None:
    """Twelve grey scans and masks per split in ``scans/{train,val,test}.npz``."""
    Path("scans").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        masks = rng.integers(0, 3, (12, 8, 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        images = (masks * 80 + rng.integers(0, 40, masks.shape)).astype(np.uint8)
        np.savez(Path("scans", f"{split}.npz"), images=images, masks=masks)


def split_images_and_masks() -> None:
    """Images and masks of three classes in ``my_splits/{train,val,test}/{images,masks}``."""
    for split in ("train", "val", "test"):
        pictures.image_mask_folder(Path("my_splits", split), count=4, classes=3)


def cells() -> None:
    """Grey images of cells and masks of instance ids in ``my_cells/{images,masks}``."""
    pictures.cells(Path("my_cells"), count=12)


def colour_masks() -> None:
    """Images and colour masks in ``my_scenes/{images,colour_masks}``."""
    rng = np.random.default_rng(0)
    for index in range(10):
        mask = rng.integers(0, 3, (8, 9)).repeat(8, 0).repeat(8, 1)
        colours = np.array([(0, 0, 0), (220, 20, 60), (0, 128, 255)], np.uint8)[mask]
        boxes.save(colours // 2 + 20, Path("my_scenes/images", f"{index}.png"))
        boxes.save(colours, Path("my_scenes/colour_masks", f"{index}.png"))


def damaged_image() -> None:
    """Cut the file of an image in ``my_splits`` short."""
    path = sorted(Path("my_splits/train/images").iterdir())[0]
    path.write_bytes(path.read_bytes()[:100])


def coco_boxes() -> None:
    """COCO JSON in ``my_coco/annotations/instances_{train,val}.json`` and images in ``my_coco/{train,val}``."""
    boxes.coco_detection(Path("my_coco"), splits=("train", "val"))


def yolo_boxes() -> None:
    """Text labels in ``my_yolo/labels/{train,val,test}``, images in ``my_yolo/images/{train,val,test}``, ``data.yaml``."""
    boxes.yolo_folder(Path("my_yolo"))


def voc_boxes() -> None:
    """XML files in ``my_voc/VOCdevkit/VOC2007/Annotations`` beside images and lists of the splits."""
    boxes.voc_detection(Path("my_voc"), names=("cat", "dog"))


def labelimg_boxes() -> None:
    """Ten images and their XML files in ``my_labels``."""
    boxes.voc_folder(Path("my_labels"))


def instance_masks() -> None:
    """Images and masks of instance ids in ``my_instances/{images,masks}``."""
    boxes.instance_folder(Path("my_instances"))


def class_folders() -> None:
    """Images of two classes in ``my_images/{cats,dogs}``."""
    labelled.image_folder(Path("my_images"))


def image_folder() -> None:
    """Images without classes in ``my_faces``."""
    labelled.flat_folder(Path("my_faces"))


def captioned_images() -> None:
    """Images in ``my_captions/images`` and their captions in ``my_captions/captions.tsv``."""
    root = captions.caption_folder(Path("my_captions"))
    folder = next(path for path in root.iterdir() if path.is_dir())
    folder.rename(root / "images")
    table = root / "captions.tsv"
    table.write_text(table.read_text().replace(f"{folder.name}/", "images/"))


def caption_files() -> None:
    """``my_texts/NAME.png`` beside ``my_texts/NAME.txt``."""
    Path("my_texts").mkdir()
    for index in range(20):
        captions.card(index).save(f"my_texts/card{index:02d}.png")
        Path(f"my_texts/card{index:02d}.txt").write_text(captions.caption_of(index) + "\n")
