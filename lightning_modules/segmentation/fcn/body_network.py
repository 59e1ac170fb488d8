"""FCN on the maps of a classifier without fully connected layers: ResNet, MobileNetV2 or EfficientNet-Lite0."""

from torch import Tensor, nn

from darkroom.lightning_modules.layers.backbones import zero_bias
from darkroom.lightning_modules.layers.body import FeatureBackbone, build_backbone
from darkroom.lightning_modules.segmentation.fcn.skips import Stride, skip_scales
from darkroom.lightning_modules.segmentation.geometry import mirror_to_grid
from darkroom.lightning_modules.segmentation.upsampling import MapUpsampling, aligned_upsampling, crop


class FCNBodyNetwork(nn.Module):
    """FCN-32s, -16s or -8s on a body. (B, C, H, W) of any size -> logits (B, K, H, W).

    The skip fusion is the paper's (section 4.2): scores of the map of stride 32, upsampled by 2 and added to those of
    stride 16, then of 8; the sum is upsampled to pixels. The body's convolutions pad, so the image needs no border of 100
    pixels. It is mirrored at the bottom and the right up to sides of 32 n + 1, so that the cells of all maps lie on pixels,
    the last one too, and the logits are cropped to the image.

    Args:
        in_channels: C.
        num_classes: K.
        backbone: see ``FeatureBackbone``.
        stride: of the finest scores, in pixels.
        width: factor on the channels of every layer.
        upsampling: constant bilinear kernels, learned ones that start as these, or nearest.
        at_once: scale the finer maps down, by the factors of the paper's "at-once" training.
        dropout: of the map of stride 32, before its scores.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 21,
        backbone: FeatureBackbone = "mobilenet_v2",
        stride: Stride = 8,
        width: float = 1.0,
        upsampling: MapUpsampling = "bilinear",
        at_once: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.scales = skip_scales(stride, at_once)
        levels = range(5 - len(self.scales), 6)
        self.body = build_backbone(backbone, levels, width, in_channels=in_channels)
        *finer, coarsest = self.body.channels
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(coarsest, num_classes, 1)
        self.score_pools = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in reversed(finer))
        for layer in (self.score, *self.score_pools):  # as in the paper, scoring layers start at zero
            nn.init.zeros_(layer.weight)
            zero_bias(layer)
        self.ups, self.offsets = nn.ModuleList(), []
        for _ in finer:
            up, offset = aligned_upsampling(upsampling, num_classes, 2, shift=0)
            self.ups.append(up)
            self.offsets.append(offset)
        self.up, self.offset = aligned_upsampling(upsampling, num_classes, stride, shift=0)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        *finer, coarsest = self.body(mirror_to_grid(x)).values()
        x = self.score(self.dropout(coarsest))
        for i, (up, score, fine) in enumerate(zip(self.ups, self.score_pools, reversed(finer), strict=True)):
            x = crop(up(x), self.offsets[i], fine.shape[-2:]) + score(self.scales[i] * fine)
        return crop(self.up(x), self.offset, size)

    def load_classifier(self, state: dict[str, Tensor]) -> None:
        """Load the layers of the body from the weights of a whole classifier."""
        self.body.load_classifier(state)
