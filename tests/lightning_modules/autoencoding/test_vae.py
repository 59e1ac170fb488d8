"""VAE: the ELBO and its terms against closed forms."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal
from torch.distributions import kl_divergence as reference

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding import (
    VAE,
    Bernoulli,
    Constant,
    Cyclical,
    DiscretizedLogistic,
    Gaussian,
    PixelMeanWeight,
    WarmUp,
    kl_divergence,
)
from darkroom.lightning_modules.autoencoding.active_units import ActiveUnits
from darkroom.lightning_modules.fit_progress import FitProgress
from tests.contracts.generation import GenerationContract
from tests.contracts.module import trainer


class TestVAE(GenerationContract):
    compile_backend = "inductor"
    compile_mode = "max-autotune"
    overfit_loss = ("reconstruction", 450.0)

    def build(self, **kwargs: Any) -> VAE:
        torch.manual_seed(0)
        return VAE(self.image_shape, latent_dim=4, channels=(8, 16), **kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestVAEOfLevels(GenerationContract):
    test_overfits_one_batch = None  # trains as TestVAE does
    test_exported_files_predict_as_model = None  # TestVAE exports

    def build(self, **kwargs: Any) -> VAE:
        torch.manual_seed(0)
        options = {"iwae_samples": 3, "free_bits": 0.1, **self.object_arguments()}
        return VAE(self.image_shape, None, 4, "mlp", hidden=(16,), **options, **kwargs)

    def object_arguments(self) -> dict[str, Any]:
        return {"likelihood": DiscretizedLogistic(3), "kl_schedule": WarmUp()}


@pytest.mark.slow  # a variant
class TestVAEWithMixture(GenerationContract):
    test_overfits_one_batch = None  # trains as TestVAE does

    def build(self, **kwargs: Any) -> VAE:
        torch.manual_seed(0)
        return VAE(self.image_shape, latent_dim=4, channels=(8, 16), code_components=3, **kwargs)


def test_mixture_of_codes_has_moments_of_aggregated_posterior(tmp_path: Path) -> None:
    model = VAE((3, 16, 16), latent_dim=2, channels=(4,), code_components=2)
    trainer(tmp_path).fit(model, TestVAE().data())
    codes = model.codes.recent[: int(model.codes.seen)]
    drawn = model.draw_latents(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), codes.std(0, correction=0), atol=0.1, rtol=0.1)


def test_mixture_of_codes_does_not_change_bounds() -> None:
    x = torch.rand(4, 1, 4, 4) * 2 - 1
    torch.manual_seed(0)
    plain = tiny()
    mixed = tiny(code_components=2)
    mixed.load_state_dict(plain.state_dict(), strict=False)
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    means = [model.posterior(x) for model in (plain, mixed)]
    torch.testing.assert_close(*means)
    bounds = []
    for model, generator in zip((plain, mixed), noise, strict=True):
        model.evaluation_noise = generator
        bounds.append(model.log_weights(x, *means[0], 3)[1])
    torch.testing.assert_close(*bounds)


@pytest.mark.parametrize("options", [{"code_components": 0}, {"code_components": 2, "latent_channels": 1}])
def test_invalid_mixtures_of_codes_raise(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="model.code_components must be null for codes that are maps, and at least 1"):
        VAE((1, 8, 8), channels=(4,), **({"latent_dim": 2} if len(options) == 1 else {}), **options)


def tiny(**kwargs: Any) -> VAE:
    return VAE((1, 4, 4), None, 3, "mlp", hidden=(8,), **kwargs).eval()


def make_images(n: int, shape: tuple[int, int, int] = (1, 4, 4)) -> Tensor:
    return torch.rand(n, *shape) * 2 - 1


def test_kl_matches_torch_distributions() -> None:
    mean, log_variance = torch.randn(6, 5), torch.randn(6, 5)
    expected = reference(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    assert kl_divergence(torch.zeros(3), torch.zeros(3)).abs().max() == 0


class PrincipalComponents(nn.Module):
    """Probabilistic PCA (Tipping & Bishop 1999): x = W z + m + sigma epsilon, and its exact posterior.

    A posterior with a diagonal covariance is exact where the columns of W are orthogonal.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        basis = torch.linalg.qr(torch.randn(16, 3))[0]
        self.w, self.m, self.sigma = basis * torch.tensor([2.0, 1.0, 0.5]), torch.randn(16) / 4, sigma
        self.precision = self.w.square().sum(0) / sigma**2 + 1

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = self.w @ self.w.T + self.sigma**2 * torch.eye(16)
        return MultivariateNormal(self.m, covariance).log_prob(x.flatten(1))

    def encode(self, x: Tensor) -> Tensor:
        mean = (x.flatten(1) - self.m) @ self.w / self.sigma**2 / self.precision
        return torch.cat([mean, -self.precision.log().expand_as(mean)], 1)

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.w.T + self.m).view(-1, 1, 4, 4)


