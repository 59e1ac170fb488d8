"""``init_from``: which weights go from one method to another, and that they compute the same there."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from lightning import LightningModule
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules import classification
from darkroom.lightning_modules.adversarial import DCGAN
from darkroom.lightning_modules.autoencoding import VAE, AutoEncoder, ConditionalVAE
from darkroom.lightning_modules.detection import (
    RCNN,
    SSD,
    YOLO,
    FasterRCNN,
    FastRCNN,
    MaskRCNN,
    SlidingWindow,
    WindowClassifier,
)
from darkroom.lightning_modules.diffusion import DDPM, DenoisingUNet, TextToImage
from darkroom.lightning_modules.diffusion.text import LearnedTextEncoder
from darkroom.lightning_modules.layers.backbones import Classifier, build_features
from darkroom.lightning_modules.segmentation import FCN, ConvolutionalizedClassifier, DeconvNet, DilatedNet, UNet

SMALL: dict[str, Any] = {"backbone": "vgg11_bn", "width": 0.05, "num_classes": 4}
CROPS: dict[str, Any] = {"backbone": "alexnet", "width": 0.05, "num_classes": 2}
DETECTOR: dict[str, Any] = {"backbone": "resnet18", "width": 0.1, "num_classes": 2}
PYRAMID: dict[str, Any] = DETECTOR | {"fpn_channels": 8, "head_channels": 8}
TINY: dict[str, Any] = {"preset": "tiny", "width": 0.05, "image_size": 64, "grid": 2, "num_classes": 2}
CODES: dict[str, Any] = {"image_shape": (3, 16, 16), "channels": (4, 8), "latent_dim": 4}


class ImageClassifier(LightningModule):
    """Stand-in with the layout of the checkpoints of classifiers: ``network.features.*``, ``network.classifier.*``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def denoiser(**options: Any) -> DenoisingUNet:
    return DenoisingUNet((3, 16, 16), base_channels=8, multipliers=(1, 2), blocks=1, attention=(), **options)


def ddpm(conditional: bool = False, **options: Any) -> DDPM:
    network = denoiser(num_classes=3 if conditional else None)
    return DDPM(image_shape=(3, 16, 16), num_classes=3, conditional=conditional, network=network, **options)


def text_to_image(**options: Any) -> TextToImage:
    text = LearnedTextEncoder(words=["red", "circle"], dim=8, layers=1, heads=1)
    return TextToImage(text, image_shape=(3, 16, 16), network=denoiser(text_dim=8), **options)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[nn.Module], str]:
    """Randomize a module and save it as Lightning does, or a network as its state dict; return the file."""

    def write(module: nn.Module) -> str:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.1)
        path = tmp_path / "start.ckpt"
        state: dict[str, Any] = dict(module.state_dict())
        if isinstance(module, LightningModule):
            state = {"state_dict": state, "hyper_parameters": {"_class_path": f"somewhere.{type(module).__name__}"}}
        torch.save(state, path)
        return str(path)

    return write


