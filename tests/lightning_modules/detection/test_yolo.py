"""YOLO: network and loss terms of the paper, and encoding and decoding of boxes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.yolo import YOLO, LocallyConnected2d, YOLONetwork, decode, encode, yolo_loss
from tests.contracts.detection import DetectionContract

TERMS = ["xy", "wh", "object", "no_object", "classes"]
PRESETS = ["paper", "darknet", "tiny"]


def target(*boxes: tuple[float, float, float, float, int]) -> dict[str, Tensor]:
    """Build a target from boxes (x0, y0, x1, y1, label)."""
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long()}


def random_target(objects: int, classes: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Generate boxes in an image of height x width pixels."""
    sides = torch.tensor([size[1], size[0]])
    corners = torch.sort(torch.rand(objects, 2, 2), 1).values + torch.tensor([[0.0], [0.02]])
    boxes = (corners / 1.02 * sides).flatten(1)
    return {"boxes": boxes, "labels": torch.randint(1, classes + 1, (objects,))}


def small(preset: str = "tiny", **kwargs: Any) -> YOLO:
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "image_size": 64, "grid": 4, "width": 0.03}
    return YOLO(preset=preset, **{**sizes, **kwargs})


# --- the network ------------------------------------------------------------------------------------------------------


def test_network_matches_paper() -> None:
    with torch.device("meta"):
        network = YOLONetwork()
        assert network.features(torch.empty(1, 3, 448, 448)).shape == (1, 1024, 14, 14)
        assert network.added(torch.empty(1, 1024, 14, 14)).shape == (1, 1024, 7, 7)
        assert network(torch.empty(2, 3, 448, 448)).shape == (2, 7, 7, 30)
    assert sum(parameter.numel() for parameter in network.parameters()) == 271_703_550
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.features) == 20
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.added) == 4
    slopes = {layer.negative_slope for layer in network.modules() if isinstance(layer, nn.LeakyReLU)}
    assert slopes == {0.1}
    assert [type(layer) for layer in network.top] == [nn.Flatten, nn.Linear, nn.LeakyReLU, nn.Dropout]
    assert network.top[3].p == 0.5


def test_activation_is_x_or_a_tenth_of_it() -> None:
    """Check equation 2 on the activations of the network, all of which are leaky."""
    activations = [module for module in small().network.modules() if isinstance(module, nn.LeakyReLU)]
    assert activations
    for activation in activations:
        values = activation(torch.tensor([-10.0, -1, 0, 0.5, 3]))
        torch.testing.assert_close(values, torch.tensor([-1.0, -0.1, 0, 0.5, 3]))


def test_darknet_preset_matches_authors_code() -> None:
    with torch.device("meta"):
        network = YOLONetwork(preset="darknet")
        assert network(torch.empty(2, 3, 448, 448)).shape == (2, 7, 7, 35)  # 3 boxes: 1715 outputs
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 24
    assert network.top[0].weight.shape == (49, 256, 1024 * 9)
    assert network.output.weight.shape == (1715, 49 * 256)


