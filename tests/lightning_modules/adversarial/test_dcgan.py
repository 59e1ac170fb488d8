"""DCGAN: networks of the paper, alternating optimizers and the Trainer's step count."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from darkroom.callbacks.training.exact_resume import ExactResume
from darkroom.datamodules.shapes.images import ShapesImages
from darkroom.errors import UsageError
from darkroom.lightning_modules.adversarial import DCGAN, DCGANDiscriminator, DCGANGenerator, dcgan
from darkroom.lightning_modules.adversarial.manual_optimization import AlternatingOptim
from darkroom.lightning_modules.layers.ema import EMAOptions
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from tests.contracts.generation import GenerationContract
from tests.contracts.module import trainer
from tests.fakes.ranks import on_two_ranks

SHAPE = (3, 16, 16)
sgd = partial(torch.optim.SGD, lr=0.1)


def build(**kwargs: Any) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(**{"image_shape": SHAPE, "latent_dim": 5, "base_channels": 4, "inversion_steps": 5, **kwargs})


def batches(n: int, size: int = 4, classes: int = 3) -> DataLoader:
    """Return the same batches of noise with labels in every call."""
    random = torch.Generator().manual_seed(1)
    images = torch.rand(n * size, *SHAPE, generator=random) * 2 - 1
    data = [{"image": image, "label": index % classes} for index, image in enumerate(images)]
    return DataLoader(data, batch_size=size)


def fit(model: DCGAN, folder: Path, n: int = 4, **kwargs: Any) -> Any:
    fitting = trainer(folder, **{"limit_val_batches": 0, "max_epochs": 1, "log_every_n_steps": 1, **kwargs})
    torch.manual_seed(2)
    fitting.fit(model, batches(n), batches(1))
    return fitting


def scale_weights(model: DCGAN) -> DCGAN:
    """Scale the weights up, because the initial networks barely depend on their input."""
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 if p.dim() == 1 else 6)
    return model


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestDCGAN(GenerationContract):
    compile_backend = "inductor"
    compile_mode = "reduce-overhead"
    loss = "d_loss"
    test_exported_files_predict_as_model = None  # TestConditionalDCGAN exports

    def build(self, **kwargs: Any) -> DCGAN:
        return build(**kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestConditionalDCGAN(GenerationContract):
    loss = "d_loss"
    num_classes = 5

    def build(self, **kwargs: Any) -> DCGAN:
        return build(num_classes=5, conditional=True, discriminator_norm="spectral", r1=0.1, loss="hinge", **kwargs)


# --- the networks -----------------------------------------------------------------------------------------------------


def test_parameter_counts_match_paper() -> None:
    with torch.device("meta"):
        generator, discriminator = DCGANGenerator((3, 64, 64)), DCGANDiscriminator((3, 64, 64))
        assert generator(torch.empty(2, 100)).shape == (2, 3, 64, 64)
        assert discriminator(torch.empty(2, 3, 64, 64)).shape == (2,)
    assert sum(p.numel() for p in generator.parameters()) == 3_576_704
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_568


def test_initialization_matches_paper() -> None:
    torch.manual_seed(0)
    for network in (DCGANGenerator(base_channels=32), DCGANDiscriminator(base_channels=32)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 10_000:
                assert module.weight.mean().item() == pytest.approx(0, abs=1e-3)
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.03)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert 0.01 < module.weight.std() < 0.03
                assert not module.bias.any()


def test_no_batch_norm_at_generator_output_and_discriminator_input() -> None:
    """Check the generator's output and the discriminator's input (section 3)."""
    generator, discriminator = DCGANGenerator((3, 16, 16)), DCGANDiscriminator((3, 16, 16))
    assert isinstance(generator.layers[-1], nn.ConvTranspose2d)
    assert isinstance(discriminator.layers[1], nn.LeakyReLU)
    assert discriminator.layers[1].negative_slope == 0.2
    assert sum(isinstance(m, nn.BatchNorm2d) for m in discriminator.modules()) == 1
    assert all(m.bias is None for m in generator.modules() if isinstance(m, nn.ConvTranspose2d))


@pytest.mark.parametrize("side", [8, 16, 128, 256])
def test_sizes_are_powers_of_two_from_8(side: int) -> None:
    with torch.device("meta"):
        shape = (1, side, side)
        assert DCGANGenerator(shape)(torch.empty(3, 100)).shape == (3, *shape)
        assert DCGANDiscriminator(shape)(torch.empty(3, *shape)).shape == (3,)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 28, 28), (3, 48, 48), (3, 64, 32)])
def test_unsupported_size_raises_and_names_supported_ones(shape: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"8, 16, 32.*data.size"):
        DCGAN(image_shape=shape)


def test_generator_depends_on_label() -> None:
    generator = DCGANGenerator(SHAPE, 5, 4, num_classes=3).eval()
    z = torch.randn(1, 5).expand(3, 5)
    images = generator(z, torch.arange(3))
    assert images.shape == (3, *SHAPE)
    assert not torch.allclose(images[0], images[1])


def test_projection_is_linear_in_embedding() -> None:
    """D(x, y) = f(x) + <embedding of y, phi(x)> (Miyato & Koyama 2018, equation 3)."""
    discriminator = DCGANDiscriminator(SHAPE, 4, num_classes=2).eval()
    images, labels = torch.randn(4, *SHAPE), torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        phi = discriminator.layers(images).sum((2, 3))
        logits = discriminator(images, labels)
        discriminator.embedding.weight.zero_()
        plain = discriminator(images, labels)
        discriminator.embedding.weight.fill_(1)
        torch.testing.assert_close(discriminator(images, labels), plain + phi.sum(1))
    assert not torch.equal(plain, logits)


def test_spectral_norm_of_layers_is_one() -> None:
    torch.manual_seed(0)
    discriminator = DCGANDiscriminator((3, 32, 32), 8, num_classes=4, norm="spectral")
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 3])
    with torch.no_grad():
        for _ in range(200):  # power iterations, one for every forward pass in training
            discriminator(images, labels)
    discriminator.eval()
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Embedding)]
    assert len(layers) == 5
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=1e-3)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in discriminator.modules())


# --- training ---------------------------------------------------------------------------------------------------------


def test_discriminator_step_does_not_change_generator(tmp_path: Path) -> None:
    """Check all but the batch norm statistics, which follow the samples; the EMA follows the generator's steps."""
    model = build(discriminator_steps=3)
    before = weights(model.generator), weights(model.discriminator), weights(model.ema)
    fit(model, tmp_path, max_steps=2)
    parameters = dict(model.generator.named_parameters())
    assert all(torch.equal(value, before[0][name]) for name, value in parameters.items())
    assert all(p.grad is None for p in model.generator.parameters())
    assert model.generator.layers[1].num_batches_tracked == 2
    assert not torch.equal(model.generator.layers[1].running_mean, before[0]["layers.1.running_mean"])
    assert same(before[2], weights(model.ema))
    assert not same(before[1], weights(model.discriminator))


