"""Normalization of the data against that of ImageNet weights, at the start of a fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.detection import RCNN, SlidingWindow
from darkroom.lightning_modules.layers.pretrained import IMAGENET, Normalization, normalization_of
from darkroom.lightning_modules.segmentation import FCN, UNet
from darkroom.lightning_modules.utils.normalization import read_normalization
from tests.contracts.module import trainer

SMALL: dict[str, Any] = {"train_size": 2, "val_size": 2, "test_size": 2, "batch_size": 2, "num_workers": 0, "side": 32}
LITE = normalization_of("efficientnet_lite0")


def fit_unet(folder: Path, expected: Normalization | None, **data: Any) -> None:
    model = UNet(base_channels=2, num_classes=6)
    model.expected_normalization = expected
    trainer(folder, fast_dev_run=True).fit(model, ShapesSegmentation(**SMALL, **data))


def test_other_normalization_names_the_right_values(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"data.mean and data.std must be \[0.498, 0.498, 0.498\] and \[0.502, 0.502, 0.502\].* got \[0.485,",
    ):
        fit_unet(tmp_path, LITE)
    with pytest.raises(UsageError, match=r"must be \[0.485, 0.456, 0.406\] and \[0.229, .* got \[0.5, 0.5, 0.5\]"):
        fit_unet(tmp_path, IMAGENET, mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.parametrize(
    ("expected", "mean", "std"),
    [(IMAGENET, None, None), (LITE, [0.5] * 3, [0.5] * 3), (LITE, *LITE), (None, [0.1] * 3, [0.9] * 3)],
)
def test_right_normalization_trains(
    tmp_path: Path, expected: Normalization | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    fit_unet(tmp_path, expected, mean=mean, std=std)


def test_grey_images_have_averages_of_channels() -> None:
    mean, std = IMAGENET.adapt(1)
    assert mean == pytest.approx((0.449,), abs=1e-3)  # the default of datamodules of grey images
    assert std == pytest.approx((0.226,), abs=1e-3)


def test_fit_of_classifier_compares_normalization(tmp_path: Path) -> None:
    network = BackboneClassifier("resnet18", 8, (3, 32, 32), width=0.03)
    network.pretrained_layers = ["classifier.1"]
    data = ShapesImages(label="colour", **SMALL)
    model = ImageClassifier(network, num_classes=8)
    with pytest.raises(UsageError, match="data.mean and data.std must be .*, which the pretrained weights expect"):
        trainer(tmp_path, fast_dev_run=True).fit(model, data)
    trainer(tmp_path, fast_dev_run=True).test(model, data, verbose=False)  # the checkpoint decides


# --- weights of another fit ---------------------------------------------------------------------------------------------


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    """Checkpoint of a classifier of images that are normalized with mean .5 and std .5."""
    network = BackboneClassifier("vgg11_bn", 8, (3, 32, 32), width=0.02)
    fit = trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    fit.fit(ImageClassifier(network, num_classes=8), ShapesImages(label="colour", **SMALL))
    fit.save_checkpoint(tmp_path / "classifier.ckpt")
    return str(tmp_path / "classifier.ckpt")


def test_weights_of_a_checkpoint_expect_its_normalization(tmp_path: Path, classifier: str) -> None:
    def fit_fcn(**data: Any) -> None:
        model = FCN(num_classes=6, backbone="vgg11_bn", width=0.02, window=128, init_from=classifier)
        trainer(tmp_path, fast_dev_run=True).fit(model, ShapesSegmentation(**SMALL, **data))

    with pytest.raises(
        UsageError, match=r"must be \[0.5, 0.5, 0.5\] and .*, which the weights of model.init_from expect"
    ):
        fit_fcn()
    fit_fcn(mean=[0.5] * 3, std=[0.5] * 3)


def test_weights_of_a_file_replace_the_normalization_of_a_pretrained_network(tmp_path: Path, classifier: str) -> None:
    network = BackboneClassifier("vgg11_bn", 8, (3, 32, 32), width=0.02)
    network.pretrained_layers = ["features.0"]  # as from ImageNet weights
    model = ImageClassifier(network, num_classes=8, init_from=classifier)
    trainer(tmp_path, fast_dev_run=True).fit(model, ShapesImages(label="colour", **SMALL))


def test_detector_that_normalizes_names_the_values_of_the_classifier(tmp_path: Path, classifier: str) -> None:
    model = RCNN(num_classes=5, backbone="vgg11_bn", width=0.02, window=32, init_from=classifier)
    data = ShapesDetection(proposals=GridProposals(), **SMALL)
    with pytest.raises(
        UsageError, match=r"as RCNN normalizes them.*train them with data.mean \[0.485, .* and data.std"
    ):
        trainer(tmp_path, max_epochs=3).fit(model, data)


def test_checkpoint_of_a_detector_has_its_own_normalization(tmp_path: Path) -> None:
    model = SlidingWindow(num_classes=5, window=16, channels=2, sides=[24.0], aspect_ratios=[1.0])
    fit = trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    fit.fit(model, ShapesDetection(**SMALL))
    fit.save_checkpoint(tmp_path / "windows.ckpt")
    mean, std = read_normalization(torch.load(tmp_path / "windows.ckpt", weights_only=True))
    assert (tuple(mean), tuple(std)) == IMAGENET


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({"normalization": [[0.0] * 3, [1.0] * 3]}, None),  # a detector normalized these images itself
        ({"normalization": [[0.5] * 3, [0.5] * 3]}, ([0.5] * 3, [0.5] * 3)),
        ({}, None),
    ],
)
def test_checkpoint_of_an_earlier_version_expects_no_other_normalization(saved: dict[str, Any], expected: Any) -> None:
    assert read_normalization(saved) == expected


def test_state_dict_without_normalization_trains(tmp_path: Path) -> None:
    torch.save(UNet(base_channels=2, num_classes=6).state_dict(), tmp_path / "unet.pt")
    model = UNet(base_channels=2, num_classes=6, init_from=str(tmp_path / "unet.pt"))
    trainer(tmp_path, fast_dev_run=True).fit(model, ShapesSegmentation(**SMALL, mean=[0.1] * 3, std=[0.9] * 3))