def test_tiny_preset_matches_authors_code() -> None:
    with torch.device("meta"):
        network = YOLONetwork(preset="tiny")
        assert network(torch.empty(2, 3, 448, 448)).shape == (2, 7, 7, 30)
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert widths == [16, 32, 64, 128, 256, 512, 1024, 256]
    assert network.output.weight.shape == (1470, 49 * 256)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("grid", "boxes", "classes", "size", "channels"),
    [(7, 2, 20, 64, 3), (1, 1, 1, 1, 1), (5, 3, 4, (100, 70), 3), (2, 1, 2, (33, 129), 4)],
)
def test_output_has_stated_shape_for_any_grid_and_size(
    preset: str, grid: int, boxes: int, classes: int, size: int | tuple[int, int], channels: int
) -> None:
    network = YOLONetwork(channels, classes, preset, grid, boxes, size, width=0.01).eval()
    height, width = (size, size) if isinstance(size, int) else size
    output = network(torch.rand(2, channels, height, width))
    assert output.shape == (2, grid, grid, 5 * boxes + classes)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_gets_a_gradient_and_samples_are_independent(preset: str) -> None:
    network = YOLONetwork(num_classes=2, preset=preset, image_size=70, width=0.02)
    image = torch.rand(3, 3, 70, 70, requires_grad=True)
    network(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    image.grad = None
    network.eval()(image)[1].sum().backward()
    assert image.grad[[0, 2]].abs().max() == 0
    assert image.grad[1].abs().max() > 0


def test_features_keep_their_scale_without_norms() -> None:
    torch.manual_seed(0)
    network = YOLONetwork(image_size=128, width=0.1).eval()
    features = network.added(network.features(torch.rand(2, 3, 128, 128)))
    assert 0.05 < features.std() < 5


def test_locally_connected_with_equal_weights_is_convolution() -> None:
    torch.manual_seed(0)
    layer, x = LocallyConnected2d(3, 5, (4, 6)), torch.randn(2, 3, 4, 6)
    kernel, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    with torch.no_grad():
        layer.weight.copy_(kernel.flatten(1).expand(24, 5, 27))
        layer.bias.copy_(bias[:, None].expand(5, 24))
        expected = F.conv2d(x, kernel, bias, padding=1)
        torch.testing.assert_close(layer(x), expected)
        layer.weight[7] *= 2  # row 1, column 1, and only there
        changed = (layer(x) - expected).abs().amax((0, 1)) > 1e-4
    assert changed.nonzero().tolist() == [[1, 1]]


def test_wrong_image_size_raises() -> None:
    with pytest.raises(UsageError, match="64 x 64 pixels, got 60 x 64.*model.image_size"):
        YOLONetwork(preset="tiny", image_size=64, width=0.02)(torch.rand(1, 3, 60, 64))
    for wrong in ({"grid": 0}, {"boxes": 0}, {"image_size": (0, 64)}, {"width": 0.0}):
        with pytest.raises(UsageError, match=f"model.{next(iter(wrong))}"):
            YOLONetwork(preset="tiny", **{"width": 0.02, **wrong})


# --- encoding and decoding --------------------------------------------------------------------------------------------


def test_object_is_assigned_to_cell_of_its_centre() -> None:
    # 200 pixels high, 100 wide, 4 x 4 cells; the centre (40, 110) lies in column 1, row 2
    encoded, labels = encode([target((30, 90, 50, 130, 3))], [(200, 100)], 4)
    assert labels.nonzero().tolist() == [[0, 2, 1]]
    assert labels[0, 2, 1] == 3
    expected = torch.tensor([0.6, 0.2, math.sqrt(0.2), math.sqrt(0.2)])
    torch.testing.assert_close(encoded[0, 2, 1], expected)


@pytest.mark.parametrize(("box", "cell"), [((90, 80, 110, 120), (3, 3)), ((-10, -20, 10, 20), (0, 0))])
def test_centre_on_image_border_is_assigned_to_border_cell(box: tuple[int, ...], cell: tuple[int, int]) -> None:
    encoded, labels = encode([target((*box, 1))], [(100, 100)], 4)
    assert labels.nonzero().tolist() == [[0, *cell]]
    assert encoded[(0, *cell)][:2].tolist() == ([1, 1] if cell == (3, 3) else [0, 0])


def test_larger_of_two_objects_in_a_cell_is_kept() -> None:
    small_one, large_one, elsewhere = (10, 10, 14, 14, 1), (5, 5, 20, 20, 2), (80, 80, 90, 90, 3)
    for order in ((small_one, large_one, elsewhere), (elsewhere, large_one, small_one)):
        _, labels = encode([target(), target(*order)], [(100, 100)] * 2, 4)
        assert labels.nonzero().tolist() == [[1, 0, 0], [1, 3, 3]]
        assert labels[1, 0, 0] == 2
    _, labels = encode([target((10, 10, 14, 14, 3), (11, 11, 15, 15, 1))], [(100, 100)], 4)
    assert labels[0, 0, 0] == 3  # equal areas: the first


@pytest.mark.parametrize("boxes", [1, 2, 3])
def test_decode_inverts_encode(boxes: int) -> None:
    torch.manual_seed(0)
    sizes = [(120, 200), (64, 48)]
    truths = [target((20, 10, 60, 100, 2), (150, 60, 198, 118, 5)), target((0, 0, 48, 64, 1))]
    encoded, labels = encode(truths, sizes, 7)
    output = torch.zeros(2, 7, 7, 5 * boxes + 5)
    for image, row, column in labels.nonzero().tolist():
        last = 5 * (boxes - 1)
        output[image, row, column, last : last + 4] = encoded[image, row, column]
        output[image, row, column, last + 4] = 1
        output[image, row, column, 5 * boxes + labels[image, row, column] - 1] = 1
    inference = {"score_threshold": 0.5}
    model = YOLO(preset="tiny", num_classes=5, width=0.02, image_size=64, boxes=boxes, inference=inference)
    model.forward = lambda images: output
    images = [torch.rand(3, *size) for size in sizes]
    for found, truth in zip(model.detect({"image": images}), truths, strict=True):
        assert found["scores"].tolist() == [1] * len(truth["labels"])
        order = found["labels"].argsort()
        torch.testing.assert_close(found["boxes"][order], truth["boxes"][truth["labels"].argsort()])
        assert torch.equal(found["labels"][order], truth["labels"].sort().values)


def test_scores_are_class_times_confidence() -> None:
    output = torch.zeros(1, 1, 1, 2 * 5 + 2)
    output[..., 4], output[..., 9], output[..., 10:] = 0.5, -1.0, torch.tensor([0.8, -0.6])
    _, scores = decode(output, 2)
    torch.testing.assert_close(
        scores[0], torch.tensor([[0.4, 0.0], [0.0, 0.0]])
    )  # -1 times -0.6 must not be a detection
    output[..., 4] = 3.0
    assert decode(output, 2)[1].max() == 1


# --- the loss ---------------------------------------------------------------------------------------------------------


def loop_iou(a: list[float], b: list[float]) -> float:
    """Compute the IoU of (x, y, w, h) boxes."""
    wide = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    high = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    both = max(0.0, wide) * max(0.0, high)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def loop_loss(
    output: Tensor, targets: list[dict[str, Tensor]], sizes: list[tuple[int, int]], boxes: int
) -> dict[str, float]:
    """Compute equation 3 with loops over images, cells and boxes."""
    terms, grid = dict.fromkeys(TERMS, 0.0), output.shape[1]
    for cells, truth, (height, width) in zip(output.double().tolist(), targets, sizes, strict=True):
        objects: dict[tuple[int, int], tuple[list[float], int]] = {}
        for (x0, y0, x1, y1), label in zip(truth["boxes"].tolist(), truth["labels"].tolist(), strict=True):
            x, y, w, h = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
            place = (min(int(y * grid), grid - 1), min(int(x * grid), grid - 1))
            if place not in objects or w * h > objects[place][0][2] * objects[place][0][3]:
                objects[place] = ([x, y, w, h], label)
        for i in range(grid):
            for j in range(grid):
                cell = cells[i][j]
                predicted = [cell[5 * b : 5 * b + 5] for b in range(boxes)]
                responsible = None
                if (i, j) in objects:
                    (x, y, w, h), label = objects[i, j]
                    absolute = [[(j + p[0]) / grid, (i + p[1]) / grid, p[2] ** 2, p[3] ** 2] for p in predicted]
                    ious = [loop_iou(box, [x, y, w, h]) for box in absolute]
                    rmse = [math.dist(box, [x, y, w, h]) for box in absolute]
                    responsible = ious.index(max(ious)) if max(ious) > 0 else rmse.index(min(rmse))
                    p = predicted[responsible]
                    terms["xy"] += 5 * ((p[0] - (x * grid - j)) ** 2 + (p[1] - (y * grid - i)) ** 2)
                    terms["wh"] += 5 * ((p[2] - math.sqrt(w)) ** 2 + (p[3] - math.sqrt(h)) ** 2)
                    terms["object"] += (p[4] - ious[responsible]) ** 2
                    for c, probability in enumerate(cell[5 * boxes :], 1):
                        terms["classes"] += (probability - (c == label)) ** 2
                terms["no_object"] += 0.5 * sum(p[4] ** 2 for b, p in enumerate(predicted) if b != responsible)
    return {name: value / len(output) for name, value in terms.items()}


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"seed{seed}") for seed in range(4)])
@pytest.mark.parametrize(("grid", "boxes", "classes"), [(7, 2, 20), (3, 1, 1), (4, 3, 5)])
def test_loss_terms_match_equation_3(seed: int, grid: int, boxes: int, classes: int) -> None:
    torch.manual_seed(seed)
    sizes = [(120, 200), (64, 48), (50, 50)]
    targets = [random_target(count, classes, size) for count, size in zip((12, 0, 3), sizes, strict=True)]
    output = torch.rand(3, grid, grid, 5 * boxes + classes) * 1.2 - 0.1
    output[..., [5 * box + side for box in range(boxes) for side in (2, 3)]] *= [1, 0.1][
        seed % 2
    ]  # frequent or rare overlap
    found = yolo_loss(output, targets, sizes, boxes)
    assert list(found) == TERMS
    expected = loop_loss(output, targets, sizes, boxes)
    for name in TERMS:
        assert found[name].item() == pytest.approx(expected[name], rel=1e-4), name


