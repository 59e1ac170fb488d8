"""ActiveUnits: number of latent dimensions that a VAE uses."""

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric


class ActiveUnits(Metric):
    """Latent dimensions whose posterior mean varies over the data: Var_x E[z|x] > 0.01 (Burda et al. 2016, section 5.2).

    The state is means and sums of squared deviations, merged by the pairwise formula of Chan, Golub & LeVeque 1983. So
    a variance far smaller than the squared mean is computed accurately in float32.

    Args:
        latent_dim: D.
        threshold: of the variance.
    """

    full_state_update = False
    mean: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, latent_dim: int, threshold: float = 0.01) -> None:
        super().__init__()
        self.threshold = threshold
        # With several ranks, synchronized states are stacked: (ranks, ...).
        self.add_state("mean", torch.zeros(latent_dim), dist_reduce_fx=None)
        self.add_state("squares", torch.zeros(latent_dim), dist_reduce_fx=None)
        self.add_state("count", torch.zeros(1), dist_reduce_fx=None)

    def update(self, codes: Tensor) -> None:
        """Add posterior means, float (B, D)."""
        codes = codes.float()
        mean = codes.mean(0)
        apart, weight = mean - self.mean, len(codes) / (self.count + len(codes))
        self.squares += (codes - mean).square().sum(0) + apart.square() * self.count * weight
        self.mean += apart * weight
        self.count += len(codes)

    def compute(self) -> Tensor:
        """Compute the number of active dimensions, a float32 scalar, over all batches and ranks.

        A single image has no variance: nan, with a warning, below two.
        """
        mean, squares, count = (state.view(-1, state.shape[-1]) for state in (self.mean, self.squares, self.count))
        if count.sum() < 2:
            rank_zero_warn(f"active_units is nan: it needs at least 2 images, got {int(count.sum())}")
            return torch.full((), torch.nan, device=mean.device)
        whole = (mean * count).sum(0) / count.sum()
        variance = (squares + (mean - whole).square() * count).sum(0) / count.sum()
        return (variance > self.threshold).sum().float()
