"""Likelihoods: normalization and numerical stability."""

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding import Bernoulli, DiscretizedLogistic, Gaussian, Likelihood

EVERY = [Bernoulli(), Gaussian(0.3), Gaussian(), DiscretizedLogistic(2)]


def one_value(values: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """Return images of one value each and the same decoder output for all."""
    x = values.view(-1, 1, 1, 1)
    return torch.full_like(x, parameter), x


@pytest.mark.parametrize("parameter", [-30.0, -1.0, 0.3, 2.0])
def test_bernoulli_probabilities_sum_to_one(parameter: float) -> None:
    log_prob = Bernoulli().log_prob(*one_value(torch.tensor([-1.0, 1.0]), parameter))
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(log_prob[1].exp(), torch.tensor(parameter).sigmoid())


def test_bernoulli_of_grey_averages_over_binarizations() -> None:
    likelihood, logits = Bernoulli(), torch.tensor(0.7)
    grey, black, white = likelihood.log_prob(*one_value(torch.tensor([0.5, -1.0, 1.0]), logits.item()))
    torch.testing.assert_close(grey, 0.25 * black + 0.75 * white)


@pytest.mark.parametrize("sigma", [0.1, 1.0, "learned"])
def test_gaussian_density_integrates_to_one(sigma: float | str) -> None:
    likelihood = Gaussian(sigma)
    values = torch.linspace(-12, 12, 48001)
    density = likelihood.log_prob(*one_value(values, 0.2)).exp().detach()
    torch.testing.assert_close(torch.trapezoid(density, values), torch.tensor(1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(density, Normal(0.2, likelihood.scale().exp().detach()).log_prob(values).exp())


def test_gaussian_learns_true_sigma() -> None:
    likelihood, x = Gaussian(), 0.2 * torch.randn(64, 1, 8, 8)
    optimizer = torch.optim.LBFGS(likelihood.parameters(), max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -likelihood.log_prob(torch.zeros_like(x), x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(likelihood.scale().exp().detach(), x.square().mean().sqrt(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("parameter", [-3.0, -0.99, 0.1, 1.5])
@pytest.mark.parametrize("log_scale", [-8.0, -4.0, 0.0])
def test_discretized_logistic_probabilities_sum_to_one(parameter: float, log_scale: float) -> None:
    likelihood = DiscretizedLogistic(1)
    torch.nn.init.constant_(likelihood.log_scale, log_scale)
    levels = torch.arange(256) / 127.5 - 1
    probabilities = likelihood.log_prob(*one_value(levels, parameter)).exp().detach()
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_discretized_logistic_matches_cdf_differences() -> None:
    likelihood = DiscretizedLogistic(1).double()
    levels = torch.arange(256) / 127.5 - 1
    scale = likelihood.scale().detach().squeeze()
    uniform = torch.sigmoid((torch.arange(1, 256) / 127.5 - 1 - 1 / 255 - 0.1) / scale)  # inner edges
    expected = torch.cat([uniform, torch.ones(1)]) - torch.cat([torch.zeros(1), uniform])
    found = likelihood.log_prob(*one_value(levels, 0.1)).exp().detach()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("likelihood", EVERY, ids=lambda it: type(it).__name__)
def test_log_prob_and_gradient_are_finite_for_extreme_outputs(likelihood: Likelihood) -> None:
    parameters = torch.tensor([-1e4, -1.0, 1.0, 1e4]).view(1, 2, 1, 2).requires_grad_()
    for x in (-torch.ones(1, 2, 1, 2), torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1, 2)):
        log_prob = likelihood.log_prob(parameters, x)
        (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
        assert log_prob.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("likelihood", EVERY, ids=lambda it: type(it).__name__)
def test_log_prob_is_float32_per_image(likelihood: Likelihood) -> None:
    parameters, x = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) * 2 - 1
    log_prob = likelihood.log_prob(parameters.bfloat16(), x)
    assert log_prob.shape == (3,)
    assert log_prob.dtype == torch.float32
    alone = torch.cat([likelihood.log_prob(parameters[i : i + 1], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(likelihood.log_prob(parameters, x), alone)


@pytest.mark.parametrize("likelihood", EVERY, ids=lambda it: type(it).__name__)
def test_means_are_valid_images(likelihood: Likelihood) -> None:
    parameters = 3 * torch.randn(2, 2, 8, 8)
    images = likelihood.mean(parameters)
    assert images.shape == parameters.shape
    assert -1 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("likelihood", [Gaussian(0.4), Gaussian(), DiscretizedLogistic(2)], ids=lambda it: str(it))
def test_cast_keeps_scales_in_float32(likelihood: Likelihood) -> None:
    x, parameters = torch.rand(2, 2, 8, 8) * 2 - 1, torch.randn(2, 2, 8, 8)
    cast = torch.nn.Sequential(copy.deepcopy(likelihood)).bfloat16()[0]
    assert torch.equal(cast.log_prob(parameters, x), likelihood.log_prob(parameters, x))
    assert all(value.device.type == "meta" for value in cast.to("meta").state_dict().values())


def test_weights_of_other_likelihood_raise() -> None:
    with pytest.raises(RuntimeError, match="log_sigma"):
        Bernoulli().load_state_dict(Gaussian(0.4).state_dict())
    with pytest.raises(RuntimeError, match="log_sigma"):
        Gaussian(0.4).load_state_dict(Bernoulli().state_dict())


def test_invalid_values_raise() -> None:
    with pytest.raises(UsageError, match="binarize"):
        Bernoulli(binary=True).check(torch.zeros(1, 1, 2, 2))
    Bernoulli(binary=True).check(torch.tensor([-1.0, 1.0]))
    with pytest.raises(UsageError, match="channels to 3"):
        DiscretizedLogistic(1).check(torch.zeros(1, 3, 2, 2))
    with pytest.raises(UsageError, match="Gaussian.sigma must be .*got 0"):
        Gaussian(0)
    assert [it.discrete for it in (Bernoulli(), Bernoulli(True), Gaussian(), DiscretizedLogistic())] == [
        *(False, True, False, True)
    ]
