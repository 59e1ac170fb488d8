"""Lesson 12: guidance and Imagen. Write three functions and repair the fourth: darkroom check lesson 12."""

from collections.abc import Callable

from torch import Tensor


def drop_labels(labels: Tensor, uniform: Tensor, probability: float, null: int) -> Tensor:
    """Replace random labels by the null label, so that one network learns both the conditional and the unconditional model.

    Args:
        labels: int64 (B,).
        uniform: random numbers in [0, 1), (B,).
        probability: of dropping a label.
        null: label that stands for no condition.

    Returns:
        int64 (B,): the null label where the random number is below the probability.
    """
    raise NotImplementedError


def dynamic_threshold(x0: Tensor, percentile: float) -> Tensor:
    """Clip a predicted image at a percentile of its absolute values and rescale it (Saharia et al. 2022, section 2.3).

    Args:
        x0: (B, C, H, W); guidance makes values beyond [-1, 1].
        percentile: in (0, 1], such as 0.995; between two values by linear interpolation, as ``torch.quantile``.

    Returns:
        (B, C, H, W) in [-1, 1]. Each image has its own scale; an image whose percentile is below 1 is only clipped to
        [-1, 1].
    """
    raise NotImplementedError


def v_to_eps(v: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """Compute the noise that belongs to a prediction of v = alpha eps - sigma x_0 (Salimans & Ho 2022, appendix D).

    Args:
        v: prediction, (B, C, H, W).
        x_t: alpha x_0 + sigma eps, (B, C, H, W).
        alpha, sigma: of this time, with alpha^2 + sigma^2 = 1.

    Returns:
        eps, (B, C, H, W).
    """
    raise NotImplementedError


def guided_prediction(
    network: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, labels: Tensor, null: int, weight: float
) -> Tensor:
    """Predict the noise with classifier-free guidance (Ho & Salimans 2022).

    Args:
        network: maps x_t (B, C, H, W) and labels int64 (B,) to the noise (B, C, H, W).
        x_t: (B, C, H, W).
        labels: int64 (B,).
        null: label that stands for no condition.
        weight: 0 is the unconditional prediction, 1 the conditional one, above 1 follows the condition more.

    Returns:
        (B, C, H, W).
    """
    conditional = network(x_t, labels)
    unconditional = network(x_t, labels.new_full(labels.shape, null))
    return conditional + weight * (unconditional - conditional)
