"""Diffusion: pictures out of noise, step by step."""

from lightning_modules.diffusion.ddpm import DDPM
from lightning_modules.diffusion.denoiser import Denoiser
from lightning_modules.diffusion.diffusers_adapter import FromDiffusers
from lightning_modules.diffusion.efficient_unet import EfficientUNet
from lightning_modules.diffusion.imagen import ImagenCascade, SuperResolution, TextToImage
from lightning_modules.diffusion.parameterization import P2, VLB, LossWeight, MinSNR, Simple, Unweighted
from lightning_modules.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, SigmoidSchedule

__all__ = [
    "DDPM",
    "P2",
    "VLB",
    "CosineSchedule",
    "Denoiser",
    "EfficientUNet",
    "FromDiffusers",
    "ImagenCascade",
    "LinearSchedule",
    "LossWeight",
    "MinSNR",
    "NoiseSchedule",
    "SigmoidSchedule",
    "Simple",
    "SuperResolution",
    "TextToImage",
    "Unweighted",
]