def test_generator_step_does_not_change_discriminator(tmp_path: Path) -> None:
    """Check that a discriminator with zero learning rate keeps its weights and has no gradients of the generator's loss.

    Its batch norm statistics follow the images of both steps.
    """
    model = build(optim=AlternatingOptim(discriminator_optimizer=partial(torch.optim.SGD, lr=0.0)))
    before, generator = weights(model.discriminator), weights(model.generator)
    fit(model, tmp_path, n=4)
    parameters = dict(model.discriminator.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())
    assert all(p.grad is None and p.requires_grad for p in parameters.values())
    assert (
        model.discriminator.layers[3].num_batches_tracked == 4 * 3
    )  # real images, samples, and samples in the generator's step
    assert not same(generator, weights(model.generator))


class Interrupted(DCGAN):
    """DCGAN that raises in the generator's step."""

    def accumulate(self, loss: Tensor) -> None:
        if not all(p.requires_grad for p in self.discriminator.parameters()):
            raise InterruptedError
        super().accumulate(loss)


def test_discriminator_is_trainable_after_interrupted_step(tmp_path: Path) -> None:
    model = Interrupted(SHAPE, latent_dim=5, base_channels=4, optim=AlternatingOptim(accumulate_grad_batches=2))
    fitting = trainer(tmp_path)
    with pytest.raises(InterruptedError):
        fitting.fit(model, batches(2))
    assert all(p.requires_grad for p in model.discriminator.parameters())
    with pytest.raises(InterruptedError):
        fitting.fit(model, batches(2))


