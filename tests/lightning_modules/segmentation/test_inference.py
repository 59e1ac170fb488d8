"""Inference with tiles, flips and scales."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.segmentation import Inference, SemanticSegmentation, UNet


class Pointwise(nn.Module):
    """Pointwise network, for which tiles have no effect; records input shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Conv2d(3, 4, 1), []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(tuple(x.shape))
        return self.layer(x)


def model(**kwargs: Any) -> SemanticSegmentation:
    return SemanticSegmentation(Pointwise(), num_classes=4, inference=Inference(**kwargs)).eval()


@pytest.mark.parametrize("size", [(50, 70), (16, 90), (33, 33)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_tiles_equal_full_image(size: tuple[int, int], overlap: float) -> None:
    tiled, image = model(tile=32, overlap=overlap, tiles_at_once=2), torch.randn(2, 3, *size)
    whole = tiled(image).log_softmax(1)
    tiled.network.calls.clear()
    torch.testing.assert_close(tiled.infer({"image": image}), whole)
    assert all(n <= 2 and max(h, w) <= 32 for n, _, h, w in tiled.network.calls)


def test_image_that_fits_one_tile_is_not_split() -> None:
    tiled = model(tile=64)
    tiled.infer({"image": torch.randn(1, 3, 64, 64)})
    assert tiled.network.calls == [(1, 3, 64, 64)]


def test_tiles_are_even_with_minimum_overlap() -> None:
    for side, tile, overlap in ((100, 32, 0.25), (1000, 256, 0.5), (33, 32, 0.0)):
        starts = Inference(tile=tile, overlap=overlap).starts(side)
        assert starts[0] == 0
        assert starts[-1] == side - tile
        assert max(b - a for a, b in pairwise(starts)) <= tile * (1 - overlap)


def test_overlap_tile_of_valid_unet_equals_full_image() -> None:
    """Check figure 2 of the paper: tiles of a multiple of 16 pixels with true context equal the full image."""
    torch.manual_seed(0)
    unet = UNet(num_classes=3, base_channels=2, padding="valid", batch_norm=False).eval()
    image = torch.randn(1, 3, 70, 40)
    with torch.no_grad():
        whole = unet(image).log_softmax(1)
        unet.inference = Inference(tile=32)
        tiles = unet.infer({"image": image})
    torch.testing.assert_close(tiles, whole, rtol=1e-4, atol=1e-5)


def test_flips_make_prediction_symmetric() -> None:
    torch.manual_seed(0)
    flipping = SemanticSegmentation(nn.Conv2d(3, 4, 3, padding=1), num_classes=4, inference=Inference(flip=True))
    image = torch.randn(1, 3, 12, 12)
    there, back = flipping.infer({"image": image}), flipping.infer({"image": image.flip(-1)})
    torch.testing.assert_close(there, back.flip(-1))
    expected = flipping(image).softmax(1) + flipping(image.flip(-1)).softmax(1).flip(-1)
    torch.testing.assert_close(there.exp(), expected / 2)


def test_scales_average_resized_predictions() -> None:
    scaling = model(scales=(0.5, 1.0, 1.5))
    out = scaling.infer({"image": torch.randn(2, 3, 20, 30)})
    assert [asked[-2:] for asked in scaling.network.calls] == [(10, 15), (20, 30), (30, 45)]
    torch.testing.assert_close(out.exp().sum(1), torch.ones(2, 20, 30))


@pytest.mark.parametrize(
    "wrong", [{"tile": 0}, {"overlap": 1.0}, {"scales": ()}, {"scales": (1.0, 0.0)}, {"tiles_at_once": 0}]
)
def test_invalid_arguments_raise(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"model.inference.{next(iter(wrong))}"):
        Inference(**wrong)


@pytest.mark.usefixtures("tiny_run")
@pytest.mark.slow
def test_inference_options_work_on_command_line(darkroom: Callable, tiny: list[str]) -> None:
    ways = ["--model.inference.tile", 16, "--model.inference.flip", "true", "--model.inference.scales", "[1.0, 1.5]"]
    outcome = darkroom("test", *tiny, "--ckpt_path", "last", *ways)
    assert outcome.code == 0, outcome.err
    assert "test/mIoU" in outcome.out
    assert darkroom("predict", *tiny, "--ckpt_path", "last", *ways).code == 0
    assert "tile must be" in darkroom("test", *tiny, "--ckpt_path", "last", "--model.inference.tile", 0).message
