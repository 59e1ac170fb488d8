"""Mask R-CNN (He et al. 2017): Faster R-CNN, and for every region a mask per class."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.torchvision.pyramid import Norm
from darkroom.lightning_modules.detection.torchvision.rcnn import Start, TwoStageNetwork


class MaskRCNN(ObjectDetection):
    """Mask R-CNN on torchvision's parts: Faster R-CNN with a pyramid and a branch for masks (He et al. 2017).

    A region is pooled to 14 x 14 cells by RoIAlign; four convolutions and a deconvolution make a mask of 28 x 28 for each
    class. Loss: that of FasterRCNN and ``mask``, the binary cross-entropy of the true class's mask alone, so that classes
    do not compete for pixels (section 3). Needs masks of the objects: ``data.masks: true``.

    Args:
        mask_channels: of the branch's convolutions; 256 is the paper's.
        others: as in FasterRCNN. The paper takes min_side 800 and max_side 1333.
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
        fpn_channels: int = 256,
        head_channels: int = 1024,
        mask_channels: int = 256,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
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
            fpn=True,
            fpn_channels=fpn_channels,
            head_channels=head_channels,
            mask_channels=mask_channels,
            anchor_sizes=anchor_sizes,
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
        super().__init__(network, num_classes, masks=True, **kwargs)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.network.losses(batch["image"], _with_masks(batch["target"]))

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        return self.network(batch["image"])

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        return self.network(batch["image"], _with_masks(batch["target"]))


def _with_masks(targets: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
    if not all("masks" in target for target in targets):
        raise UsageError("MaskRCNN needs masks of the objects, and the batch has none; set data.masks to true")
    return targets
