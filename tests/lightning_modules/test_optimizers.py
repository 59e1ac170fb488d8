"""CaffeSGD: doubled rate of biases without weight decay, otherwise equal to torch's SGD; options of the optimization."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.lr_schedulers import WarmupCosine
from darkroom.lightning_modules.optimizers import CaffeSGD, Optim


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, times: int = 1) -> None:
    for time in range(times):
        torch.manual_seed(time)
        optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()


def test_biases_have_doubled_rate_and_no_decay() -> None:
    optimizer = CaffeSGD(network().parameters(), lr=0.1, momentum=0.99, weight_decay=5e-4)
    weights, biases = optimizer.param_groups
    assert [p.ndim for p in weights["params"]] == [4, 4]
    assert [p.ndim for p in biases["params"]] == [1, 1, 1]
    assert (weights["lr"], weights["weight_decay"], weights["momentum"]) == (0.1, 5e-4, 0.99)
    assert (biases["lr"], biases["weight_decay"], biases["momentum"]) == (0.2, 0.0, 0.99)


def test_two_steps_match_known_values() -> None:
    weight, bias = nn.Parameter(torch.tensor([[2.0]])), nn.Parameter(torch.tensor([2.0]))
    optimizer = CaffeSGD([weight, bias], lr=0.1, momentum=0.5, weight_decay=0.01)
    for _ in range(2):
        F.linear(torch.ones(1, 1), weight, bias).sum().backward()  # both gradients are 1
        optimizer.step()
        optimizer.zero_grad()
    first = 1 + 0.01 * 2  # gradient and decay
    second = 0.5 * first + 1 + 0.01 * (2 - 0.1 * first)
    assert weight.item() == pytest.approx(2 - 0.1 * first - 0.1 * second)
    assert bias.item() == pytest.approx(2 - 0.2 - 0.2 * 1.5)


def test_caffe_sgd_without_factor_and_decay_equals_sgd() -> None:
    ours, theirs = network(), network()
    step(ours, CaffeSGD(ours.parameters(), lr=0.1, bias_lr_factor=1), 3)
    step(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), 3)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_state_is_saved_and_restored() -> None:
    first, second = network(), network()
    saved, restored = (CaffeSGD(net.parameters(), lr=0.1, weight_decay=5e-4) for net in (first, second))
    step(first, saved, 2)
    second.load_state_dict(first.state_dict())
    restored.load_state_dict(deepcopy(saved.state_dict()))  # torch shares the buffers otherwise
    step(first, saved)
    step(second, restored)
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_schedules_keep_bias_factor() -> None:
    net = network()
    optimizer = CaffeSGD(net.parameters(), lr=0.1)
    schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1), WarmupCosine(optimizer)]
    schedules[1].spread(10)
    for schedule in schedules:
        step(net, optimizer)
        schedule.step()
        weights, biases = (group["lr"] for group in optimizer.param_groups)
        assert biases == pytest.approx(2 * weights)
        assert weights != 0.1


@pytest.mark.parametrize("ndim", [1, 2])
def test_parameters_of_one_kind_are_supported(ndim: int) -> None:
    parameter = nn.Parameter(torch.ones([1] * ndim))
    optimizer = CaffeSGD([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - (0.2 if ndim == 1 else 0.1))


def test_negative_bias_factor_raises() -> None:
    with pytest.raises(UsageError, match="CaffeSGD.bias_lr_factor must be .*got -1"):
        CaffeSGD(network().parameters(), lr=0.1, bias_lr_factor=-1)


def test_optimizer_is_built_from_config() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=OptimizerCallable | None)
    path = "darkroom.lightning_modules.optimizers.CaffeSGD"
    config = {"class_path": path, "init_args": {"lr": 1e-10, "momentum": 0.99, "weight_decay": 5e-4}}
    build = parser.instantiate_classes(parser.parse_object({"optimizer": config})).optimizer
    optimizer = build([p for p in network().parameters() if p.requires_grad])
    assert isinstance(optimizer, CaffeSGD)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-10, 2e-10]
    for wrong in ({}, {"lr": 0.1, "decay": 1}):
        with pytest.raises(Exception, match="lr|decay"):
            parser.parse_object({"optimizer": {"class_path": path, "init_args": wrong}})


def test_networks_are_compiled_in_the_given_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, mode: modes.append(mode))
    Optim(compile=True, compile_mode="reduce-overhead").compile_in_place(network())
    Optim(compile=True).compile_in_place(network())
    Optim(compile_mode="max-autotune").compile_in_place(network())  # compile is false
    assert modes == ["reduce-overhead", "default"]


def test_unknown_compile_mode_raises() -> None:
    with pytest.raises(
        UsageError, match="model.optim.compile_mode must be one of default, reduce-overhead, max-autotune"
    ):
        Optim(compile_mode="fastest")  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "copied"), [("default", False), ("reduce-overhead", True), ("max-autotune", True)])
def test_outputs_of_cuda_graphs_are_copied_outside_of_training(
    monkeypatch: pytest.MonkeyPatch, mode: Any, copied: bool
) -> None:
    output, compiled = torch.zeros(2), network()
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, mode: setattr(module, "_compiled_call_impl", lambda: output)
    )
    Optim(compile=True, compile_mode=mode).compile_in_place(compiled)
    assert compiled() is output
    with torch.no_grad():
        assert (compiled() is not output) == copied
        assert compiled().equal(output)
