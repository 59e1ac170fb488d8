"""MatmulPrecision: precision of float32 matrix products during a command."""

from typing import Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from darkroom.errors import UsageError

_PRECISIONS = ("highest", "high", "medium")


class MatmulPrecision(Callback):
    """Sets the precision of float32 matrix products (``torch.set_float32_matmul_precision``), and restores it at the end.

    Args:
        precision: highest: float32; high: TF32, 10 instead of 23 bits of mantissa, on GPUs since Ampere; medium: bfloat16.

    Raises:
        UsageError: the precision has another name.
    """

    def __init__(self, precision: Literal["highest", "high", "medium"] = "high") -> None:
        if precision not in _PRECISIONS:
            raise UsageError(f"MatmulPrecision.precision must be one of {', '.join(_PRECISIONS)}, got {precision}")
        self.precision = precision
        self._before: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the precision."""
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the precision before the command."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None
