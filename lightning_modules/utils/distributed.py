"""Ranks: what a loss has to know of the other ranks."""

import torch
from torch import Tensor, distributed


def mean_over_ranks(count: Tensor) -> Tensor:
    """A count (of pixels, of matches) in this rank's batch -> its mean over all ranks, float32, without a gradient.

    DDP averages the gradients of the ranks. Of losses that each divide by their own batch's count that is not the loss of
    all batches as one: a pixel would weigh more among few than among many. Divided by the mean count it is.

    All ranks have to ask, as they do in a training step. Without gradients, in evaluation, where one rank may have more
    batches than another, the count stays what it is.
    """
    mean = count.detach().float()
    if torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized():
        mean = mean.clone()
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean
