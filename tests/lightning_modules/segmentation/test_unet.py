"""U-Net: the paper's shape in the lecture's version."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from lightning_modules.segmentation import UNet, UNetNetwork
from tests.contracts.module import SegmentationContract
from tests.contracts.network import DenseNetworkContract


class TestUNetNetwork(DenseNetworkContract):
    def build(self) -> nn.Module:
        return UNetNetwork(num_classes=4, base_channels=4)


class TestUNetNetworkBilinear(DenseNetworkContract):
    def build(self) -> nn.Module:
        return UNetNetwork(num_classes=4, base_channels=4, bilinear=True)


class TestUNet(SegmentationContract):
    def build(self, **kwargs: Any) -> UNet:
        return UNet(num_classes=6, base_channels=4, **kwargs)


@pytest.mark.parametrize(("bilinear", "parameters"), [(False, 31_037_698), (True, 17_262_977 + 65)])
def test_parameter_count_of_the_widely_used_version(bilinear: bool, parameters: int) -> None:
    with torch.device("meta"):
        network = UNetNetwork(3, 2, bilinear)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_parameter_names_of_the_widely_used_version() -> None:
    with torch.device("meta"):
        names = list(UNetNetwork().state_dict())
    assert names[0] == "inc.double_conv.0.weight"
    assert "down4.maxpool_conv.1.double_conv.4.running_var" in names
    assert {"up1.up.weight", "up1.up.bias", "up1.conv.double_conv.3.weight"} <= set(names)
    assert names[-2:] == ["outc.conv.weight", "outc.conv.bias"]


def test_channels_double_down_to_sixteen_times_and_halve_up() -> None:
    with torch.device("meta"):
        network = UNetNetwork()
        image = torch.empty(1, 3, 64, 64)
        widths, x = [], image
        for step in (network.inc, network.down1, network.down2, network.down3, network.down4):
            x = step(x)
            widths.append(tuple(x.shape[1:]))
    assert widths == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4)]


def test_defaults_are_the_lecture_s() -> None:
    with torch.device("meta"):
        model = UNet()
    assert (model.num_classes, model.network.inc.double_conv[0].in_channels) == (2, 3)


def test_published_weights_load(tmp_path: Path) -> None:
    source = UNetNetwork(base_channels=4)
    torch.save({**source.state_dict(), "mask_values": [0, 255]}, tmp_path / "published.pth")
    model = UNet(base_channels=4, pretrained=str(tmp_path / "published.pth"))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.network.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["missing", "other width", "no weights", "malicious"])
def test_weights_that_cannot_be_loaded_say_why(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.pth"
    if damage == "other width":
        torch.save(UNetNetwork(base_channels=8).state_dict(), path)
    elif damage == "no weights":
        path.write_bytes(b"not a checkpoint")
    elif damage == "malicious":
        torch.save({"inc": Path(".")}, path)  # any object that is not a tensor runs code when unpickled
    with pytest.raises(UsageError, match="weights.pth"):
        UNet(base_channels=4, pretrained=str(path))


@pytest.mark.parametrize("wrong", [{"base_channels": 0}, {"in_channels": 0}, {"base_channels": 5, "bilinear": True}])
def test_impossible_widths_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="channels"):
        UNet(**wrong)
