"""A plan as text, JSON and a row of a table."""

from typing import Any

from darkroom.plan.plan import Plan


def format_bytes(count: float) -> str:
    """Format bytes in units of 10^9, as data sheets do: "3.21 GB"."""
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def format_seconds(seconds: float) -> str:
    """Format a time with three digits in ms, s, hours or days."""
    for unit, size in (("days", 86_400.0), ("hours", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"


def format_flops(flops: float) -> str:
    """Format FLOPs: "1.08 TFLOP"."""
    return f"{flops / 1e12:.3g} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP"


def format_number(value: float) -> str:
    """Format a number with three digits, or as a whole one from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def as_text(plan: Plan) -> str:
    """Return the plan as aligned lines."""
    profile, memory, time, options = plan.profile, plan.memory, plan.time, plan.options
    frozen = profile.parameters - profile.trained
    # The rate of a CPU is that of a measured matrix product. Convolutions may be faster.
    peak = "the peak" if time.parallel else "the measured matrix product"
    rows = [
        ("method, data", f"{plan.method}, {plan.data}"),
        (
            "devices",
            f"{options.devices} x {options.device.name}, {options.strategy if options.devices > 1 else 'one process'}, "
            f"{options.precision}",
        ),
        ("parameters", f"{profile.parameters:,}" + (f", of which {frozen:,} are frozen" if frozen else "")),
        ("batch", f"{profile.images} images per device, {plan.recipe.batch} per step"),
        ("work per device", f"{format_flops(profile.work.flops)} per batch; counted on {profile.way}"),
        ("memory per device", f"{format_bytes(memory.total)} of {format_bytes(options.device.memory)}"),
        *((f"  {name}", format_bytes(value)) for name, value in vars(memory).items() if value),
        ("time per step", f"{format_seconds(time.total)}, {plan.utilization:.0%} of {peak}"),
        ("  products", f"{format_seconds(time.products)} at {options.assumed.utilization:.0%} of {peak}"),
        ("  other operations", f"{format_seconds(time.others)} at {options.assumed.bandwidth:.0%} of the bandwidth"),
        ("  launches", f"{format_seconds(time.launches)}, {'in parallel' if time.parallel else 'added'}"),
    ]
    if options.devices > 1:
        rows.append(
            (
                "  communication",
                f"{format_seconds(time.communication)}, of which {format_seconds(time.exposed)} is exposed",
            )
        )
    rows.append(("recipe", _recipe(plan)))
    if plan.cost is not None:
        rows.append(("cost", f"{plan.cost:,.0f} at {options.price:g} per {_hour(plan)}"))
    rows.append(
        (
            "loader",
            f"{plan.images_per_second:,.0f} images/s per device: {plan.workers_needed:.1f} processes of "
            f"{options.worker_rate:g} images/s",
        )
    )
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, *(f"advice: {sentence}" for sentence in plan.advice)])


def _hour(plan: Plan) -> str:
    return "CPU hour" if plan.options.device.name == "cpu" else "GPU hour"


def _recipe(plan: Plan) -> str:
    recipe = plan.recipe
    if recipe.steps is None or plan.hours is None or plan.gpu_hours is None:
        return f"length unknown: {recipe.missing}"
    epochs = f", {format_number(recipe.images / recipe.samples)} epochs" if recipe.samples and recipe.images else ""
    return (
        f"{recipe.steps:,} steps{epochs}: {format_seconds(3600 * plan.hours)}, "
        f"{format_number(plan.gpu_hours)} {_hour(plan)}s, without validation"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as one object: bytes, seconds, FLOPs."""
    profile, options = plan.profile, plan.options
    return {
        "method": plan.method,
        "data": plan.data,
        "device": options.device.name,
        "devices": options.devices,
        "strategy": options.strategy,
        "precision": options.precision,
        "parameters": profile.parameters,
        "trained_parameters": profile.trained,
        "images_per_device": profile.images,
        "images_per_step": plan.recipe.batch,
        "flops": profile.work.flops,
        "counted_on": profile.way,
        "memory": {**vars(plan.memory), "total": plan.memory.total, "available": options.device.memory},
        "fits": plan.fits,
        "step_seconds": {**vars(plan.time), "total": plan.time.total},
        "utilization": plan.utilization,
        "steps": plan.recipe.steps,
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "cost": plan.cost,
        "images_per_second": plan.images_per_second,
        "workers_needed": plan.workers_needed,
        "advice": list(plan.advice),
    }