@pytest.fixture
def one_object() -> tuple[Tensor, dict[str, Any]]:
    """A 2 x 2 grid over 100 pixels, two boxes, two classes; an object of 40 x 40 of class 2 in the middle of the last cell.
    The second box encoded just that, with confidence 1; the first one lies elsewhere, with confidence 0. In float64."""
    encoded = [0, 0, 0.1, 0.1, 0, 0.5, 0.5, 0.4**0.5, 0.4**0.5, 1, 0, 1]
    output = torch.zeros(1, 2, 2, 12, dtype=torch.float64)
    output[0, 1, 1] = torch.tensor(encoded, dtype=torch.float64)
    return output, {"targets": [target((55, 55, 95, 95, 2))], "sizes": [(100, 100)], "boxes": 2}


def loss_of(case: tuple[Tensor, dict[str, Any]]) -> dict[str, float]:
    return {name: term.item() for name, term in yolo_loss(case[0], **case[1]).items()}


def test_exact_prediction_has_zero_loss(one_object: tuple[Tensor, dict[str, Any]]) -> None:
    assert loss_of(one_object) == pytest.approx(dict.fromkeys(TERMS, 0.0), abs=1e-10)


def test_loss_terms_match_known_examples(one_object: tuple[Tensor, dict[str, Any]]) -> None:
    output, _ = one_object
    output[0, 1, 1, 5] += 0.1  # x: 5 pixels to the right; the IoU is 35 / 45
    assert loss_of(one_object)["xy"] == pytest.approx(5 * 0.1**2)
    assert loss_of(one_object)["object"] == pytest.approx((1 - 35 / 45) ** 2)
    output[0, 1, 1, 5] -= 0.1
    output[0, 1, 1, 7] = 0.1**0.5  # a quarter as wide: square roots differ by half, and the IoU is a quarter
    assert loss_of(one_object)["wh"] == pytest.approx(5 * 0.1)
    assert loss_of(one_object)["object"] == pytest.approx((1 - 1 / 4) ** 2)
    output[0, 1, 1, 7] = 0.4**0.5
    output[0, 1, 1, 4], output[0, 0, 0, 9] = 0.2, -0.4  # the other box of the cell, and a box of an empty cell
    assert loss_of(one_object)["no_object"] == pytest.approx(0.5 * (0.2**2 + 0.4**2))
    output[0, 1, 1, 10], output[0, 1, 1, 11], output[0, 0, 0, 10] = (
        0.3,
        0.6,
        7.0,
    )  # classes of empty cells do not count
    assert loss_of(one_object)["classes"] == pytest.approx(0.3**2 + 0.4**2)
    assert [loss_of(one_object)[name] for name in ("xy", "wh", "object")] == pytest.approx([0, 0, 0], abs=1e-10)


