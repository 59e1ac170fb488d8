"""Diffusion: what models that take noise away have in common: the loss, the average, the samplers."""

import math
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from typing_extensions import Self

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import one_of
from darkroom.lightning_modules.diffusion.objective.likelihood import FixedVariance, learned_log_variance, vlb_term
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import LossWeight, Prediction, loss_of, to_x0
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided, check_interval
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import Denoising, Threshold, ask, guess_of
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep, Spacing
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.layers.ema import EMA
from darkroom.lightning_modules.metrics.scores import Scores
from darkroom.lightning_modules.utils.fsdp import gather, release
from darkroom.lightning_modules.utils.random import Generators

_GOLDEN_RATIO = (1 + 5**0.5) / 2
Condition = dict[str, Tensor]  # what a network is told beside picture and time, by name; B rows each


def check_fractions(**values: float) -> None:
    """Refuses options that are not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UsageError(f"model.{name} is {value}; it is in [0, 1)")


class Diffusion(Generative):
    """Base of diffusion models. A model says what its network is told (``condition_of``), what stands for not being told
    (``null``), and how it is asked for pictures (``sample``).

    Training alone uses the weights as they are; validation, samples and scores use their moving average. ``val/loss`` is of
    the same noise in every validation, and of evenly spread times.

    Args:
        image_shape: (C, H, W).
        num_classes: of a model that is told a class; None: it is not.
        network: called as ``network(x, t, **condition)``, which also has ``x0`` if it conditions itself; it has been found
            fitting.
        schedule, prediction, loss_weight, learned_variance, vlb_weight, self_conditioning, ema_decay: see DDPM.
        sampler, steps, spacing, eta, order, variance: likewise.
        guidance, guidance_interval, threshold, percentile: likewise.
        scores, optimizer, lr_scheduler, channels_last, compile_network: see Generative.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None,
        num_classes: int | None,
        network: nn.Module | None,
        schedule: NoiseSchedule,
        prediction: Prediction,
        loss_weight: LossWeight,
        learned_variance: bool,
        vlb_weight: float,
        self_conditioning: bool,
        ema_decay: float | None,
        sampler: SamplerName,
        steps: int,
        spacing: Spacing | None,
        eta: float,
        order: int,
        variance: FixedVariance,
        guidance: float,
        guidance_interval: tuple[float, float] | None,
        threshold: Threshold,
        percentile: float,
        scores: Scores | None,
        optimizer: OptimizerCallable | None,
        lr_scheduler: LRSchedulerCallable | None,
        channels_last: bool,
        compile_network: bool,
    ) -> None:
        super().__init__(image_shape, num_classes, scores, optimizer, lr_scheduler, channels_last, compile_network)
        check_fractions(ema_decay=ema_decay or 0.0)
        if not vlb_weight >= 0:
            raise UsageError(f"model.vlb_weight is {vlb_weight}; it must be at least 0")
        self.schedule, self.network = schedule, network
        self.prediction, self.loss_weight = one_of("model.prediction", prediction, Prediction), loss_weight
        self.learned_variance, self.vlb_weight = learned_variance, vlb_weight
        self.self_conditioning = self_conditioning
        self.ema = None if ema_decay is None else EMA(network, ema_decay)
        one_of("model.variance", variance, FixedVariance)
        self.sampling = Sampling(sampler, steps, spacing, eta, order, "learned" if learned_variance else variance)
        self.sampling.pairs(schedule)  # refuses more steps than the schedule has
        self.variance, self.guidance, self.guidance_interval = variance, guidance, check_interval(guidance_interval)
        self.threshold, self.percentile = one_of("model.threshold", threshold, Threshold), percentile
        self.on_step: OnStep | None = None  # watches predict_step
        self.denoising({})  # refuses a percentile that is none

    # --- what a model adds --------------------------------------------------------------------------------------------

    @property
    def null(self) -> dict[str, float]:
        """What an unconditional network is told in the place of the condition, by name: the value of all its numbers."""
        return {}

    @property
    def unguided(self) -> str | None:
        """Why this model cannot be guided, and what would be right; None: it can."""
        raise NotImplementedError

    def condition_of(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        """What the network is told of a batch's pictures x (B, C, H, W) by the generator's random numbers; in training a
        part of it may be left out."""
        raise NotImplementedError

    def pictures_of(self, batch: dict[str, Any]) -> Tensor:
        """The pictures of a batch that the network learns, float32 (B, C, H, W) in [-1, 1]."""
        return self.images_of(batch).float()

    def check_guidance(self, weight: float) -> float:
        """The weight, if this model can be guided by it.

        Raises:
            UsageError: it is no finite number, or not 1 while nothing is learned without the condition.
        """
        if not math.isfinite(weight):
            raise UsageError(f"model.guidance is {weight}; it is a number, 1 for the conditional model itself")
        if weight != 1 and self.unguided is not None:
            raise UsageError(f"model.guidance is {weight}, but {self.unguided}")
        return weight

    # --- training -----------------------------------------------------------------------------------------------------

    @property
    def averaged(self) -> nn.Module:
        """The network that draws: the average, if there is one."""
        return self.network if self.ema is None else self.ema.module

    def networks(self) -> list[nn.Module]:
        """The network that learns, and the one that draws."""
        return [self.network] if self.ema is None else [self.network, self.ema.module]

    def averages(self) -> list[tuple[EMA | None, nn.Module]]:
        """What is averaged, and of what."""
        return [(self.ema, self.network)]

    def only_averages(self) -> Self:
        """Makes the averages the weights: to draw, and nothing else."""
        self.network, self.ema = self.averaged, None
        return self

    def shards(self) -> list[nn.Module]:
        trained = [module for _, module in self.averages()]
        return [module for module in (*trained, *self._drawing()) if any(True for _ in module.parameters())]

    def _drawing(self) -> list[nn.Module]:
        """What draws: the averages, and what has none."""
        return [module if average is None else average.module for average, module in self.averages()]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = self.pictures_of(batch)
        t = torch.randint(self.schedule.num_steps, (len(x),), device=x.device)  # DDPM, Algorithm 1, line 3
        condition = self.condition_of(batch, x)
        terms = self.losses(self.network, x, t, self.noise(*x.shape), condition)
        return self.log_loss({name: value.mean() for name, value in terms.items()})

    def losses(
        self, network: nn.Module, x: Tensor, t: Tensor, noise: Tensor, condition: Condition
    ) -> dict[str, Tensor]:
        """The terms of the loss for every picture, float32 (B,) each.

        Args:
            network: what predicts.
            x: pictures (B, C, H, W) in [-1, 1].
            t: times int64 (B,).
            noise: (B, C, H, W).
            condition: what else the network is told.
        """
        x_t = self.schedule.add_noise(x, noise, t)
        output, variance = self.predict(network, x_t, t, condition)
        simple = loss_of(self.prediction, self.loss_weight, output, x, noise, self.schedule, t)
        if variance is None:
            return {"loss": simple}
        # The bound teaches the variance alone (Nichol & Dhariwal 2021, section 3.1).
        x0 = to_x0(self.prediction, output.detach(), x_t, *self.schedule.alpha_sigma(t))
        vlb = vlb_term(x, x_t, t, x0, learned_log_variance(variance, self.schedule, t), self.schedule)
        return {"loss": simple + self.vlb_weight * self.schedule.num_steps * vlb, "simple": simple, "vlb": vlb}

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """What a network predicts, float32 (B, C, H, W), and v of the variance, where it is learned.

        One that conditions itself is given what it predicts without: in half of the training steps, and in evaluation.
        """
        if self.self_conditioning:
            condition = condition | {"x0": torch.zeros_like(x_t)}
            if not network.training or self._looks_twice():
                with torch.no_grad():
                    output, _ = ask(network, x_t, t, condition, self.learned_variance)
                    condition["x0"] = guess_of(to_x0(self.prediction, output, x_t, *self.schedule.alpha_sigma(t)))
        return ask(network, x_t, t, condition, self.learned_variance)

    def _looks_twice(self) -> bool:
        """Whether a training step of a network that conditions itself asks it twice: in half of them. The ranks that it is
        divided among need one another for that, and so draw one lot."""
        together = isinstance(self.network, FSDPModule)
        generator = torch.Generator().manual_seed(self.trainer.global_step) if together else None
        return bool(torch.rand((), generator=generator) < 0.5)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for average, module in self.averages():
            if average is not None:
                average.update(module)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def denoising(self, condition: Condition, guidance: float = 1.0, threshold: Threshold | None = None) -> Denoising:
        """The averaged network as samplers ask it.

        Args:
            condition: what else it is told.
            guidance: weight of the condition.
            threshold: None: the model's own.
        """
        network = self.averaged
        if guidance != 1:
            steps = self.schedule.num_steps
            network = Guided(network, self.check_guidance(guidance), self.null, self.guidance_interval, steps)
        return Denoising(
            network,
            self.schedule,
            self.prediction,
            condition,
            self.learned_variance,
            self.self_conditioning,
            threshold or self.threshold,
            self.percentile,
        )

    def drawn_from(
        self,
        x: Tensor,
        condition: Condition,
        sampling: Sampling,
        guidance: float = 1.0,
        generator: Generators = None,
        callback: OnStep | None = None,
    ) -> Tensor:
        """From noise x_T (B, C, H, W) to pictures in [-1, 1]."""
        with self.precision():
            denoising = self.denoising(condition, guidance)
            return sampling.run(denoising, x.float(), self.schedule, generator, callback).clamp(-1, 1)

    def weight_or_own(self, guidance: float | None) -> float:
        """A weight of guidance; None: the model's own."""
        return self.guidance if guidance is None else guidance

    def sampling_with(self, **given: Any) -> Sampling:
        """The model's own sampling, with what is given and not None in its place."""
        return replace(self.sampling, **{name: value for name, value in given.items() if value is not None})

    def draw_latents(self, n: int, generator: Generators = None) -> Tensor:
        return self.noise(n, *self.image_shape, generator=generator)

    # Divided among ranks, the averages are whole while pictures are drawn and judged: ranks do not do that equally often.

    def on_validation_model_eval(self) -> None:
        super().on_validation_model_eval()
        gather(self._drawing())

    def on_test_model_eval(self) -> None:
        super().on_test_model_eval()
        gather(self._drawing())

    def on_predict_model_eval(self) -> None:
        super().on_predict_model_eval()
        gather(self._drawing())

    def on_validation_end(self) -> None:
        release(self._drawing())

    on_test_end = on_predict_end = on_validation_end

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        x = self.pictures_of(batch)
        # Evenly spread over the times, however few pictures there are (Weyl 1916): a mean of less variance.
        number = torch.tensor(self.evaluated or range(len(x)), dtype=torch.float64)
        t = ((number + 0.5) * _GOLDEN_RATIO % 1).to(x.device, torch.float32) * self.schedule.num_steps
        noise = self.noise(*x.shape, generator=self.evaluation_noise)
        condition = self.condition_of(batch, x, self.evaluation_noise)
        terms = self.losses(self.averaged, x, t.long().clamp(max=self.schedule.num_steps - 1), noise, condition)
        return {name: value.mean() for name, value in terms.items()}
