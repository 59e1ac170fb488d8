"""Mask R-CNN (He et al. 2017): Faster R-CNN with a mask per class for every region."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.export.graph import detection_graph
from darkroom.lightning_modules.detection.export.two_stage import TwoStageGraph
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.torchvision.rcnn import FREE_ARGUMENTS, RPNOptions, Start, TwoStageNetwork
from darkroom.lightning_modules.detection.types import Detections, Target
from darkroom.lightning_modules.layers.body import Norm
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph


class MaskRCNN(ObjectDetection):
    """Mask R-CNN on torchvision's parts: Faster R-CNN with a pyramid and a branch for masks (He et al. 2017).

    RoIAlign pools a region to 14 x 14 cells; four convolutions and a deconvolution compute a mask of 28 x 28 for each
    class. Loss: that of FasterRCNN and ``mask``, the binary cross-entropy of the true class's mask alone, so that classes
    do not compete for pixels (section 3). Needs masks of the objects: ``data.masks: true``.

    Args:
        mask_channels: channels of the branch's convolutions; 256 is the paper's.
        others: as in FasterRCNN. The paper takes min_side 800 and max_side 1333.
    """

    initial_weight_arguments = ("weights",)
    free_arguments: ClassVar[tuple[str, ...]] = FREE_ARGUMENTS

    network: TwoStageNetwork
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.05, nms_threshold=0.5, max_detections=100)

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
        min_side: int = 800,
        max_side: int = 1333,
        roi_samples: int = 512,
        rpn: RPNOptions | None = None,
        inference: DetectionInference | None = None,
        **kwargs: Any,
    ) -> None:
        limits = build_options(DetectionInference, inference).limits(self.default_limits)
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
            min_side=min_side,
            max_side=max_side,
            roi_samples=roi_samples,
            rpn=build_options(RPNOptions, rpn),
            limits=limits,
        )
        super().__init__(network, num_classes=num_classes, masks=True, inference=inference, **kwargs)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss terms of the region proposal network and of the box and mask heads.

        Raises:
            UsageError: the targets have no masks.
        """
        return self.network.losses(batch["image"], _require_masks(batch["target"]))

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect the objects of a batch with their masks, one dict per image."""
        return self.network(batch["image"])

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms and detections from one pass of the backbone.

        Raises:
            UsageError: the targets have no masks.
        """
        return self.network(batch["image"], _require_masks(batch["target"]))

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to detections."""
        graph = TwoStageGraph(self.network, normalization, self.limits)
        return detection_graph(graph, self.limits, 3, self.network.transform.describe(), masks=True)


def _require_masks(targets: Sequence[Target]) -> Sequence[Target]:
    if not all("masks" in target for target in targets):
        raise UsageError("MaskRCNN needs masks of the objects, but the batch has none; set data.masks to true")
    return targets
