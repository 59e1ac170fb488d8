"""Diffusion models with rectified flow, EDM and zero terminal SNR: training, samples, checkpoints and export."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import (
    DDPM,
    CosineSchedule,
    DenoisingUNet,
    EDMSchedule,
    EfficientUNet,
    LinearSchedule,
    LogitNormalTimes,
    LogNormalSigma,
    Objective,
    RectifiedFlow,
    Sampling,
    SuperResolution,
    ZeroTerminalSNR,
)
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import Parameterization
from darkroom.lightning_modules.layers.ema import EMAOptions
from tests.contracts.generation import GenerationContract


def network(**kwargs: Any) -> DenoisingUNet:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "dropout": 0.0}
    return DenoisingUNet((3, 16, 16), **{**small, **kwargs})


class FlowContract(GenerationContract):
    """Contract of a DDPM with another schedule and objective."""

    sampling: Sampling

    def schedule(self) -> NoiseSchedule:
        raise NotImplementedError

    def objective(self) -> Objective:
        raise NotImplementedError

    def object_arguments(self) -> dict[str, Any]:
        return {"network": network(), "schedule": self.schedule(), "objective": self.objective()}

    def build(self, **kwargs: Any) -> DDPM:
        torch.manual_seed(0)
        options = {"sampling": self.sampling, "ema": EMAOptions(decay=0.9), "bpd_samples": 2}
        return DDPM(self.image_shape, **options, **self.object_arguments(), **kwargs)


class TestRectifiedFlow(FlowContract):
    overfit_loss = ("loss", 0.7)
    sampling = Sampling(sampler="flow_heun", steps=3)

    def schedule(self) -> NoiseSchedule:
        return RectifiedFlow(20)

    def objective(self) -> Objective:
        return Objective(prediction="flow", times=LogitNormalTimes())


@pytest.mark.slow  # a variant: rectified flow is in the unit lane
class TestEDM(FlowContract):
    overfit_loss = ("loss", 0.8)
    sampling = Sampling(sampler="heun", steps=3)

    def schedule(self) -> NoiseSchedule:
        return EDMSchedule(20)

    def objective(self) -> Objective:
        return Objective(prediction="edm", times=LogNormalSigma())


@pytest.mark.slow  # a variant
class TestZeroTerminalSNR(FlowContract):
    overfit_loss = ("loss", 0.7)
    sampling = Sampling(sampler="dpm_solver++", steps=3)

    def schedule(self) -> NoiseSchedule:
        return ZeroTerminalSNR(CosineSchedule(20))

    def objective(self) -> Objective:
        return Objective(prediction="v")


# --- exact networks ---------------------------------------------------------------------------------------------------


class ExactNetwork(nn.Module):
    """Network whose output for x_t is exact for given images."""

    def __init__(self, images: Tensor, schedule: NoiseSchedule, kind: Parameterization) -> None:
        super().__init__()
        self.images, self.schedule, self.kind = images, schedule, kind
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        exact = torch.tensor([self.schedule.at(time) for time in t.tolist()])
        alpha, sigma = exact.T[:, :, None, None, None]
        x_t = x / self.kind.input_scale(alpha, sigma)
        return self.scale * self.kind.from_x0(self.images.expand_as(x_t), x_t, alpha, sigma)


COMBINATIONS = [
    (RectifiedFlow(100), "flow"),
    (RectifiedFlow(100), "x0"),
    (RectifiedFlow(100), "edm"),
    (EDMSchedule(100), "edm"),
    (EDMSchedule(100), "v"),
    (ZeroTerminalSNR(LinearSchedule(100)), "v"),
    (ZeroTerminalSNR(CosineSchedule(100)), "flow"),
    (LinearSchedule(100), "flow"),
    (CosineSchedule(100), "edm"),
]
every = pytest.mark.parametrize(
    ("schedule", "prediction"), COMBINATIONS, ids=[f"{type(one).__name__}-{kind}" for one, kind in COMBINATIONS]
)


LOOSE = {"atol": 5e-3, "rtol": 0}


def exact_model(schedule: NoiseSchedule, prediction: Any, **options: Any) -> tuple[DDPM, Tensor]:
    """Return a model with an exact network for one image, and that image."""
    torch.manual_seed(0)
    image, objective = ((torch.rand(1, 3, 8, 8) * 255).round() / 127.5 - 1), Objective(prediction=prediction)
    exact = ExactNetwork(image, schedule, objective.parameterization)
    given = {"schedule": schedule, "objective": objective, "sampling": Sampling(steps=12, **options), "ema": None}
    return DDPM((3, 8, 8), network=exact, **given).eval(), image


@every
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver++", "heun", "flow_heun"])
def test_exact_network_samples_its_image(schedule: NoiseSchedule, prediction: str, sampler: Any) -> None:
    model, image = exact_model(schedule, prediction)
    if sampler == "heun" and schedule.ends_in_noise:
        with pytest.raises(UsageError, match="use flow_heun"):
            model.sample(2, sampler=sampler)
        return
    for steps in (1, 12):
        torch.testing.assert_close(model.sample(2, sampler=sampler, steps=steps), image.expand(2, -1, -1, -1), **LOOSE)


@every
def test_exact_network_has_no_loss_and_inpaints(schedule: NoiseSchedule, prediction: str) -> None:
    model, image = exact_model(schedule, prediction)
    x, mask = image.expand(4, -1, -1, -1), torch.arange(8) < 4
    t = schedule.times_at(torch.tensor([0.01, 0.3, 0.7, 1.0]))
    terms = model.losses(model.network, x, t, torch.randn(4, 3, 8, 8), {})
    assert terms["loss"].max() < 1e-4
    assert model.errors_at(x[:2], torch.tensor([0, 99])).max() < 1e-3
    painted = model.inpaint(x[:1], mask, steps=10, jump_length=2, resamples=2)
    torch.testing.assert_close(painted, image, **LOOSE)
    bits = exact_model(schedule, prediction, variance="small")[0].bits_per_dim(image)
    assert bits.isfinite().all()
    assert (
        bits.item() < 10
    )  # code length of the last step alone: 8 bits of uniform levels, and the noise of the first time


@pytest.mark.parametrize("schedule", [RectifiedFlow(100), EDMSchedule(100)], ids=["flow", "edm"])
def test_training_samples_real_times(schedule: NoiseSchedule) -> None:
    seen: list[Tensor] = []

    class RecordingNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(t)
            return self.weight * x

    model = DDPM(
        (3, 8, 8), network=RecordingNetwork(), schedule=schedule, objective=Objective(prediction="edm"), ema=None
    )
    model.log_loss = lambda terms: terms["loss"]
    model.training_step({"image": torch.rand(64, 3, 8, 8)}, 0)
    assert seen[0].dtype == torch.float32
    assert (seen[0] % 1 != 0).float().mean() > 0.9
    model.sample(1, sampler="ddim", steps=4)
    assert seen[1].dtype == torch.int64


def test_edm_network_input_has_unit_variance() -> None:
    inputs: list[Tensor] = []

    class RecordingNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            inputs.append(x)
            return self.weight * x

    schedule, objective = EDMSchedule(100), Objective(prediction="edm", sigma_data=0.3)
    model = DDPM((3, 16, 16), network=RecordingNetwork(), schedule=schedule, objective=objective, ema=None)
    x = 0.3 * torch.randn(64, 3, 16, 16)
    for t in (0.0, 40.5, 99.0):
        model.losses(model.network, x, torch.full((64,), t), torch.randn_like(x), {})
    assert [one.std().item() for one in inputs] == pytest.approx([1, 1, 1], abs=0.02)


@pytest.mark.parametrize(
    ("schedule", "objective"),
    [(RectifiedFlow(50), {"prediction": "flow"}), (EDMSchedule(50), {"prediction": "edm", "self_conditioning": True})],
    ids=["flow", "edm"],
)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_guidance_and_self_conditioning_compose(
    schedule: NoiseSchedule, objective: dict[str, Any], guidance: float
) -> None:
    built = network(num_classes=5, self_conditioning=objective.get("self_conditioning", False))
    sampling = Sampling(sampler="flow_heun", steps=3, guidance=guidance, guidance_interval=(0.1, 0.9))
    given = {"schedule": schedule, "objective": Objective(**objective), "sampling": sampling}
    model = DDPM((3, 16, 16), 5, built, conditional=True, **given)
    model.log_loss = lambda terms: terms["loss"]
    loss = model.training_step({"image": torch.rand(4, 3, 16, 16), "label": torch.arange(4)}, 1)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())
    assert model.sample(2, labels=[1, 3]).isfinite().all()


def test_upsampling_of_flow_trains_and_samples() -> None:
    built = EfficientUNet((3, 16, 16), channels=(8, 16), blocks=(1, 1), head_channels=8)
    given = {"schedule": RectifiedFlow(50), "objective": Objective(prediction="flow"), "sampling": Sampling(steps=3)}
    model = SuperResolution((3, 16, 16), factor=2, network=built, ema=None, **given)
    model.log_loss = lambda terms: terms["loss"]
    assert model.training_step({"image": torch.rand(2, 3, 16, 16) * 2 - 1}, 0).isfinite()
    assert model.sample(None, torch.rand(2, 3, 8, 8) * 2 - 1).isfinite().all()
