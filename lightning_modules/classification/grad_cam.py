"""Grad-CAM: the places of an image that raise the logit of a class (Selvaraju et al. 2017)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.eval_mode import eval_mode


def grad_cam(network: nn.Module, image: Tensor, classes: Tensor, smallest: int = 4) -> Tensor:
    """Compute the maps of Grad-CAM for a class of each image.

    The maps A^k are those of the last layer whose output has at least ``smallest`` rows and columns; the paper takes the
    last convolution, whose map of a small image may have a single cell. Gradients are computed also within
    ``torch.inference_mode``. The network's parameters have the same gradients as before.

    Args:
        network: maps (B, C, H, W) to logits (B, K); it runs in eval mode.
        image: float (B, C, H, W).
        classes: int64 (B,), the class whose logit is explained.
        smallest: least number of rows and columns of the maps.

    Returns:
        Float32 (B, h, w) in [0, 1], each divided by its largest value; 0 where nothing raises the logit.

    Raises:
        UsageError: no layer has maps that large.
    """
    found: list[Tensor] = []

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) >= smallest:
            found[:] = [output]

    layers = [layer for layer in network.modules() if not any(True for _ in layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.inference_mode(False), torch.enable_grad(), eval_mode(network):
            # A copy with a gradient, so that a network without trainable weights, such as an EMA, has one too.
            logits = network(image.detach().clone().requires_grad_())
            if not found:
                raise UsageError(
                    f"no layer of {type(network).__name__} has maps of at least {smallest} x {smallest} for images of "
                    f"{image.shape[2]} x {image.shape[3]}; use larger images"
                )
            (maps,) = found
            chosen = logits.gather(1, classes[:, None].clone()).sum()
            (gradient,) = torch.autograd.grad(chosen, maps)
    finally:
        for hook in hooks:
            hook.remove()
    weights = gradient.float().mean((2, 3), keepdim=True)  # alpha_k^c, equation 1
    heat = F.relu((weights * maps.detach().float()).sum(1))  # equation 2
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
