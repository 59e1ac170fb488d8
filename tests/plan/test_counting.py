"""Work and memory of a training step, counted without its weights and data, against closed forms and real steps."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from darkroom.datamodules.shapes import ShapesDetection, ShapesImages, ShapesSegmentation
from darkroom.lightning_modules.adversarial import DCGAN
from darkroom.lightning_modules.adversarial.manual_optimization import AlternatingOptim
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.detection import SSD
from darkroom.lightning_modules.diffusion import DDPM, DenoisingUNet
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.segmentation import UNet
from darkroom.plan.counting.batch import BatchShape, make_batch
from darkroom.plan.counting.profile import StepProfile, profile_step
from darkroom.plan.counting.step import detach_from_trainer, train_step
from darkroom.plan.counting.trace import StepTrace, WithoutProducts
from darkroom.plan.counting.weights import fill_weights, weights_on_meta


def tiny_unet(**kwargs: object) -> UNet:
    return UNet(num_classes=6, base_channels=4, **kwargs)  # type: ignore[arg-type]


def scenes(batch_size: int = 2, side: int = 32) -> ShapesSegmentation:
    return ShapesSegmentation(side=side, batch_size=batch_size, train_size=4, val_size=4, test_size=4)


def test_new_weights_take_no_memory_and_buffers_keep_values() -> None:
    with weights_on_meta():
        norm = nn.BatchNorm1d(10**6)
        tied = nn.Linear(4, 4)
        tied.again = tied.weight
    assert norm.weight.is_meta
    assert norm.running_var.sum() == 10**6
    fill_weights(tied)
    assert tied.again is tied.weight
    assert not tied.weight.is_meta


def test_flops_are_those_of_the_formulas() -> None:
    convolution, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(16, 4)
    with StepTrace() as trace:
        convolution(torch.zeros(2, 3, 10, 12))
    assert trace.work.convolution_flops == 2 * (2 * 8 * 10 * 12) * (3 * 3 * 3)
    with StepTrace() as trace:
        linear(torch.zeros(5, 16)).sum().backward()  # forward, and the gradient of the weight
    assert trace.work.matmul_flops == 2 * (2 * 5 * 16 * 4)


def test_live_bytes_follow_tensors() -> None:
    with StepTrace() as trace:
        a = torch.zeros(1000)
        b = a + 1
        view = b[:500]
        assert trace.live == 8000
        del a
        assert trace.live == 4000
        del b
        assert trace.live == 4000  # the view has its storage
        del view
    assert (trace.live, trace.peak) == (0, 8000)


def test_traffic_is_what_operations_read_and_write() -> None:
    x = torch.zeros(1000)
    with StepTrace() as trace:
        (x + x).view(10, 100)
    assert (trace.work.traffic, trace.work.kernels) == (3 * 4000, 1)


def test_fake_tensors_count_what_real_ones_do() -> None:
    fake = profile_step(tiny_unet(), scenes(), BatchShape(), "32-true")
    model = tiny_unet().train()
    optimizers, trace = detach_from_trainer(model, 1), StepTrace()
    trace.add([*model.parameters(), *model.buffers()])
    batch = make_batch(scenes(), BatchShape(), 6)
    with trace:
        train_step(model, optimizers, batch, "32-true")
        trace.reset_peak()
        before = trace.work
        train_step(model, optimizers, batch, "32-true")
    assert fake.work.flops == (trace.work - before).flops
    assert fake.peak == pytest.approx(trace.peak, rel=0.01)


def test_flops_are_those_of_the_flop_counter() -> None:
    model = tiny_unet().train()
    optimizers = detach_from_trainer(model, 1)
    with FlopCounterMode(display=False) as counter:
        train_step(model, optimizers, make_batch(scenes(), BatchShape(), 6), "32-true")
    assert profile_step(tiny_unet(), scenes(), BatchShape(), "32-true").work.flops == counter.get_total_flops()


@pytest.mark.parametrize(("optimizer", "copies"), [("AdamW", 2), ("SGD", 0)])
def test_optimizer_states_are_copies_of_the_weights(optimizer: str, copies: int) -> None:
    kind = getattr(torch.optim, optimizer)
    profile = profile_step(tiny_unet(optim=Optim(lambda p: kind(p, lr=0.1))), scenes(), BatchShape(), "32-true")
    assert profile.weights == profile.gradients == 4 * profile.parameters
    assert profile.optimizer == pytest.approx(copies * profile.weights, rel=0.03)  # and a step counter each


def ddpm() -> DDPM:
    network = DenoisingUNet((3, 32, 32), base_channels=8, multipliers=(1, 2), blocks=1, attention=(16,))
    return DDPM((3, 32, 32), network=network)


def images(batch_size: int = 2) -> ShapesImages:
    sizes = {"train_size": 4, "val_size": 4, "test_size": 4}
    return ShapesImages(batch_size=batch_size, mean=[0.5] * 3, std=[0.5] * 3, **sizes)  # type: ignore[arg-type]


def test_ema_is_as_large_as_the_weights() -> None:
    profile = profile_step(ddpm(), images(), BatchShape(), "32-true")
    assert profile.ema == pytest.approx(profile.weights, rel=0.01)
    assert profile.parameters == profile.trained


def test_bf16_mixed_reduces_activations() -> None:
    single, mixed = (profile_step(ddpm(), images(8), BatchShape(), p) for p in ("32-true", "bf16-mixed"))
    assert mixed.activations < 0.8 * single.activations
    assert mixed.weights == single.weights


def test_two_optimizers_step_in_turn() -> None:
    profile = profile_step(DCGAN((3, 32, 32), base_channels=4), images(), BatchShape(), "32-true")
    assert profile.optimizer == pytest.approx(2 * profile.weights, rel=0.01)
    assert profile.work.flops > 0


def test_work_of_networks_that_step_in_turn_is_their_mean() -> None:
    def build(steps: int) -> StepProfile:
        gan = DCGAN((3, 32, 32), base_channels=4, discriminator_steps=steps)
        return profile_step(gan, images(), BatchShape(), "32-true")

    one, two, three = (build(steps) for steps in (1, 2, 3))
    alone = 2 * two.work.flops - one.work.flops  # of a step of the discriminator only
    assert 0 < alone < one.work.flops
    assert 3 * three.work.flops == pytest.approx(one.work.flops + 2 * alone)
    assert three.optimizer == one.optimizer  # both networks have stepped


def test_lazy_r1_is_counted_in_every_nth_step() -> None:
    def work(r1: float, interval: int) -> float:
        optim = AlternatingOptim(r1_interval=interval)
        gan = DCGAN((3, 32, 32), base_channels=4, discriminator_norm="none", r1=r1, optim=optim)
        return profile_step(gan, images(), BatchShape(), "32-true").work.flops

    without, always, lazy = work(0, 1), work(1.0, 1), work(1.0, 4)
    assert lazy - without == pytest.approx((always - without) / 4)


def test_products_are_not_computed_but_have_their_shapes() -> None:
    weight, image = torch.ones(4, 3, 3, 3, requires_grad=True), torch.ones(1, 3, 8, 8)
    with WithoutProducts():
        out = nn.functional.conv2d(image, weight)
        out.sum().backward()
    assert out.shape == (1, 4, 6, 6)
    assert not out.any()
    assert weight.grad is not None


def profile_of(model: Technique, batch_size: int) -> StepProfile:
    data = ShapesDetection(side=96, batch_size=batch_size, train_size=4, val_size=4, test_size=4)
    return profile_step(model, data, BatchShape(), "32-true")


def test_detectors_are_extrapolated_from_few_images() -> None:
    def build() -> SSD:
        return SSD(num_classes=5, width=0.1, image_size=96)

    five, three = profile_of(build(), 5), profile_of(build(), 3)
    assert "extrapolated to 5" in five.way
    assert five.work.flops == pytest.approx(5 / 3 * three.work.flops, rel=0.01)
    assert three.activations < five.activations < 2 * three.activations
