"""Diffusion: base of diffusion models: training loss, EMA weights, sampling, evaluation."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from typing_extensions import Self

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.export import Inputs, code_decoder_graph, denoiser_graph
from darkroom.lightning_modules.diffusion.latent import LatentSpace
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.likelihood import FixedVariance, learned_log_variance, vlb_term
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Unweighted, loss_of
from darkroom.lightning_modules.diffusion.objective.times import UniformTimes
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided, Threshold
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import (
    ModelWrapper,
    X0Shift,
    call_network,
    clamp_x0,
)
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.metrics.scores import Scores
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.fsdp import gather, release
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols.export import ExportGraph

_GOLDEN_RATIO = (1 + 5**0.5) / 2
Condition = dict[str, Tensor]  # arguments of a network besides image and time, by name; B rows each


def check_fractions(**values: float) -> None:
    """Raise a UsageError for options that are not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UsageError(f"model.{name} must be in [0, 1), got {value}")


class Diffusion(Generative, Technique):
    """Base of diffusion models. Subclasses define the condition, the null condition and ``sample``.

    Their constructors end with ``self.check_guidance(self.guidance)``. Training uses the current weights; validation,
    samples and metrics use the EMA weights. ``val/loss`` has the same noise in every validation, and times at even
    quantiles of those of training.

    Args:
        image_shape: (C, H, W).
        num_classes: of a class-conditional model; None: not conditioned on a class.
        network: called as ``network(x, t, **condition)``, with ``x0`` for self-conditioning; already checked.
        schedule: of the noise.
        objective, ema, sampling: see DDPM.
        scores, optim, init_from: see Generative.
    """

    network: nn.Module
    default_optimizer: ClassVar[OptimizerCallable] = partial(torch.optim.Adam, lr=1e-4, fused=True)
    default_sampling: ClassVar[dict[str, Any]] = {"steps": 50, "guidance": 1.0, "threshold": "static"}
    free_arguments: ClassVar[tuple[str, ...]] = ("sampling",)

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None,
        num_classes: int | None,
        network: nn.Module,
        schedule: NoiseSchedule,
        objective: Objective | None,
        ema: EMAOptions | None,
        sampling: Sampling | None,
        scores: Scores | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape=image_shape, num_classes=num_classes, scores=scores, **kwargs)
        objective = build_options(Objective, objective)
        sampling = build_options(Sampling, sampling).with_defaults(**self.default_sampling)
        self.schedule, self.network = schedule, network
        self.latent: LatentSpace | None = None  # of the codes that are diffused instead of images
        objective.check_schedule(schedule)
        self.parameterization, self.loss_weight = objective.parameterization, objective.loss_weight or Unweighted()
        self.times = objective.times or UniformTimes()
        self.learned_variance, self.vlb_weight = objective.learned_variance, objective.vlb_weight
        self.self_conditioning = objective.self_conditioning
        if sampling.variance == "learned":
            raise UsageError(
                "model.sampling.variance must be small or large, got learned; set model.objective.learned_variance instead"
            )
        self.fixed_variance: FixedVariance = sampling.variance
        self.ema = None if ema is None else EMA(network, build_options(EMAOptions, ema).decay)
        self.sampling = replace(sampling, variance="learned") if self.learned_variance else sampling
        self.sampling.pairs(schedule)  # raises if the schedule has fewer steps
        self.on_step: OnStep | None = None  # called by predict_step after every step of the sampler

    # --- defined by a model -------------------------------------------------------------------------------------------

    @property
    def null_condition(self) -> dict[str, float]:
        """Fill value of each conditioning tensor in the unconditional pass."""
        return {}

    @property
    def unguided(self) -> str | None:
        """Reason why this model cannot be guided, with the remedy; None: it can."""
        raise NotImplementedError

    def make_condition(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        """Build the condition of a batch; in training, conditions of some samples are dropped.

        Args:
            batch: of the datamodule.
            x: its target images (B, C, H, W).
            generator: determines random numbers.
        """
        raise NotImplementedError

    def condition_inputs(self) -> Inputs:
        """Return the conditioning tensors as inputs of the exported network, by name, each with examples."""
        raise NotImplementedError

    def target_images(self, batch: dict[str, Any]) -> Tensor:
        """Return the images of a batch that the network learns, float32 (B, C, H, W) in [-1, 1], or their codes."""
        return self.to_codes(self.images_of(batch).float())

    def to_codes(self, images: Tensor) -> Tensor:
        """Return x_0 of images (B, C, H, W) in [-1, 1]: the images, or in latent diffusion their codes (B, c, h, w)."""
        return images if self.latent is None else self.latent.encode(images)

    def to_images(self, x: Tensor) -> Tensor:
        """Return the images (B, C, H, W) in [-1, 1] of states x of the sampler."""
        return x.clamp(-1, 1) if self.latent is None else self.latent.decode(x)

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape of x_0: (C, H, W) of images, or (c, h, w) of codes."""
        return self.image_shape if self.latent is None else self.latent.shape

    def check_guidance(self, weight: float, key: str = "model.sampling.guidance") -> float:
        """Return the weight if this model can be guided by it.

        Args:
            weight: of the condition.
            key: setting that error messages name.

        Raises:
            UsageError: the weight is not finite, or not 1 for a model that does not learn the unconditional case.
        """
        if not math.isfinite(weight):
            raise UsageError(f"{key} must be a finite number, 1 for the conditional model itself, got {weight}")
        if weight != 1 and self.unguided is not None:
            raise UsageError(f"{key} is {weight}, but {self.unguided}")
        return weight

    # --- training -----------------------------------------------------------------------------------------------------

    @property
    def sampling_network(self) -> nn.Module:
        """Network that samples: the EMA of the weights, if there is one."""
        return self.network if self.ema is None else self.ema.module

    def networks(self) -> list[nn.Module]:
        """Return the network and, if there is one, its EMA."""
        return [self.network] if self.ema is None else [self.network, self.ema.module]

    def ema_pairs(self) -> list[tuple[EMA | None, nn.Module]]:
        """Return each trained module with its EMA, None if it has none."""
        return [(self.ema, self.network)]

    def keep_ema_only(self) -> Self:
        """Replace the weights by the EMA weights, for a model that only samples."""
        self.network, self.ema = self.sampling_network, None
        return self

    def shards(self) -> list[nn.Module]:
        """Return the trained modules and their EMAs, without modules that have no parameters."""
        trained = [module for _, module in self.ema_pairs()]
        return [module for module in (*trained, *self._sampling_networks()) if any(True for _ in module.parameters())]

    def _sampling_networks(self) -> list[nn.Module]:
        """Return the modules that sample: EMAs, and modules without one."""
        return [module if ema is None else ema.module for ema, module in self.ema_pairs()]

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.latent is not None and not any(name.startswith("latent.") for name in self.fine_tuning.layers):
            self.latent.warn_if_untrained()  # init_from has loaded no layer of it

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        super().on_train_batch_start(batch, batch_idx, dataloader_idx)
        if self.latent is not None and batch_idx == 0:
            self.latent.measure(self.images_of(dict(batch)).float(), self.all_gather)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        x = self.target_images(batch)
        t = self.times.sample(len(x), self.schedule, x.device)  # DDPM, Algorithm 1, line 3
        terms = self.training_terms(batch, x, t, self.noise(*x.shape))
        return self.log_loss({name: value.mean() for name, value in terms.items()})

    def training_terms(self, batch: dict[str, Any], x: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Compute the loss terms of every image of a training batch, see ``losses``."""
        return self.losses(self.network, x, t, noise, self.make_condition(batch, x))

    def losses(
        self, network: nn.Module, x: Tensor, t: Tensor, noise: Tensor, condition: Condition
    ) -> dict[str, Tensor]:
        """Compute the loss terms of every image, float32 (B,) each.

        Args:
            network: to train or to evaluate.
            x: images (B, C, H, W) in [-1, 1].
            t: times (B,), int64 or of a continuous schedule float32.
            noise: (B, C, H, W).
            condition: further arguments of the network.
        """
        x_t = self.schedule.add_noise(x, noise, t)
        output, variance = self.predict(network, x_t, t, condition)
        simple = loss_of(self.parameterization, self.loss_weight, output, x, noise, self.schedule, t)
        if variance is None:
            return {"loss": simple}
        # The bound trains only the variance (Nichol & Dhariwal 2021, section 3.1).
        x0 = self.parameterization.to_x0(output.detach(), x_t, *self.schedule.alpha_sigma(t))
        vlb = vlb_term(x, x_t, t, x0, learned_log_variance(variance, self.schedule, t), self.schedule)
        return {"loss": simple + self.vlb_weight * self.schedule.num_steps * vlb, "simple": simple, "vlb": vlb}

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Return a network's prediction, float32 (B, C, H, W), and v of the variance if it is learned.

        With self-conditioning, a first prediction is an input of the second, in half of the training steps and in
        evaluation.
        """
        alpha, sigma = self.schedule.alpha_sigma(t)
        scaled = self.parameterization.network_input(x_t, alpha, sigma)
        if self.self_conditioning:
            condition = condition | {"x0": torch.zeros_like(x_t)}
            if not network.training or self._predicts_twice():
                with torch.no_grad():
                    output, _ = call_network(network, scaled, t, condition, self.learned_variance)
                    condition["x0"] = clamp_x0(self.parameterization.to_x0(output, x_t, alpha, sigma))
        return call_network(network, scaled, t, condition, self.learned_variance)

    def _predicts_twice(self) -> bool:
        """Return whether this training step predicts twice, at random. Under FSDP all ranks take the same branch, because
        they gather weights together, so they share a seed.
        """
        sharded = isinstance(self.network, FSDPModule)
        generator = torch.Generator().manual_seed(self.trainer.global_step) if sharded else None
        return bool(torch.rand((), generator=generator) < 0.5)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the EMA weights."""
        super().optimizer_step(*args, **kwargs)
        for ema, module in self.ema_pairs():
            if ema is not None:
                ema.update(module)

    # --- sampling -----------------------------------------------------------------------------------------------------

    @property
    def guidance(self) -> float:
        """Weight of the condition in sampling, unless another is given."""
        assert self.sampling.guidance is not None, "a method's defaults come first"
        return self.sampling.guidance

    def wrap_network(
        self,
        condition: Condition,
        guidance: float = 1.0,
        threshold: Threshold | None = None,
        shift: X0Shift | None = None,
    ) -> ModelWrapper:
        """Wrap the sampling network for samplers.

        Args:
            condition: further arguments of the network.
            guidance: weight of the condition.
            threshold: None: the model's own.
            shift: change of the predicted image; None: none.
        """
        network = self.sampling_network
        if guidance != 1:
            network = Guided(
                network,
                weight=self.check_guidance(guidance),
                null_condition=self.null_condition,
                interval=self.sampling.guidance_interval,
                num_steps=self.schedule.num_steps,
            )
        threshold = threshold or self.sampling.threshold
        assert threshold is not None, "a method's defaults come first"
        return ModelWrapper(
            network,
            schedule=self.schedule,
            parameterization=self.parameterization,
            condition=condition,
            learned_variance=self.learned_variance,
            self_conditioning=self.self_conditioning,
            threshold=threshold,
            percentile=self.sampling.percentile,
            shift=shift,
        )

    def sample_from(
        self,
        x: Tensor,
        condition: Condition,
        sampling: Sampling,
        guidance: float = 1.0,
        generator: Generators = None,
        callback: OnStep | None = None,
        shift: X0Shift | None = None,
    ) -> Tensor:
        """Sample images in [-1, 1] from noise x_T (B, C, H, W)."""
        with self.precision():
            model = self.wrap_network(condition, guidance, shift=shift)
            return self.to_images(sampling.run(model, x.float(), self.schedule, generator, callback))

    def guidance_or_default(self, guidance: float | None) -> float:
        """Return a guidance weight; None: the model's own."""
        return self.guidance if guidance is None else guidance

    def sampling_with(self, **given: Any) -> Sampling:
        """Return the model's sampling options, replaced by those given that are not None."""
        return replace(self.sampling, **{name: value for name, value in given.items() if value is not None})

    def draw_latents(self, n: int, generator: Generators = None) -> Tensor:
        """Sample x_T from N(0, 1): float32 (n, C, H, W), or (n, c, h, w) of codes."""
        return self.noise(n, *self.code_shape, generator=generator)

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graph of the denoiser with the EMA weights, and of the decoder of codes, see ``ExportableParts``."""
        if self.latent is None:
            return {"denoiser": denoiser_graph(self, self.condition_inputs())}
        shapes = self.code_shape, self.image_shape
        decoder = code_decoder_graph(self.latent, self.latent.decode, *shapes, num_classes=self.num_classes)
        return {"denoiser": denoiser_graph(self, self.condition_inputs(), codes=True), "decoder": decoder}

    # Sharded weights are gathered while images are sampled and scored, because ranks do not do that equally often.

    def on_validation_model_eval(self) -> None:
        super().on_validation_model_eval()
        gather(self._sampling_networks())

    def on_test_model_eval(self) -> None:
        super().on_test_model_eval()
        gather(self._sampling_networks())

    def on_predict_model_eval(self) -> None:
        super().on_predict_model_eval()
        gather(self._sampling_networks())

    def on_validation_end(self) -> None:
        release(self._sampling_networks())

    on_test_end = on_predict_end = on_validation_end

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Compute the means of the loss terms, with the weights that sample, at even quantiles of the training times."""
        x = self.target_images(batch)
        # A low-discrepancy sequence over the times (Weyl 1916): a mean of less variance, also for few images.
        index = torch.tensor(self.evaluated or range(len(x)), dtype=torch.float64)
        t = self.times.quantile(((index + 0.5) * _GOLDEN_RATIO % 1).to(x.device, torch.float32), self.schedule)
        noise = self.noise(*x.shape, generator=self.evaluation_noise)
        terms = self.evaluation_terms(batch, stage, x, t, noise)
        return {name: value.mean() for name, value in terms.items()}

    def evaluation_terms(
        self, batch: dict[str, Any], stage: str, x: Tensor, t: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss terms of every image of a validation or test batch, with the weights that sample."""
        condition = self.make_condition(batch, x, self.evaluation_noise)
        return self.losses(self.sampling_network, x, t, noise, condition)
