"""Networks: which one a model predicts with: ours, diffusers', or any other that takes what it is given."""

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from torch import nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.diffusers_adapter import FromDiffusers, called_as_diffusers
from darkroom.lightning_modules.generation.base import check_image_shape


def build_network(
    network: nn.Module | None, default: type[nn.Module], built_for: Mapping[str, Any], given: Mapping[str, str]
) -> nn.Module:
    """The network of a model: the one given, if it fits; None: a ``default`` one.

    Args:
        network: called as ``network(x, t, **condition)``, or as diffusers' ``UNet2DModel``, which is wrapped.
        default: built by the names of ``built_for``.
        built_for: image_shape and the options of the model that a network says of itself that it was ``told``.
        given: what it will be given, by name, and why. The last x0 is one of them with ``self_conditioning``.

    Raises:
        UsageError: it says of itself that it was built for something else, or does not take what it would be given.
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
    for name, value in built_for.items():
        its = getattr(network, name, value)
        if its != value:
            raise UsageError(
                f"model.network.{name} is {its}, but model.{name} is {value}; make them agree, or leave the network's out"
            )
    return network
