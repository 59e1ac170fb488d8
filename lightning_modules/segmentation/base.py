"""SemanticSegmentation: trains any network that maps images to a map of logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.segmentation.geometry import mirror_pad
from darkroom.lightning_modules.segmentation.inference import Inference
from darkroom.lightning_modules.segmentation.losses import CrossEntropy
from darkroom.lightning_modules.segmentation.metrics import SegmentationScores
from darkroom.lightning_modules.utils.precision import check_images
from darkroom.protocols import SegmentationOutputs


class SemanticSegmentation(Technique):
    """Any network as a semantic segmentation: steps, loss and scores.

    Batch: ``image`` float (B, C, H, W), normalised; ``mask`` int64 (B, H, W), class ids or ``ignore_index``. Logs
    ``train/loss`` (and each term of a loss of several), ``{val,test}/loss`` and the scores of ``SegmentationScores``.

    Args:
        network: maps (B, C, H, W) to logits (B, K, H', W'), or to a dict with these under "out" and perhaps, in training,
            those of an auxiliary head under "aux" (torchvision). A map of another size than the input is resized
            bilinearly. A network without padding, which gives less than it gets, states ``margin``, what it loses on each
            side, and ``input_size(size)``, what it needs to cover ``size`` pixels: its images are mirrored at the border.
        num_classes: K, background included; the command line takes it from the data.
        loss: module of (logits (B, K, H, W), mask) that returns a scalar, or a dict of scalars that are added up and
            logged by name; default CrossEntropy. Its attribute ``needs`` names entries of the batch that it takes besides.
        ignore_index: mask value that is neither trained on nor judged.
        aux_weight: factor of the auxiliary head's loss.
        metrics: further scores, of (class ids, mask), beside SegmentationScores.
        inference: tiles, flips and scales for test and prediction.
        optim: see Technique.
    """

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
    ) -> None:
        super().__init__(optim=optim)
        if num_classes is None or num_classes < 2:
            raise UsageError(
                f"model.num_classes is {num_classes}; it counts what a mask can hold, background included: at least 2"
            )
        if getattr(loss, "ignore_index", ignore_index) != ignore_index:
            raise UsageError(f"model.ignore_index is {ignore_index}, but the loss ignores {loss.ignore_index}")
        kinds = [type(metric).__name__ for metric in metrics or []]
        if len(set(kinds)) < len(kinds):
            raise UsageError(f"model.metrics has two of a kind ({', '.join(kinds)}), whose names would be the same")
        self.network, self.num_classes, self.ignore_index = network, num_classes, ignore_index
        self.loss, self.aux_weight = loss or CrossEntropy(ignore_index), aux_weight
        self.metrics, self.inference = nn.ModuleList(metrics or []), inference or Inference()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        names = getattr(self.trainer.datamodule, "class_names", None)
        scores = MetricCollection([SegmentationScores(self.num_classes, self.ignore_index, names), *self.metrics])
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")

    def forward(self, image: Tensor) -> Tensor:
        """Images float (B, C, H, W), normalised -> logits (B, K, H, W)."""
        return self.outputs(image)["out"]

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        """All maps of logits that the network gives for images, by name, at the size of these."""
        check_images(image, self.network)
        return self.outputs_within(self.with_margin(image), image.shape[-2:])

    def with_margin(self, image: Tensor) -> Tensor:
        """The images, mirrored at the border as far as a network without padding needs them."""
        margin = getattr(self.network, "margin", 0)
        if not margin:
            return image
        after = [self.network.input_size(side) - margin - side for side in image.shape[-2:]]
        return mirror_pad(image, margin, after[0], margin, after[1])

    def logits_within(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, *size) of what lies within the network's margin of the images."""
        return self.outputs_within(image, size)["out"]

    def outputs_within(self, image: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """All maps of logits that the network gives, by name, each (B, K, *size)."""
        outputs = self.network(image.contiguous(memory_format=self.memory_format))
        outputs = dict(outputs) if isinstance(outputs, Mapping) else {"out": outputs}
        for name, logits in outputs.items():
            if logits.shape[1] != self.num_classes:
                raise UsageError(
                    f"{type(self.network).__name__} gives {logits.shape[1]} channels for {self.num_classes} classes; set "
                    f"its number of classes to {self.num_classes} (in model.network.init_args)"
                )
            if getattr(self.network, "margin", 0):
                outputs[name] = logits[..., : size[0], : size[1]]
            elif logits.shape[-2:] != size:
                outputs[name] = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return outputs

    def infer(self, batch: dict[str, Any]) -> Tensor:
        """Logits (B, K, H, W) to be judged: in test and prediction by tiles, flips and scales, as ``inference`` asks."""
        trainer = self._trainer
        plain = trainer is not None and not (trainer.testing or trainer.predicting)
        return self(batch["image"]) if plain else self.inference(self, batch["image"])

    def loss_terms(self, logits: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss and, if it has several, its terms by name."""
        needs = getattr(self.loss, "needs", ())
        for name in needs:
            if name not in batch:
                raise UsageError(
                    f"{type(self.loss).__name__} needs batch['{name}'], which is not there; set data.{name}s true, if the "
                    "data can give it"
                )
        loss = self.loss(logits, batch["mask"], **{name: batch[name] for name in needs})
        return {**loss, "loss": torch.stack(list(loss.values())).sum()} if isinstance(loss, dict) else {"loss": loss}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        outputs = self.outputs(batch["image"])
        terms = self.loss_terms(outputs["out"], batch)
        if "aux" in outputs:
            aux = self.aux_weight * self.loss_terms(outputs["aux"], batch)["loss"]
            terms |= {"aux": aux, "loss": terms["loss"] + aux}
        return self.log_loss(terms)

    def _evaluate(self, batch: dict[str, Any], stage: str, scores: MetricCollection) -> SegmentationOutputs:
        logits = self.infer(batch)
        prediction = logits.argmax(1)
        scores.update(prediction, batch["mask"])  # one argmax, one confusion matrix for all scores
        losses = self.loss_terms(logits, batch)
        self.log_evaluation({f"{stage}/{name}": term for name, term in losses.items()}, len(logits))
        return {"prediction": prediction}  # not the logits, which would stay in memory during the next batch

    def _log_scores(self, scores: MetricCollection) -> None:
        values = scores.compute()  # reduced over the ranks by torchmetrics
        headline = {name: value for name, value in values.items() if name.endswith("/mIoU")}
        self.log_dict(headline, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        self.log_dict({k: v for k, v in values.items() if k not in headline}, sync_dist=self.trainer.world_size > 1)
        scores.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> SegmentationOutputs:
        return self._evaluate(batch, "val", self.val_scores)

    def on_validation_epoch_end(self) -> None:
        self._log_scores(self.val_scores)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> SegmentationOutputs:
        return self._evaluate(batch, "test", self.test_scores)

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_scores)

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Class ids int64 (B, H, W), at the size of the images in the batch."""
        return self.infer(batch).argmax(1)
