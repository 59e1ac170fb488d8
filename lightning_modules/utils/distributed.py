"""Reductions over ranks in losses."""

import torch
from torch import Tensor, distributed


def mean_over_ranks(count: Tensor) -> Tensor:
    """Average a count (of pixels, of matches) in this rank's batch over all ranks: float32, without a gradient.

    DDP averages the gradients of the ranks. If each rank divided its loss by its own count, a pixel of a batch with few
    would weigh more. Divided by the mean count, the average is the loss of all batches as one.

    All ranks must call this, as in a training step. Without gradients, in evaluation, ranks may have different numbers of
    batches, and the count is returned unchanged.
    """
    mean = count.detach().float()
    if torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized():
        mean = mean.clone()
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean
