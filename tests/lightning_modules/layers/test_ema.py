"""EMA in closed form, and its buffers, modes and checkpoints."""

import pytest
import torch
from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.layers.ema import EMA


def follow(values: list[float], **kwargs: float) -> tuple[EMA, nn.Linear]:
    """Return the EMA of a weight that starts at 0 and takes these values."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(module, **kwargs)
    for value in values:
        nn.init.constant_(module.weight, value)
        ema.update(module)
    return ema, module


def test_ema_matches_closed_form() -> None:
    decay, values = 0.9, [1.0, -2.0, 5.0, 3.0]
    ema, _ = follow(values, decay=decay, warmup=False)
    n = len(values)
    expected = sum((1 - decay) * decay ** (n - 1 - i) * value for i, value in enumerate(values))
    assert ema.module.weight.item() == pytest.approx(expected)
    assert ema.updates == n


def test_ema_of_constant_is_one_minus_power_of_decay() -> None:
    ema, _ = follow([1.0] * 200, decay=0.99, warmup=False)
    assert ema.module.weight.item() == pytest.approx(1 - 0.99**200, abs=1e-5)


def test_warmup_reduces_weight_of_start() -> None:
    ema, _ = follow([1.0, 3.0], decay=0.999)
    first = 0.1 * 0 + 0.9 * 1  # (1 + 0) / (10 + 0)
    assert ema.module.weight.item() == pytest.approx(2 / 11 * first + 9 / 11 * 3)


def test_decay_is_constant_after_warmup() -> None:
    ema, module = follow([1.0] * 50, decay=0.5)
    nn.init.zeros_(module.weight)
    ema.update(module)
    assert ema.module.weight.item() == pytest.approx(0.5)


def test_ema_of_bfloat16_network_is_float32() -> None:
    """Check updates of 1e-3, which are below the resolution of bfloat16."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    late = EMA(module.bfloat16(), warmup=False)
    nested = nn.ModuleDict({"module": module, "ema": EMA(module.float(), warmup=False)}).bfloat16()
    nn.init.ones_(module.weight)
    for ema in (late, nested["ema"]):
        for _ in range(1000):
            ema.update(module)
        assert module.weight.dtype == torch.bfloat16
        assert ema.module.weight.dtype == torch.float32
        assert ema.module.weight.item() == pytest.approx(1 - 0.999**1000, rel=1e-4)


def test_floats_are_averaged_and_counters_copied() -> None:
    norm = nn.BatchNorm1d(1)
    ema = EMA(norm, 0.5, warmup=False)
    norm(torch.tensor([[10.0], [10.0]]))  # the running mean moves to 1
    ema.update(norm)
    assert ema.module.running_mean.item() == pytest.approx(0.5)
    assert ema.module.num_batches_tracked == 1


def test_ema_module_stays_in_eval_mode() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    ema = EMA(module)
    parent = nn.ModuleDict({"module": module, "ema": ema}).train()
    assert module.training
    assert module[0].weight.requires_grad
    assert not any(part.training for part in parent["ema"].module.modules())
    assert not any(p.requires_grad for p in ema.parameters())


def test_checkpoint_resumes_exactly() -> None:
    ema, module = follow([1.0, 2.0], decay=0.999)
    again = EMA(nn.Linear(1, 1, bias=False))
    again.load_state_dict(ema.state_dict())
    for one in (ema, again):
        one.update(module)
    assert torch.equal(ema.module.weight, again.module.weight)
    assert ema.updates == again.updates == 3


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_invalid_decay_raises(decay: float) -> None:
    with pytest.raises(UsageError, match="0.999"):
        EMA(nn.Linear(1, 1), decay)