def test_lazy_r1_is_computed_in_every_nth_step_times_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after(steps: int, r1: float, interval: int = 1, accumulated: int = 1) -> dict[str, Tensor]:
        optim = AlternatingOptim(sgd, r1_interval=interval, accumulate_grad_batches=accumulated)
        model = scale_weights(build(discriminator_norm="none", r1=r1, optim=optim))
        fit(model, tmp_path, n=steps)
        return weights(model.discriminator)

    torch.testing.assert_close(after(1, r1=1.0, interval=3), after(1, r1=3.0))
    computed: list[float] = []

    def record(logits: Tensor, images: Tensor) -> Tensor:
        computed.append(0.0)
        return logits.sum() * 0

    monkeypatch.setattr(dcgan, "gradient_penalty", record)
    after(7, r1=1.0, interval=3)
    assert len(computed) == 3  # steps 0, 3 and 6
    computed.clear()
    after(7, r1=1.0, interval=3, accumulated=2)
    assert len(computed) == 3  # both batches of step 0, and the one of step 3, the last of the epoch


@pytest.mark.parametrize(
    "options", [{}, {"discriminator_norm": "joint_batch"}, {"discriminator_norm": "none", "r1": 3.0}]
)
def test_training_step_matches_manual_step(tmp_path: Path, options: dict[str, Any]) -> None:
    """Compare with a manual step: the discriminator on detached samples, then the generator with the same samples."""
    options = options | {"optim": AlternatingOptim(sgd)}
    model, by_hand = scale_weights(build(**options)), scale_weights(build(**options))
    fitting = fit(model, tmp_path, n=1)
    (batch,) = batches(1)
    generator, discriminator = by_hand.generator, by_hand.discriminator
    optimizers = sgd(discriminator.parameters()), sgd(generator.parameters())
    torch.manual_seed(2)
    torch.empty((), dtype=torch.int64).random_()  # the loader's seed
    fake = generator(by_hand.draw_latents(4))
    real = batch["image"].requires_grad_()
    joint = options.get("discriminator_norm") == "joint_batch"

    def logits(generated: Tensor) -> tuple[Tensor, Tensor]:
        if joint:
            both = discriminator(torch.cat([real, generated]))
            return both[:4], both[4:]
        return discriminator(real), discriminator(generated)

    real_logits, fake_logits = logits(fake.detach())
    (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    d_loss = d_loss + by_hand.r1 / 2 * slope.flatten(1).norm(dim=1).square().mean()
    d_loss.backward()
    optimizers[0].step()
    F.softplus(-(logits(fake)[1] if joint else discriminator(fake))).mean().backward()
    optimizers[1].step()
    for name in ("generator", "discriminator"):
        for key, value in weights(getattr(by_hand, name)).items():
            torch.testing.assert_close(weights(getattr(model, name))[key], value, msg=f"{name}.{key}")
    expected = {"d_loss": d_loss, "g_loss": F.softplus(-fake_logits).mean()}
    expected |= {"d_real": real_logits.sigmoid().mean(), "d_fake": fake_logits.sigmoid().mean()}
    logged = {name: fitting.callback_metrics[f"train/{name}"].item() for name in expected}
    assert logged == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-4)


def test_generator_steps_every_discriminator_steps(tmp_path: Path) -> None:
    model = build(discriminator_steps=2)
    fitting = fit(model, tmp_path, n=5, max_epochs=2)
    assert fitting.global_step == 10
    assert model.ema.updates == 5