def test_lambdas_scale_loss_terms(one_object: tuple[Tensor, dict[str, Any]]) -> None:
    torch.manual_seed(0)
    output, case = torch.rand(1, 2, 2, 12), one_object[1]
    first, second = yolo_loss(output, **case), yolo_loss(output, **case, lambda_coord=10.0, lambda_noobj=0.25)
    factors = {"xy": 2, "wh": 2, "object": 1, "no_object": 0.5, "classes": 1}
    for name in TERMS:
        torch.testing.assert_close(second[name], factors[name] * first[name])


def test_confidence_target_is_iou_without_gradient(one_object: tuple[Tensor, dict[str, Any]]) -> None:
    output, case = one_object
    output[0, 1, 1, 5] += 0.1
    output[0, 1, 1, 9] = 0.3
    output.requires_grad_()
    yolo_loss(output, **case)["object"].backward()
    assert output.grad.nonzero().tolist() == [[0, 1, 1, 9]]  # only the confidence
    assert output.grad[0, 1, 1, 9].item() == pytest.approx(2 * (0.3 - 35 / 45))


def test_one_box_is_responsible_for_an_object(one_object: tuple[Tensor, dict[str, Any]]) -> None:
    output, case = one_object
    output[0, 1, 1, :10] = torch.tensor([0.6, 0.6, 0.6, 0.6, 0.7, 0.9, 0.9, 0.6, 0.6, 0.8])  # the first is nearer
    output.requires_grad_()
    terms = yolo_loss(output, **case)
    assert terms["no_object"].item() == pytest.approx(0.5 * 0.8**2)
    (terms["xy"] + terms["wh"]).backward()
    assert output.grad[0, 1, 1, :4].abs().min() > 0
    assert output.grad[0, 1, 1, 5:9].abs().max() == 0


