"""Plan of a training on some GPUs: memory, time, cost, and what would not fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from torch import nn

from darkroom.datamodules.base import VisionDataModule
from darkroom.lightning_modules.adversarial.manual_optimization import ManualOptimization
from darkroom.lightning_modules.base import Technique
from darkroom.plan.counting.batch import BatchShape
from darkroom.plan.counting.profile import StepProfile, profile_step
from darkroom.plan.data_sizes import usual_samples
from darkroom.plan.hardware import Hardware
from darkroom.plan.memory import FRAGMENTS, Memory, Strategy, memory_of
from darkroom.plan.recipe import Recipe, accumulated, recipe_of
from darkroom.plan.sharding import Sharding, find_sharding
from darkroom.plan.timing import Assumptions, StepTime, time_of


@dataclass(frozen=True)
class Options:
    """Machine and assumptions of a plan.

    Args:
        device: each GPU.
        devices: number of GPUs.
        strategy: ddp or fsdp.
        precision: of the Trainer.
        assumed: fractions of the peak rates.
        price: of a GPU hour, in any currency; None: unknown.
        worker_rate: images per second that one loader process delivers.
        workers: loader processes of each GPU.
        samples: training images; None: those of the public data set.
        shape: sizes of a batch that the config does not state.
    """

    device: Hardware
    devices: int = 1
    strategy: Strategy = "ddp"
    precision: str = "32-true"
    assumed: Assumptions = field(default_factory=Assumptions)
    price: float | None = None
    worker_rate: float = 300.0
    workers: int = 8
    samples: int | None = None
    shape: BatchShape = field(default_factory=BatchShape)


@dataclass(frozen=True)
class Plan:
    """Plan of a training.

    Args:
        method, data: classes of the config.
        options: of the plan.
        profile: of a training step on one device.
        memory: of one device.
        time: of a training step.
        recipe: length of the fit.
        advice: sentences on what does not fit.
    """

    method: str
    data: str
    options: Options
    profile: StepProfile
    memory: Memory
    time: StepTime
    recipe: Recipe
    advice: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True if the memory of one device suffices."""
        return self.memory.total <= self.options.device.memory

    @property
    def hours(self) -> float | None:
        """Hours of the training steps; validation, sampling and checkpoints are not counted."""
        return None if self.recipe.steps is None else self.recipe.steps * self.time.total / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all devices together."""
        return None if self.hours is None else self.hours * self.options.devices

    @property
    def cost(self) -> float | None:
        """Price of all devices' hours."""
        price = self.options.price
        return None if price is None or self.gpu_hours is None else price * self.gpu_hours

    @property
    def images_per_second(self) -> float:
        """Images that one device needs from its loader."""
        return self.recipe.batch / self.options.devices / self.time.total

    @property
    def utilization(self) -> float:
        """FLOPs of the whole step over the peak: model FLOPs utilization of the whole step."""
        micro_batches = self.recipe.batch / self.options.devices / self.profile.images
        peaks, work = self.options.device.products(self.options.precision), self.profile.work
        ideal = work.convolution_flops / peaks[0] + work.matmul_flops / peaks[1]
        return micro_batches * ideal / self.time.total

    @property
    def workers_needed(self) -> float:
        """Loader processes that one device needs."""
        return self.images_per_second / self.options.worker_rate


