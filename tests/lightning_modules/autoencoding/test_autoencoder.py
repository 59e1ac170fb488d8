"""AutoEncoder: reconstruction errors in closed form and the distribution of codes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding import AutoEncoder
from darkroom.lightning_modules.autoencoding.code_distribution import CodeDistribution, CodeMixture
from tests.contracts.generation import GenerationContract
from tests.contracts.module import trainer
from tests.fakes.ranks import on_two_ranks


class TestAutoEncoder(GenerationContract):
    overfit_loss = ("loss", 25.0)  # the mean image has 115

    def build(self, **kwargs: Any) -> AutoEncoder:
        torch.manual_seed(0)
        return AutoEncoder(self.image_shape, latent_dim=4, channels=(8, 16), **kwargs)


@pytest.mark.slow  # a variant: the method's own contract is in the unit lane
class TestDenoisingAutoEncoder(GenerationContract):
    test_overfits_one_batch = None  # the noise hides a part of the input
    test_exported_files_predict_as_model = None  # TestAutoEncoder exports

    def build(self, **kwargs: Any) -> AutoEncoder:
        torch.manual_seed(0)
        options = {"architecture": "mlp", "hidden": (16,), "reconstruction": "cross_entropy", "noise": 0.3}
        return AutoEncoder(self.image_shape, latent_dim=4, **options, **kwargs)


@pytest.mark.slow  # a variant
class TestAutoEncoderWithMixture(GenerationContract):
    test_overfits_one_batch = None  # trains as TestAutoEncoder does

    def build(self, **kwargs: Any) -> AutoEncoder:
        torch.manual_seed(0)
        return AutoEncoder(self.image_shape, latent_dim=4, channels=(8, 16), code_components=3, **kwargs)


@pytest.mark.slow  # a variant
class TestAutoEncoderWithMaps(GenerationContract):
    test_overfits_one_batch = None  # trains as TestAutoEncoder does

    def build(self, **kwargs: Any) -> AutoEncoder:
        torch.manual_seed(0)
        return AutoEncoder(self.image_shape, latent_channels=2, channels=(8, 16), **kwargs)


def test_losses_sum_over_values_and_average_over_images() -> None:
    x = torch.rand(3, 1, 4, 4) * 2 - 1
    squares = AutoEncoder((1, 4, 4), 2, "mlp", hidden=(3,)).eval()
    output = squares.decoder(squares.encoder(x))
    expected = (output - x).square().sum() / 3
    torch.testing.assert_close(squares.evaluate({"image": x}, "val")["loss"], expected)
    cross = AutoEncoder((1, 4, 4), 2, "mlp", hidden=(3,), reconstruction="cross_entropy").eval()
    output = cross.decoder(cross.encoder(x))
    expected = F.binary_cross_entropy_with_logits(output, (x + 1) / 2, reduction="sum") / 3
    torch.testing.assert_close(cross.evaluate({"image": x}, "val")["loss"], expected)


def test_unknown_option_raises() -> None:
    with pytest.raises(UsageError, match="model.reconstruction must be one of squared_error, cross_entropy, got 'mse'"):
        AutoEncoder((1, 4, 4), reconstruction="mse")
    with pytest.raises(UsageError, match="model.architecture must be one of conv, mlp, got 'cnn'"):
        AutoEncoder((1, 4, 4), architecture="cnn")


def test_noise_applies_only_to_training(tmp_path: Path) -> None:
    model, seen = TestAutoEncoder().build(noise=0.3), []
    encode = model.encode
    model.encode = lambda x, **kwargs: seen.append((x == -1).float().mean().item()) or encode(x, **kwargs)
    data = TestAutoEncoder().data(batch_size=8, train_size=8)
    trainer(tmp_path, num_sanity_val_steps=0).fit(model, data)
    assert seen[0] == pytest.approx(0.3, abs=0.03)
    assert seen[-1] < 0.01
    with pytest.raises(UsageError, match="model.noise must be .*got 1"):
        AutoEncoder((1, 4, 4), noise=1.0)


def test_moments_of_few_batches_are_exact() -> None:
    codes, distribution = torch.randn(40, 3) @ torch.randn(3, 3) + 5, CodeDistribution(3)
    for batch in codes.chunk(4):
        distribution.update(batch)
    torch.testing.assert_close(distribution.mean, codes.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(distribution.covariance, codes.T.cov(correction=0), atol=1e-4, rtol=1e-4)


def test_codes_that_are_maps_have_a_diagonal_covariance() -> None:
    model = AutoEncoder((3, 16, 16), latent_channels=2, channels=(4, 8))
    codes = torch.randn(40, 32) @ torch.randn(32, 32) + 5
    for batch in codes.chunk(4):
        model.codes.update(batch)
    torch.testing.assert_close(model.codes.mean, codes.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.codes.covariance, codes.var(0, correction=0), atol=1e-4, rtol=1e-4)
    samples = model.draw_latents(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(samples.mean(0), codes.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(samples.std(0), codes.std(0, correction=0), atol=0, rtol=0.05)
    with pytest.raises(UsageError, match="model.code_components must be 1 with model.latent_channels, got 3"):
        AutoEncoder((3, 16, 16), latent_channels=2, channels=(4, 8), code_components=3)


def test_moments_of_many_batches_forget_first() -> None:
    distribution = CodeDistribution(2, memory=10)
    distribution.update(1000 + torch.randn(50, 2))
    for _ in range(300):
        distribution.update(torch.randn(50, 2))
    assert distribution.mean.abs().max() < 0.3
    assert (distribution.covariance - torch.eye(2)).abs().max() < 0.4


def test_sampled_codes_follow_singular_distribution() -> None:
    distribution = CodeDistribution(3)
    direction = torch.tensor([1.0, -2.0, 0.0])
    distribution.update(torch.randn(4000, 1) * direction + 7)
    samples = distribution.from_noise(torch.randn(20_000, 3))
    torch.testing.assert_close(samples.mean(0), torch.full((3,), 7.0), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.T.cov(), torch.outer(direction, direction), atol=0.2, rtol=0)
    assert samples[:, 2].std() < 1e-4  # a constant code


@pytest.mark.parametrize("dimensions", [20, 256])
def test_sampled_codes_of_rank_one_stay_on_line(dimensions: int) -> None:
    distribution, direction = CodeDistribution(dimensions), torch.randn(1, dimensions)
    for _ in range(30):
        distribution.update(torch.randn(64, 1) @ direction)
    samples = distribution.from_noise(torch.randn(100, dimensions)) - distribution.mean
    along = samples @ direction.T @ direction / direction.square().sum()
    torch.testing.assert_close(samples, along, atol=1e-2, rtol=0)


def test_mixture_samples_lie_in_clusters_of_codes() -> None:
    """A single normal distribution would have its mode between the clusters, where no code is."""
    generator = torch.Generator().manual_seed(0)
    mixture, normal = CodeMixture(2, components=2, memory=1200), CodeDistribution(2)
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [5.0, 0.0], [5.0, 0.0]])  # a quarter is left
    for _ in range(4):  # the first third is forgotten
        codes = centres.repeat(100, 1) + 0.5 * torch.randn(400, 2, generator=generator)
        mixture.update(codes)
        normal.update(codes)
    mixture.fit()
    samples = mixture.from_noise(torch.randn(8000, mixture.noise_dim, generator=generator))
    assert (samples[:, 0] < 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert samples[samples[:, 0] > 0].std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert (samples[:, 0].abs() < 2).float().mean() < 0.001
    between = normal.from_noise(torch.randn(8000, normal.noise_dim, generator=generator))[:, 0].abs() < 2
    assert between.float().mean() > 0.1


def test_codes_of_a_class_come_from_its_own_mixture() -> None:
    generator = torch.Generator().manual_seed(0)
    mixture = CodeMixture(2, components=2, classes=3, memory=300)
    labels = torch.arange(300) % 2  # the last class has no codes
    centres = torch.tensor([[-5.0, 1.0], [5.0, 1.0]])
    mixture.update(centres[labels] + 0.1 * torch.randn(300, 2, generator=generator), labels)
    mixture.fit()
    noise = torch.randn(900, mixture.noise_dim, generator=generator)
    asked = torch.arange(900) % 3
    codes = mixture.from_noise(noise, asked)
    for label, centre in enumerate(centres):
        torch.testing.assert_close(codes[asked == label].mean(0), centre, atol=0.05, rtol=0)
    torch.testing.assert_close(codes[asked == 2], noise[asked == 2, :2])  # the prior
    extreme = torch.tensor([[0.0, 0.0, 40.0]])  # the last component of the class, not of the last class
    assert mixture.from_noise(extreme, torch.tensor([0]))[0, 0] < -4
    everything = mixture.from_noise(noise)[:, 0]
    assert (everything < -3).float().mean() == pytest.approx(1 / 3, abs=0.05)  # all classes with equal probability


def test_mixture_of_few_codes_has_fewer_components() -> None:
    mixture = CodeMixture(2, components=5)
    mixture.fit()  # no codes yet: the standard normal distribution
    assert torch.equal(mixture.from_noise(torch.ones(3, 3)), torch.ones(3, 2))
    mixture.update(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    mixture.fit()
    assert (mixture.weights > 0).tolist() == [[True, True, False, False, False]]
    with pytest.raises(UsageError, match="model.code_components must be at least 1, got 0"):
        AutoEncoder((1, 4, 4), code_components=0)


def test_mixture_is_fitted_to_finite_codes() -> None:
    codes = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    clean, broken = CodeMixture(2, components=2), CodeMixture(2, components=2)
    clean.update(codes)
    broken.update(torch.cat([torch.tensor([[torch.nan, 0.0], [0.0, torch.inf]]), codes]))
    for mixture in (clean, broken):
        mixture.fit()
    assert torch.equal(clean.means, broken.means)
    nothing = CodeMixture(2, components=2)
    nothing.update(torch.full((4, 2), torch.nan))
    nothing.fit()
    assert nothing.means.isfinite().all()


def test_mixture_is_fitted_before_validation_and_kept_in_checkpoints(tmp_path: Path) -> None:
    model = AutoEncoder((3, 16, 16), latent_dim=4, channels=(8,), code_components=2)
    trainer(tmp_path).fit(model, TestAutoEncoder().data())
    assert model.codes.means.abs().max() > 0
    other = AutoEncoder((3, 16, 16), latent_dim=4, channels=(8,), code_components=2)
    other.load_state_dict(model.state_dict())
    drawn = [one.draw_latents(5, torch.Generator().manual_seed(1)) for one in (model, other)]
    assert torch.equal(*drawn)


def test_cast_keeps_moments_in_float32() -> None:
    codes, distributions = torch.randn(300, 64, 2) / 10 + 1, []
    for dtype in (torch.float32, torch.bfloat16):
        distribution = CodeDistribution(2).to(dtype)
        for batch in codes:
            distribution.update(batch)
        distributions.append(distribution.state_dict())
    for name, value in distributions[0].items():
        assert torch.equal(value, distributions[1][name])


def test_sampling_works_after_bfloat16_fit(tmp_path: Path) -> None:
    model = AutoEncoder((3, 16, 16), latent_dim=20, channels=(8,))
    trainer(tmp_path, precision="bf16-true").fit(model, TestAutoEncoder().data())
    assert model.encoder.head.weight.dtype == torch.bfloat16
    assert model.sample(3).isfinite().all()


def test_moments_are_float32_under_autocast() -> None:
    codes, distribution = 100 + torch.randn(64, 4), CodeDistribution(4)
    with torch.autocast("cpu", torch.bfloat16):
        distribution.update(codes)
    torch.testing.assert_close(distribution.covariance, codes.T.cov(correction=0), atol=1e-3, rtol=1e-3)


def test_checkpoint_restores_code_distribution() -> None:
    first, second = (TestAutoEncoder().build() for _ in range(2))
    first.codes.update(3 + torch.randn(10, 4))
    second.load_state_dict(first.state_dict())
    samples = [model.sample(2, generator=torch.Generator().manual_seed(0)) for model in (first, second)]
    assert torch.equal(*samples)


def evaluate_on_rank(rank: int, folder: Path) -> list[torch.Tensor]:
    """Evaluate on one of two ranks, with different statistics of codes and batch norm."""
    model = TestAutoEncoder().build()
    model.trainer = SimpleNamespace(world_size=2, global_rank=rank)
    model.codes.update(model.encode(torch.full((4, 3, 16, 16), float(rank))).detach())
    alone = model.sample(2, generator=torch.Generator().manual_seed(0))
    model.on_validation_epoch_start()
    together = model.sample(2, generator=torch.Generator().manual_seed(0))
    return [alone, together]


def test_ranks_evaluate_with_statistics_of_rank_0(tmp_path: Path) -> None:
    (first, one), (second, two) = on_two_ranks(evaluate_on_rank, tmp_path)
    assert torch.equal(one, two)
    assert torch.equal(one, first)
    assert not torch.equal(two, second)
