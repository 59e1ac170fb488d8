"""Diffusion models."""

from darkroom.lightning_modules.diffusion.classifier import EncoderClassifier, NoisyClassifier
from darkroom.lightning_modules.diffusion.classifier.guidance import ClassifierGuidance
from darkroom.lightning_modules.diffusion.ddpm import DDPM
from darkroom.lightning_modules.diffusion.diffusers_adapter import FromDiffusers
from darkroom.lightning_modules.diffusion.efficient_unet import EfficientUNet
from darkroom.lightning_modules.diffusion.imagen import ImagenCascade, SuperResolution, TextToImage
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.continuous_schedules import EDMSchedule, RectifiedFlow
from darkroom.lightning_modules.diffusion.objective.noise_schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    SigmoidSchedule,
    ZeroTerminalSNR,
)
from darkroom.lightning_modules.diffusion.objective.parameterization import (
    P2,
    VLB,
    LossWeight,
    MinSNR,
    Simple,
    Unweighted,
)
from darkroom.lightning_modules.diffusion.objective.times import (
    LogitNormalTimes,
    LogNormalSigma,
    TimeDistribution,
    UniformTimes,
)
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet

__all__ = [
    "DDPM",
    "P2",
    "VLB",
    "ClassifierGuidance",
    "CosineSchedule",
    "DenoisingUNet",
    "EDMSchedule",
    "EfficientUNet",
    "EncoderClassifier",
    "FromDiffusers",
    "ImagenCascade",
    "LinearSchedule",
    "LogNormalSigma",
    "LogitNormalTimes",
    "LossWeight",
    "MinSNR",
    "NoiseSchedule",
    "NoisyClassifier",
    "Objective",
    "RectifiedFlow",
    "Sampling",
    "SigmoidSchedule",
    "Simple",
    "SuperResolution",
    "TextToImage",
    "TimeDistribution",
    "UniformTimes",
    "Unweighted",
    "ZeroTerminalSNR",
]
