"""SemanticSegmentation: trains any network that maps images to a map of logits."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.segmentation.export import segmentation_graph
from darkroom.lightning_modules.segmentation.geometry import margin_of, mirror_pad
from darkroom.lightning_modules.segmentation.inference import Inference
from darkroom.lightning_modules.segmentation.losses import CrossEntropy, needed_entries
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores
from darkroom.lightning_modules.segmentation.upsampling import crop
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.precision import check_images
from darkroom.protocols import IgnoresIndex, SegmentationOutputs, UnpaddedNetwork
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.lightning_compat import class_names_of, trainer_of
from darkroom.runtime.records.results import Task


def most_likely(logits: Tensor) -> Tensor:
    """Return the class ids int64 (B, H, W) of the largest logits (B, K, H, W), the first of equal ones, or of NaN."""
    classes = logits.shape[1]
    if logits.device.type != "cpu" or logits.stride(1) == 1 or classes > 255:
        return logits.max(1).indices
    # The same, faster on a CPU in NCHW order: 16 instead of 33 ms for float32 logits 8 x 21 x 256 x 256 on one core of an
    # AMD EPYC. Reductions to an index are not vectorized there.
    largest = (logits == logits.amax(1, keepdim=True)).logical_or_(logits.isnan())
    ranks = torch.arange(classes, 0, -1, dtype=torch.uint8).view(1, classes, 1, 1)
    return classes - largest.view(torch.uint8).mul_(ranks).amax(1).long()


class SemanticSegmentation(Technique):
    """Semantic segmentation with any network: steps, loss and metrics.

    Batch: ``image`` float (B, C, H, W), normalized; ``mask`` int64 (B, H, W), class ids or ``ignore_index``. Logs
    ``train/loss`` (and each term of a sum), ``{val,test}/loss`` and the metrics of ``SegmentationScores``.

    Args:
        network: maps (B, C, H, W) to logits (B, K, H', W'), or to a dict with these under "out" and perhaps, in training,
            those of an auxiliary head under "aux" (torchvision). A map of another size than the input is resized
            bilinearly. Images are mirrored at the border for a network without padding (``UnpaddedNetwork``).
        num_classes: K, background included; the command line takes it from the data.
        loss: module of (logits (B, K, H, W), mask) that returns a scalar, or a dict of scalars that are added up and
            logged by name; default CrossEntropy. Its attribute ``needs`` names further entries of the batch that it takes.
        ignore_index: mask value that is excluded from loss and metrics.
        aux_weight: factor of the auxiliary head's loss.
        metrics: further metrics of (class ids, mask), beside SegmentationScores.
        inference: tiles, flips and scales for test and prediction.
        optim, init_from: see Technique.
    """

    task: ClassVar[Task] = "segmentation"
    needs: ClassVar[Mapping[str, type]] = {"image": Tensor, "mask": Tensor}
    free_arguments: ClassVar[tuple[str, ...]] = ("inference", "metrics")

    def __init__(
        self,
        network: nn.Module,
        num_classes: int | None = None,
        loss: nn.Module | None = None,
        ignore_index: int = 255,
        aux_weight: float = 0.5,
        metrics: list[Metric] | None = None,
        inference: Inference | None = None,
        optim: Optim | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optim=optim, init_from=init_from)
        if num_classes is None or num_classes < 2:
            raise UsageError(
                f"model.num_classes must be at least 2 (all classes of the mask, also the background), got {num_classes}"
            )
        if isinstance(loss, IgnoresIndex) and loss.ignore_index != ignore_index:
            raise UsageError(f"model.ignore_index must be that of model.loss, {loss.ignore_index}, got {ignore_index}")
        kinds = [type(metric).__name__ for metric in metrics or []]
        if len(set(kinds)) < len(kinds):
            raise UsageError(f"model.metrics must be of different classes, whose names differ, got {', '.join(kinds)}")
        self.network, self.num_classes, self.ignore_index = network, num_classes, ignore_index
        self.loss, self.aux_weight = loss or CrossEntropy(ignore_index), aux_weight
        self.metrics, self.inference = nn.ModuleList(metrics or []), build_options(Inference, inference)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        names = class_names_of(self.trainer)
        scores = MetricCollection([SegmentationScores(self.num_classes, self.ignore_index, names), *self.metrics])
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")
        self._judged_stages: set[str] = set()

    def forward(self, image: Tensor) -> Tensor:
        """Map images float (B, C, H, W), normalized, to logits (B, K, H, W)."""
        return self.outputs(image)["out"]

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Compute all maps of logits of the network, by name, at the size of the images."""
        check_images(image, self.network)
        height, width = image.shape[-2:]
        return self.outputs_within(self.add_margin(image), (height, width))

    def add_margin(self, image: Tensor) -> Tensor:
        """Mirror the images at the border as far as a network without padding needs them."""
        network = self.network
        if not isinstance(network, UnpaddedNetwork) or not network.margin:
            return image
        margin = network.margin
        bottom, right = (network.input_size(side) - margin - side for side in image.shape[-2:])
        return mirror_pad(image, margin, bottom, margin, right)

    def logits_within(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits (B, K, *size) of the area within the network's margin."""
        return self.outputs_within(image, size)["out"]

    def outputs_within(self, image: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Compute all maps of logits of the network, by name, each (B, K, *size)."""
        outputs = self.network(image.contiguous(memory_format=self.memory_format))
        outputs = dict(outputs) if isinstance(outputs, Mapping) else {"out": outputs}
        for name, logits in outputs.items():
            if logits.shape[1] != self.num_classes:
                raise UsageError(
                    f"{type(self.network).__name__} has {logits.shape[1]} output channels for {self.num_classes} classes; "
                    f"set its number of classes to {self.num_classes} (in model.network.init_args)"
                )
            if margin_of(self.network):
                outputs[name] = crop(logits, 0, size)
            elif logits.shape[-2:] != size:
                outputs[name] = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return outputs

    def infer(self, batch: dict[str, Any]) -> Tensor:
        """Compute logits (B, K, H, W), in test and prediction with the tiles, flips and scales of ``inference``."""
        trainer = trainer_of(self)
        whole = trainer is not None and not (trainer.testing or trainer.predicting)
        return self(batch["image"]) if whole else self.inference(self, batch["image"])

    def loss_terms(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the loss and, if it is a sum, its terms by name."""
        needs = needed_entries(self.loss)
        for name in needs:
            if name not in batch:
                raise UsageError(
                    f"{type(self.loss).__name__} needs batch['{name}'], but the batch has none; set data.{name}s to true, "
                    "if the datamodule can provide it"
                )
        loss = self.loss(logits, batch["mask"], **{name: batch[name] for name in needs})
        return {**loss, "loss": torch.stack(list(loss.values())).sum()} if isinstance(loss, dict) else {"loss": loss}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        outputs = self.outputs(batch["image"])
        terms = self.loss_terms(outputs["out"], batch)
        if "aux" in outputs:
            aux = self.aux_weight * self.loss_terms(outputs["aux"], batch)["loss"]
            terms |= {"aux": aux, "loss": terms["loss"] + aux}
        return self.log_loss(terms)

    def _evaluate(self, batch: dict[str, Any], stage: str, scores: MetricCollection) -> SegmentationOutputs:
        logits = self.infer(batch)
        prediction = most_likely(logits)
        scores.update(prediction, batch["mask"])  # one argmax, one confusion matrix for all metrics
        losses = self.loss_terms(logits, batch)
        self.log_evaluation({f"{stage}/{name}": term for name, term in losses.items()}, len(logits))
        return {"prediction": prediction}  # not the logits, which would stay in memory during the next batch

    def _log_scores(self, scores: MetricCollection) -> None:
        values = scores.compute()  # reduced over the ranks by torchmetrics
        headline = {name: value for name, value in values.items() if name.endswith("/mIoU")}
        self.log_dict(headline, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        self.log_dict({k: v for k, v in values.items() if k not in headline}, sync_dist=self.trainer.world_size > 1)
        scores.reset()
        if not self.trainer.sanity_checking:
            self._warn_of_absent_classes(values)

    def _warn_of_absent_classes(self, values: Mapping[str, Tensor]) -> None:
        """Warn once a stage of classes without a pixel in the truth, which the averages leave out."""
        accuracies = {name: value for name, value in values.items() if "/accuracy/" in name}
        if not accuracies or (stage := next(iter(accuracies)).partition("/")[0]) in self._judged_stages:
            return
        self._judged_stages.add(stage)
        undefined = torch.stack(list(accuracies.values())).isnan().tolist()
        absent = [name.rpartition("/")[2] for name, nan in zip(accuracies, undefined, strict=True) if nan]
        if absent:
            rank_zero_warn(
                f"{stage}: the truth has no pixel of {', '.join(absent)}, so {stage}/mIoU and the other averages leave "
                "them out; check data.class_names, data.ignore_values and the masks of this split"
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> SegmentationOutputs:
        return self._evaluate(batch, "val", self.val_scores)

    def on_validation_epoch_end(self) -> None:
        self._log_scores(self.val_scores)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> SegmentationOutputs:
        return self._evaluate(batch, "test", self.test_scores)

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_scores)

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Predict class ids int64 (B, H, W), at the size of the images."""
        return most_likely(self.infer(batch))

    def export_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to class ids and logits, see ``ExportableModel``."""
        return segmentation_graph(self, normalization)
