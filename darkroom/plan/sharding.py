"""Bytes of each rank under FSDP: shards of the weights, and the layer that is gathered."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sharding:
    """Parameters that FSDP shards.

    Args:
        units: shapes of the parameters of each layer, which is gathered as a whole.
    """

    units: tuple[tuple[Shape, ...], ...]

    @property
    def parameters(self) -> int:
        """Number of sharded parameters, those of the EMA too."""
        return sum(prod(shape) for unit in self.units for shape in unit)

    @property
    def largest_unit(self) -> int:
        """Number of parameters of the largest layer."""
        return max((sum(map(prod, unit)) for unit in self.units), default=0)

    def of_rank(self, ranks: int) -> int:
        """Return the number of parameters of the first rank: rows are divided, the last ranks may have fewer."""
        return sum(shard_rows(shape, ranks) for unit in self.units for shape in unit)


def shard_rows(shape: Shape, ranks: int) -> int:
    """Return the number of elements of the first rank's shard of a parameter, which is divided along its first axis."""
    return ceil(shape[0] / ranks) * prod(shape[1:]) if shape else 1


def shardings(modules: Sequence[nn.Module]) -> Sharding:
    """Return the layers of modules as ``lightning_modules.utils.fsdp.shard`` divides them."""
    units, seen = [], set[int]()
    for module in modules:
        lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
        layers = [layer for part in lists for layer in part if not isinstance(layer, nn.ModuleList)]
        for layer in [*layers, module]:
            own = [weight for weight in layer.parameters() if id(weight) not in seen]
            seen |= {id(weight) for weight in own}
            if own:
                units.append(tuple(tuple(weight.shape) for weight in own))
    return Sharding(tuple(units))


def find_sharding(module: Technique) -> Sharding | None:
    """Return the sharded layers of a method; None if it cannot be sharded."""
    try:
        return shardings(module.shards())
    except UsageError:
        return None
