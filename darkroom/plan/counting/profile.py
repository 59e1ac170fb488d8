"""Profile of a training step: parameters, bytes of each kind that live at its peak, work. Nothing is downloaded or read."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from darkroom.datamodules.base import VisionDataModule
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.detection import ObjectDetection
from darkroom.lightning_modules.detection.torchvision.cpu_paths import without_cpu_paths
from darkroom.lightning_modules.layers.ema import EMA
from darkroom.plan.counting.batch import BatchShape, make_batch
from darkroom.plan.counting.step import detach_from_trainer, train_cycle
from darkroom.plan.counting.trace import StepTrace, WithoutProducts, Work
from darkroom.plan.counting.weights import fill_weights

_FEW = (2, 3)  # images of steps on real tensors, from which larger batches are extrapolated; batch norm needs two


@dataclass(frozen=True)
class StepProfile:
    """Training step of one device.

    Args:
        images: of its batch.
        parameters: number of weights, without EMA.
        trained: number of those that are trained.
        weights, gradients, optimizer, ema, buffers: bytes of each kind.
        activations: bytes that live besides them at the peak: maps that the backward pass needs, and temporary results,
            without the batch itself.
        work: FLOPs, bytes and operations.
        way: how the step was counted.
    """

    images: int
    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    ema: int
    buffers: int
    activations: float
    work: Work = field(default_factory=Work)
    way: str = ""

    @property
    def peak(self) -> float:
        """Bytes that live at the peak on one device that has everything."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.buffers + self.activations


def ema_tensors(module: nn.Module) -> set[int]:
    """Return the ids of the weights and buffers that belong to an EMA."""
    averages = [part for part in module.modules() if isinstance(part, EMA)]
    return {id(tensor) for part in averages for tensor in (*part.parameters(), *part.buffers())}


def profile_step(module: Technique, data: VisionDataModule, shape: BatchShape, precision: str) -> StepProfile:
    """Run two cycles of training steps without weights and files, and profile the second, in which optimizer states exist.

    A cycle is one step, or several for networks that step in turn; the work is its mean.

    Most methods run on fake tensors, which have shapes and no values. Detectors choose boxes by value, so they run on real
    ones: products are replaced by zeros of their shapes, and larger batches extrapolated from two and three images,
    since work and activations grow linearly with them.

    Args:
        module: with weights anywhere; they are replaced.
        data: of its config.
        shape: sizes of the batch that the data do not state.
        precision: of the Trainer.
    """
    images = shape.images or data.batch_size
    real = isinstance(module, ObjectDetection)
    for network in module.networks():
        network.to(memory_format=module.memory_format)
    module.train()
    if not real:
        # The first backward pass of a process starts a thread for each device, after which forked processes cannot train.
        # Fake tensors would add a device.
        torch.ones((), requires_grad=True).backward()
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _profile(module, data, shape, precision, images, fake=True)
    with without_cpu_paths():
        if images <= max(_FEW):
            return _profile(module, data, shape, precision, images, fake=False)
        few, more = (_profile(module, data, shape, precision, count, fake=False) for count in _FEW)
    return _extrapolate(few, more, images)


def _extrapolate(few: StepProfile, more: StepProfile, images: int) -> StepProfile:
    """Return the profile of a batch from those of two smaller ones, of which the second has one image more."""
    added = images - few.images
    return StepProfile(
        **{
            **vars(few),
            "images": images,
            "activations": few.activations + added * (more.activations - few.activations),
            "work": few.work - (few.work - more.work).scaled(added),
            "way": f"real tensors of {few.images} and {more.images} images, extrapolated to {images}",
        }
    )


def _profile(
    module: Technique, data: VisionDataModule, shape: BatchShape, precision: str, images: int, fake: bool
) -> StepProfile:
    fill_weights(module)
    optimizers = detach_from_trainer(module, shape.words)
    counts = BatchShape(**{**vars(shape), "images": images})
    batch = make_batch(data, counts, vars(module).get("num_classes") or 1)
    averages, trace = ema_tensors(module), StepTrace(fake)
    weights = trace.add(weight for weight in module.parameters() if id(weight) not in averages)
    ema = trace.add(tensor for tensor in (*module.parameters(), *module.buffers()) if id(tensor) in averages)
    buffers = trace.add(module.buffers())
    with nullcontext() if fake else WithoutProducts(), trace:
        train_cycle(module, optimizers, batch, precision)
        trace.reset_peak()
        before = trace.work
        steps = train_cycle(module, optimizers, batch, precision)
    gradients = sum(_size(weight.grad) for weight in module.parameters() if weight.grad is not None)
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    optimizer = sum(_size(value) for value in states if isinstance(value, torch.Tensor))
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    if not gradients:  # set to none after the step, as manual optimization does
        gradients = sum(map(_size, trained))
    own = [weight for weight in module.parameters() if id(weight) not in averages]
    return StepProfile(
        images=images,
        parameters=sum(weight.numel() for weight in own),
        trained=sum(weight.numel() for weight in trained),
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        ema=ema,
        buffers=buffers,
        activations=max(0.0, float(trace.peak - weights - gradients - optimizer - ema - buffers)),
        work=(trace.work - before).scaled(1 / steps),
        way="fake tensors" if fake else f"real tensors of {images} image{'s' * (images > 1)}",
    )


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
