"""Autoencoders and GANs: training steps and sampling beside widely used public recipes in plain loops."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from lightning import Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
    both_layouts,
    compare,
    descend,
    entry,
    side_of,
    training_loss,
    without_gradients,
    without_trainer,
)
from darkroom.cli.console import filter_warnings
from darkroom.lightning_modules.adversarial import DCGAN
from darkroom.lightning_modules.adversarial.dcgan import DCGANDiscriminator, DCGANGenerator
from darkroom.lightning_modules.adversarial.manual_optimization import AlternatingOptim
from darkroom.lightning_modules.autoencoding import VAE, Gaussian, PixelMeanWeight
from darkroom.lightning_modules.optimizers import Optim

BATCH, SIZE = 64, 64
CHANNELS, LATENT, KL_WEIGHT = (32, 64, 128, 256, 512), 128, 0.00025
SMALL_VAE = (16, 32, 64, 128), 10  # channels and dimension of codes
PUBLIC_VAE, PUBLIC_GAN = "PyTorch-VAE's layers and loss, plain loop", "PyTorch's example, plain loop"


class PublicVAE(nn.Module):
    """The vanilla VAE of PyTorch-VAE (A. K. Subramanian, Apache-2.0), rebuilt; its last map is 2 x 2.

    Args:
        channels: of the encoder's stages, each of which halves the image.
        latent_dim: dimension of a code.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, latent_dim: int = LATENT) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for below, above in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(below, above, 3, 2, 1), nn.BatchNorm2d(above), nn.LeakyReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        last = 4 * channels[-1]
        self.mean, self.log_variance = nn.Linear(last, latent_dim), nn.Linear(last, latent_dim)
        layers = [nn.Linear(latent_dim, last), nn.Unflatten(1, (channels[-1], 2, 2))]
        down = channels[::-1]
        for below, above in zip(down, (*down[1:], down[-1]), strict=True):
            layers += [nn.ConvTranspose2d(below, above, 3, 2, 1, 1), nn.BatchNorm2d(above), nn.LeakyReLU()]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(down[-1], 3, 3, 1, 1), nn.Tanh())

    def loss(self, image: torch.Tensor) -> torch.Tensor:
        """Compute the mean squared error over pixels and channels, plus M_N times the KL summed over latents."""
        hidden = self.encoder(image)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return F.mse_loss(self.decoder(z), image) + KL_WEIGHT * kl


@entry
def vae_step(options: Options) -> Result:
    """Compare VAE training steps, 64 x 64, batch 64: the same layers in darkroom and in PyTorch-VAE's plain loop.

    Without ``channels_last`` the peer has PyTorch's own memory layout, and darkroom is timed in both layouts.
    """
    return _vae_steps("VAE", CHANNELS, LATENT, options)


@entry
def vae_small_step(options: Options) -> Result:
    """Compare VAE training steps with 16 to 128 channels as in its config, 32 x 32, batch 64, as ``vae_step`` does."""
    return _vae_steps("VAE of 16 to 128 channels,", *SMALL_VAE, options)


@entry
def vae_sampling(options: Options) -> Result:
    """Compare sampling of 64 images of 64 x 64 by the VAE, in NHWC order, and by the layers of PyTorch-VAE."""
    return _vae_sampling("VAE", CHANNELS, LATENT, options)


@entry
def vae_small_sampling(options: Options) -> Result:
    """Compare sampling with 16 to 128 channels as in the config, 32 x 32, as ``vae_sampling`` does."""
    return _vae_sampling("VAE of 16 to 128 channels", *SMALL_VAE, options)


def _vae_sampling(title: str, channels: Sequence[int], latent_dim: int, options: Options) -> Result:
    theirs, sides = options.place(PublicVAE(channels, latent_dim)).eval(), []
    for name, vae in _vaes(channels, latent_dim, options).items():
        sample = without_gradients(partial(vae.eval().sample, BATCH), options)
        sides.append(side_of(name, [vae.decoder], sample, BATCH, options))

    def sample_public() -> torch.Tensor:
        return theirs.decoder(torch.randn(BATCH, latent_dim, device=options.device))

    sides.append(side_of(PUBLIC_VAE, [theirs.decoder], without_gradients(sample_public, options), BATCH, options))
    side = 2 * 2 ** len(channels)
    return compare(f"{title}, {BATCH} samples, {side} px", sides, options, peers=[PUBLIC_VAE])


