"""U-Net: sizes of the paper and of the lecture's version."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import UNet, UNetNetwork
from tests.contracts.module import SegmentationContract, trainer
from tests.contracts.network import DenseNetworkContract


class TestUNetNetwork(DenseNetworkContract):
    def build(self) -> nn.Module:
        return UNetNetwork(num_classes=4, base_channels=4)


class TestUNetNetworkBilinear(DenseNetworkContract):
    def build(self) -> nn.Module:
        return UNetNetwork(num_classes=4, base_channels=4, bilinear=True)


class TestUNetNetworkNearest(DenseNetworkContract):
    def build(self) -> nn.Module:
        return UNetNetwork(num_classes=4, base_channels=4, upsampling="nearest")


class TestUNetNetworkUnpooling(DenseNetworkContract):
    def build(self) -> nn.Module:
        return UNetNetwork(num_classes=4, base_channels=4, upsampling="unpooling")


class TestUNetValid(SegmentationContract):
    steps, overfit_loss = 80, 0.5  # without batch norm the loss falls slowly at this width

    def build(self, **kwargs: Any) -> UNet:
        torch.manual_seed(0)
        return UNet(num_classes=6, base_channels=4, padding="valid", batch_norm=False, **kwargs)

    @pytest.mark.slow
    def test_overfits_one_batch(self, tmp_path: Path) -> None:
        super().test_overfits_one_batch(tmp_path)


class TestUNet(SegmentationContract):
    compile_backend = "inductor"
    compile_mode = "reduce-overhead"
    steps = 220

    def build(self, **kwargs: Any) -> UNet:
        return UNet(num_classes=6, base_channels=4, **kwargs)


@pytest.mark.parametrize(("bilinear", "parameters"), [(False, 31_037_698), (True, 17_262_977 + 65)])
def test_parameter_count_matches_reference_implementation(bilinear: bool, parameters: int) -> None:
    with torch.device("meta"):
        network = UNetNetwork(3, 2, bilinear)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_parameter_names_match_reference_implementation() -> None:
    with torch.device("meta"):
        names = list(UNetNetwork().state_dict())
    assert names[0] == "inc.double_conv.0.weight"
    assert "down4.maxpool_conv.1.double_conv.4.running_var" in names
    assert {"up1.up.weight", "up1.up.bias", "up1.conv.double_conv.3.weight"} <= set(names)
    assert names[-2:] == ["outc.conv.weight", "outc.conv.bias"]


def test_channels_double_in_encoder() -> None:
    with torch.device("meta"):
        network = UNetNetwork()
        image = torch.empty(1, 3, 64, 64)
        widths, x = [], image
        for step in (network.inc, network.down1, network.down2, network.down3, network.down4):
            x = step(x)
            widths.append(tuple(x.shape[1:]))
    assert widths == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4)]


def test_default_arguments_match_lecture() -> None:
    with torch.device("meta"):
        model = UNet()
    assert (model.num_classes, model.network.inc.double_conv[0].in_channels) == (2, 3)


def test_published_weights_are_loaded(tmp_path: Path) -> None:
    source = UNetNetwork(base_channels=4)
    torch.save({**source.state_dict(), "mask_values": [0, 255]}, tmp_path / "published.pth")
    model = UNet(base_channels=4, init_from=str(tmp_path / "published.pth"))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.network.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["missing", "other width", "no weights", "no state dict", "malicious"])
def test_invalid_weights_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.pth"
    if damage == "other width":
        torch.save(UNetNetwork(base_channels=8).state_dict(), path)
    elif damage == "no state dict":
        torch.save([torch.zeros(3)], path)
    elif damage == "no weights":
        path.write_bytes(b"not a checkpoint")
    elif damage == "malicious":
        torch.save({"inc": Path(".")}, path)  # any object that is not a tensor runs code when unpickled
    with pytest.raises(UsageError, match="weights.pth"):
        UNet(base_channels=4, init_from=str(path))


@pytest.mark.parametrize("wrong", [{"base_channels": 0}, {"in_channels": 0}, {"base_channels": 5, "bilinear": True}])
def test_invalid_widths_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="channels"):
        UNet(**wrong)


def test_parameter_count_and_sizes_match_paper() -> None:
    with torch.device("meta"):
        network = UNetNetwork(1, 2, padding="valid", batch_norm=False, dropout=0.5)
        assert network(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert sum(p.numel() for p in network.parameters()) == 31_030_658
    assert network.margin == (572 - 388) // 2
    assert network.input_size(388) == 572
    assert network.input_size(389) == 588


# Not bilinear, which aligns corners and is therefore not shift-equivariant.
@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "unpooling"])
def test_skip_connections_are_cropped_to_centre(upsampling: str) -> None:
    """Check alignment: an image shifted by 16 pixels gives logits shifted by 16."""
    torch.manual_seed(0)
    network = (
        UNetNetwork(1, 2, base_channels=2, upsampling=upsampling, padding="valid", batch_norm=False).double().eval()
    )
    image = torch.randn(1, 1, 220, 220, dtype=torch.double)
    logits = network(image)
    assert logits.shape[-2:] == (36, 36)
    moved = network(image[..., 16:204, 16:204])  # 188 pixels give 4
    torch.testing.assert_close(moved, logits[..., 16:20, 16:20])


@pytest.mark.parametrize("size", [(187, 188), (188, 200), (100, 100)])
def test_unsupported_sizes_of_valid_unet_raise(size: tuple[int, int]) -> None:
    network = UNetNetwork(1, 2, base_channels=2, padding="valid")
    with pytest.raises(UsageError, match=r"16 n \+ 124, at least 188, such as .*572"):
        network(torch.randn(1, 1, *size))


def test_valid_unet_covers_small_images() -> None:
    model = UNet(1, 2, base_channels=2, padding="valid").eval()
    assert model(torch.randn(1, 1, 5, 33)).shape == (1, 2, 5, 33)


def test_training_border_given_restricts_loss_to_centre(tmp_path: Path) -> None:
    seen: dict[str, torch.Size] = {}

    class RecordingLoss(nn.Module):
        needs = ("border",)

        def forward(self, logits: torch.Tensor, mask: torch.Tensor, border: torch.Tensor) -> torch.Tensor:
            seen.update(logits=logits.shape[-2:], mask=mask.shape[-2:], border=border.shape[-2:])
            return logits.mean()

    model = UNet(
        3, 6, base_channels=2, padding="valid", batch_norm=False, training_border="given", loss=RecordingLoss()
    )
    data = ShapesSegmentation(train_size=2, batch_size=2, num_workers=0, side=188, borders=True)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(model, data)
    assert seen == {"logits": (4, 4), "mask": (4, 4), "border": (4, 4)}


def test_initialization_matches_paper() -> None:
    torch.manual_seed(0)
    conv = UNetNetwork(1, 2, base_channels=16, batch_norm=False).down4.maxpool_conv[1].double_conv[2]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.in_channels)) ** 0.5, rel=0.02)
    assert conv.bias.abs().max() == 0


def test_bilinear_argument_sets_upsampling() -> None:
    with torch.device("meta"):
        short, long = UNetNetwork(bilinear=True), UNetNetwork(upsampling="bilinear")
    assert short.state_dict().keys() == long.state_dict().keys()
    with pytest.raises(UsageError, match="bilinear contradicts"):
        UNetNetwork(bilinear=True, upsampling="nearest")