def test_nearest_box_is_responsible_without_overlap(one_object: tuple[Tensor, dict[str, Any]]) -> None:
    output, _ = one_object
    # No box overlaps the object: both have no size, one at the corner of the cell, the other far outside.
    output[0, 1, 1, :10] = torch.tensor([3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert loss_of(one_object)["xy"] == pytest.approx(5 * 2 * 0.5**2)
    output[0, 1, 1, :10] = output[0, 1, 1, :10].roll(5)
    assert loss_of(one_object)["xy"] == pytest.approx(5 * 2 * 0.5**2)
    # At the same distance, but of more similar size: the distance includes w and h, without square roots.
    output[0, 1, 1, :10] = torch.tensor([2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.4**0.5, 0.4**0.5, 0.0])
    assert loss_of(one_object)["wh"] == pytest.approx(0, abs=1e-10)


def test_images_without_objects_have_only_no_object_loss() -> None:
    output = torch.rand(2, 3, 3, 14, requires_grad=True)
    terms = yolo_loss(output, [target(), target()], [(10, 10)] * 2)
    assert [name for name in TERMS if terms[name] != 0] == ["no_object"]
    confidences = output.detach()[..., [4, 9]]
    assert terms["no_object"].item() == pytest.approx(0.5 * confidences.square().sum().item() / 2)
    torch.stack(list(terms.values())).sum().backward()
    assert output.grad.isfinite().all()
    assert output.grad[..., [4, 9]].abs().min() > 0


def test_loss_of_image_does_not_depend_on_batch() -> None:
    torch.manual_seed(0)
    sizes, output = [(60, 90), (90, 60)], torch.rand(2, 4, 4, 13)
    targets = [random_target(4, 3, size) for size in sizes]
    alone = [yolo_loss(output[i : i + 1], targets[i : i + 1], sizes[i : i + 1]) for i in range(2)]
    for name, value in yolo_loss(output, targets, sizes).items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)


def test_loss_is_float32_under_autocast() -> None:
    output, case = torch.rand(1, 4, 4, 13).bfloat16(), {"targets": [target((1, 2, 30, 40, 3))], "sizes": [(64, 64)]}
    with torch.autocast("cpu", torch.bfloat16):
        terms = yolo_loss(output, **case)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    for name, value in yolo_loss(output.float(), **case).items():
        torch.testing.assert_close(terms[name], value)


# --- the method -------------------------------------------------------------------------------------------------------


class TestYOLO(DetectionContract):
    compile_backend = "inductor"
    compile_mode = "reduce-overhead"
    steps, overfit_ap = 60, 0.9

    def build(self, **kwargs: Any) -> YOLO:
        return small(num_classes=5, width=0.1, image_size=128, **kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestYOLOPaper(DetectionContract):
    lr = 1e-3

    def build(self, **kwargs: Any) -> YOLO:
        model = small("paper", num_classes=5, width=0.1, **kwargs)
        model.network.top[-1].p = 0.0  # dropout would need more steps
        return model


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestYOLODarknet(DetectionContract):
    test_overfits_one_batch = None  # trains as TestYOLO does

    def build(self, **kwargs: Any) -> YOLO:
        return small("darknet", num_classes=5, **kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestYOLOOnMobileNet(DetectionContract):
    test_overfits_one_batch = None

    def build(self, **kwargs: Any) -> YOLO:
        return small(num_classes=5, backbone="mobilenet_v2", **kwargs)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_on_backbone_takes_any_size(preset: str) -> None:
    network = YOLONetwork(2, 4, preset, 3, image_size=(70, 130), width=0.03, backbone="mobilenet_v2").eval()
    with torch.no_grad():
        assert network(torch.rand(2, 2, 70, 130)).shape == (2, 3, 3, 5 * network.boxes + 4)


def test_imagenet_weights_need_a_backbone() -> None:
    with pytest.raises(UsageError, match="model.weights must be null without model.backbone"):
        small(weights="imagenet")


def test_validation_uses_one_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = small().eval(), []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda x: calls.append(len(x)) or forward(x))
    batch = {
        "image": [torch.rand(3, 40, 70), torch.rand(3, 80, 50)],
        "target": [target((3, 4, 30, 36, 1)), target()],
    }
    with torch.no_grad():
        terms, found = model.evaluate(batch)
        assert calls == [2]
        apart, seen = model.loss_terms(batch), model.detect(batch)
    for name in TERMS:
        torch.testing.assert_close(terms[name], apart[name])
    for one, other in zip(found, seen, strict=True):
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(one[key], other[key])


def test_images_are_warped_to_network_size() -> None:
    model = small(image_size=(64, 96)).eval()
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model([image]), model.network(image[None]))
        doubled = F.interpolate(image[None], (128, 48), mode="nearest")[0]
        assert model([doubled, image]).shape == (2, 4, 4, 13)
    assert small(preset="darknet", image_size=64).network.boxes == 3


def test_detections_are_clipped_and_sorted() -> None:
    torch.manual_seed(0)
    model = small(inference={"score_threshold": 0.0, "max_detections": 7}).eval()
    model.forward = lambda images: torch.rand(len(images), 4, 4, 13)
    images = [torch.rand(3, 30, 90), torch.rand(3, 80, 40)]
    for image, found in zip(images, model.detect({"image": images}), strict=True):
        assert len(found["scores"]) == 7
        assert (found["scores"].diff() <= 0).all()
        assert found["boxes"].min() >= 0
        assert (found["boxes"].amax(0)[2:] <= torch.tensor([image.shape[2], image.shape[1]])).all()
        assert set(found["labels"].tolist()) <= {1, 2, 3}


def test_init_from_loads_convolutions(tmp_path: Path) -> None:
    first = small()
    torch.save({"state_dict": first.state_dict()}, tmp_path / "first.ckpt")
    again = small(init_from=str(tmp_path / "first.ckpt"), num_classes=5, grid=3)
    assert torch.equal(again.network.added[0].weight, first.network.added[0].weight)
    assert torch.equal(again.network.features[0].weight, first.network.features[0].weight)
    assert "init_from" not in again.hparams
    classifier = {k: v for k, v in first.network.state_dict().items() if k.startswith("features")}
    torch.save(classifier, tmp_path / "classifier.pt")
    again = small(init_from=str(tmp_path / "classifier.pt"))
    assert torch.equal(again.network.features[0].weight, first.network.features[0].weight)
    with pytest.raises(UsageError, match="model.init_from.*features"):
        small(init_from=str(tmp_path / "first.ckpt"), width=0.05)


def test_num_classes_is_required() -> None:
    with pytest.raises(UsageError, match="model.num_classes must be .*got None"):
        YOLO(preset="tiny", width=0.02, image_size=64)
