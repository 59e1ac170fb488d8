"""Likelihood: terms of the variational bound against closed forms of normal distributions."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.likelihood import (
    FixedVariance,
    discretized_gaussian_log_likelihood,
    fixed_log_variance,
    gaussian_kl,
    learned_log_variance,
    posterior,
    prior_bits,
    vlb_term,
)
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    ZeroTerminalSNR,
)
from darkroom.lightning_modules.diffusion.objective.parameterization import VLB, Parameterization, loss_of

SCHEDULES = [LinearSchedule(), LinearSchedule(21), CosineSchedule(), CosineSchedule(2), SigmoidSchedule(100)]
SCHEDULES += [RectifiedFlow(100), EDMSchedule(100), ZeroTerminalSNR(CosineSchedule(100))]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda it: f"{type(it).__name__}-{it.num_steps}")
LEVELS = torch.arange(256) / 127.5 - 1


def make_images(n: int) -> Tensor:
    """Return images (n, 2, 3, 3) of 256 levels."""
    return LEVELS[torch.randint(256, (n, 2, 3, 3), generator=torch.Generator().manual_seed(0))]


def noisy(x: Tensor, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Return x_t with fixed noise."""
    return schedule.add_noise(x, torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), t)


@every_schedule
def test_posterior_matches_conditional_normal(schedule: NoiseSchedule) -> None:
    """Check against the conditional of the joint normal distribution of (x_{t-1}, x_t) given x_0, in float64."""
    for t in {1, schedule.num_steps // 2, schedule.num_steps - 1}:
        (alpha, sigma), (alpha_prev, sigma_prev) = schedule.at(t), schedule.at(t - 1)
        covariance = alpha / alpha_prev * sigma_prev**2  # x_t = alpha_t / alpha_{t-1} x_{t-1} + noise
        x0, x_t = torch.tensor([0.7, -0.2]), torch.tensor([-1.1, 0.4])
        mean = alpha_prev * x0 + covariance / sigma**2 * (x_t - alpha * x0)
        variance = sigma_prev**2 - covariance**2 / sigma**2
        found = posterior(x0[None, :, None, None], x_t[None, :, None, None], schedule, torch.tensor([t]))
        torch.testing.assert_close(found[0].flatten(), mean, atol=1e-6, rtol=1e-5)
        assert found[1].item() == pytest.approx(math.log(variance), abs=1e-5)


@every_schedule
def test_posterior_at_first_step_is_the_image(schedule: NoiseSchedule) -> None:
    x0, x_t = torch.randn(2, 3, 1, 2, 2)
    mean, log_variance = posterior(x0, x_t, schedule, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(mean, x0)
    assert torch.equal(log_variance, posterior(x0, x_t, schedule, torch.ones(3, dtype=torch.long))[1])


def test_diffusers_posterior_is_equal() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule, scheduler = LinearSchedule(), diffusers.DDPMScheduler(1000, clip_sample=False, prediction_type="sample")
    x0, x_t = torch.randn(2, 4, 1, 2, 2)
    for t in (1, 300, 999):
        theirs = scheduler.step(x0, t, x_t, generator=torch.Generator().manual_seed(0)).prev_sample
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        mean, log_variance = posterior(x0, x_t, schedule, torch.full((4,), t))
        # in diffusers the float32 1 - abar_t / abar_{t-1} has about three digits at the first steps
        torch.testing.assert_close(mean + (log_variance / 2).exp() * noise, theirs, atol=5e-4, rtol=0)


@every_schedule
def test_variances_are_finite_and_ordered(schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    small, large = (fixed_log_variance(kind, schedule, t) for kind in ("small", "large"))
    assert small.shape == large.shape == (len(t), 1, 1, 1)
    assert small.isfinite().all()
    assert (small <= large).all()
    torch.testing.assert_close(large[1:], schedule.large_variance(t[1:]).log())
    if schedule.variance_preserving:
        assert torch.equal(schedule.large_variance(t), schedule.beta(t))
    assert small[0] == large[0] == small[1]


@every_schedule
def test_learned_variance_is_between_bounds(schedule: NoiseSchedule) -> None:
    t = torch.arange(schedule.num_steps)
    v = torch.rand(len(t), 2, 3, 3) * 2 - 1
    found, low = learned_log_variance(v, schedule, t), fixed_log_variance("small", schedule, t)
    high = schedule.large_variance(t)
    assert found.shape == v.shape
    assert ((low - 1e-5 <= found) & (found <= high.log() + 1e-5)).all()
    for end, expected in ((-1.0, low), (1.0, high.log())):
        at_end = learned_log_variance(torch.full_like(v, end), schedule, t)
        torch.testing.assert_close(at_end, expected.expand_as(v), atol=1e-6, rtol=1e-6)
    middle = learned_log_variance(torch.zeros_like(v).bfloat16(), schedule, t)
    torch.testing.assert_close(middle, ((low + high.log()) / 2).expand_as(v))


def test_kl_matches_torch_distributions() -> None:
    mean, other = torch.randn(2, 100)
    log_variance, other_log_variance = 2 * torch.randn(2, 100)
    ours = gaussian_kl(mean, log_variance, other, other_log_variance)
    p, q = Normal(mean, (log_variance / 2).exp()), Normal(other, (other_log_variance / 2).exp())
    torch.testing.assert_close(ours, kl_divergence(p, q), atol=1e-5, rtol=1e-5)
    assert (ours >= 0).all()
    assert not gaussian_kl(mean, log_variance, mean, log_variance).any()


@pytest.mark.parametrize("mean", [-3.0, -0.99, 0.1, 0.996, 1.5])
@pytest.mark.parametrize("log_scale", [-9.0, -4.6, -2.0, 0.0, 2.0])
def test_level_probabilities_sum_to_one(mean: float, log_scale: float) -> None:
    log_prob = discretized_gaussian_log_likelihood(LEVELS, torch.tensor(mean), torch.tensor(log_scale))
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0), atol=2e-4, rtol=0)


def test_level_probability_matches_normal_cdf() -> None:
    mean, scale = 0.1, 0.05
    edges = torch.cat([torch.tensor([-math.inf]), LEVELS[:-1] + 1 / 255, torch.tensor([math.inf])]).double()
    expected = Normal(mean, scale, validate_args=False).cdf(edges).diff()
    found = discretized_gaussian_log_likelihood(LEVELS, torch.tensor(mean), torch.tensor(math.log(scale)))
    torch.testing.assert_close(found.exp().double(), expected, atol=1e-7, rtol=1e-4)


def test_code_length_and_gradient_are_finite_for_extreme_means() -> None:
    mean = torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0]).requires_grad_()
    log_scale = torch.tensor([[-7.0], [-4.0], [2.0]]).requires_grad_()
    for x in (-1.0, LEVELS[100].item(), 1.0):
        log_prob = discretized_gaussian_log_likelihood(torch.tensor(x), mean, log_scale)
        gradients = torch.autograd.grad(log_prob.sum(), (mean, log_scale))
        assert log_prob.isfinite().all()
        assert (log_prob <= 1e-6).all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_code_length_is_computed_in_float32() -> None:
    x, mean = make_images(2), make_images(2).bfloat16()
    found = discretized_gaussian_log_likelihood(x, mean, torch.tensor(-4.0).bfloat16())
    assert torch.equal(found, discretized_gaussian_log_likelihood(x, mean.float(), torch.tensor(-4.0)))


