"""Generative: base of the methods that generate images: latent space, sampling, evaluation, metrics."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor, distributed

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.metrics.scores import Scores
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.eval_mode import eval_mode
from darkroom.lightning_modules.utils.random import Generators, sample_noise
from darkroom.protocols import NamedClasses, RangedData, ReconstructionOutputs, ShapedData
from darkroom.runtime.lightning_compat import datamodule_of, trainer_of

if TYPE_CHECKING:  # a mixin: every method that inherits from it is also a Technique
    _Base = Technique
else:
    _Base = LightningModule


def check_image_shape(image_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return (C, H, W).

    Raises:
        UsageError: the shape is missing or invalid.
    """
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise UsageError(
            "model.image_shape must be channels, height and width of the images, such as (3, 64, 64), got "
            f"{image_shape}"
        )
    channels, height, width = image_shape
    return channels, height, width


def check_value_range(module: object, data: object, channels: int) -> None:
    """Raise a UsageError for a datamodule whose images are not in [-1, 1].

    Args:
        module: of the images; named in the message.
        data: the datamodule.
        channels: of the images.
    """
    if isinstance(data, RangedData) and tuple(data.value_range) != (-1.0, 1.0):
        raise UsageError(
            f"{type(module).__name__} needs images in [-1.0, 1.0], but those of {type(data).__name__} are "
            f"in {[round(end, 3) for end in data.value_range]}; set data.mean and data.std to {[0.5] * channels}"
        )