def loaded(caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """Return the numbers of tensors loaded, and of all, in the one message."""
    (message,) = [record.message for record in caplog.records if "tensors loaded" in record.message]
    words = message.split(": ")[1].split()
    return int(words[0]), int(words[2])


METHODS: dict[str, Callable[..., Any]] = {
    "ConvolutionalizedClassifier": partial(ConvolutionalizedClassifier, window=32, **SMALL),
    "FCN": partial(FCN, **SMALL),
    "DeconvNet": partial(DeconvNet, window=32, **SMALL),
    "DilatedNet": partial(DilatedNet, **SMALL | {"backbone": "vgg11"}),
    "UNet": partial(UNet, base_channels=4),
    "SlidingWindow": partial(SlidingWindow, num_classes=2, window=16, channels=4),
    "RCNN": partial(RCNN, window=67, **CROPS),
    "FastRCNN": partial(FastRCNN, **CROPS),
    "FasterRCNN": partial(FasterRCNN, **PYRAMID),
    "MaskRCNN": partial(MaskRCNN, mask_channels=8, **PYRAMID),
    "SSD": partial(SSD, image_size=96, **DETECTOR),
    "YOLO": partial(YOLO, **TINY),
    "AutoEncoder": partial(AutoEncoder, **CODES),
    "VAE": partial(VAE, **CODES),
    "ConditionalVAE": partial(ConditionalVAE, num_classes=3, **CODES),
    "DCGAN": partial(DCGAN, image_shape=(3, 16, 16), base_channels=4, discriminator_norm="spectral"),
    "DDPM": ddpm,
    "TextToImage": text_to_image,
}


@pytest.mark.parametrize("name", METHODS)
def test_same_method_loads_completely(name: str, save: Callable, caplog: pytest.LogCaptureFixture) -> None:
    source = METHODS[name]()
    with caplog.at_level(logging.INFO):
        again = METHODS[name](init_from=save(source))
    count, total = loaded(caplog)
    assert count == total
    assert "init_from" not in again.hparams
    theirs, ours = source.state_dict(), again.state_dict()
    averages = [name for name in ours if "ema.module." in name]  # those of the file start both
    trained = [name for name in ours if name.startswith(("network.", "encoder.", "decoder.", "discriminator."))]
    for name in [*averages, *([] if averages else trained)]:
        assert torch.equal(ours[name], theirs[name]), name


def alexnet(**options: Any) -> nn.Module:
    return Classifier("alexnet", num_classes=7, window=67, width=0.05, **options)


def vgg(backbone: Any = "vgg11_bn", window: int = 224) -> nn.Module:
    return Classifier(backbone, num_classes=7, window=window, width=0.05)


def torchvision_vgg() -> nn.Module:
    """Build torchvision's VGG-11 with a small stand-in for its Linear layers, which have 124 of 133 M parameters."""
    return nn.ModuleDict({"features": build_features("vgg11_bn"), "classifier": nn.Sequential(nn.Linear(8, 8))})


RESNET = partial(torchvision.models.resnet18)
# Target <- source: tensors loaded of all, and the modules on both sides that then compute the same features.
RUNGS: dict[str, tuple[Callable[..., Any], Callable[[], nn.Module], tuple[int, int], str, str]] = {
    "FCN <- classifier": (
        METHODS["FCN"],
        lambda: ConvolutionalizedClassifier(window=224, **SMALL),
        (62, 66),
        "network.features",
        "network.windows.features",
    ),
    "FCN <- ImageClassifier": (
        METHODS["FCN"],
        lambda: ImageClassifier(vgg()),
        (60, 66),
        "network.fc7",
        "network.classifier.3",
    ),
    "DilatedNet <- FCN": (
        METHODS["DilatedNet"],
        lambda: FCN(**SMALL | {"backbone": "vgg11"}),
        (22, 38),
        "network.front.features",
        "network.features",
    ),
    "DeconvNet <- VGG": (METHODS["DeconvNet"], lambda: vgg(window=32), (60, 170), "network.fc7.0", "classifier.3"),
    "ConvolutionalizedClassifier <- ImageClassifier": (
        METHODS["ConvolutionalizedClassifier"],
        lambda: ImageClassifier(vgg(window=32)),
        (60, 62),
        "network.windows.features",
        "network.features",
    ),
    "Fast R-CNN <- R-CNN": (
        METHODS["FastRCNN"],
        lambda: RCNN(window=227, **CROPS),
        (16, 18),
        "network.hidden.1",
        "network.classifier.1",
    ),
    "R-CNN <- ImageClassifier": (
        METHODS["RCNN"],
        lambda: ImageClassifier(alexnet()),
        (14, 19),
        "network.features",
        "network.features",
    ),
    "SSD <- ResNet": (
        partial(SSD, backbone="resnet18", num_classes=2, image_size=96),
        RESNET,
        (120, 140),
        "network.body.layer1",
        "layer1",
    ),
    "SSD <- VGG": (
        partial(SSD, backbone="vgg11_bn", num_classes=2, image_size=96),
        torchvision_vgg,
        (56, 85),
        "network.body.features",
        "features",
    ),
    "Faster R-CNN <- ResNet": (
        partial(FasterRCNN, backbone="resnet18", num_classes=2),
        RESNET,
        (120, 150),
        "network.backbone.body.layer4",
        "layer4",
    ),
    "Mask R-CNN <- frozen ResNet": (
        partial(MaskRCNN, backbone="resnet18", num_classes=2, norm="frozen"),
        RESNET,
        (100, 142),
        "network.backbone.body.bn1",
        "bn1",
    ),
    "YOLO <- features": (
        METHODS["YOLO"],
        lambda: ImageClassifier(nn.ModuleDict({"features": METHODS["YOLO"]().network.features})),
        (42, 50),
        "network.features",
        "network.features",
    ),
    "UNet <- ImageClassifier": (
        METHODS["UNet"],
        lambda: ImageClassifier(classification.BackboneClassifier("unet", 7, (3, 32, 32), width=1 / 16)),
        (60, 118),
        "network.down4",
        "network.features.down4",
    ),
    "SlidingWindow <- ImageClassifier": (
        METHODS["SlidingWindow"],
        lambda: ImageClassifier(WindowClassifier(2, window=16, channels=4)),
        (28, 28),
        "network.0",
        "network.0",
    ),
    "VAE <- AutoEncoder": (METHODS["VAE"], METHODS["AutoEncoder"], (32, 34), "decoder", "decoder"),
    "DDPM <- conditional DDPM": (METHODS["DDPM"], lambda: ddpm(conditional=True), (96, 96), "network", "ema.module"),
}


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.slow
def test_rungs_share_layers(rung: str, save: Callable, caplog: pytest.LogCaptureFixture) -> None:
    build, source, counts, ours, theirs = RUNGS[rung]
    origin = source()
    with caplog.at_level(logging.INFO):
        target = build(init_from=save(origin))
    assert loaded(caplog) == counts
    here, there = (
        module.get_submodule(name).eval().state_dict() for module, name in ((target, ours), (origin, theirs))
    )
    assert here
    for name, value in here.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value.flatten(), there[name].flatten()), name


