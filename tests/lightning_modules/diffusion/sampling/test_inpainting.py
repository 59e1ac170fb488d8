"""Inpainting: known values, sampled values and the resampling schedule of the paper."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import LinearSchedule
from darkroom.lightning_modules.diffusion.sampling.inpainting import repaint, resampling_times
from darkroom.lightning_modules.diffusion.sampling.samplers import Step, X0Prediction
from darkroom.lightning_modules.diffusion.sampling.times import time_pairs
from darkroom.protocols import X0Predictor

SCHEDULE = LinearSchedule(100)
PAIRS = time_pairs(SCHEDULE, 20)


def correlated(rho: float) -> X0Predictor:
    """Return E[x_0 | x_t] of images of two correlated standard normal values."""
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])

    def denoise(x: Tensor, t: float) -> X0Prediction:
        alpha, sigma = SCHEDULE.at(t)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2))
        return X0Prediction((x.flatten(1) @ gain.T).view_as(x))

    return denoise


def half_known(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise, images (n, 1, 1, 2), and a mask of the first value as known."""
    generator = torch.Generator().manual_seed(0)
    noise, known = (torch.randn(n, 1, 1, 2, generator=generator) for _ in range(2))
    return noise, known, torch.tensor([1.0, 0.0])


def test_resampling_times_match_paper() -> None:
    way = resampling_times(250, 10, 10)
    assert len(way) == 250 + 1 + 24 * 9 * 20  # 4570 steps: 24 times with 9 jumps of 10 steps back and forth
    assert (way[0], way[-1]) == (249, -1)
    assert {to - at for at, to in pairwise(way)} == {-1, 1}
    turns = [at for before, at, after in zip(way, way[1:], way[2:], strict=False) if before > at < after]
    assert turns == [t for t in range(230, -1, -10) for _ in range(9)]
    summits = [at for before, at, after in zip(way, way[1:], way[2:], strict=False) if before < at > after]
    assert summits == [turn + 10 for turn in turns]


def test_resampling_times_of_few_steps() -> None:
    assert resampling_times(4, 2, 2) == [3, 2, 1, 0, 1, 2, 1, 0, -1]
    assert resampling_times(5, 2, 3) == [4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, -1]
    assert resampling_times(4, 2, 1) == resampling_times(4, 10, 10) == [3, 2, 1, 0, -1]
    for jump_length, resamples in [(0, 2), (2, 0)]:
        with pytest.raises(UsageError, match="at least 1"):
            resampling_times(4, jump_length, resamples)


@pytest.mark.parametrize("mask", [torch.eye(6) > 0, torch.ones(2, 3, 6, 6), torch.zeros(1)])
def test_known_values_are_unchanged(mask: Tensor) -> None:
    known = torch.rand(2, 3, 6, 6) * 2 - 1
    samples = repaint(
        lambda x, t: X0Prediction(x.tanh()), torch.randn(2, 3, 6, 6), known, mask, PAIRS, SCHEDULE, resamples=2
    )
    where = mask.bool().expand_as(known)
    assert torch.equal(samples[where], known[where])
    assert (samples != known)[~where].all()


def test_unknown_values_follow_denoiser() -> None:
    noise, known, mask = half_known(4)
    samples = repaint(lambda x, t: X0Prediction(torch.full_like(x, 0.25)), noise, known, mask, PAIRS, SCHEDULE)
    torch.testing.assert_close(samples[..., 1], torch.full((4, 1, 1), 0.25))


def test_resampling_samples_from_posterior() -> None:
    noise, known, mask = half_known(4000)
    first, rho, found = known[..., 0], 0.8, {}
    for resamples in (1, 30):
        samples = repaint(
            correlated(rho),
            noise,
            known,
            mask,
            time_pairs(SCHEDULE, 100),
            SCHEDULE,
            jump_length=4,
            resamples=resamples,
            generator=torch.Generator().manual_seed(1),
        )[..., 1]
        found[resamples] = (
            ((samples * first).mean() / first.square().mean()).item(),
            (samples - rho * first).std().item(),
        )
    assert found[30] == pytest.approx((rho, math.sqrt(1 - rho**2)), abs=0.02)  # N(rho first, 1 - rho^2)
    assert found[1][0] < 0.6  # without resampling the correlation is too low


def test_known_values_have_noise_of_their_time() -> None:
    noise, _, mask = half_known(20_000)
    steps: list[Step] = []
    repaint(
        correlated(0.0),
        noise,
        torch.full_like(noise, 0.7),
        mask,
        PAIRS,
        SCHEDULE,
        resamples=1,
        generator=torch.Generator().manual_seed(1),
        on_step=steps.append,
    )
    for step in steps:
        alpha, sigma = SCHEDULE.at(step.t_prev)
        there = step.x[..., 0]
        assert there.mean().item() == pytest.approx(0.7 * alpha, abs=4 * sigma / math.sqrt(20_000) + 1e-6)
        assert there.std().item() == pytest.approx(sigma, rel=0.03, abs=1e-6)
        elsewhere = step.x[..., 1]  # standard normal at every time, without noise at the last one
        assert elsewhere.std().item() == pytest.approx(1 if step.t_prev != -1 else SCHEDULE.at(step.t)[0], rel=0.03)


def test_steps_follow_time_pairs_and_are_reported() -> None:
    uneven_pairs, asked, steps = [(90, 70), (70, 69), (69, 20), (20, 3), (3, -1)], [], []
    noise, known, mask = half_known(1)

    def denoise(x: Tensor, t: float) -> X0Prediction:
        asked.append(t)
        return X0Prediction(x)

    last = repaint(
        denoise, noise, known, mask, uneven_pairs, SCHEDULE, jump_length=2, resamples=2, on_step=steps.append
    )
    # 4 3 2 [3 4] 3 2 1 0 [1 2] 1 0 -1, of which time 4 is 90
    assert asked == [90, 70, 90, 70, 69, 20, 69, 20, 3]
    assert [(step.t, step.t_prev) for step in steps] == [(t, dict(uneven_pairs)[t]) for t in asked]
    assert [(step.index, step.count) for step in steps] == [(i, 9) for i in range(9)]
    assert torch.equal(steps[-1].x, last)


def test_inpainting_does_not_depend_on_batch() -> None:
    noise, known, mask = half_known(3)

    def draw(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return repaint(
            correlated(0.5), noise[rows], known[rows], mask, PAIRS, SCHEDULE, resamples=2, generator=generators
        )

    torch.testing.assert_close(draw([0, 1, 2]), torch.cat([draw([row]) for row in range(3)]))
