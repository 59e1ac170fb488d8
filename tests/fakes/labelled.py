"""Write small datasets of labelled images in their layouts on disk."""

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def _idx(array: np.ndarray) -> bytes:
    """Encode an idx file of unsigned bytes: two zeros, type 8, dimensions, their big-endian lengths, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(root: Path, name: str = "MNIST", train: int = 40, test: int = 10, packed: bool = False) -> Path:
    """Write ``MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte`` of 28 x 28, optionally gzipped."""
    rng = np.random.default_rng(20)
    folder = root / name / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in {"train": train, "t10k": test}.items():
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 4:24, 4:24] = rng.integers(0, 256, (count, 20, 20)) * (labels[:, None, None] + 1) // 10
        for kind, array in {"images-idx3": images, "labels-idx1": labels}.items():
            content, path = _idx(array), folder / f"{split}-{kind}-ubyte"
            path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(content) if packed else content)
    return root


def fashion_mnist(root: Path) -> Path:
    """Write ``FashionMNIST/raw`` in the layout of MNIST."""
    return mnist(root, "FashionMNIST")


def cifar10(root: Path, per_batch: int = 8) -> Path:
    """Write ``cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}``: pickled rows of 3,072 bytes."""
    rng = np.random.default_rng(21)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    content = {"batches.meta": {"num_cases_per_batch": per_batch, "label_names": names, "num_vis": 3072}}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = rng.integers(0, 10, per_batch)
        rows = rng.integers(0, 256, (per_batch, 3072)) * (labels[:, None] + 1) // 10
        files = [f"{name}_{index}.png" for index in range(per_batch)]
        content[name] = {
            "batch_label": name,
            "labels": labels.tolist(),
            "data": rows.astype(np.uint8),
            "filenames": files,
        }
    for name, entry in content.items():
        with (folder / name).open("wb") as file:
            pickle.dump(entry, file, protocol=2)
    return root


def celeba(root: Path, count: int = 12) -> Path:
    """Write ``celeba/img_align_celeba/NNNNNN.jpg`` of 178 x 218, the official split and three attributes of -1 and 1.

    Half of the faces are training, a quarter validation and a quarter test images. Smiling faces are brighter.
    """
    rng = np.random.default_rng(22)
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    partition, attributes = [], [str(count), "Bald Smiling Young "]
    for index in range(count):
        name, smiling = f"{index + 1:06d}.jpg", index % 3 == 0
        image = rng.integers(0, 60, (218, 178, 3)) + 150 * smiling
        Image.fromarray(image.astype(np.uint8)).save(folder / "img_align_celeba" / name)
        partition.append(f"{name} {max(0, index * 4 // count - 1)}")
        attributes.append(f"{name} -1 {' 1' if smiling else '-1'}  1")
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    (folder / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
    return root


def flat_folder(folder: Path, count: int = 10, seed: int = 23) -> Path:
    """Write ``picture<n>.png`` of several sizes, some grey, some with alpha."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        shape = [(40, 56, 3), (64, 48, 3), (40, 40, 4), (50, 40)][index % 4]
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / f"picture{index}.png")
    return folder


def image_folder(root: Path, count: int = 10) -> Path:
    """Write ``<class>/*.png`` of two classes."""
    for seed, name in enumerate(("cats", "dogs"), 24):
        flat_folder(root / name, count, seed)
    return root


def split_image_folder(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), count: int = 4) -> Path:
    """Write ``{train,val,test}/<class>/*.png`` of two classes."""
    for first, split in enumerate(splits):
        for seed, name in enumerate(("cats", "dogs"), 26 + 2 * first):
            flat_folder(root / split / name, count, seed)
    return root


LABELLED_FAKES: dict[str, Callable[[Path], Path]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "celeba": celeba,
    "image_folder": image_folder,
}
