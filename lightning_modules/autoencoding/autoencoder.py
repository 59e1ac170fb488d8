"""AutoEncoder (Hinton & Salakhutdinov 2006), optionally denoising, with a distribution fitted to its codes for sampling."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding.code_distribution import CodeDistribution, CodeMixture, FitsCodeMixture
from darkroom.lightning_modules.autoencoding.likelihoods import Bernoulli, Gaussian
from darkroom.lightning_modules.autoencoding.networks import Architecture, apply, code_shape, encoder_and_decoder
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.generation.base import Generative, squared_error
from darkroom.lightning_modules.generation.export import decoder_graph, encoder_graph
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.utils.arguments import check_choice
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.records.results import Task

Reconstruction = Literal["squared_error", "cross_entropy"]


class AutoEncoder(FitsCodeMixture, Generative, Technique):
    """Autoencoder that reconstructs images from a code vector, without a prior of codes.

    For sampling, a distribution is fitted to the codes of the training images (ex-post density estimation: Ghosh et al.
    2020, section 4): a normal one, or a mixture of them; for codes that are maps a normal one of independent
    values.

    Logs ``train/loss`` and ``{val,test}/loss``, the error of an image summed over its values, in [-1, 1] for squares; and
    ``test/squared_error``, always of squares.

    Args:
        image_shape: (C, H, W); the command line takes it from the data.
        latent_dim: dimension of a code; None: 20, or with ``latent_channels`` c h w.
        architecture: "conv" or "mlp", of an encoder or decoder that is None.
        channels: of the convolutional encoder's stages, each of which halves the image; the decoder mirrors them.
        hidden: units of the MLP's hidden layers.
        encoder: maps (B, C, H, W) to (B, latent_dim).
        decoder: maps (B, latent_dim) to (B, C, H, W), unbounded: the image, clamped to [-1, 1], for squared_error; the
            logits of white for cross_entropy.
        reconstruction: loss: squared_error, or binary cross_entropy of images as values in [0, 1].
        noise: fraction of a training image's values, in [0, 1), that are set to black before encoding, for a denoising
            autoencoder (Vincent et al. 2008, section 2.3; there a fixed number, here each at random).
        code_components: number of normal distributions in the mixture, at least 1; above 1 it is fitted before each
            validation (``pip install -e '.[digits]'``, for scikit-learn). Ghosh et al. have 10. Must be 1 with
            ``latent_channels``.
        latent_channels: c, for codes that are maps (c, h, w), flattened; see VAE. None: codes are vectors.
        scores, optim, init_from: see Generative.

    Raises:
        UsageError: a network's output has another shape, or a value is out of its range.
    """

    task: ClassVar[Task] = "autoencoding"
    linked_arguments: ClassVar[tuple[str, ...]] = ("image_shape",)  # as the autoencoder of latent diffusion

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        latent_dim: int | None = None,
        architecture: Architecture = "conv",
        channels: Sequence[int] = (32, 64, 128, 256),
        hidden: Sequence[int] = (500,),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        reconstruction: Reconstruction = "squared_error",
        noise: float = 0.0,
        code_components: int = 1,
        latent_channels: int | None = None,
        scores: SampleScores | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape=image_shape, num_classes=None, scores=scores, **kwargs)
        if not 0 <= noise < 1:
            raise UsageError(f"model.noise must be a fraction in [0, 1), got {noise}")
        if code_components < 1:
            raise UsageError(f"model.code_components must be at least 1, got {code_components}")
        self.latent_shape = code_shape(self.image_shape, channels, latent_dim, latent_channels)
        maps = len(self.latent_shape) == 3
        if maps and code_components > 1:
            raise UsageError(f"model.code_components must be 1 with model.latent_channels, got {code_components}")
        self.latent_dim, self.blackened = prod(self.latent_shape), noise
        self.encoder, self.decoder = encoder_and_decoder(
            self.image_shape,
            latent_dim=self.latent_dim,
            outputs=self.latent_dim,
            architecture=architecture,
            channels=channels,
            hidden=hidden,
            num_classes=None,
            encoder=encoder,
            decoder=decoder,
            maps=maps,
        )
        self.squares = check_choice("model.reconstruction", reconstruction, Reconstruction) == "squared_error"
        self.likelihood = Gaussian(sigma=0.5**0.5) if self.squares else Bernoulli()
        self.codes: CodeDistribution | CodeMixture = CodeDistribution(self.latent_dim, diagonal=maps)
        if code_components > 1:
            self.codes = CodeMixture(self.latent_dim, code_components)

    def networks(self) -> list[nn.Module]:
        """Return encoder and decoder."""
        return [self.encoder, self.decoder]

    def draw_latents(self, n: int, generator: Generators = None) -> Tensor:
        """Sample codes from the distribution fitted to codes of training images: float32 (n, latent_dim)."""
        return self.codes.from_noise(self.noise(n, self.codes.noise_dim, generator=generator))

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] to codes, float32 (B, latent_dim)."""
        return apply(self.encoder, x.to(self.dtype), labels).float()

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode codes (B, latent_dim) to images, float32 (B, C, H, W) in [-1, 1]."""
        return self.likelihood.mean(apply(self.decoder, z.to(self.dtype), labels))

    def error(self, x: Tensor, output: Tensor) -> Tensor:
        """Compute the error of the decoder's output for images x (B, C, H, W), summed over values, mean over the batch."""
        if self.squares:
            return (output.float() - x.float()).square().flatten(1).sum(1).mean()
        return -self.likelihood.log_prob(output, x).mean()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        x = self.images_of(batch)
        corrupted = x.where(torch.rand_like(x) >= self.blackened, -1) if self.blackened else x
        z = self.encode(corrupted)
        self.codes.update(z.detach())
        return self.log_loss({"loss": self.error(x, self.decoder(z.to(self.dtype)))})

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Compute the reconstruction error, ``loss``, of clean images; in test also ``squared_error`` of each image."""
        x = self.images_of(batch)
        output = self.decoder(self.encode(x).to(self.dtype))
        terms = {"loss": self.error(x, output)}
        return terms | {"squared_error": squared_error(self.likelihood.mean(output), x)} if stage == "test" else terms

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graphs of encoder and decoder, see ``ExportableParts``."""
        names = {"latent": "code of each image"}
        encoder = encoder_graph(self, self.encoder, normalization, lambda x, _: (self.encode(x),), names)
        return {
            "encoder": encoder,
            "decoder": decoder_graph(self, self.decoder, self.likelihood.mean, self.codes.describe()),
        }
