"""Options of the training objective of diffusion."""

from dataclasses import dataclass

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.objective.parameterization import (
    P2,
    VLB,
    LossWeight,
    MinSNR,
    Parameterization,
    Prediction,
    Simple,
)
from darkroom.lightning_modules.diffusion.objective.times import TimeDistribution
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.ranges import NonNegativeFloat, PositiveFloat


@dataclass
class Objective:
    """Prediction target of a diffusion model, weights of its errors, and times of training.

    Args:
        prediction: output of the network: eps, the noise; x0, the image; v (Salimans & Ho 2022); flow, eps - x0 (Liu et al.
            2022); edm, the preconditioned network of Karras et al. 2022.
        loss_weight: of the error at each time; None: the plain squared error of the prediction (``Unweighted``): for
            eps ``Simple`` (Ho et al. 2020, equation 14), for v the SNR + 1 weighting of Salimans & Ho (2022, section 4),
            for flow the loss of Liu et al. (2022, equation 1), for edm that of Karras et al. (2022, equation 8).
        times: distribution of the times of training; None: ``UniformTimes``.
        learned_variance: the network also predicts the variance of a step, by the hybrid loss (Nichol & Dhariwal 2021,
            equation 16).
        vlb_weight: of the variational bound in it, at least 0.
        self_conditioning: the last prediction is a further input of the network (Chen et al. 2022).
        sigma_data: of prediction edm, above 0: standard deviation of the images in [-1, 1].

    Raises:
        UsageError: a value is out of its range.
    """

    prediction: Prediction = "eps"
    loss_weight: LossWeight | None = None
    times: TimeDistribution | None = None
    learned_variance: bool = False
    vlb_weight: NonNegativeFloat = 0.001
    self_conditioning: bool = False
    sigma_data: PositiveFloat = 0.5

    def __post_init__(self) -> None:
        check_choice("model.objective.prediction", self.prediction, Prediction)
        if not self.vlb_weight >= 0:
            raise UsageError(f"model.objective.vlb_weight must be at least 0, got {self.vlb_weight}")
        if not self.sigma_data > 0:
            raise UsageError(f"model.objective.sigma_data must be above 0, got {self.sigma_data}")

    @property
    def parameterization(self) -> Parameterization:
        """Prediction of the network and its conversions."""
        return Parameterization(self.prediction, self.sigma_data)

    def check_schedule(self, schedule: NoiseSchedule) -> None:
        """Check that this objective is defined for a schedule.

        Raises:
            UsageError: names the option and a remedy.
        """
        name, others = type(schedule).__name__, "flow, edm or x0"
        if self.prediction == "eps" and schedule.ends_in_noise:
            raise UsageError(
                f"model.objective.prediction eps does not determine the image at the last time of {name}, whose alpha is "
                f"0; it must be {'v, ' if schedule.variance_preserving else ''}{others}"
            )
        if self.prediction == "v" and not schedule.variance_preserving:
            raise UsageError(
                f"model.objective.prediction v needs alpha^2 + sigma^2 = 1, which {name} does not have; it must be {others}"
            )
        if self.learned_variance and schedule.continuous:
            raise UsageError(
                f"model.objective.learned_variance must be false for {name}, because the variance of a step is learned "
                "at whole times"
            )
        weight = type(self.loss_weight).__name__
        if isinstance(self.loss_weight, VLB) and (schedule.continuous or schedule.ends_in_noise):
            raise UsageError(
                f"model.objective.loss_weight VLB is the weight of steps of whole times with alpha above 0, which {name} "
                "does not have; use Unweighted"
            )
        if isinstance(self.loss_weight, Simple | MinSNR | P2) and schedule.ends_in_noise and not schedule.continuous:
            raise UsageError(
                f"model.objective.loss_weight {weight} is 0 at the last time of {name}, from which samplers start; use "
                "Unweighted"
            )
