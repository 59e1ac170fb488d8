"""DCGAN (Radford, Metz, Chintala 2016): a convolutional generator and discriminator."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from darkroom.errors import UsageError
from darkroom.lightning_modules.adversarial.losses import (
    AdversarialLoss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from darkroom.lightning_modules.adversarial.manual_optimization import AlternatingOptim, ManualOptimization
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.generation.export import decoder_graph
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.utils.arguments import build_options, check_choice
from darkroom.lightning_modules.utils.eval_mode import constant_parameters, eval_mode
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols.export import ExportGraph

DiscriminatorNorm = Literal["batch", "spectral", "none"]
# joint_batch: batch norm over real and generated images together.
TrainingNorm = Literal["joint_batch", "batch", "spectral", "none"]
Prior = Literal["uniform", "normal"]


def _at_least(low: int, **values: float) -> None:
    for name, value in values.items():
        if value < low:
            raise UsageError(f"model.{name} must be at least {low}, got {value}")


def _widths(image_shape: tuple[int, int, int], base_channels: int) -> list[int]:
    """Compute channels of the maps from half the image's side down to 4 x 4: doubled at each, up to 8 times the first."""
    side = image_shape[1]
    if side != image_shape[2] or side < 8 or side & (side - 1):
        raise UsageError(
            f"model.image_shape is {tuple(image_shape)}, but DCGAN needs square images of 8, 16, 32, 64, 128, ... pixels a "
            "side; set data.size, or data.side of Shapes, to 32"
        )
    return [base_channels * min(2**level, 8) for level in range(side.bit_length() - 3)]


def _init_weights(network: nn.Module) -> None:
    """Initialize weights from N(0, 0.02) (section 4), and scales of batch norm from N(1, 0.02), as the authors' code."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
            nn.init.zeros_(module.bias)


class LabelEmbedding(nn.Embedding):
    """Embedding of labels int64 (B,) -> (B, embedding_dim).

    Raises:
        UsageError: labels are missing.
    """

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise UsageError(
                f"labels are missing; a conditional network needs labels of 0 to {self.num_embeddings - 1}"
            )
        return super().forward(labels)


class DCGANGenerator(nn.Module):
    """Generator: latents (B, latent_dim), labels int64 (B,) if conditional -> images (B, C, S, S) in [-1, 1].

    Transposed 4 x 4 convolutions with batch norm and ReLU; tanh after the last. 3,576,704 parameters for (3, 64, 64).

    Args:
        image_shape: (C, S, S), S a power of two, at least 8.
        latent_dim: size of a latent.
        base_channels: channels of the last hidden map; doubled at each smaller one, up to 8 times.
        num_classes: if conditional; an embedding of the label, as long as the latent, is concatenated to it.

    Raises:
        UsageError: the image size is not supported.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 64, 64),
        latent_dim: int = 100,
        base_channels: int = 64,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        widths = _widths(image_shape, base_channels)[::-1]
        self.embedding = None if num_classes is None else LabelEmbedding(num_classes, latent_dim)
        channels = latent_dim if num_classes is None else 2 * latent_dim
        layers: list[nn.Module] = []
        for level, out in enumerate(widths):
            stride, padding = (2, 1) if level else (1, 0)  # the first maps 1 x 1 to 4 x 4
            layers += [
                nn.ConvTranspose2d(channels, out, 4, stride, padding, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            channels = out
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels, image_shape[0], 4, 2, 1, bias=False))
        _init_weights(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], 1)
        z = z.to(next(self.parameters()).dtype)
        return self.layers(z[:, :, None, None]).float().tanh()


