"""Disentanglement of a code: the mutual information gap."""

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from darkroom.errors import UsageError


class MutualInformationGap(Metric):
    """Mutual information gap (Chen et al. 2018, section 4.1), over a whole set.

    For each factor v, the gap between the two dimensions of the code with the largest mutual information, as a fraction of
    the factor's entropy. It is 1 if only one dimension has information about the factor, and 0 if two have the same.
    Entropies are those of histograms, as in Locatello et al. 2019: continuous values in equal bins over their range. For
    independent variables, a histogram of N samples is biased by about bins^2 / (2 N) nats, so use thousands of samples.

    Args:
        bins: per dimension of the code, and per factor with more distinct values than this. Other factors are discrete and
            are not binned.
    """

    full_state_update = False
    codes: list[Tensor]
    factors: list[Tensor]

    def __init__(self, bins: int = 20) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("codes", [], dist_reduce_fx="cat")
        self.add_state("factors", [], dist_reduce_fx="cat")

    def update(self, codes: Tensor, factors: Tensor) -> None:
        """Add samples.

        Args:
            codes: (B, D), such as means of a posterior; D at least 2.
            factors: (B, F), the true ones.

        Raises:
            UsageError: the code has only one dimension.
        """
        if codes.shape[1] < 2:
            raise UsageError(f"the mutual information gap needs codes of at least 2 dimensions, got {codes.shape[1]}")
        self.codes.append(codes.detach().float())
        self.factors.append(factors.detach().float())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Compute the mean gap and the gap of each factor (F,), nan and not in the mean for a constant factor.

        With fewer samples than bins every gap is nan, with a warning.
        """
        codes, factors = dim_zero_cat(self.codes), dim_zero_cat(self.factors)
        if len(codes) < self.bins:
            rank_zero_warn(
                f"the mutual information gap is nan: it needs as many samples as bins, {self.bins}, got {len(codes)}"
            )
            undefined = torch.full((factors.shape[1],), torch.nan, device=codes.device)
            return undefined.mean(), undefined
        dimensions = [_binned(code, self.bins) for code in codes.T]
        gaps = []
        for factor in factors.T:
            values, kinds = factor.unique(return_inverse=True)
            kinds = kinds if len(values) <= self.bins else _binned(factor, self.bins)
            entropy = _entropy(kinds)
            information = torch.stack([_mutual_information(dimension, kinds) for dimension in dimensions])
            best, second = information.topk(2).values
            gaps.append((best - second) / entropy if entropy > 0 else entropy * torch.nan)  # eq. 6
        of_factors = torch.stack(gaps)
        return of_factors.nanmean(), of_factors


def _binned(values: Tensor, bins: int) -> Tensor:
    """Assign values (N,) to ``bins`` equal bins over their range: int64 (N,)."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12) * bins).long().clamp(max=bins - 1)


def _entropy(kinds: Tensor) -> Tensor:
    """Compute the empirical entropy of integers (N,) in nats."""
    share = kinds.unique(return_counts=True)[1].float() / len(kinds)
    return -(share * share.log()).sum()


def _mutual_information(a: Tensor, b: Tensor) -> Tensor:
    """Compute I(a; b) = H(a) + H(b) - H(a, b) in nats, of integers (N,) from 0."""
    return _entropy(a) + _entropy(b) - _entropy(a * (b.max() + 1) + b)
