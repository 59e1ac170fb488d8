"""DeconvNet: size, unpooling and inference over proposals of the paper."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from darkroom.datamodules.loading import collate
from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import DeconvNet, DeconvNetwork, Inference
from darkroom.lightning_modules.segmentation.deconvnet import grid_windows
from tests.contracts.module import SegmentationContract
from tests.contracts.network import DenseNetworkContract


class TestDeconvNetwork(DenseNetworkContract):
    sizes = [(32, 32), (33, 47), (32, 80), (65, 63)]

    def build(self) -> nn.Module:
        return DeconvNetwork(num_classes=4, width=0.03, window=32)


class TestDeconvNetworkTransposed(TestDeconvNetwork):
    def build(self) -> nn.Module:
        return DeconvNetwork(num_classes=4, width=0.03, window=32, upsampling="transposed", backbone="vgg11_bn")


class TestDeconvNet(SegmentationContract):
    steps = 120
    refuses = "smaller than DeconvNet's window"

    def build(self, **kwargs: Any) -> DeconvNet:
        torch.manual_seed(0)
        return DeconvNet(num_classes=6, width=0.2, window=32, **kwargs)  # at width 0.1 the loss stays near 0.1


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestDeconvNetByProposals(SegmentationContract):
    test_overfits_one_batch = None  # trains as TestDeconvNet does
    test_export_graph_agrees_with_predict = None  # see test_proposals_refuse_export

    def build(self, **kwargs: Any) -> DeconvNet:
        torch.manual_seed(0)
        return DeconvNet(num_classes=6, width=0.1, window=32, proposals=10, **kwargs)

    @pytest.mark.parametrize("size", [(1, 900), (2000, 2)], ids=["wide", "thin"])
    def test_extreme_aspect_ratios_work_or_are_refused(self, size: tuple[int, int]) -> None:
        """Training refuses them as TestDeconvNet does; windows of test and prediction are warped."""
        assert self.build().eval().predict_step({"image": torch.randn(2, 3, *size)}, 0).shape == (2, *size)


def test_parameter_count_matches_paper() -> None:
    with torch.device("meta"):
        network = DeconvNetwork(num_classes=21)
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 21, 224, 224)
        assert network.fc6(network.features[:1](torch.empty(2, 3, 7, 7)).new_empty(2, 512, 7, 7)).shape[1:] == (
            4096,
            1,
            1,
        )
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert sum(p.numel() for m in convolutions for p in m.parameters()) == 251_772_245


def test_decoder_mirrors_encoder() -> None:
    with torch.device("meta"):
        network = DeconvNetwork()
    widths = [[m.out_channels for m in stage if isinstance(m, nn.ConvTranspose2d)] for stage in network.decoder]
    assert widths == [[512] * 3, [512, 512, 256], [256, 256, 128], [128, 64], [64, 64]]
    assert tuple(network.unfc6[0].weight.shape) == (4096, 512, 7, 7)


def test_unpooling_restores_maxima() -> None:
    pool, up = nn.MaxPool2d(2, return_indices=True), DeconvNetwork(width=0.03, window=32).ups[0]
    image = torch.rand(1, 3, 5, 6)
    pooled, indices = pool(image)
    back = up(pooled, indices, image.shape[-2:])
    assert back.shape == image.shape
    assert torch.equal(back[back != 0], image[back != 0])
    assert (back != 0).sum() == pooled.numel()


def test_pixels_take_maximum_over_windows() -> None:
    model = DeconvNet(num_classes=2, width=0.03, window=32, proposals=50).eval()
    model.forward = lambda image: image[:, :2]  # a network whose logits are the image
    image = torch.rand(1, 3, 32, 32)
    image[:, :, 20:] = -1
    scores = model.infer({"image": image, "proposals": [torch.tensor([[0.0, 0, 32, 16], [8, 8, 24, 30]])]})
    assert scores.shape == (1, 2, 32, 32)
    assert scores[..., 30:, :].abs().max() == 0  # outside every window: zero (section 4.3)
    assert scores[..., 20:30, 8:24].max() <= 0
    assert scores.min() == 0  # negative values in a window are below the zeros around it
    summed = DeconvNet(num_classes=2, width=0.03, window=32, proposals=50, aggregate="sum").eval()
    summed.forward = model.forward
    twice = summed.infer({"image": image, "proposals": [torch.tensor([[0.0, 0, 32, 32]] * 2)]})
    torch.testing.assert_close(twice, 2 * image[:, :2])


def test_single_window_equals_network_output() -> None:
    model = DeconvNet(num_classes=2, width=0.03, window=32, proposals=1).eval()
    model.forward = lambda image: image[:, :2]
    image = -torch.rand(1, 3, 32, 32) - 1
    torch.testing.assert_close(model.infer({"image": image}), image[:, :2])


def test_proposals_of_batch_may_leave_image() -> None:
    samples = [{"image": torch.rand(3, 40, 48), "proposals": 100 * torch.rand(n, 4) - 20} for n in (2, 5)]
    batch = collate(samples)
    assert [len(boxes) for boxes in batch["proposals"]] == [2, 5]
    model = DeconvNet(num_classes=2, width=0.03, window=32, proposals=50).eval()
    assert model.infer(batch).shape == (2, 2, 40, 48)


def test_proposals_with_tiles_or_flips_raise() -> None:
    with pytest.raises(UsageError, match="model.proposals must be 0 with model.inference"):
        DeconvNet(proposals=50, width=0.03, window=32, inference=Inference(flip=True))


def test_proposals_refuse_export() -> None:
    with pytest.raises(UsageError, match="model.proposals must be 0 for export"):
        DeconvNet(proposals=50, width=0.03, window=32).export_graph(([0.0] * 3, [1.0] * 3))


def test_unpooling_supports_deterministic_algorithms() -> None:
    network = DeconvNetwork(num_classes=2, width=0.03, window=32)
    torch.use_deterministic_algorithms(True)
    try:
        network(torch.randn(2, 3, 33, 47)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_number_of_proposals_is_limited() -> None:
    model, seen = DeconvNet(num_classes=2, width=0.03, window=32, proposals=3).eval(), []
    model.forward = lambda image: seen.append(len(image)) or image[:, :2]
    model.infer({"image": torch.rand(1, 3, 64, 64), "proposals": [torch.rand(9, 4) * 64]})
    assert sum(seen) == 3


def test_grid_windows_cover_image() -> None:
    boxes = grid_windows(60, 90, 50)
    assert len(boxes) == 46
    assert boxes[0].tolist() == [0, 0, 90, 60]
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2].max() == 90
    assert boxes[:, 3].max() == 60
    assert len(grid_windows(60, 90, 1)) == 1


def test_images_below_window_size_raise() -> None:
    with pytest.raises(UsageError, match="31 x 64 pixels.*at least 32"):
        DeconvNetwork(width=0.03, window=32)(torch.randn(1, 3, 31, 64))
    with pytest.raises(UsageError, match="multiple of 32"):
        DeconvNet(window=100)


def test_second_stage_starts_from_first(tmp_path: Path) -> None:
    first = DeconvNet(num_classes=6, width=0.03, window=32)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "first.ckpt")
    second = DeconvNet(num_classes=6, width=0.03, window=32, init_from=str(tmp_path / "first.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = DeconvNet(num_classes=5, width=0.03, window=32, init_from=str(tmp_path / "first.ckpt"))
    assert torch.equal(other.network.fc6[0].weight, first.network.fc6[0].weight)