class DCGANDiscriminator(nn.Module):
    """Discriminator: images (B, C, S, S) in [-1, 1], labels int64 (B,) if conditional -> logits (B,), high for real images.

    Strided 4 x 4 convolutions with batch norm, except after the first, and LeakyReLU 0.2. 2,765,568 parameters for
    (3, 64, 64).

    Args:
        image_shape: (C, S, S), S a power of two, at least 8.
        base_channels: channels of the first map; doubled at each smaller one, up to 8 times.
        num_classes: if conditional; the inner product of the label's embedding with the last map's sum is added to the
            logit (projection; Miyato & Koyama 2018, equation 3).
        norm: batch; spectral norm of all weights (Miyato et al. 2018); or none. The latter two have biases.

    Raises:
        UsageError: the image size is not supported.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 64, 64),
        base_channels: int = 64,
        num_classes: int | None = None,
        norm: DiscriminatorNorm = "batch",
    ) -> None:
        super().__init__()
        self.twice_differentiable = False  # set for R1
        channels, bias = image_shape[0], norm != "batch"
        layers: list[nn.Module] = []
        for level, out in enumerate(_widths(image_shape, base_channels)):
            layers.append(nn.Conv2d(channels, out, 4, 2, 1, bias=bias))
            if norm == "batch" and level:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            channels = out
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 1, 4, bias=bias)
        self.embedding = None if num_classes is None else LabelEmbedding(num_classes, channels)
        _init_weights(self)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)
        if norm == "spectral":
            for module in [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Embedding)]:
                spectral_norm(module)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the network, unless its gradient is differentiated, which compiled networks do not support."""
        if not self.twice_differentiable:
            super().compile(*args, **kwargs)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.layers(images.to(next(self.parameters()).dtype))
        logits = self.head(features).flatten()
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features.sum((2, 3))).sum(1)
        return logits.float()