@every_schedule
def test_vlb_term_of_exact_prediction_is_zero(schedule: NoiseSchedule) -> None:
    t = torch.arange(1, schedule.num_steps)
    x = make_images(len(t))
    bits = vlb_term(x, noisy(x, schedule, t), t, x, fixed_log_variance("small", schedule, t), schedule)
    assert bits.shape == t.shape
    assert not bits.any()


def test_vlb_term_matches_torch_kl() -> None:
    schedule, t = LinearSchedule(50), torch.tensor([1, 20, 49])
    x, x0_hat = make_images(3), make_images(3).flip(0)
    x_t, log_variance = noisy(x, schedule, t), torch.randn(3, 2, 3, 3) - 3
    bits = vlb_term(x, x_t, t, x0_hat, log_variance, schedule)
    for i in range(3):
        (mean, true), (guess, _) = (
            posterior(p[i : i + 1], x_t[i : i + 1], schedule, t[i : i + 1]) for p in (x, x0_hat)
        )
        p = MultivariateNormal(mean.flatten(), true.exp().flatten() * torch.eye(18))
        q = MultivariateNormal(guess.flatten(), log_variance[i].exp().flatten().diag())
        torch.testing.assert_close(bits[i], kl_divergence(p, q) / 18 / math.log(2), atol=1e-4, rtol=1e-4)


