"""DDPM (Ho, Jain, Abbeel 2020): denoising diffusion of images, optionally class-conditional."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding.networks import code_shape
from darkroom.lightning_modules.diffusion.base import Condition, Diffusion, check_fractions
from darkroom.lightning_modules.diffusion.build_network import build_network
from darkroom.lightning_modules.diffusion.classifier.guidance import ClassifierGuidance, ClassifierGuide
from darkroom.lightning_modules.diffusion.export import Inputs
from darkroom.lightning_modules.diffusion.latent import LatentSpace
from darkroom.lightning_modules.diffusion.latent.latent_space import check_latent_options
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.likelihood import code_length
from darkroom.lightning_modules.diffusion.objective.noise_schedules import LinearSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.inpainting import repaint
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import X0Shift
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep, ddim_invert
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet
from darkroom.lightning_modules.generation.export import label_inputs
from darkroom.lightning_modules.layers.ema import EMAOptions
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.metrics.scores import share_of_rank
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.lightning_compat import trainer_of


def label_condition(labels: Tensor | None) -> Condition:
    """Return the condition of classes int64 (B,); None: no condition."""
    return {} if labels is None else {"label": labels}


class DDPM(Diffusion):
    """DDPM: denoising diffusion (Ho et al. 2020), with later improvements by options.

    The defaults are the paper's, except for the sampler: its U-Net, 1,000 steps of a linear schedule, prediction of the
    noise with a squared error, Adam. In test ``bits_per_dim`` is the bound on the code length of 8-bit images (equation 5)
    over all T steps.

    Latents are x_T: ``encode`` runs DDIM backwards (Song et al. 2021, section 4.3), ``decode`` forwards without noise, both
    in ``sampling.steps`` steps and without guidance.

    Args:
        image_shape: (C, H, W); the command line takes it from the data.
        num_classes: of the data; the command line takes it from there if ``conditional``. An unconditional model uses it
            only to check a ``classifier``.
        network: called as ``network(x, t, label=, x0=)``, with ``label`` if this model is conditional and ``x0`` for
            self-conditioning; see ``DenoisingUNet`` for shapes. A network that is called as diffusers' ``UNet2DModel`` is
            wrapped in ``FromDiffusers``. None: the paper's, for this image_shape.
        conditional: condition on the class.
        label_dropout: fraction of the labels, in [0, 1), that are dropped in training, for guidance.
        schedule: of the noise; None: ``LinearSchedule`` of 1,000 steps.
        objective: prediction of the network, and weight of its errors.
        ema: of the network's weights, with warm-up; null: none. Validation, samples and metrics use the EMA weights.
        sampling: sampler, guidance and threshold.
        classifier: of noisy images, whose gradient guides the sampling (Dhariwal & Nichol 2021, section 4); also beside
            classifier-free guidance. An unconditional model then samples by class. null: none.
        autoencoder: whose codes are diffused instead of images (latent diffusion; Rombach et al. 2022), frozen, such as
            ``VAE(latent_channels=4)``; its weights come from ``init_from``. Checkpoints contain it. Bits/dim, inpainting,
            thresholds and learned variance, which need images, are then not available. null: none.
        bpd_samples: number of images, over all ranks, whose bits/dim are computed in test, each at all T times; 0: none.
        scores: see Generative.
        optim, init_from: see Technique; its optimizer is Adam by default, lr 2e-4, fused.

    Raises:
        UsageError: a value out of its range, a network built for another model, or guidance of a model that does not
            learn the unconditional case.
    """

    default_optimizer: ClassVar[OptimizerCallable] = partial(torch.optim.Adam, lr=2e-4, fused=True)
    free_arguments: ClassVar[tuple[str, ...]] = ("bpd_samples", "classifier")

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        network: nn.Module | None = None,
        conditional: bool = False,
        label_dropout: float = 0.1,
        schedule: NoiseSchedule | None = None,
        objective: Objective | None = None,
        ema: EMAOptions | None = EMAOptions(),  # noqa: B008 (frozen)
        sampling: Sampling | None = None,
        classifier: ClassifierGuidance | None = None,
        autoencoder: nn.Module | None = None,
        bpd_samples: int = 64,
        scores: SampleScores | None = None,
        **kwargs: Any,
    ) -> None:
        if conditional and num_classes is None:
            raise UsageError(
                "model.conditional is true, but model.num_classes is missing; set it to the number of classes"
            )
        classes = num_classes if conditional else None
        objective, schedule = build_options(Objective, objective), schedule or LinearSchedule()
        latent = None
        if autoencoder is not None:
            sampling = build_options(Sampling, sampling)
            check_latent_options(objective, sampling, classifier)
            latent, sampling = LatentSpace(autoencoder, image_shape), replace(sampling, threshold="none")
            latent.check_network(network)
        guide = None
        if classifier is not None:
            guide = ClassifierGuide(build_options(ClassifierGuidance, classifier), image_shape, schedule, num_classes)
        built_for = {
            "image_shape": image_shape if latent is None else latent.shape,
            "num_classes": classes,
            "learned_variance": objective.learned_variance,
            "self_conditioning": objective.self_conditioning,
        }
        given = {"label": "model.conditional is true"} if conditional else {}
        super().__init__(
            image_shape=image_shape,
            num_classes=classes if guide is None else guide.num_classes,
            network=build_network(network, default=DenoisingUNet, built_for=built_for, given=given),
            schedule=schedule,
            objective=objective,
            ema=ema,
            sampling=sampling,
            scores=scores,
            **kwargs,
        )
        check_fractions(label_dropout=label_dropout)
        if bpd_samples < 0:
            raise UsageError(f"model.bpd_samples must be at least 0, got {bpd_samples}")
        self.conditional, self.label_dropout, self.bpd_samples = conditional, label_dropout, bpd_samples
        self.guide = guide
        if latent is not None:
            self.latent, self.bpd_samples = latent, 0
        self.check_guidance(self.guidance)
        self.bits, self._measured = MeanMetric(), 0  # bits/dim, and the number of images on this rank

    @staticmethod
    def shared_arguments(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the arguments that the command line shares with the network and the autoencoder."""
        shared = {**arguments, **(arguments.get("objective") or {})}
        coded = (arguments.get("autoencoder") or {}).get("init_args") or {}
        shape = arguments.get("image_shape")
        if shape is not None and coded.get("latent_channels") is not None and coded.get("channels") is not None:
            shared["image_shape"] = code_shape(shape, coded["channels"], None, coded["latent_channels"])
        return {"network": shared, "autoencoder": dict(arguments)}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.guide is not None and self.class_names:
            self.guide.check_classes(len(self.class_names), "the data have")

    # --- the class ----------------------------------------------------------------------------------------------------

    @property
    def null_condition(self) -> dict[str, float]:
        """Label of the null condition, ``num_classes``; {} for an unconditional model."""
        return {"label": self.num_classes} if self.conditional and self.num_classes is not None else {}

    @property
    def unguided(self) -> str | None:
        """Reason why guidance is not possible: no classes, or no label dropout; None: it is possible."""
        if self.conditional and self.label_dropout:
            return None
        lacks = "model.label_dropout is 0" if self.conditional else "model.conditional is false"
        return (
            f"{lacks}: guidance needs a model that is trained both with and without the class; set it to 1, or train with "
            "model.conditional true and a model.label_dropout such as 0.1"
        )

    def make_condition(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        """Build the condition: the batch's labels, in training dropped with probability ``label_dropout``."""
        labels = self._network_labels(batch)
        return label_condition(self._dropped(labels) if self.training else labels)

    def network_condition(self, labels: Tensor | Sequence[int] | None, n: int) -> Condition:
        """Return the condition of the network on n labels, after checks; {} for an unconditional network."""
        if self.conditional or labels is not None:
            labels = self.check_labels(labels, n)
        return label_condition(labels if self.conditional else None)

    def _network_labels(self, batch: dict[str, Any]) -> Tensor | None:
        """Return a batch's labels if the network is conditional."""
        return self.labels_of(batch) if self.conditional else None

    def condition_inputs(self) -> Inputs:
        """Return the labels as input of the exported network, if this model is conditional."""
        return label_inputs(self.num_classes if self.conditional else None)

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graphs of the denoiser and of the decoder of codes, if there is one, see ``ExportableParts``.

        Raises:
            UsageError: a classifier guides the sampling, which exported files cannot do.
        """
        if self.guide is not None:
            raise UsageError(
                "model.classifier guides the sampling by gradients, which exported files do not compute; export with "
                "--model.classifier null"
            )
        return super().export_graphs(normalization)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        labels = self._network_labels(batch)
        if batch_idx == 0 and labels is not None:
            self.check_labels(labels, len(batch["image"]))  # synchronizes, so once an epoch
        return super().training_step(batch, batch_idx)

    def _dropped(self, labels: Tensor | None) -> Tensor | None:
        """Replace some labels by the null class (Ho & Salimans 2022, Algorithm 1)."""
        if labels is None or self.num_classes is None or not self.label_dropout:
            return labels
        drop = torch.rand(len(labels), dtype=torch.float32, device=labels.device) < self.label_dropout
        return labels.masked_fill(drop, self.num_classes)

    # --- sampling -----------------------------------------------------------------------------------------------------

    def sample_images(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample n images (n, C, H, W) in [-1, 1] with the sampler and guidance of ``sampling``."""
        condition, shift = self.network_condition(labels, n), self.classifier_shift(labels)
        x, weight = self.draw_latents(n, generator), self.guidance_or_default(None)
        return self.sample_from(x, condition, self.sampling, weight, generator, self.on_step, shift)

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | None = None,
        guidance: float | None = None,
        classifier_scale: float | None = None,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        generator: Generators = None,
        callback: OnStep | None = None,
    ) -> Tensor:
        """Sample n images (n, C, H, W) in [-1, 1] on the module's device. Options that are None are the model's own.

        Args:
            n: number of images, at least 1.
            labels: int (n,), the class of each image; only for a conditional model, or one with a classifier.
            guidance: weight of the class; 1 is the conditional model itself, 0 the unconditional one.
            classifier_scale: factor of the classifier's gradient; 0: without the classifier.
            sampler: ancestral, ddim, dpm_solver++, heun or flow_heun.
            steps: of the sampler, 1 to T.
            generator: determines the result; a list has one for each image; None: torch's global one.
            callback: called after every step with a ``samplers.Step``, whose states are images.
        """
        if n < 1:
            raise UsageError(f"n must be at least 1 image, got {n}")
        with self.sampling_mode():
            labels = self.check_labels(labels, n)
            condition, shift = self.network_condition(labels, n), self.classifier_shift(labels, classifier_scale)
            sampling, weight = self.sampling_with(sampler=sampler, steps=steps), self.guidance_or_default(guidance)
            x = self.draw_latents(n, generator)
            callback = callback if self.latent is None else self.latent.decode_steps(callback)
            return self.sample_from(x, condition, sampling, weight, generator, callback, shift)

    def classifier_shift(self, labels: Tensor | None, scale: float | None = None) -> X0Shift | None:
        """Return the change of predicted images by classifier guidance; None without a classifier.

        Args:
            labels: int64 (B,).
            scale: factor of the gradient; None: that of ``classifier``.

        Raises:
            UsageError: a scale without a classifier.
        """
        if self.guide is None:
            if scale:
                raise UsageError(
                    f"classifier_scale is {scale}, but the model has no classifier; set model.classifier.ckpt_path to the "
                    "checkpoint of a NoisyClassifier"
                )
            return None
        assert labels is not None, "check_labels requires them of a model with classes"
        return self.guide.shift(labels, scale, self.sampling.guidance_interval)

    def invert(self, x: Tensor, *, labels: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Compute noise x_T from which DDIM samples approximately these images (Song et al. 2021, section 4.3).

        Args:
            x: images (B, C, H, W) in [-1, 1].
            labels: int (B,) if conditional.
            steps: of DDIM; None: the model's own. The error falls with the number of steps.
        """
        self._check_images(x)
        with self.sampling_mode(), self.precision():
            wrapped = self.wrap_network(self.network_condition(labels, len(x)), threshold="none")
            pairs = self.sampling_with(sampler="ddim", steps=steps).pairs(self.schedule)
            return ddim_invert(wrapped, self.to_codes(x.float()), pairs, self.schedule)

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] to latents x_T of the same shape, without gradients; see ``invert``."""
        return self.invert(x, labels=labels)  # without gradients, which would span all steps

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode latents x_T (B, C, H, W) to images in [-1, 1] by deterministic DDIM, the inverse of ``encode``."""
        with self.sampling_mode():
            ddim = self.sampling_with(sampler="ddim", eta=0.0)  # inverts ``encode``
            return self.sample_from(z, self.network_condition(labels, len(z)), ddim)

    def interpolate_latents(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """Interpolate spherically (Song et al. 2021, appendix D.5): a linear mean of noise has too small a variance."""
        cosine = F.cosine_similarity(a.flatten(2), b.flatten(2), 2).clamp(-1 + 1e-6, 1 - 1e-6)
        angle = cosine.arccos().view(-1, 1, *[1] * (a.dim() - 2))
        return (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / angle.sin()

    def inpaint(
        self,
        x: Tensor,
        mask: Tensor,
        *,
        labels: Tensor | Sequence[int] | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        jump_length: int | None = None,
        resamples: int = 10,
        generator: Generators = None,
        callback: OnStep | None = None,
    ) -> Tensor:
        """Sample the missing parts of images, given the known parts (RePaint; Lugmayr et al. 2022).

        Args:
            x: images (B, C, H, W) in [-1, 1], with any value where they are missing.
            mask: bool or float, broadcasts with x; 1 where the image is known, 0 where it is missing.
            labels: int (B,) if conditional.
            guidance, steps, generator, callback: see ``sample``.
            jump_length: see ``repaint``; None: a 25th of the steps, as 10 of the paper's 250.
            resamples: see ``repaint``; the number of steps is about this times as large.

        Returns:
            Images (B, C, H, W), equal to x where it is known.
        """
        self._check_images(x)
        self._require_images("inpaint")
        with self.sampling_mode(), self.precision():
            labels = self.check_labels(labels, len(x))
            condition, shift = self.network_condition(labels, len(x)), self.classifier_shift(labels)
            wrapped = self.wrap_network(condition, self.guidance_or_default(guidance), shift=shift)
            pairs = self.sampling_with(sampler="ancestral", steps=steps).pairs(self.schedule)
            sampled = repaint(
                wrapped,
                self.noise(*x.shape, generator=generator),
                x.float(),
                mask,
                pairs,
                self.schedule,
                jump_length=max(1, len(pairs) // 25) if jump_length is None else jump_length,
                resamples=resamples,
                variance=self.sampling.variance,
                generator=generator,
                on_step=callback,
            )
            return sampled.clamp(-1, 1)

    def _check_images(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.image_shape[0]:
            raise UsageError(f"images must have the shape (B, {self.image_shape[0]}, H, W), got {tuple(x.shape)}")

    def _require_images(self, what: str) -> None:
        """Raise a UsageError for a model that diffuses codes."""
        if self.latent is not None:
            raise UsageError(
                f"{what} needs a model that diffuses images, but this one diffuses codes (model.autoencoder)"
            )

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def errors_at(self, x: Tensor, t: Tensor, *, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Compute the mean squared error of the noise predicted by the sampling network at times t: float32 (B,).

        Args:
            x: images (B, C, H, W) in [-1, 1].
            t: int64 (B,).
            labels: int64 (B,) if conditional.
            generator: determines the noise.
        """
        if t.min() < 0 or t.max() >= self.schedule.num_steps:
            raise UsageError(f"times must be from 0 to {self.schedule.num_steps - 1}, got {t.min()} to {t.max()}")
        with self.sampling_mode():
            condition, x = self.network_condition(labels, len(x)), self.to_codes(x.float())
            noise = self.noise(*x.shape, generator=generator)
            alpha, sigma = self.schedule.alpha_sigma(t)
            x_t = self.schedule.add_noise(x, noise, t)
            output, _ = self.predict(self.sampling_network, x_t, t, condition)
            return (self.parameterization.to_eps(output, x_t, alpha, sigma) - noise).square().flatten(1).mean(1)

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Compute the means of the loss terms; in test also update the bound in bits/dim."""
        terms = super().evaluate(batch, stage)
        if stage == "test" and self.bpd_samples:
            self._measure_bits(self.target_images(batch), self._network_labels(batch))
        return terms

    def _measure_bits(self, x: Tensor, labels: Tensor | None) -> None:
        """Add bits/dim of a batch's images until this rank has its part of ``bpd_samples``."""
        ranks, rank = (1, 0) if trainer_of(self) is None else (self.trainer.world_size, self.global_rank)
        room = share_of_rank(self.bpd_samples, rank, ranks) - self._measured
        if room > 0:
            labels = None if labels is None else labels[:room]
            noise = None if self.evaluation_noise is None else self.evaluation_noise[:room]
            self.bits.update(self.bits_per_dim(x[:room], labels=labels, generator=noise))
            self._measured += len(x[:room])

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._measured = 0
        self.bits.reset()

    def on_test_epoch_end(self) -> None:
        if self.bpd_samples:
            self.log("test/bits_per_dim", self.bits)
        super().on_test_epoch_end()

    def bits_per_dim(self, x: Tensor, *, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Compute the variational bound on -log2 p(x) / (C H W) of 8-bit images by the sampling network: float32 (B,).

        Args:
            x: images (B, C, H, W) in [-1, 1], of 256 levels.
            labels: int64 (B,) if conditional.
            generator: determines the noise.
        """

        def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            output, v = self.predict(self.sampling_network, x_t, t, condition)
            return self.parameterization.to_x0(output, x_t, *self.schedule.alpha_sigma(t)).clamp(-1, 1), v

        self._require_images("bits_per_dim")
        condition = self.network_condition(labels, len(x))
        with self.sampling_mode():
            return code_length(predict, x.float(), self.schedule, self.fixed_variance, generator)
