"""MNIST and FashionMNIST: reading, splitting and binarization."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from darkroom.datamodules.images.mnist import MNIST, FashionMNIST, sample_bernoulli
from darkroom.errors import DataError, UsageError
from tests.contracts.datamodule import LabelledDataContract
from tests.datamodules.segmentation.test_real_images import ROOT, needs
from tests.fakes.labelled import fashion_mnist, mnist


class TestMNIST(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> MNIST:
        return MNIST(root=str(mnist(tmp_path)), **kwargs)

    def test_val_split_is_a_tenth_and_depends_on_seed(self, data: MNIST) -> None:
        assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [36, 4, 10]
        others = MNIST(root=str(data.root), seed=1).dataset("val")
        assert not torch.equal(others.images, data.dataset("val").images)

    def test_labels_match_images(self, data: MNIST) -> None:
        source = datasets.MNIST(data.root)
        labels = {image.numpy().tobytes(): int(label) for image, label in zip(source.data, source.targets, strict=True)}
        for sample in data.dataset("train"):
            assert labels[sample["image"].numpy().tobytes()] == sample["label"]

    def test_limit_reduces_training_images(self, data: MNIST) -> None:
        few = MNIST(root=str(data.root), limit=5).dataset("train")
        assert torch.equal(few.images, data.dataset("train").images[:5])
        assert len(MNIST(root=str(data.root), limit=5).dataset("val")) == 4


class TestMNISTDynamicallyBinarized(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> MNIST:
        return MNIST(root=str(mnist(tmp_path)), binarize="dynamic", **kwargs)

    def test_training_images_are_binarized_every_epoch(self, data: MNIST) -> None:
        train = data._datasets["train"]
        first, second, again = (train[epoch, 3]["image"] for epoch in (0, 1, 0))
        assert set(first.unique().tolist()) == {0, 255}
        assert not torch.equal(first, second)
        assert torch.equal(first, again)
        grey = MNIST(root=str(data.root)).dataset("train")[3]["image"] / 255
        often = torch.stack([train[epoch, 3]["image"] for epoch in range(400)]).float().mean(0) / 255
        assert (often - grey).abs().max() < 5 * 0.5 / 400**0.5
        assert torch.equal(often[grey == 0], grey[grey == 0])
        assert torch.equal(often[grey == 1], grey[grey == 1])

    def test_evaluation_images_are_binarized_once(self, data: MNIST) -> None:
        for split in ("val", "test", "predict"):
            first, second = (data._datasets[split][epoch, 2]["image"] for epoch in (0, 1))
            assert set(first.unique().tolist()) == {0, 255}
            assert torch.equal(first, second)

    def test_augmentation_precedes_binarization(self, tmp_path: Path) -> None:
        data = self.build(tmp_path, num_workers=0, flip=True)
        data.setup("fit")
        seen = torch.stack([data._datasets["train"][epoch, 0]["image"] for epoch in range(200)]).float().mean(0)
        torch.testing.assert_close(seen, seen.flip(-1), atol=90, rtol=0)
        assert set(data._datasets["train"][0, 0]["image"].unique().tolist()) == {0, 255}


class TestFashionMNIST(LabelledDataContract):
    def build(self, tmp_path: Path, **kwargs: Any) -> FashionMNIST:
        return FashionMNIST(root=str(fashion_mnist(tmp_path)), size=32, **kwargs)

    def test_fashion_mnist_has_class_names(self, data: FashionMNIST) -> None:
        assert data.class_names[9] == "Ankle boot"


@pytest.mark.parametrize("how", ["fixed", "threshold"])
def test_fixed_binarization_is_constant(tmp_path: Path, how: str) -> None:
    grey, data = MNIST(root=str(mnist(tmp_path))), MNIST(root=str(tmp_path), binarize=how)
    for split in ("train", "val", "test"):
        images, shades = data.dataset(split).images, grey.dataset(split).images
        assert images.dtype == torch.uint8
        assert set(images.unique().tolist()) <= {0, 255}
        assert torch.equal(images, data.dataset(split).images)
        if how == "threshold":
            assert torch.equal(images == 255, shades / 255 >= 0.5)
        else:
            assert abs(images.float().mean() - shades.float().mean()) < 5 * 128 / images.numel() ** 0.5


def test_binarization_depends_only_on_image_key() -> None:
    images = torch.full((4, 1, 28, 28), 128, dtype=torch.uint8)
    sampled = sample_bernoulli(images, (0, 5, np.arange(4)))
    assert torch.equal(sampled[2:3], sample_bernoulli(images[2:3], (0, 5, np.array([2]))))
    assert not torch.equal(sampled[0], sampled[1])


def test_predict_photos_are_resized(tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    data = MNIST(predict=str(tmp_path), num_workers=0)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["image"].shape == (1, 1, 28, 28)
    assert batch["path"] == [str(tmp_path / "photo.png")]


def test_missing_files_name_download_option(tmp_path: Path) -> None:
    message = (
        r"raw/train-images-idx3-ubyte does not exist; data.root must hold MNIST/raw.*https://.*--data.download true"
    )
    with pytest.raises(DataError, match=message):
        MNIST(root="data").setup("fit")
    (mnist(tmp_path) / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="raw/t10k-labels-idx1-ubyte does not exist"):
        MNIST(root=str(tmp_path)).setup("test")


@pytest.mark.parametrize(("name", "kept"), [("images-idx3", -100), ("images-idx3", 0), ("labels-idx1", -3)])
def test_truncated_file_is_named(tmp_path: Path, name: str, kept: int) -> None:
    path = mnist(tmp_path) / f"MNIST/raw/train-{name}-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=f"train-{name}-ubyte is truncated or damaged; remove it"):
        MNIST(root=str(tmp_path)).setup("fit")


def test_number_of_labels_must_match_images(tmp_path: Path) -> None:
    folder = mnist(tmp_path) / "MNIST/raw"
    (folder / "t10k-labels-idx1-ubyte").rename(folder / "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="40 images in train-images-idx3-ubyte, but 10 labels"):
        MNIST(root=str(tmp_path)).setup("fit")


def test_failed_download_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://localhost:9/"])
    with pytest.raises(DataError, match="Error downloading train-images-idx3-ubyte.gz.*http://localhost:9/"):
        MNIST(root=str(tmp_path), download=True).prepare_data()


@pytest.mark.parametrize("wrong", [{"val_fraction": 1.0}, {"size": 0}, {"limit": 0}, {"max_side": 64}])
def test_invalid_settings_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"data.{next(iter(wrong))} must be "):
        MNIST(**wrong)


@pytest.mark.data
@needs("mnist")
def test_real_mnist_has_known_labels() -> None:
    data = MNIST(root=str(ROOT / "mnist"))
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [54_000, 6_000, 10_000]
    digits = data.dataset("test")
    assert digits.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert digits.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
