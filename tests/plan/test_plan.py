"""Memory, time, length and advice of a plan, against closed forms."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from darkroom.errors import UsageError
from darkroom.plan.counting.profile import StepProfile
from darkroom.plan.counting.trace import Work
from darkroom.plan.hardware import GPUS
from darkroom.plan.memory import memory_of
from darkroom.plan.page import as_text, format_bytes, format_seconds
from darkroom.plan.plan import Options, Plan, give_advice
from darkroom.plan.recipe import recipe_of
from darkroom.plan.sharding import Sharding, shard_rows, shardings
from darkroom.plan.timing import ON_CPU, Assumptions, ring_seconds, time_of
from darkroom.plan.trainer_options import devices_of, precision_of, strategy_of

H100 = GPUS["h100"]
GB = 10**9
PROFILE = StepProfile(
    images=10,
    parameters=GB,
    trained=GB,
    weights=4 * GB,
    gradients=4 * GB,
    optimizer=8 * GB,
    ema=0,
    buffers=0,
    activations=20.0 * GB,
    work=Work(convolution_flops=494.5e12, traffic=3.35e12, kernels=100),
)


def plan(**kwargs: object) -> Plan:
    options = Options(H100, **kwargs)  # type: ignore[arg-type]
    ranks, precision = options.devices, options.precision
    return Plan(
        "UNet",
        "Shapes",
        options,
        PROFILE,
        memory_of(PROFILE, ranks, options.strategy, SHARDING, precision),
        time_of(PROFILE, H100, ranks, options.strategy, precision, options.assumed),
        recipe_of({"max_steps": 100}, 10, ranks, None),
    )


SHARDING = Sharding((((1000, 1000), (1000,)), ((999_000, 1000),)))


def test_ddp_adds_buckets_as_large_as_the_gradients() -> None:
    alone, two = (memory_of(PROFILE, ranks, "ddp", None, "32-true") for ranks in (1, 2))
    assert alone.communication == 0
    assert two.communication == PROFILE.gradients
    assert two.total - alone.total == PROFILE.gradients


def test_fsdp_divides_states_and_gathers_layers() -> None:
    memory = memory_of(PROFILE, 4, "fsdp", SHARDING, "32-true")
    assert memory.weights == pytest.approx(GB)
    assert memory.optimizer == pytest.approx(2 * GB)
    assert memory.activations == PROFILE.activations
    assert memory.communication == 12 * 999_000 * 1000
    halved = memory_of(PROFILE, 4, "fsdp", SHARDING, "bf16-mixed")
    assert halved.communication == 8 * 999_000 * 1000


@pytest.mark.parametrize(("shape", "ranks", "count"), [((8, 3), 4, 6), ((5,), 4, 2), ((2, 7), 4, 7), ((), 4, 1)])
def test_the_first_rank_has_the_most_rows(shape: tuple[int, ...], ranks: int, count: int) -> None:
    assert shard_rows(shape, ranks) == count


def test_layers_of_lists_are_units() -> None:
    module = nn.Module()
    module.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 8)])
    module.head = nn.Linear(8, 2)
    assert shardings([module]).units == (((4, 4), (4,)), ((8, 4), (8,)), ((2, 8), (2,)))
    assert shardings([module]).parameters == sum(weight.numel() for weight in module.parameters())


def test_ring_sends_almost_twice_the_bytes_over_the_slowest_link() -> None:
    assert ring_seconds(1e9, 1, H100, 1.0) == 0
    assert ring_seconds(1e9, 8, H100, 1.0) == pytest.approx(2 * 7 / 8 * 1e9 / 450e9)
    assert ring_seconds(1e9, 64, H100, 0.5) == pytest.approx(2 * 63 / 64 * 1e9 / 25e9)


def test_step_time_is_products_and_traffic_at_stated_fractions() -> None:
    time = time_of(PROFILE, H100, 1, "ddp", "32-true", Assumptions(utilization=0.5, bandwidth=0.5))
    assert (time.products, time.others, time.exposed) == (2.0, 2.0, 0.0)
    assert time.total == 4.0
    assert time_of(PROFILE, H100, 1, "ddp", "bf16-mixed", Assumptions(utilization=0.5)).products == pytest.approx(1.0)


def test_small_steps_take_the_time_of_their_launches() -> None:
    tiny = StepProfile(**{**vars(PROFILE), "work": Work(1e6, 0, 1e3, 200)})
    assert time_of(tiny, H100, 1, "ddp", "32-true", Assumptions()).total == pytest.approx(200 * H100.launch)


def test_communication_is_hidden_by_the_backward_pass() -> None:
    two = time_of(PROFILE, H100, 16, "ddp", "32-true", Assumptions())
    assert two.communication > 0
    assert two.exposed == 0
    quick = StepProfile(**{**vars(PROFILE), "work": Work(1e9, 0, 1e3, 1)})
    exposed = time_of(quick, H100, 16, "ddp", "32-true", Assumptions())
    assert exposed.exposed == pytest.approx(exposed.communication, rel=0.01)


def test_dense_peaks_are_half_of_the_sparse_ones() -> None:
    assert GPUS["h200"].bf16 == pytest.approx(1979e12 / 2, rel=0.001)
    assert GPUS["l4"].bf16 == 242e12 / 2
    assert all(gpu.fp32 <= gpu.tf32 <= gpu.bf16 for gpu in GPUS.values())


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"max_epochs": 3}, 3 * 12),  # 50 images per device in batches of 4, the last 2 dropped
        ({"max_steps": 7, "max_epochs": -1}, 7),
        ({"max_steps": 7, "max_epochs": 3}, 7),
        ({"max_epochs": 2, "accumulate_grad_batches": 4}, 2 * 3),
        ({"max_epochs": 2, "accumulate_grad_batches": 5}, 2 * 3),  # the last step has 2 batches
        ({"max_epochs": 2, "limit_train_batches": 5}, 10),
        ({"max_epochs": 2, "overfit_batches": 2, "limit_train_batches": 5}, 4),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 2 * 6),
        ({}, None),
    ],
)
def test_length_of_a_recipe(trainer: dict[str, int], steps: int | None) -> None:
    assert recipe_of(trainer, images=4, devices=2, samples=100).steps == steps


@pytest.mark.parametrize(("samples", "steps"), [(3, 1), (9, 2), (11, 2), (15, 3)])
def test_an_epoch_drops_the_last_batch_of_each_device(samples: int, steps: int) -> None:
    assert recipe_of({"max_epochs": 1}, images=2, devices=2, samples=samples).steps == steps


@pytest.mark.parametrize(
    ("trainer", "samples", "missing"),
    [
        ({"max_epochs": 3}, None, "add --train_samples N, or set trainer.max_steps"),
        ({"max_epochs": -1}, 100, "set trainer.max_epochs or trainer.max_steps"),
        ({}, None, "set trainer.max_steps, or trainer.max_epochs with --train_samples N"),
        ({"max_steps": 5}, None, ""),
    ],
)
def test_what_is_missing_for_the_length_is_named(trainer: dict[str, int], samples: int | None, missing: str) -> None:
    recipe = recipe_of(trainer, images=4, devices=1, samples=samples)
    assert recipe.missing == missing
    if missing:
        assert f"length unknown: {missing}\n" in as_text(Plan(**{**vars(plan()), "recipe": recipe}))


def test_cost_is_price_times_hours_of_all_devices() -> None:
    found = plan(devices=8, price=2.0)
    assert found.hours == pytest.approx(100 * found.time.total / 3600)
    assert found.cost == pytest.approx(2 * 8 * found.hours)
    assert "GPU hour" in as_text(found)


def test_utilization_is_below_that_of_the_products() -> None:
    found = plan(assumed=Assumptions(utilization=0.5, bandwidth=1.0))
    assert found.utilization == pytest.approx(1 / (2 + 1))


def test_advice_names_the_largest_batch() -> None:
    small = Plan(**{**vars(plan()), "options": Options(GPUS["a100-40"], strategy="ddp")})
    assert small.fits  # 16 + 20 + 2 GB
    smaller = Plan(**{**vars(small), "options": Options(GPUS["v100"])})
    (batch, *others) = give_advice(smaller, SHARDING, checkpointing=True)
    assert batch == (  # 17 + 7 * 2.1 GB, and 5 is the largest divisor of 10 up to 7
        "the batch does not fit: at most 7 images per GPU do. --data.batch_size 5 --trainer.accumulate_grad_batches 2 has "
        "the same step"
    )
    assert any("fsdp" in sentence for sentence in others)
    assert any("gradient_checkpointing" in sentence for sentence in others)
    assert give_advice(plan(), SHARDING, checkpointing=False) == []


def test_a_smaller_batch_multiplies_the_accumulation() -> None:
    recipe = recipe_of({"max_steps": 100, "accumulate_grad_batches": 3}, 10, 1, None)
    full = Plan(**{**vars(plan()), "options": Options(GPUS["v100"]), "recipe": recipe})
    advice = give_advice(full, SHARDING, checkpointing=False, accumulation="model.optim.accumulate_grad_batches")
    assert "--data.batch_size 5 --model.optim.accumulate_grad_batches 6" in advice[0]


@pytest.mark.parametrize(("gpu", "precision"), [("l4", "bf16-mixed"), ("t4", "16-mixed"), ("v100", "16-mixed")])
def test_half_precision_is_one_that_the_gpu_has(gpu: str, precision: str) -> None:
    full = Plan(**{**vars(plan()), "options": Options(GPUS[gpu])})
    assert f"halve activations: --precision {precision}" in give_advice(full, SHARDING, checkpointing=False)
    mixed = Plan(**{**vars(full), "options": Options(GPUS[gpu], precision="bf16-mixed")})
    found = any("has no bfloat16" in sentence for sentence in give_advice(mixed, SHARDING, checkpointing=False))
    assert found == (precision == "16-mixed")


def test_a_cpu_adds_launches_and_has_a_measured_rate() -> None:
    cpu = replace(H100, name="cpu", parallel=False)
    time = time_of(PROFILE, cpu, 1, "ddp", "32-true", ON_CPU)
    text = as_text(Plan(**{**vars(plan()), "options": Options(cpu, assumed=ON_CPU), "time": time}))
    assert f"{format_seconds(time.launches)}, added" in text
    assert "at 263% of the measured matrix product" in text
    assert "of the peak" not in text
    assert "CPU hours" in text
    assert "in parallel" in as_text(plan())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (None, "32-true", "ddp")),
        ({"devices": "8", "precision": "16"}, (8, "16-mixed", "ddp")),
        ({"devices": [0, 2], "num_nodes": 2, "precision": "bf16"}, (4, "bf16-mixed", "ddp")),
        ({"devices": "0,1,2", "strategy": "ddp_find_unused_parameters_true"}, (3, "32-true", "ddp")),
        ({"devices": -1, "num_nodes": 4, "strategy": {"class_path": "some.where.Sharded"}}, (None, "32-true", "fsdp")),
    ],
)
def test_the_machine_is_that_of_the_trainer(options: dict[str, Any], expected: tuple[int | None, str, str]) -> None:
    assert (devices_of(options), precision_of(options), strategy_of(options)) == expected


def test_options_of_the_trainer_that_cannot_be_planned_are_errors() -> None:
    with pytest.raises(UsageError, match="trainer.devices must be auto, -1, a list or at least 1, got 0"):
        devices_of({"devices": 0})
    with pytest.raises(UsageError, match="trainer.precision must be .* got 64-true; plan another one with --precision"):
        precision_of({"precision": "64-true"})
    with pytest.raises(UsageError, match="trainer.strategy must be auto, ddp or Sharded for a plan, got FSDPStrategy"):
        strategy_of({"strategy": {"class_path": "lightning.pytorch.strategies.FSDPStrategy"}})


def test_advice_names_a_slow_loader() -> None:
    fast = Plan(**{**vars(plan()), "options": Options(H100, worker_rate=0.5, workers=2)})
    assert "the loader is too slow" in give_advice(fast, SHARDING, checkpointing=False)[0]
    little = Plan(**{**vars(plan()), "options": Options(H100, worker_rate=plan().images_per_second / 2.2, workers=2)})
    assert "slow: 3 processes per GPU" in give_advice(little, SHARDING, checkpointing=False)[0]


def test_numbers_are_readable() -> None:
    assert format_bytes(3.2e9) == "3.2 GB"
    assert format_bytes(7_770_000) == "7.77 MB"
    assert [format_seconds(value) for value in (0.0012, 1.5, 150, 9000, 3e5)] == [
        "1.2 ms",
        "1.5 s",
        "2.5 min",
        "2.5 hours",
        "3.47 days",
    ]