def test_first_vlb_term_is_code_length() -> None:
    schedule, t = LinearSchedule(), torch.zeros(256, dtype=torch.long)
    x = LEVELS.view(-1, 1, 1, 1)
    x_t, x0_hat = torch.zeros_like(x), torch.full_like(x, 0.3)
    for kind in ("small", "large"):
        bits = vlb_term(x, x_t, t, x0_hat, fixed_log_variance(kind, schedule, t), schedule)
        torch.testing.assert_close((2**-bits).sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
        assert bits.argmin() == round((0.3 + 1) * 127.5)


def test_vlb_equals_weighted_loss_plus_constant() -> None:
    """Check equation 12 of Ho et al.: terms and losses of two predictions have equal differences for sigma_t^2 = beta_t."""
    schedule = LinearSchedule(50)
    t = torch.arange(1, 50)
    x, noise = make_images(len(t)), torch.randn(len(t), 2, 3, 3)
    x_t, (alpha, sigma) = schedule.add_noise(x, noise, t), schedule.alpha_sigma(t)
    log_variance = schedule.beta(t).log()

    def term_and_loss(output: Tensor) -> tuple[Tensor, Tensor]:
        term = vlb_term(x, x_t, t, Parameterization().to_x0(output, x_t, alpha, sigma), log_variance, schedule)
        return term * math.log(2), loss_of(Parameterization(), VLB(), output, x, noise, schedule, t)

    term, loss = term_and_loss(noise + torch.randn_like(noise))
    constant, none = term_and_loss(noise)
    torch.testing.assert_close(none, torch.zeros_like(none))
    torch.testing.assert_close(term - constant, loss, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "schedule",
    [LinearSchedule(300), RectifiedFlow(60), ZeroTerminalSNR(LinearSchedule(300)), EDMSchedule(300, 0.02)],
    ids=lambda it: type(it).__name__,
)
def test_vlb_bounds_exact_likelihood_of_normal_data(schedule: NoiseSchedule) -> None:
    """Check the ideal model of x_0 ~ N(0, 0.3^2): its code length is the entropy plus the cost of few steps."""
    generator = torch.Generator().manual_seed(0)
    scale = 0.3  # nearly all within [-1, 1]
    x = (torch.randn(2000, 1, 2, 2, generator=generator) * scale).clamp(-1, 1)
    x = LEVELS[((x + 1) * 127.5).round().long()]
    total = prior_bits(x, schedule)
    for step in range(schedule.num_steps):
        t = torch.full((len(x),), step)
        x_t, (alpha, sigma) = noisy(x, schedule, t), schedule.at(step)
        x0_hat = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2) * x_t  # E[x_0 | x_t]
        left = scale**2 * sigma**2 / (alpha**2 * scale**2 + sigma**2)  # Var[x_0 | x_t]
        of_x0, _ = posterior(torch.ones_like(x), torch.zeros_like(x), schedule, t)  # how x_0 moves the mean
        _, small = posterior(x, x_t, schedule, t)
        small = torch.where(t[:, None, None, None] == 0, 0.0, small.exp())
        total = total + vlb_term(x, x_t, t, x0_hat, (small + of_x0.square() * left).log(), schedule)
    entropy = (math.log(scale * math.sqrt(2 * math.pi * math.e)) + math.log(127.5)) / math.log(2)
    assert entropy - 0.03 < total.mean().item() < entropy + 0.08


@every_schedule
@pytest.mark.parametrize("variance", ["small", "large"])
def test_vlb_terms_and_gradients_are_finite_at_all_times(schedule: NoiseSchedule, variance: FixedVariance) -> None:
    t = torch.arange(schedule.num_steps)
    x = make_images(len(t))
    x0_hat = torch.randn_like(x).requires_grad_()
    log_variance = fixed_log_variance(variance, schedule, t).requires_grad_()
    bits = vlb_term(x, noisy(x, schedule, t), t, x0_hat, log_variance, schedule)
    assert bits.isfinite().all()
    assert (bits >= 0).all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(bits.sum(), (x0_hat, log_variance)))


def test_autocast_has_no_effect() -> None:
    schedule, t = CosineSchedule(10), torch.arange(10)
    x, x0_hat, v = make_images(10), torch.randn(10, 2, 3, 3), torch.randn(10, 2, 3, 3)

    def bound() -> Tensor:
        log_variance = learned_log_variance(v, schedule, t)
        return vlb_term(x, noisy(x, schedule, t), t, x0_hat, log_variance, schedule) + prior_bits(x, schedule)

    with torch.autocast("cpu", torch.bfloat16):
        cast = bound()
    assert torch.equal(cast, bound())
    assert cast.dtype == torch.float32


@every_schedule
def test_prior_is_kl_to_standard_normal(schedule: NoiseSchedule) -> None:
    x = make_images(3)
    alpha, sigma = schedule.at(schedule.num_steps - 1)
    exact = kl_divergence(Normal(alpha * x.double(), sigma), Normal(torch.zeros_like(x).double(), 1.0))
    exact = exact.flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(prior_bits(x, schedule).double(), exact, rtol=2e-3, atol=1e-9)


def test_gradients_of_large_terms_are_finite() -> None:
    schedule, t = LinearSchedule(100), torch.tensor([0, 1, 2, 50])
    x = torch.rand(4, 1, 2, 2) * 2 - 1
    v = torch.full_like(x, -50.0, requires_grad=True)
    x_t = schedule.add_noise(x, torch.randn_like(x), t)
    vlb_term(x, x_t, t, -x, learned_log_variance(v, schedule, t), schedule)[1:].sum().backward()
    assert v.grad.isfinite().all()
