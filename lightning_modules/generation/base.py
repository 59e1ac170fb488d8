"""Generative: what everything that draws pictures has in common: a latent space, samples, scores."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor, distributed

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.scores import Scores
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.eval_mode import evaluating
from darkroom.lightning_modules.utils.random import Generators, draw_noise


def check_image_shape(image_shape: tuple[int, int, int] | None) -> None:
    """Refuses a shape that is no (C, H, W)."""
    if image_shape is None or len(image_shape) != 3 or min(image_shape) < 1:
        raise UsageError(
            f"model.image_shape is {image_shape}; give channels, height and width of the pictures, such as (3, 64, 64)"
        )


class Generative(LightningModule):
    """Base of the methods that generate images, beside Technique: ``class VAE(Generative, Technique)``.

    A method adds ``training_step``, ``evaluate`` and four small methods: ``draw_latents``, ``encode``, ``decode`` and, with
    more than one network, ``networks``.

    Pictures are float32 (B, C, H, W) in [-1, 1], in and out. Batch: ``image``; ``label`` int64 (B,) where the technique is
    conditional. In prediction ``seed`` int64 (B,), one number for each picture to be drawn, and ``label`` where asked for;
    or ``image``, to be reconstructed. Logs what ``evaluate`` returns as means over the set, and the scores.

    Args:
        image_shape: (C, H, W); the command line takes it from the data.
        num_classes: of a conditional technique; None: unconditional.
        scores: judges drawn pictures after a validation and in test; None: nobody does.
        optim: see Technique.
    """

    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    encodes_by_search: ClassVar[bool] = False  # whether encode takes many passes
    memory_format: torch.memory_format  # of Technique

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None,
        num_classes: int | None = None,
        scores: Scores | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(optim=optim)
        check_image_shape(image_shape)
        if num_classes is not None and num_classes < 1:
            raise UsageError(
                f"model.num_classes is {num_classes}; {type(self).__name__} draws pictures by their class, so the data "
                "must have labels (CelebA: data.attribute; ImageFolder: a folder for every class)"
            )
        self.image_shape, self.num_classes, self.scores = tuple(image_shape), num_classes, scores
        self.class_names: list[str] = []  # of the data it was trained on
        # In evaluation the noise of a picture is a function of its number in the set: scores differ by the model alone, not
        # by the batches and ranks it is evaluated in, and training's random numbers not by how often.
        self.evaluation_noise: list[torch.Generator] | None = None
        self.evaluated: list[int] | None = None  # the numbers
        self._evaluated = 0  # pictures of this rank

    # --- what a technique adds ----------------------------------------------------------------------------------------

    def draw_latents(self, n: int, generator: Generators = None) -> Tensor:
        """Latents from the prior: float32 (n, latent_dim) on the module's device, made of ``noise`` alone."""
        raise NotImplementedError

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] -> latents (B, latent_dim)."""
        raise NotImplementedError

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Latents (B, latent_dim) -> pictures (B, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def draw(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """n pictures (n, C, H, W) in [-1, 1] from checked labels; called in eval mode, without gradients."""
        return self.decode(self.draw_latents(n, generator), labels=labels)

    def between(self, a: Tensor, b: Tensor, way: Tensor) -> Tensor:
        """Latents at parts ``way`` of the way from a to b, which broadcast with them: here straight."""
        return torch.lerp(a, b, way)

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Scalar means over a batch, by name, with ``loss`` among them; called in eval mode, without gradients."""
        raise NotImplementedError

    # --- what everyone may ask ----------------------------------------------------------------------------------------

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within, the module is in eval mode and computes no gradients."""
        with evaluating(self), torch.no_grad():
            yield

    def precision(self) -> AbstractContextManager:
        """The Trainer's, also where it has none of its own: when an epoch has ended, and scores are computed."""
        return nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()

    def noise(self, *shape: int, generator: Generators = None, uniform: bool = False) -> Tensor:
        """Normal noise, or uniform in [0, 1): float32 on the module's device; see ``draw_noise``."""
        return draw_noise(shape, self.device, generator, uniform)

    def reconstruct(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Pictures (B, C, H, W) as they come back from the latent space."""
        with self.drawing():
            labels = self.check_labels(labels, len(x))
            return self.decode(self.encode(x, labels=labels), labels=labels)

    def sample(
        self, n: int, *, labels: Tensor | Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws n pictures: (n, C, H, W) in [-1, 1], on the module's device; without noise of their own, where the
        technique has a p(x|z), of which they are the mean.

        Args:
            n: how many, at least 1.
            labels: int (n,), the class of each; needed by a conditional technique, refused by another.
            generator: if given, it alone decides the result; None: torch's global one.
        """
        if n < 1:
            raise UsageError(f"sample was asked for {n} pictures; draw 1 at least")
        with self.drawing():
            return self.draw(n, self.check_labels(labels, n), generator)

    def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor:
        """The straight way through the latent space from pictures a to b.

        Args:
            a, b: (B, C, H, W) each.
            steps: pictures on the way, both ends included, at least 2.
            labels: int (B,), if conditional: the class of a, of b, and of all between.

        Returns:
            (B, steps, C, H, W).
        """
        if len(a) != len(b) or steps < 2:
            raise UsageError(
                f"interpolate goes from {len(a)} pictures to {len(b)} in {steps} steps; give as many of both, and at least "
                "2 steps"
            )
        with self.drawing():
            labels = self.check_labels(labels, len(a))
            start, end = (self.encode(x, labels=labels)[:, None] for x in (a, b))
            way = torch.linspace(0, 1, steps, device=start.device).view(1, steps, *[1] * (start.dim() - 2))
            z = self.between(start, end, way).flatten(0, 1)
            labels = None if labels is None else labels.repeat_interleave(steps)
            return self.decode(z, labels=labels).unflatten(0, (len(a), steps))

    def to_uint8(self, images: Tensor) -> Tensor:
        """Pictures in [-1, 1] -> uint8, rounded: the one conversion, of files, callbacks and scores."""
        low, high = self.value_range
        return ((images.detach().float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)

    def check_labels(self, labels: Tensor | Sequence[int] | None, n: int) -> Tensor | None:
        """The labels as int64 (n,) on the module's device.

        Raises:
            UsageError: labels are missing, too many, too few, no whole numbers, no classes, or given to an unconditional
                technique.
        """
        if self.num_classes is None:
            if labels is not None:
                raise UsageError(f"this {type(self).__name__} is unconditional: it knows no labels; leave them out")
            return None
        if labels is None:
            raise UsageError(
                f"this {type(self).__name__} is conditional: it needs labels, one of 0 to {self.num_classes - 1} for every "
                "picture (to predict: --data.labels '[0, 1, ...]')"
            )
        labels = torch.as_tensor(labels)
        if labels.shape != (n,):
            raise UsageError(f"labels have the shape {tuple(labels.shape)} for {n} pictures; it should be ({n},)")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise UsageError(f"labels are {labels.dtype}; they are whole numbers, 0 to {self.num_classes - 1}")
        outside = labels[(labels < 0) | (labels >= self.num_classes)].tolist()
        if outside:
            raise UsageError(f"there is no class {outside[0]}; the {self.num_classes} classes are counted from 0")
        return labels.to(self.device, torch.long)

    def labels_of(self, batch: dict[str, Any]) -> Tensor | None:
        """A batch's labels if the technique is conditional; unchecked, since looking at them waits for the device."""
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
        data = self.trainer.datamodule
        self.class_names = list(getattr(data, "class_names", ()))
        shape, declared = getattr(data, "image_shape", None), getattr(data, "value_range", None)
        if shape is not None and tuple(shape) != self.image_shape:
            raise UsageError(
                f"model.image_shape is {self.image_shape}, but the data have {tuple(shape)}; make them agree: a new model "
                "takes the data's, a trained one needs data of its own size (data.size, or data.side of the embedded world)"
            )
        if declared is not None and tuple(declared) != self.value_range:
            middle = [0.5] * self.image_shape[0]
            raise UsageError(
                f"{type(self).__name__} takes and draws pictures in {list(self.value_range)}, but {type(data).__name__} "
                f"delivers {[round(end, 3) for end in declared]}; set data.mean and data.std to {middle}"
            )
        if self.scores is not None and stage != "predict":
            self.scores.prepare(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_names"] = self.class_names
        if self.scores is not None:
            checkpoint["validations"] = self.scores.validations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.class_names = self.class_names or checkpoint.get("class_names", [])
        if self.scores is not None:
            self.scores.validations = checkpoint.get("validations", 0)

    def images_of(self, batch: dict[str, Any]) -> Tensor:
        """A batch's images.

        Raises:
            UsageError: they were not normalised.
        """
        if batch["image"].dtype == torch.uint8:
            raise UsageError(
                "uint8 images reached the network; they are normalised by the datamodule's on_after_batch_transfer (pass "
                "the datamodule to the Trainer, or normalise them yourself)"
            )
        return batch["image"].contiguous(memory_format=self.memory_format)

    def _evaluate(self, batch: dict[str, Any], stage: str) -> None:
        count, ranks = len(batch["image"]), self.trainer.world_size
        self.evaluated = [self.global_rank + ranks * (self._evaluated + i) for i in range(count)]
        self.evaluation_noise = [torch.Generator(self.device).manual_seed(number) for number in self.evaluated]
        values = {f"{stage}/{name}": value for name, value in self.evaluate(batch, stage).items()}
        self._evaluated += count
        self.evaluated = self.evaluation_noise = None
        self.log_evaluation(values, count)
        if self.scores is not None and not self.trainer.sanity_checking and self.scores.wants(stage):
            self.scores.update(stage, self.to_uint8(batch["image"]), batch)

    def _log_scores(self, stage: str) -> None:
        if self.scores is not None and not self.trainer.sanity_checking:
            values = self.scores.compute(stage, self)  # the same on all ranks, empty where it is not their turn
            self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, prog_bar=True)

    def _share_statistics(self) -> None:
        """Makes running statistics, which each rank has of its own pictures, the first rank's on all, as checkpoints have
        them: so all draw the same.
        """
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

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1]: drawn, each from its own seed, or the batch's images reconstructed."""
        if "image" in batch:
            return self.reconstruct(self.images_of(batch), labels=self.labels_of(batch))
        if "caption" in batch:
            raise UsageError(f"{type(self).__name__} draws from no captions; leave data.captions out")
        with self.drawing():
            labels = self.check_labels(batch.get("label"), len(batch["seed"]))
            generators = [torch.Generator().manual_seed(seed) for seed in batch["seed"].tolist()]
            return self.draw(len(generators), labels, generators)
