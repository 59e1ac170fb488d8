"""torchvision's Faster R-CNN on MobileNetV2, which it has in parts only, so that ``same_budget`` can train it."""

from torch import nn
from torchvision.models import MobileNet_V2_Weights
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone


def build_faster_rcnn(
    num_classes: int, pretrained: bool = False, min_size: int = 240, max_size: int = 320
) -> FasterRCNN:
    """Build torchvision's Faster R-CNN on MobileNetV2 with a pyramid, all layers trained.

    Args:
        num_classes: background included.
        pretrained: start from ImageNet weights in torch's hub folder: make mobilenet-weights.
        min_size: shorter side of the images, in pixels.
        max_size: largest longer side.
    """
    weights = MobileNet_V2_Weights.IMAGENET1K_V1 if pretrained else None
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v2", weights=weights, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=6
    )
    anchors = AnchorGenerator(((20, 50, 110),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(backbone, num_classes, min_size=min_size, max_size=max_size, rpn_anchor_generator=anchors)