def test_global_step_counts_batches(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    fitting = fit(build(), tmp_path, 8, max_epochs=-1, max_steps=7, enable_checkpointing=True, callbacks=[saving])
    assert fitting.global_step == 7
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=3.ckpt", "step=6.ckpt"]


class GradientNorms(DCGAN):
    """DCGAN that records the gradient norms of optimizer steps."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.norms = [*getattr(self, "norms", []), torch.nn.utils.get_total_norm(gradients).item()]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gradients_of_both_networks_are_clipped(tmp_path: Path, precision: Any) -> None:
    norms = {}
    for clip in (None, 1e-3):
        model = GradientNorms(SHAPE, latent_dim=5, base_channels=4, optim=AlternatingOptim(gradient_clip_val=clip))
        fit(model, tmp_path, n=2, precision=precision)
        norms[clip] = model.norms
    assert len(norms[None]) == len(norms[1e-3]) == 4  # two steps of each
    assert min(norms[None]) > 1e-3
    assert norms[1e-3] == pytest.approx([1e-3] * 4, rel=1e-2)


class RepeatedLatents(DCGAN):
    """DCGAN that repeats two latents, so that batch norm is equal in batches of any even size."""

    def draw_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.linspace(-1, 1, 2 * self.latent_dim).view(2, -1).repeat(n // 2, 1)


def fit_batches(
    folder: Path, n: int, size: int, accumulate: int = 1, part: slice = slice(None), **kwargs: Any
) -> DCGAN:
    """Fit on a part of n batches of 4, in batches of this size, without batch norm in the discriminator."""
    torch.manual_seed(0)
    optim = AlternatingOptim(generator_optimizer=sgd, discriminator_optimizer=sgd, accumulate_grad_batches=accumulate)
    options = {"discriminator_norm": "none", "r1": 0.1, "optim": optim}
    model = scale_weights(RepeatedLatents(SHAPE, latent_dim=5, base_channels=4, **options))
    data = [{"image": image} for batch in batches(n) for image in batch["image"]]
    trainer(folder, limit_val_batches=0, **kwargs).fit(model, DataLoader(data[part], batch_size=size))
    return model


def assert_weights_close(a: nn.Module, b: nn.Module) -> None:
    for (name, one), other in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("n", [6, 5])  # five batches: the last step of an epoch has one
def test_accumulated_batches_equal_one_large_batch(tmp_path: Path, n: int) -> None:
    small, large = fit_batches(tmp_path, n, 4, accumulate=2), fit_batches(tmp_path, n, 8)
    assert small.trainer.global_step == small.ema.updates == large.ema.updates == 3
    assert_weights_close(small, large)


def train_on_rank(rank: int, folder: Path) -> dict[str, Tensor]:
    """Train one of two ranks on every other image, in batches of 4."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    settings = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
    model = fit_batches(folder, 6, 4, part=slice(rank, None, 2), **settings)
    return model.state_dict()


def test_two_ranks_equal_one_with_doubled_batch(tmp_path: Path) -> None:
    """Check all but batch norm, which normalises per rank; its statistics are the mean of both ranks."""
    states = on_two_ranks(train_on_rank, tmp_path)
    assert same(*states)
    both = build(discriminator_norm="none")
    both.load_state_dict(states[0])
    assert_weights_close(both, fit_batches(tmp_path, 6, 8))


@pytest.mark.parametrize("every", [1, 2])
def test_step_schedules_follow_their_optimizers(tmp_path: Path, every: int, recwarn: pytest.WarningsRecorder) -> None:
    """Check that each schedule follows the steps of its optimizer and ends at 0."""
    optim = AlternatingOptim(lr_scheduler=WarmupCosine, accumulate_grad_batches=2)
    model = build(optim=optim, discriminator_steps=every)
    fitting = fit(model, tmp_path, n=5, max_epochs=2)
    assert fitting.global_step == 6
    for config, steps in zip(fitting.lr_scheduler_configs, (6, 6 // every), strict=True):
        assert config.scheduler.total_steps == config.scheduler.last_epoch == steps
        assert config.scheduler.get_last_lr() == pytest.approx([0], abs=1e-9)
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


@pytest.mark.parametrize("every", [1, 4])  # the generator's first step is in the second epoch
def test_epoch_schedules_follow_epochs(tmp_path: Path, every: int, recwarn: pytest.WarningsRecorder) -> None:
    step = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    model = build(optim=AlternatingOptim(lr_scheduler=step), discriminator_steps=every)
    fitting = fit(model, tmp_path, n=3, max_epochs=2)
    assert [optimizer.param_groups[0]["lr"] for optimizer in fitting.optimizers] == pytest.approx([2e-6, 2e-6])
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


class FallsAndRises:
    """Metric with the values 1, 0, 1, 2, ..."""

    validations = 0

    def prepare(self, module: LightningModule) -> None:
        pass

    def needs_more(self, stage: str) -> bool:
        return False

    def compute(self, stage: str, module: DCGAN) -> dict[str, float]:
        self.validations += 1
        return {"cnn_fid": abs(self.validations - 2.0)}


def test_plateau_schedule_follows_monitored_metric(tmp_path: Path) -> None:
    def build_for(monitor: str) -> DCGAN:
        plateau = partial(ReduceLROnPlateau, monitor=monitor, patience=0, factor=0.1)
        return build(optim=AlternatingOptim(lr_scheduler=plateau), scores=FallsAndRises())

    settings = {"limit_val_batches": 1, "max_epochs": 7, "check_val_every_n_epoch": 2}
    fitting = fit(build_for("val/cnn_fid"), tmp_path, n=1, **settings)
    # after epochs (from 1): none, 1, 1, 0, 0, 1, 1: worse or equal at the 3rd, 5th, 6th and 7th
    assert [optimizer.param_groups[0]["lr"] for optimizer in fitting.optimizers] == pytest.approx([2e-8, 2e-8])
    with pytest.raises(UsageError, match=r"monitors val/fid, .*val/cnn_fid"):
        fit(build_for("val/fid"), tmp_path, n=1, **settings)


def test_checkpoint_monitors_metric(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{epoch}", monitor="val/cnn_fid", mode="min")
    kwargs = {"limit_val_batches": 1, "max_epochs": 4, "enable_checkpointing": True, "callbacks": [saving]}
    model = build(scores=FallsAndRises())
    fit(model, tmp_path, n=2, **kwargs)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=1.ckpt"]
    best = DCGAN.load_from_checkpoint(saving.best_model_path, weights_only=True)
    assert best.ema.updates == 4
    assert model.ema.updates == 8


@pytest.mark.parametrize("norm", [pytest.param("batch", marks=pytest.mark.slow), "spectral"])
def test_overfits_single_image(tmp_path: Path, norm: Any) -> None:
    """Check with an image of a light and a dark half."""
    image = torch.full(SHAPE, -0.8)
    image[:, :8] = 0.8
    adam = partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.99))
    options = {"optim": AlternatingOptim(adam), "ema": EMAOptions(decay=0.8), "discriminator_norm": norm}
    model = build(**options, base_channels=8)
    assert (model.sample(16) - image).square().mean() > 0.6
    trainer(tmp_path, max_epochs=1).fit(model, DataLoader([{"image": image}] * 800, batch_size=8))
    samples = model.sample(16, generator=torch.Generator().manual_seed(0))
    assert (samples - image).square().mean() < 0.15


@pytest.mark.parametrize(
    ("options", "interval"),
    [({}, 1), ({"discriminator_steps": 2, "discriminator_norm": "spectral", "r1": 1.0}, 3)],
)
def test_resume_within_epoch_equals_uninterrupted(tmp_path: Path, options: dict[str, Any], interval: int) -> None:
    """Check both optimizers, both schedules, lazy R1, the EMA weights and the remaining batches of an epoch."""

    def run(name: str, steps: int, path: Path | None = None) -> dict[str, Any]:
        saving = ModelCheckpoint(tmp_path, name, every_n_train_steps=steps)
        data = ShapesImages(train_size=12, val_size=4, batch_size=4, num_workers=0, side=16)
        step = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        model = build(optim=AlternatingOptim(lr_scheduler=step, r1_interval=interval), **options)
        torch.manual_seed(0)
        kwargs = {"max_epochs": -1, "max_steps": steps, "enable_checkpointing": True, "limit_val_batches": 0}
        trainer(tmp_path, callbacks=[saving, ExactResume()], **kwargs).fit(
            model, data, ckpt_path=path, weights_only=True
        )
        return torch.load(tmp_path / f"{name}.ckpt", weights_only=True)

    whole = run("whole", 4)
    run("half", 2)
    continued = run("continued", 4, tmp_path / "half.ckpt")
    assert same(whole["state_dict"], continued["state_dict"])
    assert str(whole["optimizer_states"]) == str(continued["optimizer_states"])
    assert str(whole["lr_schedulers"]) == str(continued["lr_schedulers"])
    assert len(whole["optimizer_states"]) == len(whole["lr_schedulers"]) == 2
    assert continued["global_step"] == 4


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "least_squares"])
def test_every_loss_trains_in_bf16_mixed(tmp_path: Path, loss: Any) -> None:
    model = build(loss=loss, discriminator_norm="spectral", r1=1.0, optim=AlternatingOptim(channels_last=True))
    fitting = fit(model, tmp_path, precision="bf16-mixed")
    assert fitting.callback_metrics["train/d_loss"].isfinite()
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_trainer_clipping_and_accumulation_raise(tmp_path: Path) -> None:
    for name, value in (("gradient_clip_val", 1.0), ("accumulate_grad_batches", 2)):
        with pytest.raises(UsageError, match=f"use model.optim.{name}"):
            fit(build(), tmp_path, **{name: value})