class DCGAN(ManualOptimization, Generative, Technique):
    """DCGAN: a deep convolutional GAN (Radford, Metz, Chintala 2016).

    The defaults are the paper's, except for the EMA of the generator's weights, which is used for samples. A step is one of
    the discriminator: ``trainer.global_step``, ``max_steps`` and checkpoints count these. It trains on real images and as
    many generated ones. After every ``discriminator_steps``-th of its steps the generator steps on the same generated
    images. With ``accumulate_grad_batches``, images of all batches but the last are generated again from the same latents,
    to save memory. Running statistics of batch norm are updated in every forward pass, the generator's also in the
    discriminator's steps.

    Logged for every batch before the step: the discriminator's loss (``train/d_loss`` includes R1, ``val/d_loss`` does
    not), the generator's loss ``g_loss``, and ``d_real`` and ``d_fake``, the means of sigmoid(logit) over real and
    generated images. None of these measures the quality of samples, and training can collapse. So select the checkpoint
    by a metric (``scores``, and ``checkpoint.monitor`` val/cnn_fid); without one best.ckpt is the newest.

    Args:
        image_shape: (C, S, S), S a power of two, at least 8; the command line takes it from the data.
        num_classes: of the data; the command line takes it from there. Used only if ``conditional``.
        conditional: condition on the class.
        latent_dim: size of a latent.
        prior: of the latents: uniform in [-1, 1], as in the paper, or normal.
        base_channels: width of both networks; 64 as in the authors' code (figure 1 has 128).
        loss: non_saturating, hinge or least_squares; see ``losses``.
        discriminator_norm: batch norm over real and over generated images apart (batch), as in the authors' code, or over
            both together (joint_batch), see ``logits_of``; spectral; or none.
        r1: gamma of the penalty gamma / 2 E ||grad D(x)||^2 on real images (Mescheder et al. 2018, equation 9). It needs
            the gradient of each image, so it excludes batch norm in the discriminator, and second derivatives, so
            ``optim.compile`` leaves the discriminator out. With ``optim.r1_interval`` n it is computed in every n-th step.
        ema: of the generator's weights; null: samples use the current weights.
        discriminator_steps: number of the discriminator's steps to one of the generator's.
        inversion_steps: of gradient descent in ``encode``.
        scores: see Generative.
        optim: of both networks; the optimizer is Adam by default, lr 2e-4, beta1 0.5, fused. A ReduceLROnPlateau must
            monitor a logged metric such as val/cnn_fid.
        init_from: see Technique.

    Raises:
        UsageError: the image size is not supported, a value is out of its range, or options exclude each other.
    """

    monitor: ClassVar[tuple[str, str]] = ("step", "max")  # no loss measures the quality of samples: the newest
    encodes_by_search: ClassVar[bool] = True
    free_arguments: ClassVar[tuple[str, ...]] = ("inversion_steps",)

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        conditional: bool = False,
        latent_dim: int = 100,
        prior: Prior = "uniform",
        base_channels: int = 64,
        loss: AdversarialLoss = "non_saturating",
        discriminator_norm: TrainingNorm = "batch",
        r1: float = 0.0,
        ema: EMAOptions | None = EMAOptions(decay=0.999),  # noqa: B008 (frozen)
        discriminator_steps: int = 1,
        inversion_steps: int = 200,
        scores: SampleScores | None = None,
        optim: AlternatingOptim | None = None,
        init_from: str | None = None,
    ) -> None:
        if conditional and num_classes is None:
            raise UsageError(
                "model.conditional is true, but model.num_classes is missing; set it to the number of classes"
            )
        classes = num_classes if conditional else None
        options = build_options(AlternatingOptim, optim)
        super().__init__(
            image_shape=image_shape, num_classes=classes, scores=scores, optim=options, init_from=init_from
        )
        _at_least(1, latent_dim=latent_dim, base_channels=base_channels)
        _at_least(1, discriminator_steps=discriminator_steps)
        _at_least(0, r1=r1, inversion_steps=inversion_steps)
        if r1 and discriminator_norm in ("batch", "joint_batch"):
            raise UsageError(
                f"model.r1 is {r1} with model.discriminator_norm {discriminator_norm}, but R1 needs the gradient of each "
                "image, and batch norm mixes images; set model.discriminator_norm to spectral or none"
            )
        if options.r1_interval > 1 and not r1:
            raise UsageError(
                f"model.optim.r1_interval is {options.r1_interval}, but model.r1 is 0; set model.r1 above 0, or "
                "model.optim.r1_interval to 1"
            )
        self.automatic_optimization = False
        self.latent_dim, self.prior = latent_dim, check_choice("model.prior", prior, Prior)
        self.loss, self.r1 = check_choice("model.loss", loss, AdversarialLoss), r1
        self.r1_interval = options.r1_interval
        self.discriminator_steps, self.inversion_steps = discriminator_steps, inversion_steps
        self.steps_per_cycle = math.lcm(discriminator_steps, self.r1_interval)
        self.gradient_clip_val = options.gradient_clip_val
        self.accumulate_grad_batches = options.accumulate_grad_batches
        self.generator = DCGANGenerator(self.image_shape, latent_dim, base_channels, num_classes=classes)
        norm = check_choice("model.discriminator_norm", discriminator_norm, TrainingNorm)
        self.joint = norm == "joint_batch"
        kind: DiscriminatorNorm = "batch" if norm == "joint_batch" else norm
        self.discriminator = DCGANDiscriminator(self.image_shape, base_channels, num_classes=classes, norm=kind)
        self.discriminator.twice_differentiable = r1 > 0
        self.ema = None if ema is None else EMA(self.generator, build_options(EMAOptions, ema).decay)
        adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)
        both = options.optimizer or adam
        self._optimizers = options.discriminator_optimizer or both, options.generator_optimizer or both
        # Real images, latents and labels of accumulated batches, and the generated images if these have a graph.
        self._accumulated: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []

    def networks(self) -> list[nn.Module]:
        """Return generator, discriminator and, if there is one, the EMA of the generator."""
        return [self.generator, self.discriminator] + ([] if self.ema is None else [self.ema.module])

    def configure_optimizers(self) -> Any:
        pairs = zip(self._optimizers, (self.discriminator, self.generator), strict=True)
        optimizers = [self.fine_tuning.build_optimizer(self, build, network) for build, network in pairs]
        return optimizers, self.build_schedulers(optimizers, self.optim, every=(1, self.discriminator_steps))

    # --- training -----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._accumulated.clear()  # left by an interrupted fit
        self.zero_grad()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        real, labels = self.images_of(batch), self.labels_of(batch)
        steps = self.completes_step(batch_idx)
        generator_too = steps and (self.trainer.global_step + 1) % self.discriminator_steps == 0
        z = self.draw_latents(len(real))
        with torch.set_grad_enabled(generator_too):
            fake = self.generator(z, labels)
        self._accumulated.append((real, z, labels, fake if generator_too else None))

        penalized = self.trainer.global_step % self.r1_interval == 0
        terms = self.discriminator_terms(real, fake.detach(), labels, self.r1 * self.r1_interval if penalized else 0)
        self.accumulate(terms["d_loss"])
        if steps:
            optimizers = self.optimizers()
            assert isinstance(optimizers, list)
            discriminator, generator = optimizers
            self.step(discriminator, self.discriminator, len(self._accumulated), counted=True)
            if generator_too:
                self.generator_step(generator)
            self._accumulated.clear()
            self.average_statistics()
        return self.log_loss({name: term.detach() for name, term in terms.items()})

    def discriminator_terms(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, r1: float = 0.0
    ) -> dict[str, Tensor]:
        """Compute the losses on real and generated images, (B, C, H, W) each, and the discriminator's mean outputs.

        Args:
            real, fake: images.
            labels: int64 (B,) of both, if conditional.
            r1: gamma of the penalty in the discriminator's loss; 0: none.
        """
        penalty = torch.zeros((), device=real.device)
        if r1:
            real = real.detach().requires_grad_()
            with torch.autocast(real.device.type, enabled=False):  # a gradient's gradient in float32
                real_logits = self.discriminator(real, labels)
                penalty = r1 / 2 * gradient_penalty(real_logits, real)
            fake_logits = self.discriminator(fake, labels)
        else:
            real_logits, fake_logits = self.logits_of(real, fake, labels)
        return {
            "d_loss": discriminator_loss(self.loss, real_logits, fake_logits) + penalty,
            "g_loss": generator_loss(self.loss, fake_logits.detach()),
            "d_real": real_logits.detach().sigmoid().mean(),
            "d_fake": fake_logits.detach().sigmoid().mean(),
        }

    def logits_of(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the logits (B,) of real and of generated images, (B, C, H, W) each.

        Batch norm over generated images alone subtracts what they have in common, such as a wrong background, so that the
        logits do not depend on it and the generator is not corrected. Over both together it is a difference between them.
        """
        if not self.joint:
            return self.discriminator(real, labels), self.discriminator(fake, labels)
        both = None if labels is None else torch.cat([labels, labels])
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake]), both).chunk(2)
        return real_logits, fake_logits

    def generator_step(self, optimizer: Any) -> None:
        """Step the generator against the current discriminator, and update its EMA."""
        with constant_parameters(self.discriminator):
            for real, z, labels, fake in self._accumulated:
                fake = self.generator(z, labels) if fake is None else fake
                logits = self.logits_of(real, fake, labels)[1] if self.joint else self.discriminator(fake, labels)
                self.accumulate(generator_loss(self.loss, logits))
        self.step(optimizer, self.generator, len(self._accumulated), counted=False)
        if self.ema is not None:
            self.ema.update(self.generator)

    # --- samples ------------------------------------------------------------------------------------------------------

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Compute both losses on held-out images. They do not measure the quality of samples, as ``scores`` do."""
        real, labels = self.images_of(batch), self.labels_of(batch)
        z = self.draw_latents(len(real), self.evaluation_noise)
        return self.discriminator_terms(real, self.generator(z, labels), labels)

    def draw_latents(self, n: int, generator: Generators = None) -> Tensor:
        """Sample latents, float32 (n, latent_dim): standard normal or uniform in [-1, 1], by ``prior``."""
        uniform = self.prior == "uniform"
        noise = self.noise(n, self.latent_dim, generator=generator, uniform=uniform)
        return 2 * noise - 1 if uniform else noise

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode latents (B, latent_dim) to images (B, C, H, W) in [-1, 1] with the EMA weights."""
        return self._sampling_generator(z, labels)

    @property
    def _sampling_generator(self) -> nn.Module:
        return self.generator if self.ema is None else self.ema.module

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graph of the generator with the EMA weights, see ``ExportableParts``."""
        return {"generator": decoder_graph(self, self._sampling_generator, nn.Identity(), {"distribution": self.prior})}

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Search latents (B, latent_dim) whose images are closest to images (B, C, H, W): a GAN has no encoder.

        Adam minimizes the error over z (Lipton & Tripathi 2017), from the same start for all, within the prior's range. The
        result is not differentiable, and each latent depends only on its image.
        """
        with eval_mode(self.generator), torch.inference_mode(False), torch.enable_grad():
            x, labels = x.clone(), None if labels is None else labels.clone()
            start = self.draw_latents(1, torch.Generator().manual_seed(0))  # not 0, where ReLUs may have no gradient
            z = start.repeat(len(x), 1).requires_grad_()
            adam = torch.optim.Adam([z], lr=0.05)
            for _ in range(self.inversion_steps):
                error = (self.decode(z, labels=labels) - x).square().sum()
                (z.grad,) = torch.autograd.grad(error, z)
                adam.step()
                if self.prior == "uniform":
                    z.data.clamp_(-1, 1)
            return z.detach()
