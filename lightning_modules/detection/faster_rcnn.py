"""Faster R-CNN (Ren et al. 2015): a network that proposes regions shares its maps with the one that judges them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.torchvision.pyramid import Norm
from darkroom.lightning_modules.detection.torchvision.rcnn import Start, TwoStageNetwork


class FasterRCNN(ObjectDetection):
    """Faster R-CNN on torchvision's parts (Ren et al. 2015), with a feature pyramid (Lin et al. 2017) or one map.

    Loss (equation 1, for both stages): objectness and offsets of sampled anchors (``rpn_objectness``, ``rpn_box``), class
    and offsets of sampled regions (``class``, ``box``). Validation takes losses and detections from one pass through body
    and proposal network, in evaluation; the head sees regions twice: those of testing, and a sample as in training.

    Args:
        num_classes: classes of objects, without the background; the command line takes it from the data.
        backbone: a classifier of torchvision whose maps halve, see ``layers.pyramid.backbone``; the paper's is vgg16.
        width: factor on the channels of every layer of it.
        weights: imagenet: start the backbone (and, of a VGG with one map and 4096 ``head_channels``, the head) from
            torchvision's weights; coco: start from its whole detector, but for the classes: resnet50, ``fpn``, width 1.
        norm: batch, or frozen: the usual choice with ``weights``, as batches hold few images.
        frozen_stages: the backbone's layers up to a stride of 2^this do not learn; the paper's choice for VGG16 is 1, the
            usual one for a ResNet with ``weights`` 2.
        fpn: a pyramid of maps with an anchor size each; False: one map of stride 16 with all of them, as in the paper.
        fpn_channels: channels of the pyramid's maps.
        head_channels: of the two layers that see a region; the paper's VGG has 4096.
        anchor_sizes: sides of the anchors, in pixels of the resized image. With ``fpn`` one for each stride of 4, 8, 16,
            32, 64, ascending, at most five; None: 32 to 512. Without: None: 128, 256, 512, the paper's.
        aspect_ratios: height / width of the anchors.
        min_side, max_side: images are resized so that the shorter side has ``min_side`` pixels, or less if the longer one
            would have more than ``max_side``; the paper takes 600 and 1000.
        rpn_samples: anchors of an image in the loss, up to half of them objects.
        roi_samples: regions of an image in the loss, up to a quarter of them objects; 128 without ``fpn``.
        proposals_before_nms: best proposals (of each map) in training and in testing; the paper takes 12000, 6000.
        proposals: and of them, after non-maximum suppression; the paper takes 2000, 300.
        rpn_nms_threshold: IoU of this suppression.
        score_threshold, nms_threshold, max_detections: see ``detections``; the paper's IoU is 0.3.
        **kwargs: optim, see Technique.
    """

    starts_from = ("weights",)

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: str = "resnet50",
        width: float = 1.0,
        weights: Start | None = None,
        norm: Norm = "batch",
        frozen_stages: int = 0,
        fpn: bool = True,
        fpn_channels: int = 256,
        head_channels: int = 1024,
        anchor_sizes: Sequence[float] | None = None,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        min_side: int = 800,
        max_side: int = 1333,
        rpn_samples: int = 256,
        roi_samples: int = 512,
        proposals_before_nms: tuple[int, int] = (2000, 1000),
        proposals: tuple[int, int] = (2000, 1000),
        rpn_nms_threshold: float = 0.7,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        network = TwoStageNetwork(
            num_classes=num_classes or 1,
            backbone_name=backbone,
            width=width,
            weights=weights,
            norm=norm,
            frozen_stages=frozen_stages,
            fpn=fpn,
            fpn_channels=fpn_channels,
            head_channels=head_channels,
            mask_channels=None,
            anchor_sizes=anchor_sizes or ((32, 64, 128, 256, 512) if fpn else (128, 256, 512)),
            aspect_ratios=aspect_ratios,
            min_side=min_side,
            max_side=max_side,
            rpn_samples=rpn_samples,
            roi_samples=roi_samples,
            proposals_before_nms=proposals_before_nms,
            proposals=proposals,
            rpn_nms_threshold=rpn_nms_threshold,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )
        super().__init__(network, num_classes, masks=False, **kwargs)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.network.losses(batch["image"], batch["target"])

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        return self.network(batch["image"])

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        return self.network(batch["image"], batch["target"])