def test_trainer_can_fit_twice(tmp_path: Path) -> None:
    model = build(optim=AlternatingOptim(accumulate_grad_batches=2))
    fitting = fit(model, tmp_path)
    assert fitting.accumulate_grad_batches == 1  # the setting belongs to the model, not to the Trainer
    fitting.fit_loop.max_epochs = 2
    fitting.fit(model, batches(4))
    fitting.validate(model, batches(2), verbose=False)
    assert fitting.global_step == 4


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_samples_use_ema_weights(tmp_path: Path) -> None:
    model = build()
    fit(model, tmp_path)
    model.eval()
    z = model.draw_latents(2)
    assert torch.equal(model.decode(z), model.ema.module(z))
    assert not torch.allclose(model.decode(z), model.generator(z))
    plain = build(ema=None).eval()
    assert torch.equal(plain.decode(z), plain.generator(z))


@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_priors_have_stated_moments(prior: Any) -> None:
    z = build(prior=prior, latent_dim=50).draw_latents(400, torch.Generator().manual_seed(0))
    deviation = 1 / 3**0.5 if prior == "uniform" else 1.0
    assert z.mean().item() == pytest.approx(0, abs=0.02)
    assert z.std().item() == pytest.approx(deviation, rel=0.02)
    assert (z.abs().max() <= 1) == (prior == "uniform")


