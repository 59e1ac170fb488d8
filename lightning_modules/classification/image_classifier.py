"""ImageClassifier: trains any network that maps images to logits of classes."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchvision.transforms import v2

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.classification.export import classification_graph
from darkroom.lightning_modules.classification.grad_cam import grad_cam
from darkroom.lightning_modules.classification.metrics import ClassificationScores
from darkroom.lightning_modules.classification.networks import BackboneClassifier
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.precision import check_images
from darkroom.protocols import ClassificationOutputs
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.lightning_compat import class_names_of
from darkroom.runtime.records.results import Task


class ImageClassifier(Technique):
    """Image classification with any network: steps, loss, regularization and metrics.

    Batch: ``image`` float (B, C, H, W), normalized; ``label`` int64 (B,), from 0. Logs ``train/loss``, without mixup and
    CutMix ``train/accuracy``, ``{val,test}/loss`` (the cross-entropy, without label smoothing) and the metrics of
    ``ClassificationScores``.

    The papers of the backbones train so: Krizhevsky et al. 2012 (AlexNet), Simonyan & Zisserman 2015 (VGG).

    Args:
        network: maps (B, C, H, W) to logits (B, K), such as torchvision.models.resnet18; None: ``BackboneClassifier``.
        num_classes: K; the command line takes it from the data.
        image_shape: (C, H, W) of the default network; the command line takes it from the data.
        label_smoothing: epsilon in [0, 1): the target is 1 - epsilon on the class plus epsilon / K on every class
            (Szegedy et al. 2016, section 7).
        mixup: alpha of Beta(alpha, alpha), from which each batch takes the weight lambda of two mixed images and of their
            labels (Zhang et al. 2018, equation 1); 0: none.
        cutmix: alpha of Beta(alpha, alpha) for a rectangle of the fraction 1 - lambda that another image replaces (Yun et
            al. 2019, equations 1 and 2); 0: none. With mixup too, each batch has one of them, chosen at random.
        ema: exponential moving average of the weights, used in validation, test and prediction; null: none.
        optim, init_from: see Technique.

    Raises:
        UsageError: an argument is out of its range.
    """

    task: ClassVar[Task] = "classification"
    needs: ClassVar[Mapping[str, type]] = {"image": Tensor, "label": Tensor}
    monitor: ClassVar[tuple[str, str]] = ("val/accuracy", "max")

    def __init__(
        self,
        network: nn.Module | None = None,
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        ema: EMAOptions | None = None,
        optim: Optim | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optim=optim, init_from=init_from)
        if num_classes is None or num_classes < 2:
            raise UsageError(
                f"model.num_classes must be at least 2, got {num_classes}; the data must have labels (ImageFolder: a "
                "folder for every class; CelebA: data.attribute)"
            )
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"model.label_smoothing must be in [0, 1), got {label_smoothing}")
        for name, alpha in {"mixup": mixup, "cutmix": cutmix}.items():
            if alpha < 0:
                raise UsageError(f"model.{name} must be 0 (none) or the alpha of Beta(alpha, alpha), got {alpha}")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.network = network or BackboneClassifier(num_classes=num_classes, image_shape=image_shape)
        self.ema = None if ema is None else EMA(self.network, build_options(EMAOptions, ema).decay)
        mixing: list[nn.Module] = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        mixing += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
        self.mixing = v2.RandomChoice(mixing) if mixing else None

    def networks(self) -> list[nn.Module]:
        """Return the network and, if there is one, its EMA."""
        return [self.network] if self.ema is None else [self.network, self.ema.module]

    @property
    def evaluated_network(self) -> nn.Module:
        """Network of validation, test and prediction: the EMA of the weights, if there is one."""
        return self.network if self.ema is None else self.ema.module

    def setup(self, stage: str) -> None:
        super().setup(stage)
        scores = MetricCollection([ClassificationScores(self.num_classes, class_names_of(self.trainer))])
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")

    def forward(self, image: Tensor) -> Tensor:
        """Map images float (B, C, H, W), normalized, to logits (B, K)."""
        network = self.network if self.training else self.evaluated_network
        check_images(image, network)
        logits = network(image.contiguous(memory_format=self.memory_format))
        if not isinstance(logits, Tensor) or logits.shape != (image.shape[0], self.num_classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UsageError(
                f"{type(network).__name__} must return logits ({len(image)}, {self.num_classes}), one for each image and "
                f"class, got {got}; set its number of classes, and aux_logits to false where it has auxiliary heads (in "
                "model.network.init_args)"
            )
        return logits

    def explain(self, image: Tensor, classes: Tensor) -> Tensor:
        """Compute Grad-CAM of a class int64 (B,) of each image (B, C, H, W): float32 (B, h, w) in [0, 1]."""
        return grad_cam(self.evaluated_network, image.contiguous(memory_format=self.memory_format), classes)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        image, target = batch["image"], batch["label"]
        if self.mixing is not None:
            image, target = self.mixing(image, target)  # target: float (B, K)
        logits = self(image).float()
        terms = {"loss": F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)}
        if self.mixing is None:
            terms["accuracy"] = (logits.detach().argmax(1) == target).float().mean()
        return self.log_loss(terms)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the EMA weights."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def _evaluate(self, batch: dict[str, Any], stage: str, scores: MetricCollection) -> ClassificationOutputs:
        logits = self(batch["image"]).float()
        loss = F.cross_entropy(logits, batch["label"], reduction="none")
        scores.update(logits, batch["label"])
        self.log_evaluation({f"{stage}/loss": loss.mean()}, len(loss))
        return {"probabilities": logits.softmax(1), "losses": loss}

    def _log_scores(self, scores: MetricCollection) -> None:
        values = scores.compute()  # reduced over the ranks by torchmetrics
        headline = {name: value for name, value in values.items() if name.endswith("/accuracy")}
        self.log_dict(headline, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        self.log_dict({k: v for k, v in values.items() if k not in headline}, sync_dist=self.trainer.world_size > 1)
        scores.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> ClassificationOutputs:
        return self._evaluate(batch, "val", self.val_scores)

    def on_validation_epoch_end(self) -> None:
        self._log_scores(self.val_scores)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> ClassificationOutputs:
        return self._evaluate(batch, "test", self.test_scores)

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_scores)

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Predict the probabilities of the classes, float32 (B, K)."""
        return self(batch["image"]).float().softmax(1)

    def export_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to probabilities, see ``ExportableModel``."""
        return classification_graph(self, self.num_classes, normalization)
