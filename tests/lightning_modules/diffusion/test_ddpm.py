"""DDPM: training, sampling and evaluation against the equations."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.io import read_image

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import DDPM, CosineSchedule, DenoisingUNet, LinearSchedule, MinSNR
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling import sampler_config
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import ModelWrapper
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import Step
from darkroom.lightning_modules.diffusion.sampling.times import Pairs
from darkroom.lightning_modules.layers.ema import EMAOptions
from tests.conftest import CONFIGS
from tests.contracts.generation import CountingScores, GenerationContract
from tests.contracts.module import trainer
from tests.fakes.ranks import on_two_ranks


def network(**kwargs: Any) -> DenoisingUNet:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "dropout": 0.0}
    return DenoisingUNet((3, 16, 16), **{**small, **kwargs})


class TestDDPM(GenerationContract):
    compile_backend = "inductor"
    compile_mode = "reduce-overhead"
    overfit_loss = ("loss", 0.35)

    def build(self, **kwargs: Any) -> DDPM:
        torch.manual_seed(0)
        options = {"sampling": Sampling(steps=3), "ema": EMAOptions(decay=0.9), "bpd_samples": 0}
        return DDPM(self.image_shape, **options, **self.object_arguments(), **kwargs)

    def object_arguments(self) -> dict[str, Any]:
        return {"network": network(), "schedule": LinearSchedule(50)}


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestConditionalDDPM(GenerationContract):
    """DDPM with v-prediction, cosine schedule, learned variance, self-conditioning and guidance."""

    num_classes = 5
    test_overfits_one_batch = None  # trains as TestDDPM does

    def build(self, **kwargs: Any) -> DDPM:
        torch.manual_seed(0)
        sampling = Sampling(sampler="ancestral", steps=3, guidance=2.0, threshold="dynamic")
        options = {"conditional": True, "sampling": sampling, "bpd_samples": 0}
        return DDPM(self.image_shape, 5, **options, **self.object_arguments(), **kwargs)

    def object_arguments(self) -> dict[str, Any]:
        built = network(num_classes=5, learned_variance=True, self_conditioning=True)
        objective = Objective(prediction="v", loss_weight=MinSNR(), learned_variance=True, self_conditioning=True)
        return {"network": built, "schedule": CosineSchedule(20), "objective": objective}


class ExactDenoiser(nn.Module):
    """Denoiser that predicts the exact noise of given images."""

    def __init__(self, x: Tensor, schedule: LinearSchedule) -> None:
        super().__init__()
        self.x, self.schedule = x, schedule
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(t.long())
        return self.scale * (x - alpha * self.x) / sigma


def exact_model(**options: Any) -> tuple[DDPM, Tensor]:
    """Return a model with an exact denoiser, and its images."""
    x, schedule = torch.rand(2, 3, 16, 16) * 2 - 1, LinearSchedule(100)
    sampling = Sampling(steps=20, **options)
    model = DDPM((3, 16, 16), network=ExactDenoiser(x, schedule), schedule=schedule, sampling=sampling, ema=None)
    return model.eval(), x


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_default_loss_is_squared_error_of_prediction(prediction: Any) -> None:
    model = DDPM((1, 8, 8), network=nn.Identity(), objective=Objective(prediction=prediction), ema=None)
    torch.testing.assert_close(
        model.loss_weight(model.parameterization, model.schedule, torch.arange(1000)), torch.ones(1000)
    )


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver++", "heun"])
def test_exact_denoiser_samples_its_image(sampler: str) -> None:
    model, x = exact_model(sampler=sampler)
    torch.testing.assert_close(model.sample(2), x, atol=2e-3, rtol=0)
    steps: list[Step] = []
    model.sample(2, sampler=sampler, steps=7, callback=steps.append)
    assert len(steps) == 7
    assert steps[-1].t_prev == -1


def test_churn_of_sampling_adds_noise_to_heun_alone() -> None:
    model, x = exact_model(sampler="heun", churn=10.0, churn_range=(0.1, 50.0), churn_noise=1.007)
    first, second = (model.sample(2, generator=torch.Generator().manual_seed(seed), steps=3) for seed in (0, 1))
    latents = model.draw_latents(2, torch.Generator().manual_seed(0))
    plain, _ = exact_model(sampler="heun")
    noisy, quiet = ([], [])
    for network, steps in ((model, noisy), (plain, quiet)):
        network.sampling_with(steps=5).run(
            network.wrap_network({}), latents, network.schedule, torch.Generator().manual_seed(2), steps.append
        )
    assert not torch.equal(noisy[0].x, quiet[0].x)
    torch.testing.assert_close(first, x, atol=2e-3, rtol=0)
    torch.testing.assert_close(second, x, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("shape", "multipliers"), [((1, 17, 5), (1,)), ((3, 10, 14), (1, 2))], ids=["odd", "odd_after_halving"]
)
def test_odd_sides_are_sampled_in_one_step(shape: tuple[int, int, int], multipliers: tuple[int, ...]) -> None:
    schedule = LinearSchedule(50)
    built = DenoisingUNet(shape, base_channels=8, multipliers=multipliers, blocks=1, attention=(), dropout=0.0)
    model = DDPM(shape, network=built, schedule=schedule, ema=None).eval()
    for sampler in ("ancestral", "ddim", "dpm_solver++", "heun"):
        samples = model.sample(2, sampler=sampler, steps=1)
        assert samples.shape == (2, *shape)
        assert samples.isfinite().all()
        assert samples.abs().max() <= 1


@pytest.mark.parametrize(("total", "steps"), [(23, 3), (37, 10), (1000, 7), (1000, 999)])
def test_ddim_reaches_image_for_steps_that_do_not_divide_its_times(total: int, steps: int) -> None:
    schedule, seen = LinearSchedule(total), []
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    sampling = Sampling(sampler="ddim", steps=steps)
    model = DDPM((3, 8, 8), network=ExactDenoiser(x, schedule), schedule=schedule, sampling=sampling, ema=None).eval()
    samples = model.sample(2, callback=seen.append)
    torch.testing.assert_close(samples, x, atol=2e-3, rtol=0)
    times = [step.t for step in seen]
    assert len(times) == steps
    assert times[0] == total - 1
    assert times == sorted(set(times), reverse=True)
    assert seen[-1].t_prev == -1


def test_exact_denoiser_has_zero_loss_and_minimal_bound() -> None:
    model, x = exact_model()
    assert model.errors_at(x, torch.tensor([0, 99])).max() < 1e-6
    assert model.evaluate({"image": x}, "val")["loss"] < 1e-6
    # The bound reduces to the prior and, with the variance of the posterior's second step, the code length of levels.
    model, x = exact_model(variance="small")
    levels = (x * 127.5).round() / 127.5
    model.network.x = levels
    assert model.bits_per_dim(levels).max() < 3.5


def test_inpainting_keeps_known_pixels() -> None:
    model, x = exact_model()
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    other = -x
    samples = model.inpaint(other, mask, steps=10, jump_length=2, resamples=2)
    assert torch.equal(samples[..., :8], other[..., :8])
    torch.testing.assert_close(samples[..., 8:], x[..., 8:], atol=2e-2, rtol=0)


def test_encoded_image_is_reconstructed() -> None:
    class Blurring(nn.Module):  # a smooth denoiser: E[x0] of N(0, 0.25)
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.alpha_sigma(t.long())
            return x * sigma / (alpha**2 / 4 + sigma**2)

    schedule = LinearSchedule(200)
    model = DDPM((1, 4, 4), network=Blurring(), schedule=schedule, sampling=Sampling(steps=200), ema=None)
    x = torch.rand(3, 1, 4, 4) - 0.5
    torch.testing.assert_close(model.reconstruct(x), x, atol=0.02, rtol=0)
    assert model.encode(x).std() == pytest.approx(2 * x.std().item(), rel=0.1)


def test_interpolated_latents_have_unit_variance() -> None:
    model = DDPM((3, 16, 16), network=network(), sampling=Sampling(steps=2))
    a, b = torch.randn(2, 1, 3, 16, 16), torch.randn(2, 1, 3, 16, 16)
    way = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1, 1)
    z = model.interpolate_latents(a, b, way)
    assert z.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(z[:, 0], a[:, 0], atol=1e-3, rtol=0)
    torch.testing.assert_close(z[:, 2], b[:, 0], atol=1e-3, rtol=0)
    assert z[:, 1].std() == pytest.approx(1, abs=0.1)


def test_validation_uses_ema_weights_and_is_deterministic(tmp_path: Path) -> None:
    contract = TestDDPM()
    model, data, fitting = contract.build(), contract.data(), trainer(tmp_path, max_epochs=2)
    fitting.fit(model, data)
    averaged, learning = model.ema.module.state_dict(), model.network.state_dict()
    assert any(not torch.equal(averaged[name], learning[name]) for name in learning)
    loss = fitting.callback_metrics["val/loss"]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(torch.nan)  # unused in evaluation
    fitting.validate(model, data, verbose=False)
    assert fitting.callback_metrics["val/loss"] == loss
    assert model.sample(1).isfinite().all()


def test_bits_per_dim_is_measured_on_bpd_samples(tmp_path: Path) -> None:
    contract = TestConditionalDDPM()
    model, testing = contract.build(), trainer(tmp_path)
    model.bpd_samples = 3
    testing.test(model, contract.data(), verbose=False)
    bits = testing.callback_metrics["test/bits_per_dim"]
    assert 8 < bits < 60  # an untrained network
    assert model._measured == 3


def test_labels_are_dropped_at_stated_rate() -> None:
    model = DDPM((3, 16, 16), 5, network(num_classes=5), conditional=True, label_dropout=0.25)
    labels = model._dropped(torch.zeros(4000, dtype=torch.long))
    assert set(labels.unique().tolist()) == {0, 5}
    assert (labels == 5).float().mean() == pytest.approx(0.25, abs=0.03)


def test_vlb_trains_only_the_variance() -> None:
    contract = TestConditionalDDPM()
    contract.build()
    objective = Objective(learned_variance=True)
    built = network(learned_variance=True)
    model = DDPM((3, 16, 16), network=built, objective=objective, schedule=LinearSchedule(50))
    x = contract.images(4)
    last = model.network.head[-1].weight
    nn.init.normal_(last)
    terms = model.losses(model.network, x, torch.tensor([0, 1, 20, 49]), torch.randn_like(x), {})
    torch.testing.assert_close(terms["loss"], terms["simple"] + 0.001 * 50 * terms["vlb"])
    (gradient,) = torch.autograd.grad(terms["vlb"].sum(), last)
    assert gradient[:3].abs().max() == 0  # channels of the mean
    assert gradient[3:].abs().max() > 0


class TimeTable(nn.Module):
    """Network with an embedding table of integer times."""

    def __init__(self) -> None:
        super().__init__()
        self.of_time, self.conv = nn.Embedding(50, 3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(x) + self.of_time(t)[:, :, None, None]


def test_custom_network_is_supported(tmp_path: Path) -> None:
    sampling = Sampling(steps=4)
    model = DDPM((3, 16, 16), network=TimeTable(), schedule=LinearSchedule(50), sampling=sampling, bpd_samples=2)
    fitting = trainer(tmp_path)
    fitting.fit(model, TestDDPM().data())
    fitting.test(model, TestDDPM().data(), verbose=False)
    assert model.sample(2).isfinite().all()


@pytest.mark.parametrize(
    ("sampler", "name", "options"),
    [
        ("ancestral", "ancestral", {"variance": "small"}),
        ("ddim", "ddim", {"eta": 0.5}),
        ("dpm_solver++", "dpm_solver_pp", {"order": 3}),
        ("heun", "heun", {}),
    ],
)
def test_sampling_options_are_passed_to_sampler(
    monkeypatch: pytest.MonkeyPatch, sampler: str, name: str, options: dict[str, Any]
) -> None:
    asked = {}

    def recording_sampler(
        denoise: ModelWrapper, x: Tensor, pairs: Pairs, schedule: NoiseSchedule, **kwargs: Any
    ) -> Tensor:
        asked.update(kwargs, denoise=denoise, pairs=pairs)
        return x

    monkeypatch.setattr(sampler_config, name, recording_sampler)
    settings = {"guidance": 3.0, "guidance_interval": (0.2, 0.7), "threshold": "dynamic", "percentile": 0.9}
    sampling = Sampling(sampler=sampler, steps=6, **settings, **options)
    model = DDPM((3, 16, 16), 5, network(num_classes=5), conditional=True, sampling=sampling)
    watch, generator = print, torch.Generator()
    model.sample(1, labels=[2], generator=generator, callback=watch)
    assert {key: asked[key] for key in options} == options
    assert asked["generator"] is generator
    assert asked["on_step"] is watch
    assert len(asked["pairs"]) == 6
    denoise = asked["denoise"]
    assert (denoise.threshold, denoise.percentile) == ("dynamic", 0.9)
    assert (denoise.network.weight, denoise.network.interval) == (3.0, (200, 700))
    model.sample(1, labels=[2], guidance=1.0, steps=3)
    assert asked["denoise"].network is model.ema.module
    assert len(asked["pairs"]) == 3


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver++", "heun"])
def test_predictions_do_not_depend_on_batch(sampler: str) -> None:
    sampling = Sampling(sampler=sampler, steps=4, eta=float(sampler == "ddim"))
    model = DDPM((3, 16, 16), network=network(), schedule=LinearSchedule(50), sampling=sampling)
    nn.init.normal_(model.ema.module.head[-1].weight, std=0.1)
    seeds = torch.tensor([5, 2**40, 17])
    together = model.predict_step({"seed": seeds})
    for index in range(3):
        alone = model.predict_step({"seed": seeds[index : index + 1]})
        torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=1e-4)


def test_self_conditioning_passes_predictions_at_half_rate() -> None:
    seen: list[Tensor] = []

    class RecordingNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor, *, x0: Tensor) -> Tensor:
            seen.append(x0)
            return self.weight * x

    options = {"objective": Objective(self_conditioning=True), "sampling": Sampling(threshold="none"), "ema": None}
    model = DDPM((3, 16, 16), network=RecordingNetwork(), schedule=CosineSchedule(1000), **options)
    x = torch.rand(2, 3, 16, 16)
    model.sample(2, steps=4)
    model.invert(x, steps=4)
    assert len(seen) == 8
    assert seen[0].abs().max() == 0
    assert all(guess.abs().max() <= 1 for guess in seen)
    assert seen[3].abs().max() > 0
    seen.clear()
    for _ in range(200):
        model.predict(model.network, x, torch.tensor([3, 900]), {})
    given = sum(bool(guess.any()) for guess in seen)
    assert len(seen) == 200 + given  # one extra call for each
    assert 70 < given < 130


def test_inpainting_ignores_unknown_values_and_checks_arguments() -> None:
    model, x = exact_model(threshold="none")
    holes = x.clone()
    holes[..., 8:] = torch.nan
    samples = model.inpaint(holes, torch.arange(16) < 8, steps=10)
    assert samples.isfinite().all()
    assert samples.abs().max() <= 1
    for arguments, message in (
        ({"mask": torch.ones(16, 5)}, "mask"),
        ({"mask": torch.ones(16), "jump_length": 0}, "jump_length and resamples must be .*got 0"),
        ({"mask": torch.ones(16), "generator": [torch.Generator()]}, "one for each of 2 images, got 1"),
    ):
        with pytest.raises(UsageError, match=message):
            model.inpaint(x, steps=10, **arguments)
    with pytest.raises(UsageError, match=r"\(B, 3, H, W\)"):
        model.invert(x[:, :1])


def test_invalid_labels_and_times_raise() -> None:
    model, x = DDPM((3, 16, 16), 5, network(num_classes=5), True, schedule=LinearSchedule(50)), torch.rand(1, 3, 16, 16)
    t = torch.tensor([3])
    for ask in (model.decode, model.encode, model.bits_per_dim, lambda x, labels: model.errors_at(x, t, labels=labels)):
        with pytest.raises(UsageError, match="labels must be from 0 to 4, got 5"):
            ask(x, labels=torch.tensor([5]))
        with pytest.raises(UsageError, match="needs labels"):
            ask(x, labels=None)
    with pytest.raises(UsageError, match="from 0 to 49"):
        model.errors_at(x, torch.tensor([50]), labels=[1])
    model.log_loss = lambda terms: terms["loss"]
    with pytest.raises(UsageError, match="labels must be from 0 to 4, got 5"):
        model.training_step({"image": x, "label": torch.tensor([5])}, 0)


@pytest.mark.slow
def test_predict_reads_shape_and_classes_from_checkpoint(darkroom: Callable) -> None:
    """Check that image shape and classes are read from the checkpoint, as config and prompts do not state them."""
    small = ("--data.train_size", 8, "--data.val_size", 8, "--data.batch_size", 4, "--data.num_workers", 0)
    model = ("--model.network.base_channels", 4, "--model.scores", "null", "--model.sampling.steps", 2)
    base = ("--config", CONFIGS / "diffusion/ddpm_conditional.yaml", *model, "--experiment", "it")
    config = Path("plain.yaml")
    config.write_text("trainer: {callbacks: null}")
    base = (*base, "--config", config, "--trainer.callbacks+=SampleWriter")
    fitted = darkroom("fit", *base, *small, "--trainer.max_steps", 1)
    assert fitted.code == 0, fitted.err
    samples = []
    for size in (1, 3):
        prompts = ("--data", "Prompts", "--data.labels", "[0, 39, 7]", "--data.batch_size", size, "--data.seed", 4)
        settings = (
            "--model.sampling.sampler",
            "ancestral",
            "--model.sampling.steps",
            3,
            "--model.sampling.guidance",
            3,
        )
        outcome = darkroom("predict", *base, *prompts, *settings, "--ckpt_path", "last")
        assert outcome.code == 0, outcome.err
        files = sorted(Path("runs/it/0/predictions").glob("0*.png"))
        assert [path.stem.split("_")[1] for path in files] == ["0", "39", "7"]
        samples.append(torch.stack([read_image(str(path)).int() for path in files]))
    assert (samples[0] - samples[1]).abs().max() <= 1  # rounding
    outcome = darkroom(
        "predict", "--data", "Prompts", "--data.labels", "[3]", "--ckpt_path", "runs/it/0/checkpoints/last.ckpt"
    )
    assert outcome.code == 0, outcome.err  # by the config of the run


CONDITIONAL = {"conditional": True, "num_classes": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": {"guidance": 2.0}}, "model.conditional is false"),
        (CONDITIONAL | {"label_dropout": 0.0, "sampling": {"guidance": 2.0}}, "model.label_dropout is 0"),
        ({"conditional": True}, "model.num_classes"),
        ({"sampling": {"steps": 1001}}, "model.sampling.steps"),
        ({"sampling": {"steps": 0}}, "model.sampling.steps"),
        ({"sampling": {"percentile": 0.0}}, "model.sampling.percentile"),
        ({"sampling": {"threshold": "soft"}}, "static, dynamic, none"),
        ({"sampling": {"sampler": "euler"}}, "ancestral, ddim"),
        ({"objective": {"learned_variance": True}, "network": network()}, "model.network.learned_variance is False"),
        ({"objective": {"prediction": "x"}}, "model.objective.prediction must be one of eps"),
        ({"network": DenoisingUNet((1, 16, 16), base_channels=8, attention=())}, "model.network.image_shape"),
        ({"ema": {"decay": 1.0}}, "model.ema.decay"),
        ({"sampling": {"order": 4}}, "model.sampling.order"),
        ({"sampling": {"eta": 1.5}}, "model.sampling.eta"),
        ({"sampling": {"sampler": "heun", "churn": -1.0}}, "model.sampling.churn must be at least 0"),
        ({"sampling": {"churn_range": (2.0, 1.0)}}, "model.sampling.churn_range must be two ascending"),
        ({"sampling": {"churn_noise": 0.0}}, "model.sampling.churn_noise must be above 0"),
        ({"sampling": {"guidance_interval": (0.8, 0.2)}}, "model.sampling.guidance_interval"),
        (CONDITIONAL | {"sampling": {"guidance": float("nan")}}, "model.sampling.guidance must be a finite number"),
        (CONDITIONAL | {"network": TimeTable()}, "takes no label"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    arguments = {"network": None, **arguments}
    if arguments["network"] is None:
        classes = 5 if arguments.get("num_classes") else None
        arguments["network"] = network(num_classes=classes)
    with pytest.raises(UsageError, match=message):
        DDPM((3, 16, 16), **arguments)


def test_network_with_wrong_output_channels_raises() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([x, x], 1)

    with pytest.raises(UsageError, match="must return 3 channels .*learned_variance false, got 6"):
        DDPM((3, 16, 16), None, Doubling()).sample(1)


def train_on_rank(rank: int, folder: Path) -> dict[str, Any]:
    """Train and test on one of two ranks."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    contract = TestConditionalDDPM()
    model = contract.build(scores=CountingScores(contract.generate))
    model.bpd_samples = 3
    training = trainer(folder, strategy="ddp", devices=2)
    training.fit(model, contract.data())
    training.test(model, contract.data(), verbose=False)
    return {"state": model.state_dict(), "scores": dict(training.callback_metrics), "measured": model._measured}


def test_two_ranks_train_and_evaluate_equally(tmp_path: Path) -> None:
    one, two = on_two_ranks(train_on_rank, tmp_path)
    for name, value in one["state"].items():
        assert torch.equal(value, two["state"][name]), name
    assert one["scores"]["test/bits_per_dim"] == two["scores"]["test/bits_per_dim"]
    assert one["scores"]["test/loss"] == two["scores"]["test/loss"]
    assert (one["measured"], two["measured"]) == (2, 1)


def test_accumulated_batches_update_ema_once(tmp_path: Path) -> None:
    contract = TestDDPM()
    model = contract.build()
    trainer(tmp_path, accumulate_grad_batches=2, limit_val_batches=0).fit(model, contract.data())
    assert model.ema.updates == 1
