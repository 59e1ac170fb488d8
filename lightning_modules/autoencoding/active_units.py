"""ActiveUnits: how many latent dimensions a VAE uses."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ActiveUnits(Metric):
    """Latent dimensions whose posterior mean varies over the data: Var_x E[z|x] > 0.01 (Burda et al. 2016, section 5.2).

    Args:
        latent_dim: D.
        threshold: of the variance.
    """

    full_state_update = False
    sums: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.01) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("sums", torch.zeros(latent_dim), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(latent_dim), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """``codes`` float (B, D): posterior means."""
        codes = codes.float()
        self.sums += codes.sum(0)
        self.squares += codes.square().sum(0)
        self.count += len(codes)

    def compute(self) -> Tensor:
        variance = self.squares / self.count - (self.sums / self.count).square()
        return (variance > self.threshold).sum().float()