def _vae_steps(title: str, channels: Sequence[int], latent_dim: int, options: Options) -> Result:
    """Compare training steps of a VAE whose last map is 2 x 2."""
    theirs, size = options.place(PublicVAE(channels, latent_dim)).train(), 2 * 2 ** len(channels)
    image, sides = options.images(BATCH, 3, size, size).clamp(-1, 1), []
    for name, vae in _vaes(channels, latent_dim, options).items():
        step = descend(vae.configure_optimizers(), partial(training_loss, vae.train(), {"image": image}), options)
        sides.append(side_of(name, vae.networks(), step, BATCH, options))
    adam = torch.optim.Adam(theirs.parameters(), lr=5e-3)
    step = descend(adam, partial(theirs.loss, image), options)
    sides.append(side_of(PUBLIC_VAE, [*theirs.children()], step, BATCH, options))
    notes = ["Ours has a fused AdamW, PyTorch-VAE Adam."]
    return compare(f"{title} training step, batch {BATCH}, {size} px", sides, options, notes, [PUBLIC_VAE])


def _vaes(channels: Sequence[int], latent_dim: int, options: Options) -> dict[str, VAE]:
    """Build darkroom's VAE with the layers and loss of PyTorch-VAE, in NHWC and in the layout of the options."""
    layouts = both_layouts("darkroom VAE, channels_last", "darkroom VAE, in the layout of PyTorch-VAE", options)
    models = {name: _vae(channels, latent_dim, last) for name, last in layouts.items()}
    first, *others = models.values()
    for other in others:
        other.load_state_dict(first.state_dict())
    return {name: without_trainer(options.place(model)) for name, model in models.items()}


def _vae(channels: Sequence[int], latent_dim: int, channels_last: bool) -> VAE:
    size = 2 * 2 ** len(channels)
    return VAE(
        (3, size, size),
        latent_dim=latent_dim,
        channels=channels,
        likelihood=Gaussian(sigma=1.0),
        kl_schedule=PixelMeanWeight(KL_WEIGHT),
        optim=Optim(channels_last=channels_last),
    )


