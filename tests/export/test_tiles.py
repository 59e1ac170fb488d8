"""Tiles of exported graphs: the windows that a graph takes give what the method's own tiles give."""

from typing import Any

import pytest
import torch

from darkroom.errors import UsageError
from darkroom.export.check import compare
from darkroom.lightning_modules.segmentation import Inference, UNet
from tests.contracts.export import EagerRunner, reference_of


@pytest.mark.parametrize(
    "options", [{}, {"padding": "valid", "batch_norm": False}], ids=["blended", "with the surroundings"]
)
@pytest.mark.parametrize("flip", [False, True], ids=["", "flipped"])
@pytest.mark.parametrize("size", [(70, 101), (20, 30), (64, 32), (1, 90)])
def test_tiles_of_a_graph_are_those_of_predict(options: dict[str, Any], flip: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = UNet(num_classes=3, base_channels=2, inference=Inference(tile=32, flip=flip), **options)
    reference = reference_of(model)
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    agreement = compare(reference, EagerRunner(reference.graph), [(image,)])
    assert agreement.fraction == 1
    assert agreement.largest < 1e-6


def test_tiles_of_resized_images_are_refused() -> None:
    model = UNet(num_classes=3, base_channels=2, inference=Inference(tile=32, scales=(0.5, 1.0)))
    with pytest.raises(UsageError, match="model.inference.scales must be"):
        model.export_graph(([0.5] * 3, [0.5] * 3))


def test_grey_images_have_one_channel() -> None:
    torch.manual_seed(0)
    reference = reference_of(UNet(in_channels=1, num_classes=3, base_channels=2), channels=1)
    assert reference.graph.inputs[0].shape == ("batch", 1, "height", "width")
    image = torch.randint(0, 256, (2, 1, 37, 50), dtype=torch.uint8)
    assert compare(reference, EagerRunner(reference.graph), [(image,)]).fraction == 1
