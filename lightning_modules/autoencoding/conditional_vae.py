"""ConditionalVAE (Sohn et al. 2015; Kingma et al. 2014, model M2): a VAE whose encoder and decoder are told the class."""

from collections.abc import Sequence

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from darkroom.errors import UsageError
from lightning_modules.autoencoding.kl_schedules import KLSchedule
from lightning_modules.autoencoding.likelihoods import Likelihood
from lightning_modules.autoencoding.networks import Architecture
from lightning_modules.autoencoding.vae import VAE
from lightning_modules.metrics.sample_scores import SampleScores


class ConditionalVAE(VAE):
    """A VAE of p(x|y): q(z|x, y) and p(x|z, y) are told the label y; the prior of z, N(0, 1), is the same for all classes.

    So the code need not hold the class, and pictures are drawn of the class asked for. Everything else is VAE's.

    Args:
        image_shape, num_classes: (C, H, W) and the number of labels; the command line takes both from the data.
        encoder: maps (B, C, H, W) and labels int64 (B,) to (B, 2 D).
        decoder: maps (B, D) and labels int64 (B,) to the likelihood's parameters (B, C, H, W).
        latent_dim, architecture, channels, hidden, likelihood, kl_schedule, free_bits, iwae_samples: see VAE.
        scores, optimizer, lr_scheduler, channels_last, compile_network: see Generative.

    Raises:
        UsageError: as VAE; and for num_classes missing.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        latent_dim: int = 20,
        architecture: Architecture = "conv",
        channels: Sequence[int] = (32, 64, 128, 256),
        hidden: Sequence[int] = (500,),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        kl_schedule: KLSchedule | None = None,
        free_bits: float = 0.0,
        iwae_samples: int = 0,
        scores: SampleScores | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        channels_last: bool = False,
        compile_network: bool = False,
    ) -> None:
        if num_classes is None:
            raise UsageError("model.num_classes is missing; a conditional VAE needs the number of labels, such as 10")
        super().__init__(
            image_shape,
            latent_dim,
            architecture,
            channels,
            hidden,
            encoder,
            decoder,
            likelihood,
            kl_schedule,
            free_bits,
            iwae_samples,
            scores,
            optimizer,
            lr_scheduler,
            channels_last,
            compile_network,
            _num_classes=num_classes,
        )
