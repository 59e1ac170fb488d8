"""RCNN: fine-tuning, box regression and SVMs, in one fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors
from torchvision.ops import box_iou, roi_align

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import ObjectDetection
from darkroom.lightning_modules.detection.boxes import (
    add_context,
    decode,
    encode,
    fixed_seed,
    match,
    require_proposals,
    select_detections,
    warp,
)
from darkroom.lightning_modules.detection.export.graph import ProposalGraph, detection_graph
from darkroom.lightning_modules.detection.export.select import number_regions
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.rcnn.network import RCNNNetwork
from darkroom.lightning_modules.detection.rcnn.sampling import sample_windows
from darkroom.lightning_modules.detection.rcnn.svm_stage import (
    BoxRegressionOptions,
    Examples,
    HardNegatives,
    SVMOptions,
    fit_boxes,
)
from darkroom.lightning_modules.detection.types import Detections, Target
from darkroom.lightning_modules.layers.body import AnyBackbone
from darkroom.lightning_modules.layers.pretrained import Weights, normalization_of
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.optimizers import build_in_groups
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.eval_mode import eval_mode
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.lightning_compat import count_epochs, is_fast_dev_run

Phase = Literal["fine-tuning", "examples", "mining"]
_UNSCALED = (1.0, 1.0, 1.0, 1.0)  # offsets are regressed undivided


class RCNN(ObjectDetection):
    """R-CNN: proposals, warped to a classifier's input; SVMs on its features; box regression (Girshick et al. 2014).

    Needs ``batch["proposals"]``: set ``data.proposals``. One fit has these phases of whole epochs:

    1. Fine-tuning of the classifier, with softmax and background, on regions sampled from each batch.
    2. An epoch that collects examples: fc7 of the true boxes, the SVMs' only positives, and pool5 of regions with an IoU of
       at least .6 with a true box. At its end the box regression is solved.
    3. An epoch of hard-negative mining: linear SVMs on fc7. A class's negatives have an IoU below .3 with its true boxes.

    The network is frozen and in eval mode in phases 2 and 3. There ``train/loss`` is 0, and ``train/box_pairs`` and
    ``train/svm_negatives`` are the numbers of examples. Detections use the softmax and the proposed boxes until the SVMs
    (through a sigmoid) and the box regression are solved. In training, true boxes are among the regions, as in the
    authors' code.

    Args:
        num_classes: classes of objects, without the background.
        backbone: AlexNet, CaffeNet, a VGG, a ResNet, MobileNetV2 or EfficientNet-Lite0; the paper's are caffenet and vgg16.
        window: side of the crops in pixels; 227 is the paper's, 224 that of VGG16.
        context: pixels of surroundings on each side of a crop; None: the paper's fraction, 16 of 227.
        width: factor on the channels of every layer.
        weights: imagenet: start from ImageNet weights, except the last layer, at width 1.
        finetune_epochs: epochs of the first phase; None: all of ``trainer.max_epochs`` except those of the later phases.
        regions: number of regions in a training step, over all images of the batch; the paper takes 128, a quarter objects.
        new_layer_factor: factor on the last layer's learning rate.
        svm: SVMs on fc7; disabled, the paper's ablation: scores are the softmax's, without mining.
        box_regression: regression of boxes on pool5; disabled: boxes are the proposals.
        crops_per_pass: crops in a forward pass without training.
        inference: which candidates become detections; by default score_threshold 0.01, nms_threshold 0.3, max_detections
            100.
        optim, init_from: see Technique. WarmupCosine covers the fine-tuning.
    """

    initial_weight_arguments = ("weights",)
    network: RCNNNetwork
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.01, nms_threshold=0.3, max_detections=100)
    mean: Tensor
    std: Tensor
    free_arguments: ClassVar[tuple[str, ...]] = ("regions", "crops_per_pass")

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: AnyBackbone = "alexnet",
        window: int = 227,
        context: int | None = None,
        width: float = 1.0,
        weights: Weights | None = None,
        finetune_epochs: int | None = None,
        regions: int = 128,
        new_layer_factor: float = 10.0,
        svm: SVMOptions | None = None,
        box_regression: BoxRegressionOptions | None = None,
        crops_per_pass: int = 256,
        inference: DetectionInference | None = None,
        **kwargs: Any,
    ) -> None:
        network = RCNNNetwork(
            num_classes=num_classes or 1, backbone=backbone, window=window, width=width, weights=weights
        )
        super().__init__(network, num_classes=num_classes, masks=False, inference=inference, **kwargs)
        context = round(16 / 227 * window) if context is None else context
        if context < 0 or 2 * context >= window:
            raise UsageError(f"model.context must be 0 to {(window - 1) // 2} for a crop of {window}, got {context}")
        for name, value in (("regions", regions), ("crops_per_pass", crops_per_pass)):
            if value <= 0:
                raise UsageError(f"model.{name} must be above 0, got {value}")
        if finetune_epochs is not None and finetune_epochs < 0:
            raise UsageError(f"model.finetune_epochs must be a number of epochs, 0 or more, got {finetune_epochs}")
        self.window, self.context, self.finetune_epochs = window, context, finetune_epochs
        self.regions, self.new_layer_factor, self.crops_per_pass = regions, new_layer_factor, crops_per_pass
        self.svm = build_options(SVMOptions, svm)
        self.box_regression = build_options(BoxRegressionOptions, box_regression)
        self.examples: Examples | None = None
        self.negatives: HardNegatives | None = None
        self.exported_parts: tuple[bool, bool] | None = None  # solved when the graph was built
        self.own_normalization = normalization_of(backbone)
        for name, values in zip(("mean", "std"), self.own_normalization.tensors(), strict=True):
            self.register_buffer(name, values, persistent=False)

    # --- crops, losses, detections ------------------------------------------------------------------------------------

    def crops(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Crop regions (P, 4) of an image (3, H, W) in [0, 1]: (P, 3, window, window), normalized, with context.

        Pixels beyond the image have the mean colour.
        """
        grown = add_context(boxes.float(), self.window, self.context)
        crops = warp((image.float() - self.mean) / self.std, grown, self.window)
        return crops.to(image.dtype, memory_format=self.memory_format)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the cross-entropy of warped regions, sampled from the batch's proposals."""
        regions, labels = sample_windows(require_proposals(batch, "RCNN"), batch["target"], self.regions)
        crops = [self.crops(image, boxes) for image, boxes in zip(batch["image"], regions, strict=True)]
        logits = self.network(torch.cat(crops)).float()
        return {"class": F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))}

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect objects by classifying the crop of each proposal, with box regression once it is fitted."""
        found = []
        for image, boxes in zip(batch["image"], require_proposals(batch, "RCNN"), strict=True):
            passes = [self.network.classify_crops(self.crops(image, some)) for some in boxes.split(self.crops_per_pass)]
            scores = torch.cat([scores for scores, _ in passes])
            offsets = [offsets for _, offsets in passes if offsets is not None]
            if offsets:
                boxes = decode(torch.cat(offsets), boxes.float()[:, None], _UNSCALED)
            found.append(select_detections(boxes, scores, image.shape[-2:], self.limits))
        return found

    def candidates(self, image: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Compute boxes (B, P, 4) or (B, P, K, 4) and scores (B, P, K) of proposals of images (B, 3, H, W) in [0, 1]."""
        grown = number_regions(add_context(proposals, self.window, self.context))
        crops = roi_align((image - self.mean) / self.std, grown, self.window, sampling_ratio=-1, aligned=True)
        scores, offsets = self.network.classify_crops(crops, self.exported_parts)
        shape = proposals.shape[:2]
        if offsets is None:
            return proposals, scores.unflatten(0, shape)
        boxes = decode(offsets, proposals.flatten(0, 1)[:, None], _UNSCALED)
        return boxes.unflatten(0, shape), scores.unflatten(0, shape)

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images and proposals to detections."""
        self.exported_parts = self.network.solved
        resizing = f"the graph warps the proposals to {self.window} x {self.window} pixels"
        return detection_graph(ProposalGraph(self, normalization), self.limits, 3, resizing, proposals=True)

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms, with a fixed sample of regions, and detections."""
        with fixed_seed(batch["image"][0].device):
            losses = self.loss_terms(batch)
        return losses, self.detect(batch)

    # --- phases -------------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """Phase of the current epoch."""
        later = self._later_phases
        if not later or is_fast_dev_run(self.trainer):
            return "fine-tuning"
        first = count_epochs(self.trainer) - len(later) if self.finetune_epochs is None else self.finetune_epochs
        return "fine-tuning" if self.current_epoch < first else later[self.current_epoch - first]

    @property
    def _later_phases(self) -> list[Phase]:
        if self.svm.enabled:
            return ["examples", "mining"]
        return ["examples"] if self.box_regression.enabled else []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        later = len(self._later_phases)
        if stage != "fit" or not later or is_fast_dev_run(self.trainer):
            return
        epochs = count_epochs(self.trainer)
        if self.finetune_epochs is None and epochs <= later:
            raise UsageError(
                f"trainer.max_epochs must be more than {later}, got {epochs}: RCNN takes the last {later} for its SVMs and "
                "box regression; or set model.finetune_epochs to 0"
            )
        if self.finetune_epochs is not None and epochs != self.finetune_epochs + later:
            raise UsageError(
                f"trainer.max_epochs must be {self.finetune_epochs + later}, got {epochs}: model.finetune_epochs is "
                f"{self.finetune_epochs}, and SVMs and box regression take {later}"
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        self.check(batch)
        phase = self.phase
        if batch_idx == 0:
            self._begin(phase)
        if phase == "fine-tuning":
            return super().training_step(batch, batch_idx)
        before = copy(self.examples), copy(self.negatives)
        try:
            with torch.no_grad(), eval_mode(self.network):
                counts = self._collect(batch) if phase == "examples" else self._mine(batch)
                if self.trainer.is_last_batch:
                    self._end(phase)
        except BaseException:  # a batch whose step was interrupted is processed again
            self.examples, self.negatives = before
            raise
        # A loss without weights of the network: no gradient to reduce over ranks, and no weight moves.
        return self.log_loss({**counts, "loss": torch.zeros((), device=self.device, requires_grad=True)})

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step in the fine-tuning phase only; later phases run the closure without changing the weights."""
        if self.phase == "fine-tuning":
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()  # no step: momentum and weight decay would change the features

    def on_train_end(self) -> None:
        expected = [self.svm.enabled, self.box_regression.enabled]
        if self.network.ready.tolist() != expected and not is_fast_dev_run(self.trainer):
            rank_zero_warn("the fit ended before SVMs and box regression were solved: detections do not use them")

    def _begin(self, phase: Phase) -> None:
        if phase == "fine-tuning":  # also after the other phases, when a fit resumes for more epochs
            self.network.ready.zero_()
            self.examples = self.negatives = None
        elif phase == "examples":
            self.network.ready.zero_()  # those of init_from, without a fine-tuning
            self.examples = self._build_examples()
        else:
            examples = self._required_examples
            positives = examples.concatenate("fc7").to(self.device) * examples.scales()[1]
            labels = examples.concatenate("labels").to(self.device)
            self.negatives = self._build_negatives({"positives": positives, "labels": labels})

    @property
    def _required_examples(self) -> Examples:
        if self.examples is None:
            raise UsageError(
                "the checkpoint was written before examples for the SVMs were collected: resume with the "
                "trainer.max_epochs and model.finetune_epochs that it was trained with"
            )
        return self.examples

    @property
    def _required_negatives(self) -> HardNegatives:
        assert self.negatives is not None  # the phase began with some
        return self.negatives

    def _build_examples(self, state: Mapping[str, Any] | None = None) -> Examples:
        max_pairs = self.box_regression.max_pairs if self.box_regression.enabled else 0
        return Examples(num_classes=self.num_classes, max_pairs=max_pairs, state=state)

    def _build_negatives(self, state: Mapping[str, Any]) -> HardNegatives:
        options = self.svm
        return HardNegatives(
            num_classes=self.num_classes, cost=options.cost, max_negatives=options.max_negatives, state=state
        )

    def _regions(self, batch: Mapping[str, Any]) -> Iterator[tuple[Tensor, Target, Tensor, Tensor]]:
        """Yield each image, its target, its proposals, and all regions: true boxes, then proposals."""
        proposals = require_proposals(batch, "RCNN")
        for image, target, boxes in zip(batch["image"], batch["target"], proposals, strict=True):
            yield image, target, boxes.float(), torch.cat([target["boxes"].float(), boxes.float()])

    def _hidden(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Compute pool5 and fc7 of regions, float32."""
        passes = [self.network.hidden(self.crops(image, some)) for some in boxes.split(self.crops_per_pass)]
        pool5, fc7 = (torch.cat(layer).float() for layer in zip(*passes, strict=True))
        return pool5, fc7

    def _collect(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        examples = self._required_examples
        for image, target, proposals, regions in self._regions(batch):
            iou, truth = match(regions, target["boxes"])
            near, true = iou >= 0.6, len(target["boxes"])  # the true boxes come first
            truth, near = truth[near], regions[near]
            pool5, fc7 = self._hidden(image, torch.cat([near, examples.select_for_norms(proposals)]))
            found = {
                "fc7": fc7[:true],
                "labels": target["labels"],
                "pool5": pool5[: len(near)],
                "offsets": encode(target["boxes"].float()[truth], near, _UNSCALED),
                "pair_labels": target["labels"][truth],
                "norms": torch.stack([pool5[len(near) :].norm(dim=1), fc7[len(near) :].norm(dim=1)], 1),
            }
            examples.add(**{name: self._gather(part) for name, part in found.items()})
        return {"box_pairs": torch.tensor(len(examples), device=self.device)}

    def _mine(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        scale = self._required_examples.scales()[1]
        negatives = self._required_negatives
        negatives.to(self.device)  # checkpoints are loaded into main memory
        for image, target, _, regions in self._regions(batch):
            fc7 = self._hidden(image, regions)[1] * scale
            overlap = fc7.new_zeros(len(regions), self.num_classes)
            of_class = (target["labels"] - 1).expand(len(regions), -1)
            overlap = overlap.scatter_reduce(1, of_class, box_iou(regions, target["boxes"].float()), "amax")
            hard = negatives.select_hard(fc7, overlap < 0.3)
            rows = hard.any(1)
            negatives.add(self._gather(fc7[rows]), self._gather(hard[rows]))
        return {"svm_negatives": torch.tensor(len(negatives), device=self.device)}

    def _end(self, phase: Phase) -> None:
        """Solve the SVMs or the box regression; store the weights in the network, for unscaled features."""
        examples = self._required_examples
        pool5_scale, fc7_scale = examples.scales()
        if phase == "mining":
            negatives = self._required_negatives
            negatives.train(torch.ones_like(negatives.added, dtype=torch.bool))
            self.network.svm.copy_(negatives.weights)
            self.network.svm[:, :-1] *= fc7_scale
            self.network.ready[0] = True
            self.examples = self.negatives = None
            return
        if self.box_regression.enabled:
            pool5, offsets, labels = (examples.concatenate(name) for name in ("pool5", "offsets", "pair_labels"))
            for label in range(1, self.num_classes + 1):
                chosen = labels == label
                features = pool5[chosen].to(self.device) * pool5_scale
                weights = fit_boxes(features, offsets[chosen].to(self.device), self.box_regression.penalty)
                self.network.regression[label - 1].copy_(weights)
            self.network.regression[..., :-1] *= pool5_scale
            self.network.ready[1] = True
        examples.drop_pairs()

    def _gather(self, part: Tensor) -> Tensor:
        """Concatenate the parts of all ranks, whose lengths may differ."""
        return part if self.trainer.world_size == 1 else torch.cat(gather_all_tensors(part.contiguous()))

    # --- optimizer, checkpoints ---------------------------------------------------------------------------------------

    def build_optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        """Build the optimizer; the new last layer has a learning rate ``new_layer_factor`` times as high."""
        last = set(self.network.last.parameters())
        rest, new = [p for p in parameters if p not in last], [p for p in parameters if p in last]
        return build_in_groups(super().build_optimizer, [("", 1.0, rest), ("", self.new_layer_factor, new)])

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        scheduler = configured["lr_scheduler"]["scheduler"] if isinstance(configured, dict) else None
        if isinstance(scheduler, WarmupCosine) and not is_fast_dev_run(self.trainer):
            epochs = count_epochs(self.trainer)
            scheduler.spread(max(1, scheduler.total_steps * (epochs - len(self._later_phases)) // epochs))
        return configured

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        parts = {"examples": self.examples, "negatives": self.negatives}
        checkpoint["rcnn"] = {name: part.state_dict() for name, part in parts.items() if part is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get("rcnn", {})
        if "examples" in state:
            self.examples = self._build_examples(state["examples"])
        if "negatives" in state:
            self.negatives = self._build_negatives(state["negatives"])