def squared_error(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Compute the squared error of each reconstruction of images x (B, C, H, W), summed over values: float32 (B,)."""
    return (reconstruction.float() - x.float()).square().flatten(1).sum(1)


class Generative(_Base):
    """Base of the methods that generate images, beside Technique: ``class VAE(Generative, Technique)``.

    A method defines ``training_step``, ``evaluate``, ``draw_latents``, ``encode``, ``decode`` and, with several networks,
    ``networks``.

    Inputs and outputs are images float32 (B, C, H, W) in [-1, 1]. Batch: ``image``, and ``label`` int64 (B,) if the method
    is conditional. In prediction the batch has ``seed`` int64 (B,), one for each image to be sampled, and ``label`` if the
    method is conditional; or ``image``, to be reconstructed. The values of ``evaluate`` are logged as means over the set,
    beside the metrics of ``scores``.

    Args:
        image_shape: (C, H, W); the command line takes it from the data.
        num_classes: of a conditional method; None: unconditional.
        scores: metrics of samples, computed after a validation and in test; None: no such metrics.
        optim, init_from: see Technique.
    """

    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    encodes_by_search: ClassVar[bool] = False  # encode takes many passes
    free_arguments: ClassVar[tuple[str, ...]] = ("scores",)

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None,
        num_classes: int | None = None,
        scores: Scores | None = None,
        optim: Optim | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optim=optim, init_from=init_from)
        if num_classes is not None and num_classes < 1:
            raise UsageError(
                f"model.num_classes must be at least 1, got {num_classes}; {type(self).__name__} samples images by class, "
                "so the data must have labels (CelebA: data.attribute; ImageFolder: a folder for every class)"
            )
        self.image_shape, self.num_classes, self.scores = check_image_shape(image_shape), num_classes, scores
        self.class_names: list[str] = []  # of the training data
        # In evaluation the noise of an image is a function of its index in the set. So metrics do not depend on batch size
        # and world size, and evaluation does not change the random numbers of training.
        self.evaluation_noise: list[torch.Generator] | None = None
        self.evaluated: list[int] | None = None  # indices of the current batch
        self._evaluated = 0  # images of this rank

    # --- defined by a method ------------------------------------------------------------------------------------------

    def draw_latents(self, n: int, generator: Generators = None) -> Tensor:
        """Sample latents from the prior: float32 (n, latent_dim) on the module's device, a function of ``noise`` only."""
        raise NotImplementedError

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] to latents (B, latent_dim)."""
        raise NotImplementedError

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def sample_images(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample n images (n, C, H, W) in [-1, 1] for checked labels; called in eval mode, without gradients."""
        return self.decode(self.draw_latents(n, generator), labels=labels)

    def interpolate_latents(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """Interpolate from latents a to b at fractions ``weight``, which broadcast with them: here linearly."""
        return torch.lerp(a, b, weight)

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Compute means over a batch by name, including ``loss``; called in eval mode, without gradients.

        ``squared_error``, if there is one, has a value for each image, (B,); see ``squared_error``.
        """
        raise NotImplementedError

    # --- shared by all methods ----------------------------------------------------------------------------------------

    @contextmanager
    def sampling_mode(self) -> Iterator[None]:
        """Put the module into eval mode without gradients within the context."""
        with eval_mode(self), torch.no_grad():
            yield

    def precision(self) -> AbstractContextManager:
        """Autocast as the Trainer does, also outside its steps, such as at the end of an epoch."""
        return nullcontext() if trainer_of(self) is None else self.trainer.precision_plugin.forward_context()

    def noise(self, *shape: int, generator: Generators = None, uniform: bool = False) -> Tensor:
        """Sample normal noise, or uniform in [0, 1): float32 on the module's device; see ``sample_noise``."""
        return sample_noise(shape, self.device, generator, uniform)

    def reconstruct(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Encode and decode images (B, C, H, W)."""
        with self.sampling_mode():
            labels = self.check_labels(labels, len(x))
            return self.decode(self.encode(x, labels=labels), labels=labels)

    def sample(
        self, n: int, *, labels: Tensor | Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sample n images (n, C, H, W) in [-1, 1] on the module's device; the mean of p(x|z) if the method has one.

        Args:
            n: number of images, at least 1.
            labels: int (n,), the class of each image; only for a conditional method.
            generator: determines the result; None: torch's global one.
        """
        if n < 1:
            raise UsageError(f"n must be at least 1 image, got {n}")
        with self.sampling_mode():
            return self.sample_images(n, self.check_labels(labels, n), generator)

    def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor:
        """Interpolate between images a and b in the latent space.

        Args:
            a, b: images (B, C, H, W).
            steps: images from a to b, both ends included, at least 2.
            labels: int (B,), if conditional: the class of a, b and all images between.

        Returns:
            (B, steps, C, H, W).
        """
        if len(a) != len(b) or steps < 2:
            raise UsageError(
                f"interpolate needs as many images a as b and at least 2 steps, got {len(a)} and {len(b)} images and "
                f"{steps} steps"
            )
        with self.sampling_mode():
            labels = self.check_labels(labels, len(a))
            start, end = (self.encode(x, labels=labels)[:, None] for x in (a, b))
            weight = torch.linspace(0, 1, steps, device=start.device).view(1, steps, *[1] * (start.dim() - 2))
            z = self.interpolate_latents(start, end, weight).flatten(0, 1)
            labels = None if labels is None else labels.repeat_interleave(steps)
            return self.decode(z, labels=labels).unflatten(0, (len(a), steps))

    def to_uint8(self, images: Tensor) -> Tensor:
        """Convert images in [-1, 1] to uint8, rounded; used for files, figures and metrics."""
        low, high = self.value_range
        return ((images.detach().float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)

    def check_labels(self, labels: Tensor | Sequence[int] | None, n: int) -> Tensor | None:
        """Return labels as int64 (n,) on the module's device; None for an unconditional method.

        Raises:
            UsageError: labels are missing, have another shape or type, are out of range, or the method is unconditional.
        """
        if self.num_classes is None:
            if labels is not None:
                raise UsageError(f"this {type(self).__name__} is unconditional and takes no labels; leave them out")
            return None
        if labels is None:
            raise UsageError(
                f"labels are missing; a conditional {type(self).__name__} needs labels, one of 0 to {self.num_classes - 1} "
                "for every image (to predict: --data.labels '[0, 1, ...]')"
            )
        labels = torch.as_tensor(labels)
        if labels.shape != (n,):
            raise UsageError(f"labels must have the shape ({n},) for {n} images, got {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise UsageError(f"labels must be integers from 0 to {self.num_classes - 1}, got {labels.dtype}")
        outside = labels[(labels < 0) | (labels >= self.num_classes)].tolist()
        if outside:
            raise UsageError(f"labels must be from 0 to {self.num_classes - 1}, got {outside[0]}")
        return labels.to(self.device, torch.long)

    def labels_of(self, batch: dict[str, Any]) -> Tensor | None:
        """Return a batch's labels if the method is conditional. They are not checked, which would synchronize."""
        if self.num_classes is None:
            return None
        if "label" not in batch:
            raise UsageError(
                f"this {type(self).__name__} is conditional, but the batch has no 'label'; use data with labels "
                "(ImageFolder: a folder per class; Prompts: --data.labels)"
            )
        return batch["label"]

    # --- steps --------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = datamodule_of(self.trainer)
        self.class_names = list(data.class_names) if isinstance(data, NamedClasses) else []
        shape = data.image_shape if isinstance(data, ShapedData) else None
        if shape is not None and tuple(shape) != self.image_shape:
            raise UsageError(
                f"model.image_shape is {self.image_shape}, but the data have {tuple(shape)}; make them agree: a "
                "new model takes the data's, a trained one needs data of its own size (data.size, or data.side of Shapes)"
            )
        check_value_range(self, data, self.image_shape[0])
        if self.scores is not None and stage != "predict":
            self.scores.prepare(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.scores is not None:
            checkpoint["validations"] = self.scores.validations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.class_names = self.class_names or checkpoint.get("class_names") or []
        if self.scores is not None:
            self.scores.validations = checkpoint.get("validations", 0)

    def images_of(self, batch: dict[str, Any]) -> Tensor:
        """Return a batch's images in the model's memory format.

        Raises:
            UsageError: the images are not normalized.
        """
        if batch["image"].dtype == torch.uint8:
            raise UsageError(
                "uint8 images reached the network; the datamodule's on_after_batch_transfer must normalize them (pass the "
                "datamodule to the Trainer, or normalize them yourself)"
            )
        return batch["image"].contiguous(memory_format=self.memory_format)

    def _evaluate(self, batch: dict[str, Any], stage: str) -> ReconstructionOutputs | None:
        count, ranks = len(batch["image"]), self.trainer.world_size
        self.evaluated = [self.global_rank + ranks * (self._evaluated + i) for i in range(count)]
        self.evaluation_noise = [torch.Generator(self.device).manual_seed(number) for number in self.evaluated]
        terms = self.evaluate(batch, stage)
        values = {f"{stage}/{name}": value.mean() for name, value in terms.items()}
        self._evaluated += count
        self.evaluated = self.evaluation_noise = None
        self.log_evaluation(values, count)
        if self.scores is not None and not self.trainer.sanity_checking and self.scores.needs_more(stage):
            self.scores.update(stage, self.to_uint8(batch["image"]), batch)
        return {"errors": terms["squared_error"]} if "squared_error" in terms else None

    def _log_scores(self, stage: str) -> None:
        if self.scores is not None and not self.trainer.sanity_checking:
            values = self.scores.compute(stage, self)  # the same on all ranks, empty if this validation is skipped
            self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, prog_bar=True)

    def _share_statistics(self) -> None:
        """Broadcast BatchNorm buffers from rank 0, so every rank samples with the statistics of the checkpoint."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                if buffer.is_floating_point():
                    distributed.broadcast(buffer, 0)

    def on_validation_epoch_start(self) -> None:
        self._share_statistics()
        self._evaluated = 0

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> ReconstructionOutputs | None:
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Sample images (B, C, H, W) in [-1, 1], each from its own seed, or reconstruct the batch's images."""
        if "image" in batch:
            return self.reconstruct(self.images_of(batch), labels=self.labels_of(batch))
        if "caption" in batch:
            raise UsageError(f"{type(self).__name__} is not text-conditional; leave data.captions out")
        with self.sampling_mode():
            labels = self.check_labels(batch.get("label"), len(batch["seed"]))
            generators = [torch.Generator().manual_seed(seed) for seed in batch["seed"].tolist()]
            return self.sample_images(len(generators), labels, generators)
