"""Options of the training objective of diffusion."""

from dataclasses import dataclass

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.parameterization import LossWeight, Prediction
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.ranges import NonNegativeFloat


@dataclass
class Objective:
    """Prediction target of a diffusion model, and weights of its errors.

    Args:
        prediction: output of the network: eps, the noise; x0, the image; v (Salimans & Ho 2022).
        loss_weight: of the error at each time; None: the plain squared error of the prediction (``Unweighted``): for
            eps ``Simple`` (Ho et al. 2020, equation 14), for v the SNR + 1 weighting of Salimans & Ho (2022, section 4).
        learned_variance: the network also predicts the variance of a step, by the hybrid loss (Nichol & Dhariwal 2021,
            equation 16).
        vlb_weight: of the variational bound in it, at least 0.
        self_conditioning: the last prediction is a further input of the network (Chen et al. 2022).

    Raises:
        UsageError: a value is out of its range.
    """

    prediction: Prediction = "eps"
    loss_weight: LossWeight | None = None
    learned_variance: bool = False
    vlb_weight: NonNegativeFloat = 0.001
    self_conditioning: bool = False

    def __post_init__(self) -> None:
        check_choice("model.objective.prediction", self.prediction, Prediction)
        if not self.vlb_weight >= 0:
            raise UsageError(f"model.objective.vlb_weight must be at least 0, got {self.vlb_weight}")
