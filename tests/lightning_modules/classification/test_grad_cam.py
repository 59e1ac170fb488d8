"""Grad-CAM: equations 1 and 2 by hand, inference mode, small maps."""

import pytest
import torch
import torchvision
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier, grad_cam
from darkroom.lightning_modules.layers.ema import EMAOptions


class Pooled(nn.Module):
    """Convolution, global average pooling, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.classify = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.maps(x).mean((2, 3)))


def test_maps_match_equations() -> None:
    torch.manual_seed(0)
    network, image = Pooled(), torch.randn(2, 3, 6, 7)
    heat = grad_cam(network, image, torch.tensor([3, 1]))
    # The logit is linear in the mean of each map: alpha_k^c is the weight of the map over the number of cells.
    alpha = network.classify.weight[[3, 1]] / 42
    expected = torch.einsum("bk,bkhw->bhw", alpha, network.maps(image)).relu().detach()
    torch.testing.assert_close(heat, expected / expected.amax((1, 2), keepdim=True))


def test_works_in_inference_mode_and_leaves_network_as_it_is() -> None:
    network = BackboneClassifier("vgg11_bn", 5, (3, 64, 64), width=0.03).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        heat = grad_cam(network, torch.randn(2, 3, 64, 64), torch.tensor([0, 4]))
    assert heat.shape == (2, 4, 4)
    assert 0 <= heat.min() <= heat.max() <= 1
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_ema_weights_are_explained() -> None:
    network = BackboneClassifier("yolo_tiny", 5, (3, 64, 64), width=0.03)
    model = ImageClassifier(network, 5, ema=EMAOptions(0.9)).eval()
    assert model.explain(torch.randn(1, 3, 64, 64), torch.tensor([2])).shape == (1, 4, 4)


def test_residual_network_is_explained() -> None:
    heat = grad_cam(torchvision.models.resnet18(num_classes=5), torch.randn(1, 3, 128, 128), torch.tensor([2]))
    assert heat.shape == (1, 4, 4)


def test_images_too_small_for_maps_raise() -> None:
    with pytest.raises(UsageError, match="no layer of Pooled has maps of at least 4 x 4 for images of 3 x 9"):
        grad_cam(Pooled(), torch.randn(1, 3, 3, 9), torch.tensor([0]))
