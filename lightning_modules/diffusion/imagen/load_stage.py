"""Loading of the trained models of a cascade."""

from typing import TypeVar

from torch import nn

from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.diffusion.load_trained import load_trained

Stage = TypeVar("Stage", bound=Diffusion)


def load_stage(checkpoint: str | nn.Module, kind: type[Stage], key: str) -> Stage:
    """Load a model for sampling: in eval mode, without gradients, with its EMA weights.

    Args:
        checkpoint: file of a run of the command line; or, in Python, the model itself, which is modified.
        kind: class that the model must have.
        key: setting that error messages name, such as ``model.base``.

    Raises:
        UsageError: the file is missing, is not a checkpoint, or holds a model of another class.
    """
    return load_trained(checkpoint, kind, key).keep_ema_only().eval().requires_grad_(False)
