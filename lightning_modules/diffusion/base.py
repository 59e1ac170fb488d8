"""Diffusion: what models that take noise away have in common: the loss, the average, the samplers."""

import math
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
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.likelihood import FixedVariance, learned_log_variance, vlb_term
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Simple, loss_of, to_x0
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided, Threshold
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import Denoising, ask, guess_of
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.metrics.scores import Scores
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.arguments import build_options, check_choice
from darkroom.lightning_modules.utils.fsdp import gather, release
from darkroom.lightning_modules.utils.random import Generators

_GOLDEN_RATIO = (1 + 5**0.5) / 2
Condition = dict[str, Tensor]  # what a network is told beside picture and time, by name; B rows each


def check_fractions(**values: float) -> None:
    """Refuses options that are not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UsageError(f"model.{name} must be in [0, 1), got {value}")


class Diffusion(Generative, Technique):
    """Base of diffusion models. A model says what its network is told (``condition_of``), what stands for not being told
    (``null``), and how it is asked for pictures (``sample``).

    Training alone uses the weights as they are; validation, samples and scores use their moving average. ``val/loss`` is of
    the same noise in every validation, and of evenly spread times.

    Args:
        image_shape: (C, H, W).
        num_classes: of a model that is told a class; None: it is not.
        network: called as ``network(x, t, **condition)``, which also has ``x0`` if it conditions itself; it has been found
            fitting.
        schedule: of the noise.
        objective, ema, sampling: see DDPM.
        scores, optim: see Generative.
    """

    network: nn.Module
    default_optimizer: ClassVar[OptimizerCallable] = partial(torch.optim.Adam, lr=1e-4, fused=True)
    default_sampling: ClassVar[dict[str, Any]] = {"steps": 50, "guidance": 1.0, "threshold": "static"}

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None,
        num_classes: int | None,
        network: nn.Module | None,
        schedule: NoiseSchedule,
        objective: Objective | None,
        ema: EMAOptions | None,
        sampling: Sampling | None,
        scores: Scores | None,
        optim: Optim | None,
    ) -> None:
        super().__init__(image_shape=image_shape, num_classes=num_classes, scores=scores, optim=optim)
        objective = build_options(Objective, objective)
        ema = None if ema is None else build_options(EMAOptions, ema)
        sampling = build_options(Sampling, sampling).with_defaults(**self.default_sampling)
        self.schedule, self.network = schedule, network
        self.prediction, self.loss_weight = objective.prediction, objective.loss_weight or Simple()
        self.learned_variance, self.vlb_weight = objective.learned_variance, objective.vlb_weight
        self.self_conditioning = objective.self_conditioning
        self.ema = None if ema is None else EMA(network, ema.decay)
        self.variance = check_choice("model.sampling.variance", sampling.variance, FixedVariance)
        self.sampling = replace(sampling, variance="learned") if self.learned_variance else sampling
        self.sampling.pairs(schedule)  # refuses more steps than the schedule has
        self.on_step: OnStep | None = None  # watches predict_step
        self.check_guidance(self.sampling.guidance)

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
            raise UsageError(
                f"model.sampling.guidance must be a finite number, 1 for the conditional model itself, got {weight}"
            )
        if weight != 1 and self.unguided is not None:
            raise UsageError(f"model.sampling.guidance is {weight}, but {self.unguided}")
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
            network = Guided(network, self.check_guidance(guidance), self.null, self.sampling.guidance_interval, steps)
        return Denoising(
            network,
            schedule=self.schedule,
            prediction=self.prediction,
            condition=condition,
            learned_variance=self.learned_variance,
            self_conditioning=self.self_conditioning,
            threshold=threshold or self.sampling.threshold,
            percentile=self.sampling.percentile,
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
        return self.sampling.guidance if guidance is None else guidance

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
