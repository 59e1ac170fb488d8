"""diffusers' networks as denoisers: FromDiffusers."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import beside


def called_as_diffusers(network: nn.Module) -> bool:
    """Whether a network takes its classes as diffusers' do."""
    return "class_labels" in signature(network.forward).parameters


class FromDiffusers(nn.Module):
    """A network that is called as diffusers' ``UNet2DModel`` is, ``network(x, t, class_labels=label).sample``, as a
    denoiser called as ours is.

    Build it for what it is to do, which its config is asked about, where it has one: ``in_channels`` C, or 2 C with
    self-conditioning; ``out_channels`` C, or 2 C with learned variance; ``num_class_embeds`` num_classes + 1, the last row
    for no class.

    Args:
        network: the UNet2DModel.
        image_shape: (C, H, W), to check the channels; None: unchecked. The command line takes it, and the other three, from
            the model.
        num_classes: of a conditional network.
        learned_variance: 2 C channels come out: the second half says the variance.
        self_conditioning: the x0 last predicted comes in beside x_t.

    Attributes:
        null_label: num_classes, the label that stands for no class; None without classes.

    Raises:
        UsageError: the network was built for another number of channels or classes.
    """

    told: ClassVar[tuple[str, ...]] = ("image_shape", "num_classes", "learned_variance", "self_conditioning")

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        learned_variance: bool | None = None,
        self_conditioning: bool | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes, self.null_label = num_classes, num_classes
        self.learned_variance, self.self_conditioning = bool(learned_variance), bool(self_conditioning)
        self._check(getattr(network, "config", {}), None if image_shape is None else image_shape[0])

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor | None = None, x0: Tensor | None = None) -> Tensor:
        """What the network says of noisy pictures, see Denoiser.forward."""
        if label is not None and self.num_classes is None:
            raise UsageError("this network has no classes, but was given labels; set num_classes")
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this network was given an earlier x0; set self_conditioning")
        if self.num_classes is not None and label is None:
            label = torch.full_like(t, self.null_label, dtype=torch.long)
        x = beside(x, x0) if self.self_conditioning else x
        return self.network(x.to(next(self.network.parameters()).dtype), t, class_labels=label).sample

    def _check(self, config: Mapping[str, Any], channels: int | None) -> None:
        classes = self.num_classes
        wanted = {
            "num_class_embeds": (None, "no classes")
            if classes is None
            else (classes + 1, f"{classes} and one for no class")
        }
        if channels is not None:
            wanted["in_channels"] = (2 * channels, "x_t, and x0") if self.self_conditioning else (channels, "x_t")
            wanted["out_channels"] = (
                (2 * channels, "mean, and variance") if self.learned_variance else (channels, "mean")
            )
        for name, (right, why) in wanted.items():
            if name in config and config[name] != right:
                raise UsageError(
                    f"{type(self.network).__name__} was built with {name} {config[name]}; this model needs "
                    f"{'null' if right is None else right} ({why})"
                )
