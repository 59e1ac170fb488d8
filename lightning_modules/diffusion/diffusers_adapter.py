"""FromDiffusers: adapter for networks of diffusers."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.blocks import concat_x0


def called_as_diffusers(network: nn.Module) -> bool:
    """Return whether a network takes ``class_labels``, as those of diffusers do."""
    return "class_labels" in signature(network.forward).parameters


@runtime_checkable
class _Configured(Protocol):
    """Network that has a config, as those of diffusers."""

    config: Mapping[str, Any]


class FromDiffusers(nn.Module):
    """Adapter that calls a network as diffusers' ``UNet2DModel``, ``network(x, t, class_labels=label).sample``.

    The network must be built for the model; its config is checked if it has one: ``in_channels`` C, or 2 C with
    self-conditioning; ``out_channels`` C, or 2 C with learned variance; ``num_class_embeds`` num_classes + 1, the last row
    for the null class.

    Args:
        network: the UNet2DModel.
        image_shape: (C, H, W), to check the channels; None: unchecked. The command line takes it from the model, as well as
            the other three.
        num_classes: of a conditional network.
        learned_variance: the network returns 2 C channels; the second half is the variance.
        self_conditioning: the network takes the last predicted x0 as additional input.

    Attributes:
        null_label: num_classes, the label of the null class; None without classes.
        built_for: arguments that must agree with the model's.

    Raises:
        UsageError: the network was built for another number of channels or classes.
    """

    linked_arguments: ClassVar[tuple[str, ...]] = (
        "image_shape",
        "num_classes",
        "learned_variance",
        "self_conditioning",
    )

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
        self.built_for = {
            "num_classes": num_classes,
            "learned_variance": self.learned_variance,
            "self_conditioning": self.self_conditioning,
        }
        config = network.config if isinstance(network, _Configured) else {}
        self._check(config, None if image_shape is None else image_shape[0])

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor | None = None, x0: Tensor | None = None) -> Tensor:
        """Predict noise, image or v of noisy images; see DenoisingUNet.forward."""
        if label is not None and self.num_classes is None:
            raise UsageError("this network takes no labels, but got some; set num_classes")
        if x0 is not None and not self.self_conditioning:
            raise UsageError("this network takes no x0, but got one; set self_conditioning")
        if self.null_label is not None and label is None:
            label = torch.full_like(t, self.null_label, dtype=torch.long)
        x = concat_x0(x, x0) if self.self_conditioning else x
        return self.network(x.to(next(self.network.parameters()).dtype), t, class_labels=label).sample

    def _check(self, config: Mapping[str, Any], channels: int | None) -> None:
        classes = self.num_classes
        wanted: dict[str, tuple[int | None, str]] = {
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
