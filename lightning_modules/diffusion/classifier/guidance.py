"""Classifier guidance: the gradient of log p(y | x_t) in the predicted image (Dhariwal & Nichol 2021, section 4)."""

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.classifier.noisy_classifier import NoisyClassifier
from darkroom.lightning_modules.diffusion.load_trained import load_trained
from darkroom.lightning_modules.diffusion.objective.noise_schedules import NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.model_wrapper import X0Shift


@dataclass(frozen=True)
class ClassifierGuidance:
    """Options of classifier guidance.

    Args:
        ckpt_path: checkpoint of a ``NoisyClassifier``; in Python also the model itself, of which a copy is used.
        scale: s, factor of the gradient; 0: no guidance. 1 samples from the classifier's posterior p(x | y), larger values
            favour images of which the classifier is certain.

    Raises:
        UsageError: the scale is negative or not finite.
    """

    ckpt_path: str | nn.Module
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_scale("model.classifier.scale", self.scale)


def check_scale(key: str, scale: float) -> float:
    """Return a scale of guidance.

    Raises:
        UsageError: it is negative or not finite.
    """
    if not 0 <= scale < math.inf:
        raise UsageError(f"{key} must be at least 0 (0: no guidance), got {scale}")
    return scale


def _equal(schedule: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Return whether two schedules have the same times and, at five of them, the same alpha and sigma."""
    if schedule.num_steps != other.num_steps:
        return False
    times = [(schedule.num_steps - 1) * i // 4 for i in range(5)]
    ours, theirs = (torch.tensor([one.at(t) for t in times]) for one in (schedule, other))
    return torch.allclose(ours, theirs)


class ClassifierGuide:
    """Trained classifier that guides a diffusion model. It is not a part of the model and not in its checkpoints.

    Args:
        options: checkpoint and scale.
        image_shape: (C, H, W) of the diffusion model.
        schedule: of the diffusion model.
        num_classes: of the diffusion model's data, conditional or not, which must be the classifier's; None: not known.

    Raises:
        UsageError: the classifier was trained on another schedule, image shape or number of classes.
    """

    def __init__(
        self,
        options: ClassifierGuidance,
        image_shape: tuple[int, int, int] | None,
        schedule: NoiseSchedule,
        num_classes: int | None,
    ) -> None:
        key = "model.classifier.ckpt_path"
        without = "; or set model.classifier to null to sample without it"
        model = load_trained(options.ckpt_path, NoisyClassifier, key, remedy=without)
        if image_shape is not None and model.image_shape != tuple(image_shape):
            raise UsageError(f"{key}: the classifier takes images of {model.image_shape}, the model has {image_shape}")
        self.num_classes, self.scale, self.schedule = model.num_classes, options.scale, schedule
        if num_classes is not None:
            self.check_classes(num_classes, "the model has")
        if not _equal(schedule, model.schedule):
            raise UsageError(
                f"{key}: the classifier was trained on another schedule, a {type(model.schedule).__name__} of "
                f"{model.schedule.num_steps} steps; set model.schedule to that, or train the classifier on this model's"
            )
        given = isinstance(options.ckpt_path, nn.Module)  # may train on
        network = deepcopy(model.evaluated_network) if given else model.evaluated_network
        self.network = network.float().eval().requires_grad_(False)

    def check_classes(self, num_classes: int, owner: str) -> None:
        """Raise a UsageError for a number of classes other than the classifier's.

        Args:
            num_classes: of a model or of data.
            owner: "the model has" or "the data have", for the message.
        """
        if num_classes != self.num_classes:
            raise UsageError(
                f"model.classifier.ckpt_path: the classifier has {self.num_classes} classes, but {owner} {num_classes}; "
                "they must be the same classes"
            )

    def gradient(self, x: Tensor, t: float, labels: Tensor) -> Tensor:
        """Compute the gradient of log p(y | x_t) in x_t, in float32: (B, C, H, W).

        Works without gradients outside, also in ``torch.inference_mode``.

        Args:
            x: noisy images (B, C, H, W).
            t: time of all images.
            labels: y, int64 (B,).
        """
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            # Tensors of the inference mode cannot be saved for gradients: so parameters move outside of it, and inputs are
            # copied.
            network = self.network.to(x.device)
            x, labels = x.detach().float().clone().requires_grad_(), labels.clone()
            dtype = torch.long if isinstance(t, int) else torch.float32
            logits = network(x, torch.full((len(x),), t, dtype=dtype, device=x.device))
            log_p = logits.float().log_softmax(1).gather(1, labels[:, None])
            (gradient,) = torch.autograd.grad(log_p.sum(), x)
        return gradient

    def shift(
        self, labels: Tensor, scale: float | None = None, interval: tuple[float, float] | None = None
    ) -> X0Shift | None:
        """Return the function that computes the change of the predicted image; None for a scale of 0.

        Algorithm 2 replaces eps by eps - sigma s grad log p(y | x_t) (equation 14). This is the prediction x_0 + sigma^2 /
        alpha s grad log p(y | x_t), for a network that predicts anything. In an ancestral step it moves the mean by
        beta / sqrt(1 - beta) s grad log p(y | x_t): s Sigma grad log p(y | x_t) of Algorithm 1 with Sigma = beta, to first
        order in beta. For the exact classifier and s = 1 the guided prediction is exactly that of p(x | y).

        Args:
            labels: y, int64 (B,).
            scale: s; None: that of the options.
            interval: fraction of the time, of [0, 1] with 1 all noise, in which guidance is active; None: always.
        """
        weight = self.scale if scale is None else check_scale("classifier_scale", scale)
        if weight == 0:
            return None
        low, high = (self.schedule.num_steps * end for end in interval or (-math.inf, math.inf))

        def shift(x: Tensor, t: float) -> Tensor:
            alpha, sigma = self.schedule.at(t)
            if alpha == 0 or not low <= t < high:  # without signal the class has no effect on x_t
                return torch.zeros_like(x)
            return sigma**2 / alpha * weight * self.gradient(x, t, labels)  # equation 14

        return shift
