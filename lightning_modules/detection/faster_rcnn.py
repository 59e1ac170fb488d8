"""Faster R-CNN (Ren et al. 2015): the region proposal network and the classifier of regions share their feature maps."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.export.graph import detection_graph
from darkroom.lightning_modules.detection.export.two_stage import TwoStageGraph
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.torchvision.rcnn import FREE_ARGUMENTS, RPNOptions, Start, TwoStageNetwork
from darkroom.lightning_modules.detection.types import Detections
from darkroom.lightning_modules.layers.body import Norm
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph


class FasterRCNN(ObjectDetection):
    """Faster R-CNN on torchvision's parts (Ren et al. 2015), with a feature pyramid (Lin et al. 2017) or one map.

    Loss (equation 1, for both networks): objectness and offsets of sampled anchors (``rpn_objectness``, ``rpn_box``), class
    and offsets of sampled regions (``class``, ``box``). Validation computes losses and detections in one pass through body
    and proposal network, in eval mode. The head runs twice: on the regions of testing and on a sample as in training.

    Args:
        num_classes: classes of objects, without the background; the command line takes it from the data.
        backbone: efficientnet_lite0, or a classifier of torchvision whose maps halve, see ``build_backbone``; the paper's
            is vgg16.
        width: factor on the channels of every layer of it.
        weights: imagenet: start the backbone (and, of a VGG with one map and 4096 ``head_channels``, the head) from
            ImageNet weights; coco: start from torchvision's whole detector, except the classes: resnet50, ``fpn``, width 1.
        norm: batch, or frozen: the usual choice with ``weights``, as batches hold few images.
        frozen_stages: the backbone's layers up to a stride of 2^this are frozen; the paper's choice for VGG16 is 1, the
            usual one for a ResNet with ``weights`` 2.
        fpn: a pyramid with one anchor size per map; False: one map of stride 16 with all sizes, as in the paper.
        fpn_channels: channels of the pyramid's maps.
        head_channels: of the two hidden layers of the head; the paper's VGG has 4096.
        min_side, max_side: images are resized so that the shorter side has ``min_side`` pixels, or less if the longer one
            would have more than ``max_side``; the paper takes 600 and 1000.
        roi_samples: regions of an image in the loss, up to a quarter of them objects; 128 without ``fpn``.
        rpn: options of the region proposal network.
        inference: which candidates become detections; by default score_threshold 0.05, nms_threshold 0.5 (the paper's is
            0.3), max_detections 100.
        optim, init_from: see Technique.
    """

    initial_weight_arguments = ("weights",)

    network: TwoStageNetwork
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.05, nms_threshold=0.5, max_detections=100)
    free_arguments: ClassVar[tuple[str, ...]] = FREE_ARGUMENTS

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
            fpn=fpn,
            fpn_channels=fpn_channels,
            head_channels=head_channels,
            mask_channels=None,
            min_side=min_side,
            max_side=max_side,
            roi_samples=roi_samples,
            rpn=build_options(RPNOptions, rpn),
            limits=limits,
        )
        super().__init__(network, num_classes=num_classes, masks=False, inference=inference, **kwargs)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss terms of the region proposal network and of the box head."""
        return self.network.losses(batch["image"], batch["target"])

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect the objects of a batch, one dict per image."""
        return self.network(batch["image"])

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms and detections from one pass of the backbone."""
        return self.network(batch["image"], batch["target"])

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to detections."""
        graph = TwoStageGraph(self.network, normalization, self.limits)
        return detection_graph(graph, self.limits, 3, self.network.transform.describe())
