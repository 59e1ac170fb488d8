"""Choice and checks of a diffusion model's network."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.diffusers_adapter import FromDiffusers, called_as_diffusers
from darkroom.lightning_modules.generation.base import check_image_shape
from darkroom.protocols import BuiltForModel


def build_network(
    network: nn.Module | None, default: Callable[..., nn.Module], built_for: Mapping[str, Any], given: Mapping[str, str]
) -> nn.Module:
    """Return the network of a model: the given one after checks, or for None a ``default`` one.

    Args:
        network: called as ``network(x, t, **condition)``, or as diffusers' ``UNet2DModel``, which is wrapped.
        default: builds a network from ``built_for``.
        built_for: image_shape and options of the model that its network must agree with.
        given: reason for each further argument of the network's forward, by name. ``x0`` is added for self-conditioning.

    Raises:
        UsageError: the network was built for another model, or its forward lacks an argument.
    """
    check_image_shape(built_for["image_shape"])
    if network is None:
        return default(**built_for)
    if called_as_diffusers(network) and not set(given) - {"label"}:
        return FromDiffusers(network, **built_for)
    takes = signature(network.forward).parameters
    anything = any(parameter.kind == Parameter.VAR_KEYWORD for parameter in takes.values())
    if built_for["self_conditioning"]:
        given = {**given, "x0": "model.objective.self_conditioning is true"}
    for name, reason in given.items():
        if name not in takes and not anything:
            raise UsageError(
                f"{reason}, but the forward of model.network, {type(network).__name__}, takes no {name}; it is called as "
                f"network(x, t, {name}={name})"
            )
    stated = network.built_for if isinstance(network, BuiltForModel) else {}
    for name, value in built_for.items():
        its = stated.get(name, value)
        if its != value:
            key = f"model.objective.{name}" if name in ("learned_variance", "self_conditioning") else f"model.{name}"
            raise UsageError(
                f"model.network.{name} is {its}, but {key} is {value}; make them agree, or leave the network's out"
            )
    return network
