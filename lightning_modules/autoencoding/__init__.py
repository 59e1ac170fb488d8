"""Autoencoders and variational autoencoders."""

from darkroom.lightning_modules.autoencoding.autoencoder import AutoEncoder
from darkroom.lightning_modules.autoencoding.conditional_vae import ConditionalVAE
from darkroom.lightning_modules.autoencoding.kl_schedules import Constant, Cyclical, KLSchedule, PixelMeanWeight, WarmUp
from darkroom.lightning_modules.autoencoding.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian, Likelihood
from darkroom.lightning_modules.autoencoding.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from darkroom.lightning_modules.autoencoding.vae import VAE, kl_divergence

__all__ = [
    "VAE",
    "AutoEncoder",
    "Bernoulli",
    "ConditionalVAE",
    "Constant",
    "ConvDecoder",
    "ConvEncoder",
    "Cyclical",
    "DiscretizedLogistic",
    "Gaussian",
    "KLSchedule",
    "Likelihood",
    "MLPDecoder",
    "MLPEncoder",
    "PixelMeanWeight",
    "WarmUp",
    "kl_divergence",
]
