"""Contract of the networks that map images to a map of logits. Inherit, and define ``build``."""

import pytest
import torch
from torch import nn


class DenseNetworkContract:
    """Inherit as ``class TestMyNetwork(DenseNetworkContract)``."""

    in_channels = 3
    num_classes = 4
    sizes = [(32, 32), (33, 47), (16, 80), (1, 1)]

    def build(self) -> nn.Module:
        raise NotImplementedError

    @pytest.mark.parametrize("size", [pytest.param(i, id=f"size{i}") for i in range(4)])
    def test_output_has_input_size(self, size: int) -> None:
        image = torch.randn(2, self.in_channels, *self.sizes[size])
        assert self.build().eval()(image).shape == (2, self.num_classes, *self.sizes[size])

    def test_every_parameter_gets_a_gradient(self) -> None:
        network = self.build()
        network(torch.randn(2, self.in_channels, 32, 32)).square().sum().backward()
        missing = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing

    def test_samples_of_a_batch_are_independent(self) -> None:
        network = self.build().eval()
        image = torch.randn(3, self.in_channels, 32, 32, requires_grad=True)
        network(image)[1].sum().backward()
        assert image.grad is not None
        assert image.grad[[0, 2]].abs().max() == 0
        assert image.grad[1].abs().max() > 0

    def test_evaluation_is_deterministic(self) -> None:
        network, image = self.build().eval(), torch.randn(2, self.in_channels, 32, 32)
        assert torch.equal(network(image), network(image))

    def test_channels_last_matches_contiguous(self) -> None:
        network, image = self.build().eval(), torch.randn(2, self.in_channels, 32, 32)
        expected = network(image)
        actual = network.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