def test_linear_layers_become_convolutions_of_the_same_function(save: Callable) -> None:
    classifier = vgg("vgg11", window=224)
    fcn = FCN(stride=32, init_from=save(classifier), **SMALL | {"backbone": "vgg11"}).network.eval()
    with torch.no_grad():
        x = torch.randn(2, 3, 224, 224)
        maps = classifier.eval().features(x)
        expected = classifier.classifier[:-1](maps.flatten(1))
        found = fcn.fc7(fcn.fc6(maps).relu()).relu().flatten(1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 4)])
def test_first_convolution_keeps_its_response_to_grey(save: Callable, before: int, after: int) -> None:
    first = UNet(base_channels=4, in_channels=before)
    second = UNet(base_channels=4, in_channels=after, init_from=save(first))
    grey = torch.randn(1, 1, 16, 16)

    def respond(model: UNet, channels: int) -> Tensor:
        return model.network.eval()(grey.expand(-1, channels, -1, -1))

    torch.testing.assert_close(respond(second, after), respond(first, before))


def test_other_classes_begin_afresh_and_are_reported(save: Callable, caplog: pytest.LogCaptureFixture) -> None:
    path = save(UNet(base_channels=4, num_classes=21))
    with caplog.at_level(logging.INFO):
        UNet(base_channels=4, num_classes=6, init_from=path)
    assert (
        "model.init_from start.ckpt (UNet): 116 of 118 tensors loaded; outc.* (21 outputs there, 6 here) begins afresh"
        in (caplog.text)
    )


def test_ema_weights_of_file_start_network_and_average(save: Callable) -> None:
    source = ddpm()
    path = save(source)
    for target in (ddpm(init_from=path), ddpm(init_from=path, ema=None)):
        for name, value in source.ema.module.state_dict().items():
            assert torch.equal(target.network.state_dict()[name], value)
            assert torch.equal(target.sampling_network.state_dict()[name], value)


def test_file_without_common_layers_names_both_sides(save: Callable) -> None:
    path = save(torchvision.models.resnet18())
    with pytest.raises(
        UsageError,
        match=r"start.ckpt \(state dict\) does not fit UNet: no layer.*file has conv1.weight \(64, 3, 7, 7\).*"
        r"model network.inc.double_conv.0.weight \(4, 3, 3, 3\)",
    ):
        UNet(base_channels=4, init_from=path)


def test_classifiers_that_share_their_score_layer_alone_are_distinguished(save: Callable) -> None:
    path = save(torchvision.models.mobilenet_v2())
    with pytest.raises(UsageError, match=r"only one layer has the same name, classifier.1.weight \(1000, 1280\) in"):
        FCN(backbone="efficientnet_lite0", width=0.1, num_classes=4, init_from=path)


def test_bias_that_only_the_file_has_is_named(tmp_path: Path) -> None:
    state, path = UNet(base_channels=4).network.state_dict(), tmp_path / "start.ckpt"
    biases = {name.replace("weight", "bias"): value[:, 0, 0, 0] for name, value in state.items() if value.ndim == 4}
    torch.save({"state_dict": biases | state}, path)
    with pytest.raises(UsageError, match=r"the file has .*\d\.bias \(\d+,\).*, the model .*\d\.bias missing"):
        UNet(base_channels=4, init_from=path)


def test_folder_as_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; it must be a file of torch.save"):
        UNet(base_channels=4, init_from=tmp_path)


def test_old_name_of_unet_works_with_a_warning() -> None:
    from darkroom.renames import rename_keys

    with pytest.warns(FutureWarning, match="model.pretrained is now model.init_from"):
        assert rename_keys("model", {"pretrained": "a.pth"}, "UNet") == {"init_from": "a.pth"}


def test_classifier_of_timm_starts_a_detector(save: Callable, caplog: pytest.LogCaptureFixture) -> None:
    timm = pytest.importorskip("timm")
    path = save(timm.create_model("resnet18", pretrained=False))
    with caplog.at_level(logging.INFO):
        FasterRCNN(backbone="resnet18", num_classes=2, init_from=path)
    assert loaded(caplog)[0] == 120


def test_checkpoint_of_a_classifier_starts_a_detector_and_a_classifier(tmp_path: Path) -> None:
    def classifier(**options: Any) -> classification.ImageClassifier:
        network = classification.BackboneClassifier("yolo_tiny", 2, (3, 64, 64), width=0.05)
        return classification.ImageClassifier(network, num_classes=2, **options)

    trained, path = classifier(), tmp_path / "best.ckpt"
    torch.save({"state_dict": trained.state_dict()}, path)
    image = torch.rand(1, 3, 64, 64)
    features = trained.network.features.eval()(image)
    assert torch.equal(YOLO(**TINY, init_from=str(path)).network.features.eval()(image), features)
    again = classifier(init_from=str(path))
    assert torch.equal(again.eval()(image), trained.eval()(image))
