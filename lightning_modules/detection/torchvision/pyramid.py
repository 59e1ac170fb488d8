"""Feature pyramid for detectors, and the weights of torchvision's detectors."""

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.body import Body


def load_matching_weights(network: nn.Module, state: dict[str, Tensor], option: str = "model.weights") -> None:
    """Load the weights of a detector, except those of another shape, which belong to its classes.

    Raises:
        UsageError: weights are missing.
    """
    ours = network.state_dict()
    other = {name for name, value in state.items() if name in ours and ours[name].shape != value.shape}
    # Not only our names: torchvision's modules rename the weights of old files themselves.
    outcome = network.load_state_dict({name: state[name] for name in state if name not in other}, strict=False)
    missing = [name for name in outcome.missing_keys if name not in other and not name.endswith("num_batches_tracked")]
    if missing:
        raise UsageError(f"{option}: the file has no values for {len(missing)} weights: {', '.join(missing[:4])}")


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al. 2017): images (B, 3, H, W) -> maps of ``out_channels`` by name, finest first.

    Args:
        body: provides the maps, see ``build_backbone``.
        out_channels: channels of the pyramid's maps; 256 is the paper's.
        pool: add a map, "pool", of half the sides of the last.
    """

    def __init__(self, body: Body, out_channels: int = 256, pool: bool = True) -> None:
        super().__init__()
        self.body, self.out_channels = body, out_channels
        self.fpn = FeaturePyramidNetwork(body.channels, out_channels, LastLevelMaxPool() if pool else None)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(x))


class SingleMap(nn.Module):
    """Wrapper of a body with one map, which states ``out_channels`` as torchvision's detectors need it."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body, (self.out_channels,) = body, body.channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.body(x)
