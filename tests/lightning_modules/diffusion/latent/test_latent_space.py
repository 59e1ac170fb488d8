"""Latent diffusion: codes, their scale, the frozen autoencoder and the contract of generative models."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.export.generative.model import ExportedGenerator
from darkroom.export.write import write_method
from darkroom.lightning_modules.autoencoding import VAE, AutoEncoder, ConditionalVAE, Gaussian
from darkroom.lightning_modules.diffusion import (
    DDPM,
    ClassifierGuidance,
    CosineSchedule,
    DenoisingUNet,
    LinearSchedule,
    Objective,
    Sampling,
)
from darkroom.lightning_modules.diffusion.latent import LatentSpace
from darkroom.lightning_modules.diffusion.sampling.samplers import Step
from darkroom.lightning_modules.layers.ema import EMAOptions
from tests.conftest import CONFIGS
from tests.contracts.generation import CountingScores, GenerationContract, as_trained
from tests.contracts.module import trainer
from tests.fakes.ranks import on_two_ranks

SHAPE, CODE = (3, 16, 16), (2, 8, 8)


def autoencoder(**kwargs: Any) -> VAE:
    """Return a VAE with codes of 2 x 8 x 8 and running statistics of its batch norms that are not trivial."""
    torch.manual_seed(1)
    model = VAE(SHAPE, **{"latent_channels": 2, "channels": (8,), "likelihood": Gaussian(1.0), **kwargs})
    for _ in range(3):
        model.encoder(torch.rand(8, *SHAPE) * 2 - 1)
    return model


def network(**kwargs: Any) -> DenoisingUNet:
    small = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.0}
    return DenoisingUNet(CODE, **{**small, **kwargs})


class TestLatentDiffusion(GenerationContract):
    overfit_loss = ("loss", 0.5)

    def build(self, **kwargs: Any) -> DDPM:
        torch.manual_seed(0)
        options = {"sampling": Sampling(steps=3), "ema": EMAOptions(decay=0.9)}
        return DDPM(self.image_shape, **options, **self.object_arguments(), **kwargs)

    def object_arguments(self) -> dict[str, Any]:
        return {"network": network(), "schedule": LinearSchedule(50), "autoencoder": autoencoder()}


@pytest.mark.slow  # a variant: the contract of the unconditional model is in the unit lane
class TestConditionalLatentDiffusion(GenerationContract):
    num_classes = 5
    test_overfits_one_batch = None

    def build(self, **kwargs: Any) -> DDPM:
        torch.manual_seed(0)
        sampling = Sampling(sampler="heun", steps=3, guidance=2.0)
        return DDPM(self.image_shape, 5, conditional=True, sampling=sampling, **self.object_arguments(), **kwargs)

    def object_arguments(self) -> dict[str, Any]:
        coded = AutoEncoder(SHAPE, latent_channels=2, channels=(8,))
        objective = Objective(prediction="v")
        return {
            "network": network(num_classes=5),
            "schedule": CosineSchedule(20),
            "autoencoder": coded,
            "objective": objective,
        }


def fitted(folder: Path, **kwargs: Any) -> DDPM:
    contract = TestLatentDiffusion()
    model = contract.build(**kwargs)
    trainer(folder, limit_val_batches=0).fit(model, contract.data())
    return model


@pytest.mark.parametrize("kind", [VAE, AutoEncoder, ConditionalVAE])
@pytest.mark.parametrize(("size", "code"), [((16, 16), (2, 4, 4)), ((13, 10), (2, 4, 3))])
def test_codes_are_maps_that_decode_to_images(kind: type, size: tuple[int, int], code: tuple[int, int, int]) -> None:
    classes = {"num_classes": 3} if kind is ConditionalVAE else {}
    model = kind((3, *size), latent_channels=2, channels=(4, 8), **classes).eval()
    x, labels = torch.rand(2, 3, *size) * 2 - 1, torch.tensor([0, 2]) if classes else None
    assert model.latent_shape == code
    z = model.encode(x, labels=labels)
    assert z.shape == (2, model.latent_dim) == model.draw_latents(2).shape
    assert model.decode(z, labels=labels).shape == x.shape
    if classes:
        assert not torch.equal(model.decode(z, labels=labels), model.decode(z, labels=labels.flip(0)))


def test_code_of_a_place_depends_on_its_surroundings_only() -> None:
    model = VAE((3, 32, 32), latent_channels=2, channels=(4, 8)).eval()
    x = torch.zeros(1, 3, 32, 32)
    changed = x.clone()
    changed[..., :4, :4] = 1.0
    difference = (model.encode(changed) - model.encode(x)).view(2, 8, 8).abs().amax(0)
    assert difference[0, 0] > 0
    assert difference[4:].max() == difference[:, 4:].max() == 0


def test_scaled_codes_have_unit_variance(tmp_path: Path) -> None:
    model, contract = fitted(tmp_path), TestLatentDiffusion()
    assert model.latent.scale.measured
    assert model.latent.scale.deviation != 1
    codes = model.to_codes(contract.images(8))
    assert codes.shape == (8, *CODE)
    assert codes.std() == pytest.approx(1, rel=0.3)  # of other images
    space, x = LatentSpace(autoencoder(), SHAPE), contract.images(8)
    space.measure(x)
    assert space.encode(x).std(correction=0) == pytest.approx(1, abs=1e-4)
    before = space.scale.deviation.clone()
    space.measure(-x)  # measured once
    assert torch.equal(space.scale.deviation, before)


def test_decoded_codes_are_reconstructions_of_the_autoencoder() -> None:
    coded, x = autoencoder().eval(), TestLatentDiffusion().images(4)
    space = LatentSpace(coded, SHAPE)
    space.measure(x)
    torch.testing.assert_close(space.decode(space.encode(x)), coded.reconstruct(x), atol=1e-6, rtol=1e-5)


def test_autoencoder_is_frozen_without_ema(tmp_path: Path) -> None:
    before = autoencoder().state_dict()
    model = fitted(tmp_path)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(name.startswith("network.") for name in trained)
    assert not any("autoencoder" in name for name in model.ema.state_dict())
    for name, value in model.latent.autoencoder.state_dict().items():
        assert torch.equal(value, before[name]), name  # with the statistics of batch norms
    model.train()
    assert not any(module.training for module in model.latent.modules())
    optimized = sum(len(group["params"]) for group in model.configure_optimizers().param_groups)
    assert optimized == len(trained)


def test_sampler_works_in_codes_and_callback_gets_images() -> None:
    model, steps = TestLatentDiffusion().build(), list[Step]()
    assert model.draw_latents(2).shape == (2, *CODE)
    images = model.sample(2, steps=3, callback=steps.append)
    assert [step.x.shape for step in steps] == 3 * [(2, *SHAPE)]
    assert all(step.x0.abs().max() <= 1 for step in steps)
    torch.testing.assert_close(steps[-1].x, images)
    raw = list[Step]()
    model.on_step = raw.append
    model.predict_step({"seed": torch.tensor([1, 2])})
    assert raw[0].x.shape == (2, *CODE)  # only counted, so not decoded


class ExactCodes(nn.Module):
    """Denoiser that predicts the exact noise of given codes."""

    def __init__(self, codes: Tensor, schedule: CosineSchedule) -> None:
        super().__init__()
        self.codes, self.schedule, self.weight = codes, schedule, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha_sigma(t.long())
        return self.weight * (x - alpha * self.codes) / sigma


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver++"])
def test_exact_denoiser_of_codes_samples_reconstructions(sampler: Any) -> None:
    x, schedule = TestLatentDiffusion().images(2), CosineSchedule(100)
    coded = autoencoder()
    space = LatentSpace(coded, SHAPE)
    space.measure(x)
    built = ExactCodes(space.encode(x), schedule)
    model = DDPM(
        SHAPE, None, built, schedule=schedule, sampling=Sampling(sampler, steps=20), autoencoder=coded, ema=None
    ).eval()
    model.latent.scale.load_state_dict(space.scale.state_dict())
    torch.testing.assert_close(model.sample(2), coded.reconstruct(x), atol=5e-3, rtol=0)
    assert model.errors_at(x, torch.tensor([10, 60])).max() < 1e-4
    assert model.evaluate({"image": x}, "test")["loss"] < 1e-4


MEAN = torch.tensor([0.3, -0.4])
ROOT = torch.tensor([[0.15, 0.0], [0.1, 0.06]])  # of the covariance of the images


class LinearCodes(nn.Module):
    """Autoencoder of images of two values: z = W x + b."""

    image_shape, latent_shape, num_classes = (2, 1, 1), (2, 1, 1), None

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0, -1.0], [1.5, 3.0]]))
        self.bias = nn.Parameter(torch.tensor([0.5, -1.0]))

    def encode(self, x: Tensor, *_: Any) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def decode(self, z: Tensor, *_: Any) -> Tensor:
        return ((z - self.bias) @ torch.linalg.inv(self.weight).T)[..., None, None]


class ExactGaussian(nn.Module):
    """Denoiser that predicts E[eps | x_t] of codes N(mean, covariance)."""

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: CosineSchedule) -> None:
        super().__init__()
        self.mean, self.covariance, self.schedule = mean, covariance, schedule
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.at(t[0].item())
        gain = sigma * torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * torch.eye(2))
        return self.weight * ((x.flatten(1) - alpha * self.mean) @ gain.T)[..., None, None]


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver++"])
def test_samples_of_exact_denoiser_of_codes_have_mean_and_covariance_of_images(sampler: Any) -> None:
    torch.manual_seed(0)
    shape, schedule, coded = LinearCodes.image_shape, CosineSchedule(400), LinearCodes()
    images = (MEAN + torch.randn(4000, 2) @ ROOT.T)[..., None, None]
    space = LatentSpace(coded, shape)
    space.measure(images)
    linear = coded.weight.detach() / space.scale.deviation
    mean = coded.encode(MEAN[None])[0].detach() / space.scale.deviation
    network = ExactGaussian(mean, linear @ ROOT @ ROOT.T @ linear.T, schedule)
    steps = 30 if sampler == "dpm_solver++" else 400
    options: dict[str, Any] = {"schedule": schedule, "autoencoder": coded, "ema": None}
    model = DDPM(shape, None, network, sampling=Sampling(sampler, steps=steps), **options).eval()
    model.latent.scale.load_state_dict(space.scale.state_dict())
    samples = model.sample(20_000).flatten(1)
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.005, rtol=0)
    torch.testing.assert_close(samples.T.cov(), ROOT @ ROOT.T, atol=0.001, rtol=0.04)


@pytest.mark.slow  # 14 seconds
def test_checkpoint_loads_without_file_of_autoencoder(darkroom: Callable) -> None:
    small = ("--data.train_size", 8, "--data.val_size", 4, "--data.test_size", 4, "--data.num_workers", 0)
    fast = ("--data.batch_size", 4, "--data.side", 16, "--trainer.max_steps", 1, "--trainer.accelerator", "cpu")
    Path("plain.yaml").write_text("trainer: {callbacks: null}")
    stages = (
        f"{CONFIGS / 'autoencoding/vae_latents.yaml'} --model.channels [4,8]",
        f"{CONFIGS / 'diffusion/latent/latent_diffusion.yaml'} --model.autoencoder.channels [4,8] --model.scores null "
        "--model.network.base_channels 4 --model.network.multipliers [1,2] --model.network.attention [] "
        "--model.sampling.steps 2",
    )
    outcome = darkroom("chain", *stages, "--config", "plain.yaml", *small, *fast, "--experiment", "it")
    assert outcome.code == 0, outcome.err
    assert "random weights" not in outcome.err
    first, second = (
        Path(f"runs/it/{name}/0/checkpoints/last.ckpt") for name in ("1-vae_latents", "2-latent_diffusion")
    )
    coded, saved = (torch.load(path, weights_only=True)["state_dict"] for path in (first, second))
    for name, value in coded.items():
        assert torch.equal(value, saved[f"latent.autoencoder.{name}"]), name
    assert saved["latent.scale.measured"]
    first.unlink()
    model = DDPM.load_from_checkpoint(second, weights_only=True)
    assert model.sample(1, labels=[3]).shape == (1, 3, 16, 16)
    prompts = ("--data", "Prompts", "--data.labels", "[3, 7]", "--trainer.callbacks+=SampleWriter")
    outcome = darkroom("predict", *prompts, "--ckpt_path", second)
    assert outcome.code == 0, outcome.err
    assert len(list(Path("runs/it/2-latent_diffusion/0/predictions").glob("0*.png"))) == 2


def test_untrained_autoencoder_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"model.autoencoder has random weights; set model.init_from"):
        fitted(tmp_path)


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (
            lambda: VAE(SHAPE, latent_dim=7, channels=(4,)),
            "codes of this VAE are vectors of 7; set its latent_channels",
        ),
        (
            lambda: autoencoder(channels=(8, 8)),
            r"network.image_shape is \(2, 8, 8\), but the codes .* are \(2, 4, 4\); set .* to \[2, 4, 4\]",
        ),
        (lambda: VAE((3, 32, 32), latent_channels=2), r"takes images of \(3, 32, 32\), but model.image_shape is"),
        (lambda: ConditionalVAE(SHAPE, 3, latent_channels=2, channels=(8,)), "must be unconditional"),
        (lambda: nn.Identity(), "must be an AutoEncoder or a VAE, got a Identity"),
    ],
)
def test_other_autoencoders_are_refused(coded: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DDPM(SHAPE, network=network(), autoencoder=coded())


@pytest.mark.parametrize(
    ("coded", "shape"),
    [
        ({"latent_channels": 2, "channels": [4, 8]}, (2, 4, 4)),
        ({"latent_channels": 2}, SHAPE),  # an own class: its codes' shape is not known
        ({"latent_channels": None, "channels": [4, 8]}, SHAPE),
    ],
)
def test_command_line_shares_shape_of_codes_with_network(coded: dict[str, Any], shape: tuple[int, int, int]) -> None:
    arguments = {"image_shape": SHAPE, "autoencoder": {"class_path": "own.Coder", "init_args": coded}}
    assert DDPM.shared_arguments(arguments)["network"]["image_shape"] == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": Objective(learned_variance=True)}, "model.objective.learned_variance must be false"),
        ({"objective": Objective(self_conditioning=True)}, "model.objective.self_conditioning must be false"),
        ({"sampling": Sampling(threshold="static")}, "model.sampling.threshold must be none .* got static"),
        ({"classifier": ClassifierGuidance("best.ckpt")}, "model.classifier classifies images, not codes"),
    ],
)
def test_options_of_images_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DDPM(SHAPE, network=network(), autoencoder=autoencoder(), **options)


@pytest.mark.slow  # traces and writes files
def test_exported_denoiser_needs_its_decoder(tmp_path: Path) -> None:
    written = write_method(as_trained(TestLatentDiffusion().build()), None, "onnx", tmp_path / "model.onnx")
    denoiser, decoder = (tmp_path / f"model.{part}.onnx" for part in ("denoiser", "decoder"))
    assert {one.path for one in written} == {denoiser, decoder}
    assert ExportedGenerator(str(denoiser)).image_shape == SHAPE
    decoder.unlink()
    with pytest.raises(UsageError, match="needs the file of the decoder"):
        ExportedGenerator(str(denoiser))


def test_methods_of_images_are_refused() -> None:
    model, x = TestLatentDiffusion().build(bpd_samples=8), torch.zeros(2, *SHAPE)
    assert model.bpd_samples == 0
    for call, message in (
        (lambda: model.inpaint(x, torch.ones(16, 16)), "inpaint needs a model that diffuses images"),
        (lambda: model.bits_per_dim(x), "bits_per_dim needs a model that diffuses images"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_channels": 0}, "model.latent_channels must be at least 1"),
        (
            {"latent_channels": 2, "latent_dim": 20},
            "model.latent_dim must be null with model.latent_channels, .* got 20",
        ),
        ({"latent_channels": 2, "architecture": "mlp"}, "model.architecture must be conv with model.latent_channels"),
    ],
)
def test_invalid_maps_raise(options: dict[str, Any], message: str) -> None:
    for kind in (VAE, AutoEncoder):
        with pytest.raises(UsageError, match=message):
            kind(SHAPE, **options)


def test_constant_codes_raise() -> None:
    coded = autoencoder()
    for parameter in coded.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(UsageError, match=r"the codes of model.autoencoder are the same for all images"):
        LatentSpace(coded, SHAPE).measure(torch.rand(2, *SHAPE))


def train_on_rank(rank: int, folder: Path) -> dict[str, Any]:
    """Train and test on one of two ranks."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    contract = TestLatentDiffusion()
    model = contract.build(scores=CountingScores(contract.generate))
    training = trainer(folder, strategy="ddp", devices=2)
    training.fit(model, contract.data())
    training.test(model, contract.data(), verbose=False)
    return {"state": model.state_dict(), "scores": dict(training.callback_metrics)}


def test_two_ranks_have_one_scale(tmp_path: Path) -> None:
    one, two = on_two_ranks(train_on_rank, tmp_path)
    for name, value in one["state"].items():
        assert torch.equal(value, two["state"][name]), name
    assert one["state"]["latent.scale.measured"]
    assert one["scores"]["test/loss"] == two["scores"]["test/loss"]


def test_scale_is_saved_and_not_measured_again(tmp_path: Path) -> None:
    contract = TestLatentDiffusion()
    saving = ModelCheckpoint(tmp_path, "it", save_on_train_epoch_end=True)
    model = contract.build()
    trainer(tmp_path, enable_checkpointing=True, callbacks=[saving], limit_val_batches=0).fit(model, contract.data())
    resumed = contract.build()
    fitting = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    fitting.fit(resumed, contract.data(train_size=4), ckpt_path=tmp_path / "it.ckpt", weights_only=True)
    assert torch.equal(resumed.latent.scale.deviation, model.latent.scale.deviation)