@pytest.mark.parametrize("inference", [False, True])
def test_encode_recovers_latent_of_sample(inference: bool) -> None:
    model = scale_weights(build(ema=None, inversion_steps=150, latent_dim=3, base_channels=8)).eval()
    z = model.draw_latents(4, torch.Generator().manual_seed(0))
    with torch.inference_mode(inference):
        x = model.decode(z)
        found = model.encode(x)
        again = model.reconstruct(x)
    assert (found - z).abs().max() < 0.1
    assert (again - x).square().mean() < 1e-3 * (x - x.mean(0)).square().mean()
    torch.testing.assert_close(model.encode(x[:1].clone()), found[:1].clone(), atol=1e-2, rtol=0)


def test_encode_keeps_training_modes() -> None:
    model = build(ema=None)
    model.generator.layers[1].eval()
    before = [part.training for part in model.modules()]
    model.encode(torch.zeros(2, *SHAPE))
    assert before == [part.training for part in model.modules()]


def test_num_classes_does_not_imply_conditional(tmp_path: Path) -> None:
    model = build(num_classes=3)
    assert model.num_classes is None
    assert model.hparams.num_classes == 3
    fit(model, tmp_path)


def test_conditional_requires_classes_and_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model.num_classes"):
        build(conditional=True)
    model = build(conditional=True, num_classes=3)
    with pytest.raises(UsageError, match="no 'label'"):
        trainer(tmp_path).fit(model, DataLoader([{"image": torch.zeros(SHAPE)}] * 4, batch_size=4))


def test_conditional_networks_require_labels() -> None:
    model = build(conditional=True, num_classes=3)
    for call in (model.decode, model.generator):
        with pytest.raises(UsageError, match="needs labels of 0 to 2"):
            call(torch.zeros(2, 5))
    for call in (model.encode, model.discriminator):
        with pytest.raises(UsageError, match="needs labels of 0 to 2"):
            call(torch.zeros(2, *SHAPE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: 0}, rf"model.{name} must be at least 1, got 0") for name in ("latent_dim", "base_channels")),
        *(({name: 0}, rf"model.{name} must be at least 1, got 0") for name in ("discriminator_steps",)),
        ({"optim": {"accumulate_grad_batches": 0}}, "model.optim.accumulate_grad_batches must be at least 1, got 0"),
        ({"optim": {"r1_interval": 0}}, "model.optim.r1_interval must be at least 1, got 0"),
        ({"optim": {"r1_interval": 4}}, "model.optim.r1_interval is 4, but model.r1 is 0; set model.r1 above 0"),
        ({"inversion_steps": -1}, "model.inversion_steps must be at least 0, got -1"),
        ({"optim": {"gradient_clip_val": 0.0}}, "model.optim.gradient_clip_val must be above 0 or null, got 0.0"),
        ({"ema": {"decay": 1.0}}, "model.ema.decay must be in .*0.999, got 1.0"),
        ({"loss": "wgan"}, "model.loss must be .*hinge.*got 'wgan'"),
        ({"prior": "gauss"}, "model.prior must be .*normal.*got 'gauss'"),
        ({"discriminator_norm": "x"}, "model.discriminator_norm must be .*spectral.*got 'x'"),
        ({"r1": -1.0}, "model.r1 must be at least 0, got -1.0"),
        ({"r1": 1.0}, "model.r1 is 1.0 .*discriminator_norm to spectral"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(**options)


def test_inherits_lightning_module() -> None:
    assert isinstance(build(), LightningModule)
