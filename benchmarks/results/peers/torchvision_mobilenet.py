"""torchvision's MobileNetV2 as a classifier of grey images and in Faster R-CNN, so that ``same_budget`` can train it."""

from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone


def build_faster_rcnn(
    num_classes: int, pretrained: bool = False, min_size: int = 240, max_size: int = 320
) -> FasterRCNN:
    """Build torchvision's Faster R-CNN on MobileNetV2 with a pyramid, all layers trained.

    Regions and samples are as many as in configs/detection/faster_rcnn.yaml: with torchvision's defaults, three minutes of
    one core were 12 steps of eight images.

    Args:
        num_classes: background included.
        pretrained: start from ImageNet weights in torch's hub folder: make mobilenet-weights.
        min_size: shorter side of the images, in pixels.
        max_size: largest longer side.
    """
    weights = MobileNet_V2_Weights.IMAGENET1K_V1 if pretrained else None
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v2",
        weights=weights,
        fpn=True,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=6,
        returned_layers=[2, 3, 4],  # strides 8, 16 and 32; the pyramid adds 64
    )
    anchors = AnchorGenerator(((20,), (50,), (110,), (220,)), ((0.5, 1.0, 2.0),) * 4)
    return FasterRCNN(
        backbone,
        num_classes,
        min_size=min_size,
        max_size=max_size,
        rpn_anchor_generator=anchors,
        rpn_batch_size_per_image=64,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=32,
    )


class GreyClassifier(nn.Module):
    """torchvision's MobileNetV2 for images of one channel, which is repeated for its three.

    Args:
        num_classes: K.
        pretrained: start from ImageNet weights in torch's hub folder: make mobilenet-weights.
    """

    def __init__(self, num_classes: int, pretrained: bool = False) -> None:
        super().__init__()
        self.network = mobilenet_v2(weights=MobileNet_V2_Weights.IMAGENET1K_V1 if pretrained else None)
        self.network.classifier[1] = nn.Linear(self.network.last_channel, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 1, H, W)."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits
