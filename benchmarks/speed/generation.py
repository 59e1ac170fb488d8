"""Generative methods: training steps beside widely used public recipes in plain loops; cost of a metric."""

from collections.abc import Sequence
from dataclasses import replace
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
    compare,
    descend,
    entry,
    one_thread,
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
from darkroom.lightning_modules.metrics import SampleScores
from darkroom.lightning_modules.metrics.reference_classifier import ReferenceClassifier
from darkroom.lightning_modules.optimizers import Optim

BATCH, SIZE = 64, 64
CHANNELS, LATENT, KL_WEIGHT = (32, 64, 128, 256, 512), 128, 0.00025
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
    return _vae_steps("VAE of 16 to 128 channels,", (16, 32, 64, 128), 10, options)


@entry
def vae_sampling(options: Options) -> Result:
    """Compare sampling of 64 images of 64 x 64 by the VAE, in NHWC order, and by the layers of PyTorch-VAE."""
    ours = without_trainer(options.place(_vae(CHANNELS, LATENT, True)).eval())
    theirs = options.place(PublicVAE()).eval()

    def sample() -> torch.Tensor:
        return theirs.decoder(torch.randn(BATCH, LATENT, device=options.device))

    ours_step = without_gradients(partial(ours.sample, BATCH), options)
    sides = [
        side_of("darkroom VAE, channels_last", [ours.decoder], ours_step, BATCH, options),
        side_of(PUBLIC_VAE, [theirs.decoder], without_gradients(sample, options), BATCH, options),
    ]
    return compare(f"VAE, {BATCH} samples, {SIZE} px", sides, options, peers=[PUBLIC_VAE])


def _vae_steps(title: str, channels: Sequence[int], latent_dim: int, options: Options) -> Result:
    """Compare training steps of a VAE whose last map is 2 x 2."""
    last, size = replace(options, channels_last=True), 2 * 2 ** len(channels)
    theirs = options.place(PublicVAE(channels, latent_dim)).train()
    torch.manual_seed(0)  # of the image, which all sides have
    image = options.images(BATCH, 3, size, size).clamp(-1, 1)

    adam = torch.optim.Adam(theirs.parameters(), lr=5e-3)
    sides = [_vae_side("darkroom VAE, channels_last", channels, latent_dim, last)]
    if not options.channels_last:
        sides.append(_vae_side("darkroom VAE, in the layout of PyTorch-VAE", channels, latent_dim, options))
    peer = side_of(
        PUBLIC_VAE, [*theirs.children()], descend(adam, partial(theirs.loss, image), options), BATCH, options
    )
    notes = ["Ours has a fused AdamW, PyTorch-VAE Adam."]
    return compare(f"{title} training step, batch {BATCH}, {size} px", [*sides, peer], options, notes, [peer.name])


def _vae(channels: Sequence[int], latent_dim: int, channels_last: bool) -> VAE:
    """Build darkroom's VAE with the layers and loss of PyTorch-VAE."""
    size = 2 * 2 ** len(channels)
    return VAE(
        (3, size, size),
        latent_dim=latent_dim,
        channels=channels,
        likelihood=Gaussian(sigma=1.0),
        kl_schedule=PixelMeanWeight(KL_WEIGHT),
        optim=Optim(channels_last=channels_last),
    )


def _vae_side(name: str, channels: Sequence[int], latent_dim: int, options: Options) -> Side:
    """Return the training steps of darkroom's VAE."""
    torch.manual_seed(0)  # of weights and image, which both layouts have
    vae = without_trainer(options.place(_vae(channels, latent_dim, options.channels_last)).train())
    torch.manual_seed(0)
    image = options.images(BATCH, *vae.image_shape).clamp(-1, 1)
    loss = partial(training_loss, vae, {"image": image})
    return side_of(name, vae.networks(), descend(vae.configure_optimizers(), loss, options), BATCH, options)


class _Repeated(Dataset[dict[str, torch.Tensor]]):
    """One batch, several times."""

    def __init__(self, batch: dict[str, torch.Tensor], times: int) -> None:
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.batch


@entry
def dcgan_step(options: Options) -> Result:
    """Compare DCGAN training steps, 64 x 64, batch 64, width 64: a fit of darkroom and the loop of PyTorch's example.

    Without ``channels_last`` the peer has PyTorch's own memory layout, and darkroom is timed in both layouts.
    """
    steps = 50 if options.device == "cuda" else 2  # in one timing, since every fit has a setup
    image = options.images(BATCH, 3, SIZE, SIZE).clamp(-1, 1)
    generator, discriminator = (options.place(net) for net in (DCGANGenerator(), DCGANDiscriminator()))
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
                fake = generator(torch.randn(BATCH, 100, device=options.device))
            adversarial_loss(image, True).backward()
            adversarial_loss(fake.detach(), False).backward()
            d_adam.step()
            generator.zero_grad()
            adversarial_loss(fake, True).backward()  # also computes unused gradients of the discriminator
            g_adam.step()

    sides = [_dcgan_side("darkroom DCGAN, a Trainer's fit, channels_last", steps, replace(options, channels_last=True))]
    if not options.channels_last:
        sides.append(_dcgan_side("darkroom DCGAN, in the layout of the example", steps, options))
    peer = side_of(PUBLIC_GAN, [generator, discriminator], loop, steps * BATCH, options)
    notes = [
        f"Times of {steps} steps. Ours also updates EMA weights of the generator, and builds its optimizers in every fit."
    ]
    return compare(f"DCGAN training step, batch {BATCH}, {SIZE} px", [*sides, peer], options, notes, [peer.name])


@entry
def dcgan_sampling(options: Options) -> Result:
    """Compare sampling of 64 images of 64 x 64 by DCGAN, in NHWC order, with its generator alone in NCHW order."""
    gan = without_trainer(options.place(DCGAN((3, SIZE, SIZE), optim=AlternatingOptim(channels_last=True))).eval())
    generator, alone = options.place(DCGANGenerator()).eval(), "the generator alone"
    assert gan.ema is not None

    def sample() -> torch.Tensor:
        return generator(torch.randn(BATCH, 100, device=options.device))

    ours_step = without_gradients(partial(gan.sample, BATCH), options)
    sides = [
        side_of("darkroom DCGAN, channels_last", [gan.ema.module], ours_step, BATCH, options),
        side_of(alone, [generator], without_gradients(sample, options), BATCH, options),
    ]
    return compare(f"DCGAN, {BATCH} samples, {SIZE} px", sides, options, peers=[alone])


def _dcgan_side(name: str, steps: int, options: Options) -> Side:
    """Return fits of darkroom's DCGAN, each of a number of steps on one batch."""
    gan = DCGAN((3, SIZE, SIZE), optim=AlternatingOptim(channels_last=options.channels_last))
    batch = {"image": options.images(BATCH, 3, SIZE, SIZE).clamp(-1, 1)}
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
        trainer.fit(gan, DataLoader(_Repeated(batch, steps), batch_size=None))

    return side_of(name, [gan.generator, gan.discriminator], fit, steps * BATCH, options)


class _Noise:
    """Sampler of noise at almost no cost, so that the metric alone is timed."""

    num_classes = None

    def __init__(self, shape: tuple[int, int, int], device: str) -> None:
        self.shape, self.device = shape, torch.device(device)

    def sample(self, n: int, *, labels: None, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(n, *self.shape, generator=generator).to(self.device)

    def to_uint8(self, images: torch.Tensor) -> torch.Tensor:
        return (images * 255).to(torch.uint8)


@entry
def score_cost(options: Options) -> Result:
    """Measure cnn_fid without sampling: features and statistics of 1000 real and 1000 generated images."""
    sides = []
    for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64)):
        real = torch.randint(0, 256, (1000, *shape), dtype=torch.uint8, device=options.device)
        noise = _Noise(shape, options.device)

        def score(real: torch.Tensor = real, noise: _Noise = noise) -> None:
            scores = SampleScores(num_samples=len(real))
            scores._network = ReferenceClassifier(real.shape[1], 10).eval()
            for some in real.split(100):
                scores.update("test", some, {})
            scores.compute("test", noise)

        sides.append(Side(" x ".join(map(str, shape)), score, len(real)))
    with one_thread():
        return compare(
            "cnn_fid of 1000 images", sides, options, ["One core on a CPU. The cost of sampling is not included."]
        )
