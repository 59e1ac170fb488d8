"""Guidance: network calls, combination of outputs, and thresholding."""

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided, dynamic_threshold, static_threshold

NULL = 4


class LabelNetwork(nn.Module):
    """LabelNetwork that returns its label (3 channels, 6 with variance) and records its inputs."""

    def __init__(self, variance: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.variance, self.dtype = variance, dtype
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor, x0: Tensor | None = None) -> Tensor:
        self.calls.append((x, t, label, x0))
        message = x + label[:, None, None, None] + t[:, None, None, None] / 1000
        return (torch.cat([message, -message], 1) if self.variance else message).to(self.dtype)


def batch(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(rows, 3, 4, 4), torch.arange(rows) * 100.0, torch.arange(rows) % 3


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("variance", [False, True])
def test_weight_1_is_conditional_and_0_unconditional(rows: int, variance: bool) -> None:
    network, (x, t, label) = LabelNetwork(variance), batch(rows)
    for weight, expected_label in [
        (1.0, label),
        (1, label),
        (0.0, torch.full_like(label, NULL)),
        (0, label * 0 + NULL),
    ]:
        assert torch.equal(
            Guided(network, weight, {"label": NULL})(x, t, label=label), network(x, t, label=expected_label)
        )
    assert [len(x) for x, *_ in network.calls] == [rows] * 8


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("weight", [-1.0, 0.5, 3.0])
def test_conditional_and_unconditional_pass_are_batched(rows: int, weight: float) -> None:
    network, (x, t, label) = LabelNetwork(), batch(rows)
    x0 = torch.randn_like(x)
    guided = Guided(network, weight, {"label": NULL})(x, t, label=label, x0=x0)
    ((asked_x, asked_t, asked_label, asked_x0),) = network.calls
    assert torch.equal(asked_x, torch.cat([x, x]))
    assert torch.equal(asked_t, torch.cat([t, t]))
    assert torch.equal(asked_label, torch.cat([label, torch.full_like(label, NULL)]))
    assert torch.equal(asked_x0, torch.cat([x0, x0]))
    null = network(x, t, label=torch.full_like(label, NULL))
    torch.testing.assert_close(guided, null + weight * (network(x, t, label=label) - null))


def test_absent_condition_stays_none() -> None:
    network, (x, t, label) = LabelNetwork(), batch(2)
    Guided(network, 2.0, {"label": NULL})(x, t, label=label, x0=None)
    assert network.calls[0][3] is None
    with pytest.raises(TypeError, match="typo"):
        Guided(network, 2.0, {"label": NULL})(x, t, label=label, typo=x)


def test_learned_variance_is_conditional() -> None:
    network, (x, t, label) = LabelNetwork(variance=True), batch(3)
    guided = Guided(network, 2.5, {"label": NULL})(x, t, label=label)
    conditional, null = network(x, t, label=label), network(x, t, label=torch.full_like(label, NULL))
    assert torch.equal(guided[:, 3:], conditional[:, 3:])
    torch.testing.assert_close(guided[:, :3], null[:, :3] + 2.5 * (conditional - null)[:, :3])


def test_outputs_are_combined_in_float32() -> None:
    network, (x, t, label) = LabelNetwork(dtype=torch.bfloat16), batch(3)
    guided = Guided(network, 7.3, {"label": NULL})(x, t, label=label)
    conditional, null = (network(x, t, label=it).float() for it in (label, torch.full_like(label, NULL)))
    assert guided.dtype == torch.float32
    assert torch.equal(guided, null + 7.3 * (conditional - null))


def test_guidance_applies_within_interval() -> None:
    (x, _, label), always = batch(1), Guided(LabelNetwork(), 3.0, {"label": NULL})
    for t, inside in [(0, False), (199, False), (200, True), (799.5, True), (800, False), (999, False)]:
        network, times = LabelNetwork(), torch.tensor([t])
        guided = Guided(network, 3.0, {"label": NULL}, (0.2, 0.8), 1000)(x, times, label=label)
        assert len(network.calls[0][0]) == 1 + inside
        assert torch.equal(guided, always(x, times, label=label) if inside else network(x, times, label=label))
    whole = Guided(LabelNetwork(), 3.0, {"label": NULL}, (0.0, 1.0), 1000)
    for t in (0, 999):
        times = torch.tensor([t])
        assert torch.equal(whole(x, times, label=label), always(x, times, label=label))


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_rows_can_have_different_times(weight: float) -> None:
    network, (x, _, label), t = LabelNetwork(), batch(4), torch.tensor([100, 300, 500, 900])
    guided = Guided(network, weight, {"label": NULL}, (0.2, 0.8), 1000)
    alone = torch.cat([guided(x[i : i + 1], t[i : i + 1], label=label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(guided(x, t, label=label), alone)


def test_invalid_interval_raises() -> None:
    for interval, steps in [
        ((0.8, 0.2), 10),
        ((0.5, 0.5), 10),
        ((-0.1, 0.5), 10),
        ((0.1, 1.5), 10),
        ((0.1, 0.5), None),
    ]:
        with pytest.raises(UsageError, match="model.sampling.guidance_interval"):
            Guided(LabelNetwork(), 2.0, {"label": NULL}, interval, steps)


def test_static_threshold_clips() -> None:
    x0 = torch.tensor([-3.0, -1.0, 0.2, 1.0, 1.01]).view(1, 1, 1, 5)
    assert static_threshold(x0).flatten().tolist() == pytest.approx([-1, -1, 0.2, 1, 1])


def test_dynamic_threshold_clips_only_rare_values() -> None:
    within = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(dynamic_threshold(within), within)
    within[0, 0, 0, 0] = 5.0  # one of 192 is less than 1 %
    assert torch.equal(dynamic_threshold(within, 0.99), static_threshold(within))


def test_dynamic_threshold_is_per_image() -> None:
    x0 = torch.randn(3, 3, 16, 16) * torch.tensor([0.1, 1.0, 4.0]).view(3, 1, 1, 1)
    result = dynamic_threshold(x0, 0.9)
    for row, values in zip(result, x0, strict=True):
        alone = dynamic_threshold(values[None], 0.9)[0]
        assert torch.equal(row, alone)
        ordered = values.abs().flatten().sort().values
        scale = max(1.0, ordered[int(0.9 * 768) - 1 : int(0.9 * 768) + 2].mean().item())
        torch.testing.assert_close(row, values.clamp(-scale, scale) / scale, atol=0.02, rtol=0)
    assert result.abs().max() == 1
    assert torch.equal(result[0], x0[0])
    assert not torch.allclose(result[2], static_threshold(x0)[2], atol=0.1)
    everything = dynamic_threshold(x0, 1.0)
    torch.testing.assert_close(everything[2], x0[2] / x0[2].abs().max())


def test_dynamic_threshold_is_computed_in_float32() -> None:
    x0 = (3 * torch.randn(2, 3, 16, 16)).bfloat16()
    assert dynamic_threshold(x0).dtype == torch.float32
    assert torch.equal(dynamic_threshold(x0), dynamic_threshold(x0.float()))
