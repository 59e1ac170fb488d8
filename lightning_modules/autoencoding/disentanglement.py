"""Disentanglement: how far each true factor of the data is found in one dimension of the code, and in no other."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from darkroom.errors import UsageError


class MutualInformationGap(Metric):
    """Mutual information gap (Chen et al. 2018, section 4.1), over a whole set.

    Of each factor v the gap between the two dimensions of the code that tell most about it, as a part of its entropy: 1 if
    one dimension knows the factor and no other knows anything of it, 0 if two know the same. Entropies are those of
    histograms, estimated as in Locatello et al. 2019: continuous values in equal bins over their range. Between independent
    variables a histogram of N samples shows about bins^2 / (2 N) nats too many, in all dimensions alike: take thousands.

    Args:
        bins: per dimension of the code, and per factor with more different values than this. Factors with no more are
            discrete and taken as they are.
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
        """Adds samples.

        Args:
            codes: (B, D), such as means of a posterior; D at least 2.
            factors: (B, F), the true ones.

        Raises:
            UsageError: codes of one dimension: there is none to compare it with.
        """
        if codes.shape[1] < 2:
            raise UsageError(f"the mutual information gap compares dimensions of the code, but it has {codes.shape[1]}")
        self.codes.append(codes.detach().float())
        self.factors.append(factors.detach().float())

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean gap, a scalar, and that of each factor, (F,): nan, and not in the mean, for one that never varies."""
        codes, factors = dim_zero_cat(self.codes), dim_zero_cat(self.factors)
        dimensions = [_binned(code, self.bins) for code in codes.T]
        gaps = []
        for factor in factors.T:
            values, kinds = factor.unique(return_inverse=True)
            kinds = kinds if len(values) <= self.bins else _binned(factor, self.bins)
            entropy = _entropy(kinds)
            information = torch.stack([_mutual_information(dimension, kinds) for dimension in dimensions])
            best, second = information.topk(2).values
            gaps.append((best - second) / entropy if entropy > 0 else entropy * torch.nan)  # eq. 6
        gaps = torch.stack(gaps)
        return gaps.nanmean(), gaps


def _binned(values: Tensor, bins: int) -> Tensor:
    """Which of ``bins`` equal parts of their range the values (N,) are in: int64 (N,)."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12) * bins).long().clamp(max=bins - 1)


def _entropy(kinds: Tensor) -> Tensor:
    """Entropy in nats of whole numbers (N,), as they are distributed in the set."""
    share = kinds.unique(return_counts=True)[1].float() / len(kinds)
    return -(share * share.log()).sum()


def _mutual_information(a: Tensor, b: Tensor) -> Tensor:
    """I(a; b) = H(a) + H(b) - H(a, b) in nats, of whole numbers (N,) from 0."""
    return _entropy(a) + _entropy(b) - _entropy(a * (b.max() + 1) + b)
