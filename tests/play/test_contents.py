"""Facts of a network for its page: receptive fields, class activation maps, and the boxes that a detector starts from."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.detection import SSD, YOLO, FasterRCNN
from darkroom.play.activation import with_activation_maps
from darkroom.play.receptive import measure_fields
from darkroom.play.references import references_of

SIDE = 8  # of images: every pixel has a receptive field


def convolutions(count: int, **options: int) -> nn.Sequential:
    """Return 3 x 3 convolutions with ReLUs between them, with random weights."""
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Conv2d(1 if index == 0 else 2, 2, 3, padding=options.get("dilation", 1), **options), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(
    ("network", "reach"),
    [
        (nn.Conv2d(1, 2, 1), 0),
        (convolutions(1), 1),
        (convolutions(2), 2),
        (convolutions(1, dilation=2), 2),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(3, 1, 1)), 1),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3, padding=1), nn.GELU()), 1),
    ],
)
def test_theoretical_field_follows_from_the_layers(network: nn.Module, reach: int) -> None:
    fields = measure_fields(network.eval(), torch.randn(2, 1, SIDE, SIDE))
    assert fields is not None
    for y, x in ((4, 3), (0, 7)):
        low, high = (max(0, place - reach) for place in (x, y)), (min(SIDE, place + reach + 1) for place in (x, y))
        assert fields.bounds[y * SIDE + x] == [*low, *high]


def test_layer_that_sees_everything_has_the_whole_image_as_field() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.mean((2, 3), keepdim=True)

    fields = measure_fields(nn.Sequential(Mean(), nn.Conv2d(1, 2, 1)), torch.randn(1, 1, SIDE, SIDE))
    assert fields is not None
    assert fields.bounds[0] == [0, 0, SIDE, SIDE]


def test_logits_without_a_gradient_have_no_field() -> None:
    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach()

    assert measure_fields(Detached(), torch.randn(1, 1, SIDE, SIDE)) is None


def test_fields_are_reduced_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda some: (sizes.extend(one.numel() for one in some), stack(some))[1])
    assert measure_fields(convolutions(1), torch.randn(2, 1, SIDE, SIDE)) is not None
    assert set(sizes) == {SIDE * SIDE}


def test_effective_field_is_the_gradient() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    network.weight.data = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 1.0, 0.25], [0.0, 0.0, 0.0]]]])
    fields = measure_fields(network, torch.randn(1, 1, SIDE, SIDE))
    assert fields is not None
    maps = np.array(Image.open(io.BytesIO(base64.b64decode(fields.maps)))).reshape(SIDE * SIDE, SIDE, SIDE)
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[4, 3:5] = 255, 128  # the square root, the largest 255
    np.testing.assert_array_equal(maps[4 * SIDE + 3], expected)


def test_class_activation_map_averages_to_the_logit() -> None:
    network = BackboneClassifier("yolo_tiny", 3, (3, 128, 128), width=0.1)
    model = ImageClassifier(network, num_classes=3, image_shape=(3, 128, 128)).eval()
    image = torch.randint(256, (2, 3, 128, 128), dtype=torch.uint8)
    normalization = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    maps = with_activation_maps(model, torch.zeros(1, 3, 128, 128))
    assert maps is not None
    probabilities, activation = maps.export_graph(normalization).module(image)
    logits = activation.mean((2, 3)) + network.classifier[-1].bias
    torch.testing.assert_close(logits.softmax(1), probabilities)


def test_map_of_one_cell_is_not_shown() -> None:
    network = BackboneClassifier("vgg11_bn", 3, (3, 32, 32), width=0.05)
    model = ImageClassifier(network, num_classes=3, image_shape=(3, 32, 32)).eval()
    assert with_activation_maps(model, torch.zeros(1, 3, 32, 32)) is None


def test_cells_of_yolo_tile_the_image() -> None:
    model = YOLO(num_classes=2, preset="tiny", grid=4, image_size=64, width=0.1).eval()
    cells = references_of(model, torch.zeros(1, 3, 40, 80))
    assert cells is not None
    assert cells.rule == "centre"
    assert len(cells.boxes) == 16
    assert cells.boxes[0] == [0, 0, 20, 10]
    assert cells.boxes[-1] == [60, 30, 80, 40]


def test_anchors_are_in_pixels_of_the_image() -> None:
    ssd = SSD(num_classes=2, backbone="resnet18", width=0.05, image_size=64).eval()
    found = references_of(ssd, torch.zeros(1, 3, 32, 128))
    boxes = torch.tensor(found.boxes if found else [])
    torch.testing.assert_close(boxes, ssd.network.default_boxes * torch.tensor([2, 0.5, 2, 0.5]), atol=0.01, rtol=0)
    rpn = {"anchor_sizes": [16, 32]}
    faster = FasterRCNN(num_classes=2, backbone="vgg11_bn", width=0.05, fpn_channels=8, head_channels=8, min_side=64,
                        max_side=64, rpn=rpn).eval()  # fmt: skip
    anchors = references_of(faster, torch.zeros(1, 3, 32, 32))
    assert anchors is not None
    assert (anchors.rule, anchors.threshold) == ("at_least", 0.7)
    # An anchor of 16 pixels of the image scaled by 2, with its centre at the first cell.
    assert [-4, -4, 4, 4] in anchors.boxes
