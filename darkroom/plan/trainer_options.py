"""Machine of a plan from the Trainer's options of a config: number of GPUs, precision and strategy."""

from collections.abc import Mapping
from typing import Any

from darkroom.errors import UsageError
from darkroom.plan.memory import Strategy

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_ALIASES = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # as Lightning reads them
_DDP = ("auto", "ddp", "DDPStrategy")


def devices_of(trainer: Mapping[str, Any]) -> int | None:
    """Return the number of GPUs of all nodes; None: all those of each node, whose number the config does not state.

    Raises:
        UsageError: it is below 1, or not a number.
    """
    given = trainer.get("devices", "auto")
    if isinstance(given, str) and "," in given:
        given = [number for number in given.split(",") if number.strip()]
    if isinstance(given, list | tuple):
        return len(given) * nodes_of(trainer)
    if str(given) in ("None", "auto", "-1"):
        return None
    if not str(given).isdecimal() or int(given) < 1:
        raise UsageError(f"trainer.devices must be auto, -1, a list or at least 1, got {given}")
    return int(given) * nodes_of(trainer)


def nodes_of(trainer: Mapping[str, Any]) -> int:
    """Return the number of machines."""
    return trainer.get("num_nodes") or 1


def precision_of(trainer: Mapping[str, Any]) -> str:
    """Return the precision, one of ``PRECISIONS``.

    Raises:
        UsageError: it is another one.
    """
    given = str(trainer.get("precision"))
    precision = _ALIASES.get(given, given)
    if precision not in PRECISIONS:
        raise UsageError(
            f"trainer.precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]} for a plan, got {given}; plan "
            "another one with --precision"
        )
    return precision


def strategy_of(trainer: Mapping[str, Any]) -> Strategy:
    """Return the strategy.

    Raises:
        UsageError: it is neither DDP nor ``Sharded``.
    """
    given = trainer.get("strategy") or "auto"
    name = str(given["class_path"] if isinstance(given, Mapping) else given).rpartition(".")[2]
    if name == "Sharded":
        return "fsdp"
    if name in _DDP or name.startswith("ddp_"):
        return "ddp"
    raise UsageError(
        f"trainer.strategy must be auto, ddp or Sharded for a plan, got {name}; plan another one with --strategy"
    )


def is_distributed(trainer: Mapping[str, Any]) -> bool:
    """Return whether the config names a strategy for several devices."""
    return (trainer.get("strategy") or "auto") != "auto"