class FunctionModule(nn.Module):
    """Wrap a function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pca_and_vae(off: Tensor | float = 0.0) -> tuple[PrincipalComponents, VAE]:
    """Return probabilistic PCA and an equal VAE, whose posterior mean and log variance have an offset."""
    pca = PrincipalComponents(sigma=0.4)
    networks = {"encoder": FunctionModule(lambda x: pca.encode(x) + off), "decoder": FunctionModule(pca.decode)}
    return pca, VAE((1, 4, 4), None, 3, **networks, likelihood=Gaussian(0.4)).eval()


def test_elbo_of_exact_posterior_is_evidence() -> None:
    pca, model = pca_and_vae()
    x = make_images(5)
    # p(x, z) / q(z|x) = p(x) for every z
    log_weights = model.log_weights(x, *model.posterior(x), 7)[1]
    torch.testing.assert_close(log_weights, pca.log_evidence(x).expand(7, 5), atol=1e-3, rtol=1e-4)
    # with the KL in closed form, equal in expectation
    elbo = model.evaluate({"image": x.repeat(4000, 1, 1, 1)}, "val")["elbo"]
    torch.testing.assert_close(elbo, pca.log_evidence(x).mean(), atol=0.05, rtol=0)


def test_iwae_bound_is_between_elbo_and_evidence() -> None:
    off = torch.tensor([0.2] * 3 + [0.7] * 3)  # wrong mean and too large variance
    pca, model = pca_and_vae(off)
    x = make_images(40)
    evidence, bounds = pca.log_evidence(x).mean(), []
    for k in (1, 10, 2000):
        model.iwae_samples = k
        terms = model.evaluate({"image": x}, "test")
        bounds.append(terms["iwae"].item())
        assert terms["iwae"] >= terms["elbo"] - 1e-4  # on the same samples, by Jensen's inequality
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[2] == pytest.approx(evidence.item(), abs=0.05)


def test_importance_samples_have_stated_number() -> None:
    model, x = tiny(), make_images(300)
    likelihoods, weights = model.log_weights(x, *model.posterior(x), 5)
    assert likelihoods.shape == weights.shape == (5, 300)
    assert weights.std(0).min() > 0  # independent noise


def test_beta_scales_kl_but_not_elbo() -> None:
    x = make_images(8)
    found = {}
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(0)
        model = tiny(kl_schedule=Constant(beta))
        found[beta] = {name: value.item() for name, value in model.evaluate({"image": x}, "val").items()}
    for beta, terms in found.items():
        assert terms["loss"] == pytest.approx(terms["reconstruction"] + beta * terms["kl"], rel=1e-5)
        assert terms["elbo"] == pytest.approx(-(terms["reconstruction"] + terms["kl"]), rel=1e-5)
        assert terms["kl"] > 0
        assert terms["elbo"] == found[1.0]["elbo"]
    assert found[1.0]["loss"] == pytest.approx(-found[1.0]["elbo"])
    assert found[0.0]["loss"] == found[0.0]["reconstruction"]


def test_terms_sum_over_values_and_average_over_images() -> None:
    model, x = tiny(), make_images(6)
    terms = model.evaluate({"image": x}, "val")
    mean, log_variance = model.posterior(x)
    expected = reference(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum() / 6
    torch.testing.assert_close(terms["kl"], expected)


def test_reconstruction_is_expected_log_probability() -> None:
    pca, model = pca_and_vae()
    x = make_images(5)
    found = model.evaluate({"image": x.repeat(4000, 1, 1, 1)}, "val")["reconstruction"]
    mean, log_variance = model.posterior(x)
    z = Normal(mean, (log_variance / 2).exp()).sample((4000,))
    expected = -Normal(pca.decode(z.flatten(0, 1)), 0.4).log_prob(x.repeat(4000, 1, 1, 1)).sum() / (5 * 4000)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_free_bits_are_minimum_kl_per_dimension() -> None:
    model = tiny(free_bits=0.5)
    kl = torch.tensor([[0.0, 2.0, 0.6], [0.2, 4.0, 0.6]])
    terms = model.loss_terms(torch.tensor([10.0, 20.0]), kl, 1.0)
    assert terms["loss"].item() == pytest.approx(15 + 0.5 + 3 + 0.6)
    assert terms["kl"].item() == pytest.approx(0.1 + 3 + 0.6)
    kl.requires_grad_()
    model.loss_terms(torch.zeros(2), kl, 1.0).get("loss").backward()
    assert kl.grad.tolist() == [[0, 0.5, 0.5]] * 2


def test_bits_per_dim_requires_discrete_likelihood() -> None:
    x = torch.where(torch.rand(4, 1, 4, 4) < 0.5, -1.0, 1.0)
    for likelihood, there in ((Bernoulli(), False), (Gaussian(), False), (Bernoulli(True), True)):
        assert ("bits_per_dim" in tiny(likelihood=likelihood).evaluate({"image": x}, "val")) is there
    terms = tiny(likelihood=DiscretizedLogistic(1)).evaluate({"image": x}, "val")
    assert terms["bits_per_dim"].item() == pytest.approx(-terms["elbo"].item() / 16 / math.log(2), rel=1e-5)
    with pytest.raises(UsageError, match="binarize"):
        tiny(likelihood=Bernoulli(True)).evaluate({"image": x / 2}, "val")


def test_active_units_counts_dimensions_above_threshold() -> None:
    units, codes = ActiveUnits(4), torch.randn(1000, 4) * torch.tensor([1.0, 0.12, 0.08, 0.0]) + 3
    for batch in codes.split(170):
        units.update(batch)
    assert units.compute() == 2  # variances 1, .0144, .0064, 0 against .01


@pytest.mark.parametrize("mean", [0.0, 30.0, 100.0])
def test_active_units_of_large_means(mean: float) -> None:
    units = ActiveUnits(2)
    for batch in (torch.randn(20_000, 2) * torch.tensor([0.12, 0.08]) + mean).split(250):
        units.update(batch)
    assert units.compute() == 1


def test_ranks_merge_active_units() -> None:
    ranks, codes = [ActiveUnits(3) for _ in range(2)], torch.tensor([[0.0, 1.0, 0.0], [0.1, 1.0, 0.5], [2.0, 1.0, 0.0]])
    for units, part in zip(ranks, (codes[:1], codes[1:]), strict=True):
        units.update(part)
    for state in ("mean", "squares", "count"):  # as torchmetrics does
        setattr(ranks[0], state, torch.stack([getattr(units, state) for units in ranks]))
    ranks[0].threshold = 0.06  # variances of all three: .87, 0 and .056
    assert ranks[0].compute() == 1
    ranks[0].threshold, ranks[0]._computed = 0.05, None
    assert ranks[0].compute() == 2


def test_collapsed_posterior_has_no_active_units(tmp_path: Path) -> None:
    model = TestVAE().build()
    nn.init.zeros_(model.encoder.head.weight)
    nn.init.zeros_(model.encoder.head.bias)
    running = trainer(tmp_path)
    running.validate(model, TestVAE().data(), verbose=False)
    assert running.callback_metrics["val/active_units"] == 0
    assert running.callback_metrics["val/kl"] == 0


def test_every_term_is_logged(tmp_path: Path) -> None:
    model, data, fitting = TestVAE().build(iwae_samples=2), TestVAE().data(), trainer(tmp_path, log_every_n_steps=1)
    fitting.fit(model, data)
    terms = {"loss", "reconstruction", "kl", "elbo"}
    names = {f"{stage}/{term}" for stage in ("train", "val") for term in terms} | {"train/beta", "val/active_units"}
    assert names <= set(fitting.callback_metrics)
    fitting.test(model, data, verbose=False)
    assert {"test/iwae", "test/active_units", "test/MIG"} <= set(fitting.callback_metrics)


def test_gap_of_a_single_factor_is_logged(tmp_path: Path) -> None:
    data, testing = TestVAE().data(test_size=24), trainer(tmp_path)
    data.factor_names = ("kind",)
    after = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda *x: (batch := after(*x)) | {"factors": batch["factors"][:, :1]}
    testing.test(TestVAE().build(), data, verbose=False)
    assert testing.callback_metrics["test/MIG/kind"] == testing.callback_metrics["test/MIG"]


def test_beta_schedule_applies_to_validation(tmp_path: Path) -> None:
    model, seen = TestVAE().build(kl_schedule=WarmUp(2.0, 1.0)), []
    beta = model.beta
    model.beta = lambda: seen.append((model.training, beta())) or seen[-1][1]
    fitting = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=1)
    fitting.fit(model, TestVAE().data())  # two batches of training, two of validation, an epoch
    assert sorted({b for training, b in seen if training}) == [0.0, 0.5, 1.0, 1.5]
    assert sorted({b for training, b in seen if not training}) == [0.0, 1.0, 2.0]
    fitting.test(model, TestVAE().data(), verbose=False)
    assert seen[-1][1] == 2.0


def test_beta_does_not_fall_when_a_fit_is_made_longer(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=2)
    first.fit(TestVAE().build(kl_schedule=WarmUp(1.0, 1.0)), TestVAE().data())
    first.save_checkpoint(tmp_path / "short.ckpt")
    model, seen = TestVAE().build(kl_schedule=WarmUp(1.0, 1.0)), []
    beta = model.beta
    model.beta = lambda: seen.append(beta()) or seen[-1]
    longer = trainer(tmp_path, max_epochs=4)
    longer.fit(model, TestVAE().data(), ckpt_path=tmp_path / "short.ckpt")
    assert set(seen) == {1.0}


def test_progress_of_a_longer_fit_continues_from_its_fraction() -> None:
    progress = FitProgress()
    progress.begin(100, 0)
    assert [progress.at(step) for step in (0, 30, 100)] == [0.0, 0.3, 1.0]
    resumed = FitProgress()
    resumed.load_state_dict(progress.state_dict())
    resumed.begin(200, 50)
    assert [resumed.at(step) for step in (50, 125, 200)] == pytest.approx([0.5, 0.75, 1.0])
    same = FitProgress()
    same.load_state_dict(progress.state_dict())
    same.begin(100, 50)
    assert [same.at(step) for step in range(101)] == [progress.at(step) for step in range(101)]


def test_unlimited_fit_accepts_only_constant_schedule(tmp_path: Path) -> None:
    def fit(schedule: Any) -> None:
        endless = trainer(tmp_path, max_epochs=-1, max_time={"seconds": 0}, limit_val_batches=0)
        endless.fit(TestVAE().build(kl_schedule=schedule), TestVAE().data())

    fit(Constant())
    with pytest.raises(UsageError, match="Cyclical needs the length of the fit"):
        fit(Cyclical())


def test_pixel_mean_weight_requires_unit_gaussian() -> None:
    for likelihood in (None, Gaussian(), Gaussian(0.5)):
        with pytest.raises(UsageError, match="Gaussian with sigma 1 .*PixelMeanWeight"):
            tiny(kl_schedule=PixelMeanWeight(), likelihood=likelihood)
    assert tiny(kl_schedule=PixelMeanWeight(0.1), likelihood=Gaussian(1)).beta() == pytest.approx(0.8)


def test_evaluation_is_deterministic_and_keeps_global_rng(tmp_path: Path) -> None:
    model, data, found = TestVAE().build(), TestVAE().data(), []
    for _ in range(2):
        running, before = trainer(tmp_path), torch.get_rng_state()
        running.validate(model, data, verbose=False)
        found.append(running.callback_metrics["val/elbo"])
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_custom_networks_are_supported() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4)))
    model = VAE((1, 4, 4), latent_dim=3, encoder=encoder, decoder=decoder)
    assert model.sample(2).shape == (2, 1, 4, 4)
    assert "encoder" not in model.hparams
    with pytest.raises(UsageError, match=r"model.encoder .*\(2, 8\)"):
        VAE((1, 4, 4), latent_dim=4, encoder=encoder)


def test_invalid_arguments_raise() -> None:
    for wrong, message in (
        ({"free_bits": -1}, "model.free_bits must be .*got -1"),
        ({"iwae_samples": -1}, "model.iwae_samples must be .*got -1"),
    ):
        with pytest.raises(UsageError, match=message):
            tiny(**wrong)
