"""Networks: which one a model predicts with: ours, diffusers', or any other that takes what it is given."""

from inspect import Parameter, signature

from torch import nn

from darkroom.errors import UsageError
from lightning_modules.diffusion.denoiser import Denoiser
from lightning_modules.diffusion.diffusers_adapter import FromDiffusers, called_as_diffusers


def fitting(
    network: nn.Module | None,
    image_shape: tuple[int, int, int],
    num_classes: int | None,
    learned_variance: bool,
    self_conditioning: bool,
) -> nn.Module:
    """The network of a model of these pictures and options: the one given, if it fits; None: ``Denoiser``.

    Args:
        network: called as ``network(x, t, label=, x0=)``, or as diffusers' ``UNet2DModel``, which is wrapped.
        image_shape: (C, H, W).
        num_classes: of a conditional model; None: unconditional.
        learned_variance, self_conditioning: see DDPM.

    Raises:
        UsageError: it says of itself that it was built for something else, or does not take what it would be given.
    """
    told = {"image_shape": image_shape, "num_classes": num_classes}
    told |= {"learned_variance": learned_variance, "self_conditioning": self_conditioning}
    if network is None:
        return Denoiser(**told)
    if called_as_diffusers(network):
        return FromDiffusers(network, **told)
    takes = signature(network.forward).parameters
    anything = any(parameter.kind == Parameter.VAR_KEYWORD for parameter in takes.values())
    for name, option, given in (
        ("label", "conditional", num_classes is not None),
        ("x0", "self_conditioning", self_conditioning),
    ):
        if given and name not in takes and not anything:
            raise UsageError(
                f"model.{option} is true, but the forward of model.network, {type(network).__name__}, takes no {name}; it "
                f"is called as network(x, t, {name}={name})"
            )
    for name in getattr(network, "told", ()):
        its = getattr(network, name, told[name])
        if its != told[name]:
            raise UsageError(
                f"model.network.{name} is {its}, but model.{name} is {told[name]}; make them agree, or leave the network's "
                "out"
            )
    return network
