"""RCNN: fine-tuning and the stages after it, in one fit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors
from torchvision.ops import box_iou

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.base import Detections, ObjectDetection
from darkroom.lightning_modules.detection.boxes import (
    decode,
    detections,
    encode,
    match,
    repeatable,
    required_proposals,
    warp,
    with_context,
)
from darkroom.lightning_modules.detection.rcnn.network import RCNNNetwork
from darkroom.lightning_modules.detection.rcnn.svm_stage import Examples, HardNegatives, fit_boxes
from darkroom.lightning_modules.layers.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    Weights,
    imagenet_weights,
    load_all_but_the_answer,
)
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.utils.load_weights import load_weights

Stage = Literal["fine-tuning", "examples", "mining"]
_UNSCALED = (1.0, 1.0, 1.0, 1.0)  # offsets are regressed as they are


def sample_windows(
    proposals: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], count: int = 128
) -> tuple[list[Tensor], Tensor]:
    """Regions of a batch to fine-tune on (Girshick et al. 2014, section 2.3): a quarter objects, the rest background.

    Objects have an IoU of at least .5 with a true box, and the true boxes are among them. Drawn uniformly over all images,
    with repetition, as the authors do it; so the quarter is one however few there are.

    Args:
        proposals: per image (P, 4).
        targets: per image ``boxes`` (N, 4) and ``labels`` (N,), from 1.
        count: how many; none of a kind that is nowhere in the batch.

    Returns:
        per image regions (R_i, 4), and the labels (R,) of all of them, 0 for background.
    """
    regions, labels = [], []
    for boxes, target in zip(proposals, targets, strict=True):
        regions.append(torch.cat([target["boxes"], boxes.to(target["boxes"])]))
        iou, truth = match(regions[-1], target["boxes"])
        labels.append(F.pad(target["labels"], (0, 1))[truth].where(iou >= 0.5, 0))  # padded for images without truth
    counts = [len(boxes) for boxes in regions]
    every, label = torch.cat(regions), torch.cat(labels)
    objects, background = (kind.nonzero().flatten() for kind in (label > 0, label == 0))
    quarter = round(count / 4) if len(objects) else 0
    chosen = torch.cat([_drawn(objects, quarter), _drawn(background, count - quarter)]).sort().values
    image = torch.arange(len(counts), device=chosen.device).repeat_interleave(
        torch.tensor(counts, device=chosen.device)
    )
    return list(every[chosen].split(torch.bincount(image[chosen], minlength=len(counts)).tolist())), label[chosen]


def _drawn(indices: Tensor, count: int) -> Tensor:
    """So many random ones of the indices, with repetition; none of none."""
    places = torch.randint(max(1, len(indices)), (count if len(indices) else 0,), device=indices.device)
    return indices[places]


class RCNN(ObjectDetection):
    """R-CNN: proposals, warped to a classifier's input; SVMs on its features; box regression (Girshick et al. 2014).

    Needs ``batch["proposals"]``: set ``data.proposals``. One fit has these stages, each whole epochs:

    - fine-tuning of the classifier, with softmax and background, on regions drawn from each batch;
    - an epoch that collects features, at whose end the box regression is solved: fc7 of the true boxes, which are the
      SVMs' only positives, and pool5 of regions with an IoU of at least .6 with a true box;
    - an epoch of hard-negative mining: linear SVMs on fc7; a class's negatives have an IoU below .3 with its true boxes.

    In the last two no weight of the network moves, and the network is in evaluation; ``train/loss`` is 0, and
    ``train/box_pairs`` and ``train/svm_negatives`` say how many there are. Detections are judged by what there is: softmax,
    then the SVMs through a sigmoid; boxes as proposed, then regressed once. In training, true boxes are among the regions,
    as in the authors' code.

    Args:
        num_classes: classes of objects, without the background.
        backbone: AlexNet or a VGG; the paper's are alexnet and vgg16.
        window: side of the crops in pixels; 227 is the paper's, 224 that of VGG16.
        context: pixels on each side of a crop that are surroundings; None: as many as the paper's 16 are of 227.
        width: factor on the channels of every layer.
        weights: start from torchvision's ImageNet weights, but for the last layer; downloaded only if this is set.
        init_from: checkpoint of ours or state dict to start from; the last layer may be missing there, or differ.
        finetune_epochs: epochs of the first stage; None: all of ``trainer.max_epochs`` but those of the later ones.
        regions: that a training step is made of, over all images of the batch; the paper takes 128, a quarter objects.
        new_layer_factor: of the last layer's learning rate.
        svm: without it, the paper's ablation, the softmax's scores remain and there is no mining.
        cost: C of the SVMs; features are scaled to a mean norm of 20. The paper's, and its ``penalty``, suit thousands of
            pictures; where a class has few objects, try a hundred times as much, and a hundredth of the penalty.
        max_negatives: that mining keeps at most, see ``HardNegatives``.
        box_regression: without it boxes stay as proposed.
        penalty: lambda of the ridge regression; features are scaled to a mean norm of 20.
        max_pairs: of regions and true boxes that each class's box regression is solved from, at most; see ``Examples``.
        crops_per_pass: how many crops go through the network at once where nothing is trained.
        score_threshold, nms_threshold, max_detections: see ``detections``.
        optim: see Technique. WarmupCosine spreads over the fine-tuning.
    """

    starts_from = ("weights", "init_from")
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        backbone: Backbone = "alexnet",
        window: int = 227,
        context: int | None = None,
        width: float = 1.0,
        weights: Weights | None = None,
        init_from: str | None = None,
        finetune_epochs: int | None = None,
        regions: int = 128,
        new_layer_factor: float = 10.0,
        svm: bool = True,
        cost: float = 1e-3,
        max_negatives: int = 100_000,
        box_regression: bool = True,
        penalty: float = 1000.0,
        max_pairs: int = 5000,
        crops_per_pass: int = 256,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.3,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        network = RCNNNetwork(num_classes or 1, backbone, window, width)
        super().__init__(network, num_classes, **kwargs)
        context = round(16 / 227 * window) if context is None else context
        if context < 0 or 2 * context >= window:
            raise UsageError(f"model.context is {context}; a crop of {window} has room for 0 to {(window - 1) // 2}")
        numbers = {"regions": regions, "max_negatives": max_negatives, "crops_per_pass": crops_per_pass}
        for name, value in {**numbers, "cost": cost, "penalty": penalty, "max_pairs": max_pairs}.items():
            if value <= 0:
                raise UsageError(f"model.{name} is {value}; it must be above 0")
        if finetune_epochs is not None and finetune_epochs < 0:
            raise UsageError(f"model.finetune_epochs is {finetune_epochs}; it is a number of epochs, 0 or more")
        if weights == "imagenet":
            load_all_but_the_answer(network, imagenet_weights(backbone, width, 3))
        if init_from is not None:
            last = f"classifier.{len(network.classifier) - 1}"
            load_weights(network, Path(init_from), "model.init_from", new=(last, "svm", "regression", "ready"))
            network.ready.zero_()
        self.window, self.context, self.finetune_epochs = window, context, finetune_epochs
        self.regions, self.new_layer_factor, self.crops_per_pass = regions, new_layer_factor, crops_per_pass
        self.svm, self.cost, self.max_negatives = svm, cost, max_negatives
        self.box_regression, self.penalty, self.max_pairs = box_regression, penalty, max_pairs
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        self.examples: Examples | None = None
        self.negatives: HardNegatives | None = None
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    # --- crops, losses, detections ------------------------------------------------------------------------------------

    def crops(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Regions (P, 4) of an image (3, H, W) in [0, 1] as the network takes them: with context, beyond the image the
        mean colour, (P, 3, window, window)."""
        grown = with_context(boxes.float(), self.window, self.context)
        crops = warp((image.float() - self.mean) / self.std, grown, self.window)
        return crops.to(image.dtype, memory_format=self.memory_format)

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        regions, labels = sample_windows(required_proposals(batch, "RCNN"), batch["target"], self.regions)
        crops = [self.crops(image, boxes) for image, boxes in zip(batch["image"], regions, strict=True)]
        logits = self.network(torch.cat(crops)).float()
        return {"class": F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))}

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        found = []
        for image, boxes in zip(batch["image"], required_proposals(batch, "RCNN"), strict=True):
            judged = [self.network.judge(self.crops(image, some)) for some in boxes.split(self.crops_per_pass)]
            scores = torch.cat([scores for scores, _ in judged])
            if judged[0][1] is not None:
                offsets = torch.cat([offsets for _, offsets in judged])
                boxes = decode(offsets, boxes.float()[:, None], _UNSCALED)
            limits = (self.score_threshold, self.nms_threshold, self.max_detections)
            found.append(detections(boxes, scores, image.shape[-2:], *limits))
        return found

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        with repeatable(batch["image"][0].device):
            losses = self.loss_terms(batch)
        return losses, self.detect(batch)

    # --- stages -------------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """What this epoch is for."""
        later = self._later
        first = self.trainer.max_epochs - len(later) if self.finetune_epochs is None else self.finetune_epochs
        if not later or self.current_epoch < first or self.trainer.fast_dev_run:
            return "fine-tuning"
        return later[self.current_epoch - first]

    @property
    def _later(self) -> list[Stage]:
        return ["examples", "mining"] if self.svm else ["examples"] if self.box_regression else []

    def setup(self, stage: str) -> None:
        super().setup(stage)
        later, epochs = len(self._later), self.trainer.max_epochs
        if stage != "fit" or not later or self.trainer.fast_dev_run:
            return
        if self.finetune_epochs is None and epochs <= later:
            raise UsageError(
                f"trainer.max_epochs is {epochs}; RCNN takes the last {later} for its SVMs and box regression: set it to "
                f"more than {later}, or model.finetune_epochs to 0"
            )
        if self.finetune_epochs is not None and epochs != self.finetune_epochs + later:
            raise UsageError(
                f"trainer.max_epochs is {epochs}; model.finetune_epochs {self.finetune_epochs} and {later} for SVMs and "
                f"box regression make {self.finetune_epochs + later}: set it to that"
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.check(batch)
        stage = self.stage
        if batch_idx == 0:
            self._begin(stage)
        if stage == "fine-tuning":
            return super().training_step(batch, batch_idx)
        before = copy(self.examples), copy(self.negatives)
        try:
            with torch.no_grad(), _evaluating(self.network):
                seen = self._collect(batch) if stage == "examples" else self._mine(batch)
                if self.trainer.is_last_batch:
                    self._solve(stage)
        except BaseException:  # a batch whose step was interrupted is seen again
            self.examples, self.negatives = before
            raise
        # A loss that knows no weight of the network: nothing to be reduced over ranks, and nothing moves.
        return self.log_loss({**seen, "loss": torch.zeros((), device=self.device, requires_grad=True)})

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        if self.stage == "fine-tuning":
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()  # not even momentum and weight decay move what the features come from

    def on_train_end(self) -> None:
        wanted = [self.svm, self.box_regression]
        if self.network.ready.tolist() != wanted and not self.trainer.fast_dev_run:
            rank_zero_warn("the fit ended before SVMs and box regression were solved: detections do without")

    def _begin(self, stage: Stage) -> None:
        if stage == "fine-tuning":  # after the others too, when a fit is continued for more epochs
            self.network.ready.zero_()
            self.examples = self.negatives = None
        elif stage == "examples":
            self.examples = Examples(self.num_classes, self.max_pairs if self.box_regression else 0)
        else:
            if self.examples is None:
                raise UsageError(
                    "the checkpoint was written before examples for the SVMs were collected: continue with the "
                    "trainer.max_epochs and model.finetune_epochs that it was trained with"
                )
            positives = self.examples.whole("fc7").to(self.device) * self.examples.scales()[1]
            labels = self.examples.whole("labels").to(self.device)
            start = {"positives": positives, "labels": labels}
            self.negatives = HardNegatives(self.num_classes, self.cost, self.max_negatives, start)

    def _regions(self, batch: Mapping[str, Any]) -> Iterator[tuple[Tensor, Mapping[str, Tensor], Tensor, Tensor]]:
        """Images, targets, proposals, and all regions: true boxes, then proposals."""
        proposals = required_proposals(batch, "RCNN")
        for image, target, boxes in zip(batch["image"], batch["target"], proposals, strict=True):
            yield image, target, boxes.float(), torch.cat([target["boxes"].float(), boxes.float()])

    def _hidden(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """pool5 and fc7 of regions, float32."""
        passes = [self.network.hidden(self.crops(image, some)) for some in boxes.split(self.crops_per_pass)]
        pool5, fc7 = (torch.cat(layer).float() for layer in zip(*passes, strict=True))
        return pool5, fc7

    def _collect(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        for image, target, proposals, regions in self._regions(batch):
            iou, truth = match(regions, target["boxes"])
            near, true = iou >= 0.6, len(target["boxes"])  # the true boxes come first
            truth, near = truth[near], regions[near]
            pool5, fc7 = self._hidden(image, torch.cat([near, self.examples.measured(proposals)]))
            found = {
                "fc7": fc7[:true],
                "labels": target["labels"],
                "pool5": pool5[: len(near)],
                "offsets": encode(target["boxes"].float()[truth], near, _UNSCALED),
                "pair_labels": target["labels"][truth],
                "norms": torch.stack([pool5[len(near) :].norm(dim=1), fc7[len(near) :].norm(dim=1)], 1),
            }
            self.examples.add(**{name: self._of_all_ranks(part) for name, part in found.items()})
        return {"box_pairs": torch.tensor(len(self.examples), device=self.device)}

    def _mine(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        scale = self.examples.scales()[1]
        self.negatives.to(self.device)  # a checkpoint is read into main memory
        for image, target, _, regions in self._regions(batch):
            fc7 = self._hidden(image, regions)[1] * scale
            overlap = fc7.new_zeros(len(regions), self.num_classes)
            of_class = (target["labels"] - 1).expand(len(regions), -1)
            overlap = overlap.scatter_reduce(1, of_class, box_iou(regions, target["boxes"].float()), "amax")
            hard = self.negatives.hard(fc7, overlap < 0.3)
            kept = hard.any(1)
            self.negatives.add(self._of_all_ranks(fc7[kept]), self._of_all_ranks(hard[kept]))
        return {"svm_negatives": torch.tensor(len(self.negatives), device=self.device)}

    def _solve(self, stage: Stage) -> None:
        """Ends a stage: what it has learned becomes part of the network, for features as they come, unscaled."""
        pool5_scale, fc7_scale = self.examples.scales()
        if stage == "mining":
            self.negatives.train(torch.ones_like(self.negatives.added, dtype=torch.bool))
            self.network.svm.copy_(self.negatives.weights)
            self.network.svm[:, :-1] *= fc7_scale
            self.network.ready[0] = True
            self.examples = self.negatives = None
            return
        if self.box_regression:
            pool5, offsets, labels = (self.examples.whole(name) for name in ("pool5", "offsets", "pair_labels"))
            for label in range(1, self.num_classes + 1):
                chosen = labels == label
                features = pool5[chosen].to(self.device) * pool5_scale
                weights = fit_boxes(features, offsets[chosen].to(self.device), self.penalty)
                self.network.regression[label - 1].copy_(weights)
            self.network.regression[..., :-1] *= pool5_scale
            self.network.ready[1] = True
        self.examples.forget_pairs()

    def _of_all_ranks(self, part: Tensor) -> Tensor:
        """The parts of all ranks, one after another; their lengths may differ."""
        return part if self.trainer.world_size == 1 else torch.cat(gather_all_tensors(part.contiguous()))

    # --- optimizer, checkpoints ---------------------------------------------------------------------------------------

    def build_optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        new_layer = set(self.network.classifier[-1].parameters())
        optimizer = super().build_optimizer([p for p in parameters if p not in new_layer])
        for group in super().build_optimizer([p for p in parameters if p in new_layer]).param_groups:
            optimizer.add_param_group({**group, "lr": self.new_layer_factor * group["lr"]})
        return optimizer

    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        scheduler = configured["lr_scheduler"]["scheduler"] if isinstance(configured, dict) else None
        if isinstance(scheduler, WarmupCosine) and not self.trainer.fast_dev_run:
            epochs = self.trainer.max_epochs
            scheduler.spread(max(1, scheduler.total_steps * (epochs - len(self._later)) // epochs))
        return configured

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        parts = {"examples": self.examples, "negatives": self.negatives}
        checkpoint["rcnn"] = {name: part.state_dict() for name, part in parts.items() if part is not None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get("rcnn", {})
        if "examples" in state:
            self.examples = Examples(self.num_classes, self.max_pairs if self.box_regression else 0, state["examples"])
        if "negatives" in state:
            self.negatives = HardNegatives(self.num_classes, self.cost, self.max_negatives, state["negatives"])


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Within, a network drops nothing out and its batch norms keep what they know."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)
