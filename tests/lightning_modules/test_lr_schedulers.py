"""Learning rate schedules of YOLO and DDPM: values, configs and invalid arguments."""

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LRSchedulerCallable
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from darkroom.errors import UsageError
from darkroom.lightning_modules.lr_schedulers import WarmupConstant, WarmupSteps


def optimizer(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates or (0.01,)])


def rates(schedule: LRScheduler, epochs: int) -> list[float]:
    """Return the learning rate of the first group in each epoch."""
    seen = []
    for _ in range(epochs):
        seen.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return seen


def test_warmup_steps_matches_yolo() -> None:
    seen = rates(WarmupSteps(optimizer(), milestones=[75, 105], warmup=3), 135)
    assert seen[:4] == pytest.approx([0.001, 0.004, 0.007, 0.01])
    assert seen[4:75] == pytest.approx([0.01] * 71)
    assert seen[75:105] == pytest.approx([0.001] * 30)
    assert seen[105:] == pytest.approx([0.0001] * 30)


def test_warmup_steps_without_warmup_is_multi_step() -> None:
    ours = rates(WarmupSteps(optimizer(), milestones=[2, 4], factor=0.5), 6)
    assert ours == rates(torch.optim.lr_scheduler.MultiStepLR(optimizer(), [2, 4], 0.5), 6)


def test_parameter_groups_keep_their_rates() -> None:
    one = optimizer(0.1, 0.2)
    rates(WarmupSteps(one, milestones=[2], warmup=1), 3)
    assert [group["lr"] for group in one.param_groups] == pytest.approx([0.01, 0.02])


def test_schedule_resumes_from_state() -> None:
    whole = rates(WarmupSteps(optimizer(), milestones=[4], warmup=3), 6)
    first = WarmupSteps(optimizer(), milestones=[4], warmup=3)
    rates(first, 2)
    saved = (first.state_dict(), first.optimizer.state_dict())
    again = WarmupSteps(optimizer(), milestones=[4], warmup=3)
    again.load_state_dict(saved[0])
    again.optimizer.load_state_dict(saved[1])
    assert rates(again, 4) == whole[2:]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"milestones": [4, 2]}, "ascend"),
        ({"milestones": [2, 2]}, "ascend"),
        ({"milestones": [2], "warmup": 3}, "end of the warm-up"),
        ({"milestones": [2], "warmup": -1}, "warm-up .-1."),
        ({"milestones": [2], "start": 0.0}, "start must be .*got 0.0"),
        ({"milestones": [2], "factor": 10.0}, "factor in .*and 10.0"),
    ],
)
def test_invalid_arguments_raise(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        WarmupSteps(optimizer(), **wrong)


def test_schedule_is_built_from_config() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--lr_scheduler", type=LRSchedulerCallable | None)
    config = {
        "class_path": "darkroom.lightning_modules.lr_schedulers.WarmupSteps",
        "init_args": {"milestones": [75, 105], "warmup": 3},
    }
    build = parser.instantiate_classes(parser.parse_object({"lr_scheduler": config})).lr_scheduler
    schedule = build(optimizer())
    assert isinstance(schedule, WarmupSteps)
    assert (schedule.milestones, schedule.warmup) == ([75, 105], 3)


def test_warmup_constant_reaches_peak_after_steps() -> None:
    schedule = WarmupConstant(optimizer(), steps=4)
    assert rates(schedule, 6) == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert rates(WarmupConstant(optimizer(), steps=0), 2) == pytest.approx([0.01, 0.01])
    with pytest.raises(UsageError, match="WarmupConstant.steps must be .*got -1"):
        WarmupConstant(optimizer(), steps=-1)