class _Repeated(Dataset[dict[str, torch.Tensor]]):
    """One batch, several times."""

    def __init__(self, batch: dict[str, torch.Tensor], times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.batch


@dataclass(frozen=True)
class _GAN:
    """Sizes of a DCGAN."""

    title: str
    side: int
    base_channels: int
    latent_dim: int

    def networks(self) -> tuple[DCGANGenerator, DCGANDiscriminator]:
        """Build the generator and the discriminator, with batch norm, as in PyTorch's example."""
        shape = (3, self.side, self.side)
        return DCGANGenerator(shape, self.latent_dim, self.base_channels), DCGANDiscriminator(shape, self.base_channels)

    def ours(self, channels_last: bool) -> DCGAN:
        """Build darkroom's DCGAN."""
        optim, shape = AlternatingOptim(channels_last=channels_last), (3, self.side, self.side)
        return DCGAN(shape, latent_dim=self.latent_dim, base_channels=self.base_channels, optim=optim)

    def images(self, options: Options) -> torch.Tensor:
        """Return a batch of random images in [-1, 1]."""
        return options.images(BATCH, 3, self.side, self.side).clamp(-1, 1)

    def latents(self, options: Options) -> torch.Tensor:
        """Return a batch of latents."""
        return torch.randn(BATCH, self.latent_dim, device=options.device)


PAPER_GAN, SMALL_GAN = _GAN("DCGAN", SIZE, 64, 100), _GAN("DCGAN of 32 channels", 16, 32, 32)


@entry
def dcgan_step(options: Options) -> Result:
    """Compare DCGAN training steps, 64 x 64, batch 64, width 64: a fit of darkroom and the loop of PyTorch's example.

    Without ``channels_last`` the peer has PyTorch's own memory layout, and darkroom is timed in both layouts.
    """
    return _dcgan_steps(PAPER_GAN, options, 2)


@entry
def dcgan_small_step(options: Options) -> Result:
    """Compare DCGAN training steps at 16 x 16, with the widths of its config, as ``dcgan_step`` does.

    As in PyTorch's example the discriminator has batch norm; the config has none, and a penalty on its gradient.
    """
    return _dcgan_steps(SMALL_GAN, options, 50)


def _dcgan_steps(gan: _GAN, options: Options, steps_on_cpu: int) -> Result:
    steps = 50 if options.device == "cuda" else steps_on_cpu  # in one timing, since every fit has a setup
    image = gan.images(options)
    generator, discriminator = (options.place(network) for network in gan.networks())
    g_adam, d_adam = (
        torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (generator, discriminator)
    )

    def adversarial_loss(images: torch.Tensor, real: bool) -> torch.Tensor:
        with options.autocast():
            logits = discriminator(images)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def loop() -> None:
        for _ in range(steps):
            discriminator.zero_grad()
            with options.autocast():
                fake = generator(gan.latents(options))
            adversarial_loss(image, True).backward()
            adversarial_loss(fake.detach(), False).backward()
            d_adam.step()
            generator.zero_grad()
            adversarial_loss(fake, True).backward()  # also computes unused gradients of the discriminator
            g_adam.step()

    fit = "darkroom DCGAN, a Trainer's fit, channels_last"
    layouts = both_layouts(fit, "darkroom DCGAN, in the layout of the example", options)
    sides = [_dcgan_side(name, gan.ours(last), image, steps, options) for name, last in layouts.items()]
    sides.append(side_of(PUBLIC_GAN, [generator, discriminator], loop, steps * BATCH, options))
    notes = [
        f"Times of {steps} steps. The discriminators have batch norm. Ours also updates EMA weights of the generator, and "
        "builds its optimizers in every fit."
    ]
    return compare(f"{gan.title} training step, batch {BATCH}, {gan.side} px", sides, options, notes, [PUBLIC_GAN])


@entry
def dcgan_sampling(options: Options) -> Result:
    """Compare sampling of 64 images of 64 x 64 by DCGAN, in NHWC order, with its generator alone in NCHW order."""
    return _dcgan_sampling(PAPER_GAN, options)


@entry
def dcgan_small_sampling(options: Options) -> Result:
    """Compare sampling of 64 images of 16 x 16, width 32 as in the config, as ``dcgan_sampling`` does."""
    return _dcgan_sampling(SMALL_GAN, options)


def _dcgan_sampling(gan: _GAN, options: Options) -> Result:
    generator, alone = options.place(gan.networks()[0]).eval(), "the generator alone"
    sides = []
    for name, last in both_layouts("darkroom DCGAN, channels_last", "darkroom DCGAN", options).items():
        ours = without_trainer(options.place(gan.ours(last)).eval())
        assert ours.ema is not None
        sample = without_gradients(partial(ours.sample, BATCH), options)
        sides.append(side_of(name, [ours.ema.module], sample, BATCH, options))

    def sample_alone() -> torch.Tensor:
        return generator(gan.latents(options))

    sides.append(side_of(alone, [generator], without_gradients(sample_alone, options), BATCH, options))
    return compare(f"{gan.title}, {BATCH} samples, {gan.side} px", sides, options, peers=[alone])


def _dcgan_side(name: str, model: DCGAN, image: torch.Tensor, steps: int, options: Options) -> Side:
    """Return fits of darkroom's DCGAN, each of a number of steps on one batch."""
    mixed: dict[str, Literal["bf16-mixed", "16-mixed"]] = {"bfloat16": "bf16-mixed", "float16": "16-mixed"}
    filter_warnings()

    def fit() -> None:
        trainer = Trainer(
            max_steps=steps,
            accelerator="gpu" if options.device == "cuda" else "cpu",
            devices=1,
            precision=mixed.get(options.dtype, "32-true"),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(model, DataLoader(_Repeated({"image": image}, steps), batch_size=None))

    return side_of(name, [model.generator, model.discriminator], fit, steps * BATCH, options)
