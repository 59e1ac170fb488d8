"""Reference classifier of cnn_fid: training, caching, determinism and no side effects."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics import reference_classifier
from darkroom.lightning_modules.metrics.reference_classifier import (
    ReferenceClassifier,
    limit_size,
    load_or_train_classifier,
)
from darkroom.paths import user_cache
from tests.fakes.ranks import on_two_ranks


class Stripes(Dataset):
    """Noisy images with horizontal (0) or vertical (1) stripes."""

    def __init__(
        self, count: int = 120, side: int = 12, labels: bool = True, whole: bool = True, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.label = torch.randint(0, 2, (count,), generator=generator) if labels else None
        line = (torch.arange(side) // 2 % 2 * 200.0).expand(3, side, side)
        turned = torch.randint(0, 2, (count,), generator=generator) if self.label is None else self.label
        images = torch.stack([line.mT if turn else line for turn in turned])
        self.image = (images + 40 * torch.rand(images.shape, generator=generator)).round().to(torch.uint8)
        if whole:
            self.__getitems__ = self.__getitem__

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int | list[int]) -> dict[str, Tensor]:
        sample = {"image": self.image[index]}
        return sample if self.label is None else sample | {"label": self.label[index]}


class Data:
    """Replacement of a datamodule."""

    image_shape, num_classes = (3, 12, 12), 2

    def __init__(self, **kwargs: Any) -> None:
        self.train = Stripes(**kwargs)

    def dataset(self, split: str) -> Stripes:
        return {"train": self.train}[split]


def same(a: ReferenceClassifier, b: ReferenceClassifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record every training in a list."""
    count: list[int] = []
    train = reference_classifier._train
    monkeypatch.setattr(reference_classifier, "_train", lambda *args: (count.append(1), train(*args))[1])
    return count


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 40), (3, 100, 150)])
def test_any_image_size_is_supported(shape: tuple[int, int, int]) -> None:
    network = ReferenceClassifier(shape[0], 5).eval()
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    assert network.features(images).shape == (2, network.num_features) == (2, 128)
    assert network(images).shape == (2, 5)
    assert max(limit_size(images).shape[-2:]) <= 64


def test_classifier_learns_and_is_cached_without_side_effects(tmp_path: Path, trainings: list[int]) -> None:
    before = torch.get_rng_state()
    network, accuracy = load_or_train_classifier(Data(), tmp_path / "a")
    again, same_accuracy = load_or_train_classifier(Data(), tmp_path / "a")
    retrained, _ = load_or_train_classifier(Data(whole=False), tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())
    assert accuracy == same_accuracy == 1
    assert len(trainings) == 2
    assert same(network, again)
    assert same(network, retrained)  # whole batches or single samples, any folder
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    fresh = Stripes(seed=1)
    assert (network(fresh.image).argmax(1) == fresh.label).float().mean() > 0.95
    features = network.features(Data().train.image)
    assert features.mean() == pytest.approx(0, abs=0.2)
    assert features.std(0).median() == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_cache_depends_on_data_and_replaces_damaged_files(tmp_path: Path, trainings: list[int]) -> None:
    network, _ = load_or_train_classifier(Data(), tmp_path)
    load_or_train_classifier(Data(seed=1), tmp_path)
    load_or_train_classifier(Data(count=119), tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(trainings) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    again, _ = load_or_train_classifier(Data(), tmp_path)
    assert len(trainings) == 4
    assert same(network, again)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.slow
def test_classifier_is_independent_of_thread_count(tmp_path: Path) -> None:
    networks, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            networks.append(load_or_train_classifier(Data(), tmp_path / str(threads))[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(*networks)


def test_fingerprint_depends_on_every_label_and_file() -> None:
    def fingerprint(labels: dict[int, int], **kwargs: Any) -> str:
        stripes = Stripes(count=600)
        stripes.labels = stripes.label.clone()
        for index, label in labels.items():
            stripes.labels[index] = label
        vars(stripes).update(kwargs)
        return reference_classifier._fingerprint(stripes, 2)

    whole = fingerprint({})
    other = 1 - int(Stripes(count=600).label[1])
    assert fingerprint({}) == whole
    assert fingerprint({1: other}) != whole  # not one of the 256 sampled images
    files = [[Path(f"{folder}/{index}.png") for index in range(600)] for folder in "ab"]
    assert fingerprint({}, paths=files[0]) == fingerprint({}, paths=files[1]) != whole  # moved
    assert fingerprint({}, paths=files[0][::-1]) != fingerprint({}, paths=files[0])


def load_on_rank(rank: int, folder: Path) -> dict[str, Any]:
    """Load the classifier on one of two ranks with separate disks."""
    network, accuracy = load_or_train_classifier(Data(), f"{folder}/disk{rank}")
    return {"state_dict": network.state_dict(), "accuracy": accuracy}


def test_rank_0_trains_for_all_ranks(tmp_path: Path) -> None:
    one, two = on_two_ranks(load_on_rank, tmp_path)
    assert one["accuracy"] == two["accuracy"] == 1
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    assert (tmp_path / "disk0").exists()
    assert not (tmp_path / "disk1").exists()


def test_default_cache_folder_follows_xdg(tmp_path: Path) -> None:
    assert user_cache("classifiers") == tmp_path / "home/.cache/darkroom/classifiers"


def test_data_without_labels_raise(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="no labels.*scores.features to mobilenet or inception, or model.scores to null"
    ):
        load_or_train_classifier(Data(labels=False), tmp_path)


def test_unwritable_cache_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="model.scores.cache_dir"):
        load_or_train_classifier(Data(), tmp_path / "file" / "below")