def make_plan(model: Technique, data: VisionDataModule, trainer: Mapping[str, Any], options: Options) -> Plan:
    """Plan the fit of a model.

    Args:
        model: with its weights on the meta device; the plan replaces them.
        data: its datamodule, whose files are not read.
        trainer: options of the Trainer.
        options: of the plan.
    """
    # A method of two optimizers accumulates by itself, and its Trainer does not.
    if isinstance(model, ManualOptimization):
        trainer = {**trainer, "accumulate_grad_batches": model.accumulate_grad_batches}
    sharding = find_sharding(model)
    checkpointing = can_checkpoint(model)
    profile = profile_step(model, data, options.shape, options.precision)
    samples = usual_samples(data) if options.samples is None else options.samples
    ranks, strategy = options.devices, options.strategy
    plan = Plan(
        method=type(model).__name__,
        data=type(data).__name__,
        options=options,
        profile=profile,
        memory=memory_of(profile, ranks, strategy, sharding, options.precision, options.device.name != "cpu"),
        time=time_of(
            profile, options.device, ranks, strategy, options.precision, options.assumed, accumulated(trainer)
        ),
        recipe=recipe_of(trainer, profile.images, ranks, samples),
    )
    return Plan(**{**vars(plan), "advice": tuple(give_advice(plan, sharding, checkpointing, _accumulation_of(model)))})


def can_checkpoint(model: nn.Module) -> bool:
    """Return whether a network of the model has an option ``gradient_checkpointing`` that is off."""
    return any(vars(part).get("gradient_checkpointing") is False for part in model.modules())


def _accumulation_of(model: Technique) -> str:
    """Return the option that accumulates batches."""
    part = "model.optim" if isinstance(model, ManualOptimization) else "trainer"
    return f"{part}.accumulate_grad_batches"


def give_advice(
    plan: Plan, sharding: Sharding | None, checkpointing: bool, accumulation: str = "trainer.accumulate_grad_batches"
) -> list[str]:
    """Return what does not fit, and what would help.

    Args:
        plan: without advice.
        sharding: None: the method cannot be sharded.
        checkpointing: a network can compute activations again.
        accumulation: option that accumulates batches.
    """
    found, options, memory = [], plan.options, plan.memory
    if options.strategy == "fsdp" and sharding is None:
        found.append(f"{plan.method} cannot be sharded: --strategy fsdp is an error in fit; use ddp")
    if not plan.fits:
        images = plan.profile.images
        per_image = (1 + FRAGMENTS if memory.reserved else 1.0) * memory.activations / images
        fixed = memory.total - per_image * images
        room = int((options.device.memory - fixed) / per_image) if per_image else 0
        if room >= 1:
            found.append(_smaller_batch(plan, room, accumulation))
        else:
            found.append("one image does not fit beside the weights")
        if options.strategy == "ddp" and sharding is not None and fixed > 0.3 * options.device.memory:
            found.append("weights and optimizer states take much of the memory: shard them, --strategy fsdp")
        if checkpointing:
            found.append("save activations: --model.network.init_args.gradient_checkpointing true")
        if options.precision.startswith("32"):
            found.append(f"halve activations: --precision {'bf16' if options.device.bfloat16 else '16'}-mixed")
    if options.precision.startswith("bf16") and not options.device.bfloat16:
        found.append(f"{options.device.name} has no bfloat16: --precision 16-mixed")
    if plan.workers_needed > options.workers:
        found.append(
            f"the loader is too slow: {ceil(plan.workers_needed)} processes per GPU would keep up, "
            f"{options.workers} are planned"
        )
    if plan.time.exposed > 0.2 * plan.time.total:
        share = plan.time.exposed / plan.time.total
        found.append(f"{share:.0%} of a step waits for communication: larger batches per GPU, or fewer GPUs")
    return found


def _smaller_batch(plan: Plan, room: int, accumulation: str) -> str:
    """Return the advice for a batch that does not fit: its largest divisor that does, and the same images in a step.

    Args:
        plan: with its batch.
        room: images that fit on a device.
        accumulation: option that accumulates batches.
    """
    images = plan.profile.images
    batch = next(count for count in range(min(room, images), 0, -1) if images % count == 0)
    micro_batches = plan.recipe.batch // (plan.options.devices * batch)
    return (
        f"the batch does not fit: at most {room} images per GPU do. --data.batch_size {batch} "
        f"--{accumulation} {micro_batches} has the same step"
    )
