"""NoisyClassifier: classification of noisy images, for classifier guidance (Dhariwal & Nichol 2021, section 4)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.classification.metrics import ClassificationScores
from darkroom.lightning_modules.diffusion.classifier.network import EncoderClassifier
from darkroom.lightning_modules.diffusion.objective.noise_schedules import LinearSchedule, NoiseSchedule
from darkroom.lightning_modules.generation.base import check_image_shape, check_value_range
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.random import sample_noise
from darkroom.protocols import ClassificationOutputs, ShapedData
from darkroom.runtime.lightning_compat import class_names_of, datamodule_of
from darkroom.runtime.records.results import Task


class NoisyClassifier(Technique):
    """Classifier p(y | x_t, t) of noisy images, which guides a diffusion model (Dhariwal & Nichol 2021, section 4).

    It trains as a diffusion model does: every image of a batch gets noise of a random time. Its schedule must be that of
    the diffusion model whose option ``classifier`` it becomes.

    Batch: ``image`` float (B, C, H, W) in [-1, 1]; ``label`` int64 (B,), from 0. Logs ``train/loss`` and
    ``train/accuracy``, ``{val,test}/loss`` and the metrics of ``ClassificationScores``. In evaluation every image has the
    same time and noise each time; times are uniform, so ``accuracy`` is a mean over all amounts of noise.

    Args:
        network: called as ``network(x, t)``, returns logits (B, K); None: ``EncoderClassifier``.
        num_classes: K; the command line takes it from the data.
        image_shape: (C, H, W); the command line takes it from the data.
        schedule: of the noise; None: ``LinearSchedule`` of 1,000 steps.
        ema: of the network's weights, used in evaluation and guidance; null: none.
        optim, init_from: see Technique; its optimizer is AdamW by default, lr 3e-4, weight decay 0.05, fused.

    Raises:
        UsageError: an argument is out of its range.
    """

    task: ClassVar[Task] = "classification"
    needs: ClassVar[Mapping[str, type]] = {"image": Tensor, "label": Tensor}
    monitor: ClassVar[tuple[str, str]] = ("val/accuracy", "max")
    default_optimizer: ClassVar[OptimizerCallable] = partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.05, fused=True)

    def __init__(
        self,
        network: nn.Module | None = None,
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        schedule: NoiseSchedule | None = None,
        ema: EMAOptions | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_classes is None or num_classes < 2:
            raise UsageError(
                f"model.num_classes must be at least 2, got {num_classes}; the data must have labels (Shapes: data.label; "
                "ImageFolder: a folder for every class)"
            )
        self.image_shape, self.num_classes = check_image_shape(image_shape), num_classes
        self.network = network or EncoderClassifier(self.image_shape, num_classes)
        self.schedule = schedule or LinearSchedule()
        self.ema = None if ema is None else EMA(self.network, build_options(EMAOptions, ema).decay)
        self._evaluated = 0  # images of this rank

    def networks(self) -> list[nn.Module]:
        """Return the network and, if there is one, its EMA."""
        return [self.network] if self.ema is None else [self.network, self.ema.module]

    @property
    def evaluated_network(self) -> nn.Module:
        """Network of evaluation and guidance: the EMA of the weights, if there is one."""
        return self.network if self.ema is None else self.ema.module

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = datamodule_of(self.trainer)
        shape = data.image_shape if isinstance(data, ShapedData) else None
        if shape is not None and tuple(shape) != self.image_shape:
            raise UsageError(
                f"model.image_shape is {self.image_shape}, but the data have {tuple(shape)}; make them agree"
            )
        check_value_range(self, data, self.image_shape[0])
        scores = MetricCollection([ClassificationScores(self.num_classes, class_names_of(self.trainer))])
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map noisy images (B, C, H, W) and times (B,) to logits, float32 (B, K)."""
        network = self.network if self.training else self.evaluated_network
        x = x.contiguous(memory_format=self.memory_format).to(next(network.parameters()).dtype)
        logits = network(x, t)
        if not isinstance(logits, Tensor) or logits.shape != (x.shape[0], self.num_classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UsageError(
                f"{type(network).__name__} must return logits ({len(x)}, {self.num_classes}), one for each image and "
                f"class, got {got}"
            )
        return logits.float()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        x, labels = batch["image"].float(), batch["label"]
        if batch_idx == 0:
            self._check_labels(labels)
        t = torch.randint(self.schedule.num_steps, (len(x),), device=x.device)
        logits = self(self.schedule.add_noise(x, sample_noise(x.shape, x.device), t), t)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return self.log_loss({"loss": F.cross_entropy(logits, labels), "accuracy": accuracy})

    def _check_labels(self, labels: Tensor) -> None:
        """Raise a UsageError for labels out of range. It synchronizes, so it is called once an epoch."""
        outside = labels[(labels < 0) | (labels >= self.num_classes)].tolist()
        if outside:
            raise UsageError(
                f"data.label: labels must be from 0 to {self.num_classes - 1}, because model.num_classes is "
                f"{self.num_classes}, got {outside[0]}"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the EMA weights."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Predict the probabilities of the classes of images without noise, float32 (B, K)."""
        x = batch["image"]
        return self(x, torch.zeros(len(x), dtype=torch.int64, device=x.device)).softmax(1)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._evaluated = 0

    on_test_epoch_start = on_validation_epoch_start

    def _evaluate(self, batch: dict[str, Any], stage: str, scores: MetricCollection) -> ClassificationOutputs:
        x, labels = batch["image"].float(), batch["label"]
        if not self._evaluated:
            self._check_labels(labels)
        # Time and noise are a function of the image's index in the set, for any batch size and number of ranks.
        first, ranks = self._evaluated, self.trainer.world_size
        generators = [torch.Generator().manual_seed(self.global_rank + ranks * (first + i)) for i in range(len(x))]
        self._evaluated += len(x)
        times = [int(torch.randint(self.schedule.num_steps, (), generator=generator)) for generator in generators]
        t = torch.tensor(times, device=x.device)
        logits = self(self.schedule.add_noise(x, sample_noise(x.shape, x.device, generators), t), t)
        losses = F.cross_entropy(logits, labels, reduction="none")
        scores.update(logits, labels)
        self.log_evaluation({f"{stage}/loss": losses.mean()}, len(x))
        return {"probabilities": logits.softmax(1), "losses": losses}

    def _log_scores(self, scores: MetricCollection) -> None:
        values = scores.compute()  # reduced over the ranks by torchmetrics
        self.log_dict(dict(values), sync_dist=self.trainer.world_size > 1)
        scores.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> ClassificationOutputs:
        return self._evaluate(batch, "val", self.val_scores)

    def on_validation_epoch_end(self) -> None:
        self._log_scores(self.val_scores)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> ClassificationOutputs:
        return self._evaluate(batch, "test", self.test_scores)

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_scores)
