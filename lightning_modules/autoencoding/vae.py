"""VAE (Kingma & Welling 2014; Rezende et al. 2014), with metrics of its bound and of its latent dimensions."""

import math
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.autoencoding.active_units import ActiveUnits
from darkroom.lightning_modules.autoencoding.code_distribution import CodeMixture, FitsCodeMixture
from darkroom.lightning_modules.autoencoding.disentanglement import MutualInformationGap
from darkroom.lightning_modules.autoencoding.kl_schedules import Constant, KLSchedule, PixelMeanWeight
from darkroom.lightning_modules.autoencoding.likelihoods import Bernoulli, Gaussian, Likelihood
from darkroom.lightning_modules.autoencoding.networks import Architecture, apply, code_shape, encoder_and_decoder
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.fit_progress import FitProgress
from darkroom.lightning_modules.generation.base import Generative, squared_error
from darkroom.lightning_modules.generation.export import decoder_graph, encoder_graph
from darkroom.lightning_modules.lr_schedulers import count_fit_steps
from darkroom.lightning_modules.metrics.sample_scores import SampleScores
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols import FactorData
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.lightning_compat import datamodule_of, trainer_of
from darkroom.runtime.records.results import Task

_DECODED_AT_ONCE = 512  # images that the importance-weighted bound decodes at once, at least a batch


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, exp(log_variance)) || N(0, 1)) of each number, in nats (Kingma & Welling 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2


def normal_log_prob(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute log N(z; mean, exp(log_variance)), summed over the last dimension."""
    squares = (z - mean).square() * torch.exp(-log_variance)
    return -(squares + log_variance + math.log(2 * math.pi)).sum(-1) / 2


class VAE(FitsCodeMixture, Generative, Technique):
    """Variational autoencoder with prior N(0, 1) and normal posteriors q(z|x) with diagonal covariance.

    The loss is -log p(x|z) + beta KL(q(z|x) || p(z)), with one z for each image, summed over the values of an image and of
    a code and averaged over the batch, in nats; beta is the same in validation.

    Logs, in training and as ``{val,test}/``: ``loss``; ``reconstruction``, which is -log p(x|z); ``kl``; ``elbo``, which is
    -(reconstruction + kl) for any beta. In training also ``beta``. In validation and test ``active_units``, the number of
    latent dimensions in use, and ``bits_per_dim`` if the likelihood is a probability. In test ``squared_error`` of the
    reconstructions, ``iwae`` by option, and ``MIG``, also for each factor, on data with known factors. Samples and
    reconstructions are the mean of p(x|z).

    Args:
        image_shape: (C, H, W); the command line takes it from the data.
        num_classes: of the data; the command line takes it from there. Used only by ConditionalVAE.
        latent_dim: D, dimension of a code; None: 20, or with ``latent_channels`` c h w.
        architecture: "conv" or "mlp", of an encoder or decoder that is None.
        channels: of the convolutional encoder's stages, each of which halves the image; the decoder mirrors them.
        hidden: units of the MLP's hidden layers.
        encoder: maps (B, C, H, W) to (B, 2 D): the posterior's mean, then its log variance.
        decoder: maps (B, D) to the likelihood's parameters (B, C, H, W), unbounded.
        likelihood: p(x|z); default Bernoulli.
        kl_schedule: beta over the fit; default Constant(1). Outside of a fit beta is that at its end.
        free_bits: lambda, in nats: the KL in the loss is at least this for each latent dimension, as a mean over the batch
            (Kingma et al. 2016, equation 15).
        iwae_samples: k of the importance-weighted bound ``test/iwae`` (Burda et al. 2016, equation 8); None: none. The ELBO
            of the test is then that of the same k samples, a lower bound of ``iwae``.
        latent_channels: c of codes that are maps (c, h, w), as latent diffusion needs, with h and w after the convolutional
            encoder's stages. Inputs and outputs are flattened. None: codes are vectors.
        code_components: number of normal distributions in a mixture that is fitted to samples of the posteriors, from which
            images are sampled instead of from the prior (Ghosh et al. 2020, section 4; ``pip install -e '.[digits]'``, for
            scikit-learn); of a conditional VAE for each class. The ELBO stays that of the prior. None: the prior.
        scores, optim, init_from: see Generative.

    Raises:
        UsageError: a network's output has another shape, or a value is out of its range.
    """

    task: ClassVar[Task] = "autoencoding"
    linked_arguments: ClassVar[tuple[str, ...]] = ("image_shape",)  # as the autoencoder of latent diffusion
    is_conditional: ClassVar[bool] = False
    free_arguments: ClassVar[tuple[str, ...]] = ("iwae_samples",)
    codes: CodeMixture | None

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        latent_dim: int | None = None,
        architecture: Architecture = "conv",
        channels: Sequence[int] = (32, 64, 128, 256),
        hidden: Sequence[int] = (500,),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
        kl_schedule: KLSchedule | None = None,
        free_bits: float = 0.0,
        iwae_samples: int | None = None,
        latent_channels: int | None = None,
        code_components: int | None = None,
        scores: SampleScores | None = None,
        **kwargs: Any,
    ) -> None:
        if self.is_conditional and num_classes is None:
            raise UsageError("model.num_classes is missing; a conditional VAE needs the number of classes, such as 10")
        classes = num_classes if self.is_conditional else None
        super().__init__(image_shape=image_shape, num_classes=classes, scores=scores, **kwargs)
        if not 0 <= free_bits < math.inf:
            raise UsageError(f"model.free_bits must be nats per latent dimension, at least 0, got {free_bits}")
        if iwae_samples is not None and iwae_samples < 1:
            raise UsageError(f"model.iwae_samples must be at least 1, or null for no bound, got {iwae_samples}")
        self.latent_shape = code_shape(self.image_shape, channels, latent_dim, latent_channels)
        maps = len(self.latent_shape) == 3
        self.latent_dim, self.free_bits, self.iwae_samples = prod(self.latent_shape), free_bits, iwae_samples
        self.encoder, self.decoder = encoder_and_decoder(
            self.image_shape,
            latent_dim=self.latent_dim,
            outputs=2 * self.latent_dim,
            architecture=architecture,
            channels=channels,
            hidden=hidden,
            num_classes=classes,
            encoder=encoder,
            decoder=decoder,
            maps=maps,
        )
        if code_components is not None and (maps or code_components < 1):
            raise UsageError(
                f"model.code_components must be null for codes that are maps, and at least 1 for others, got "
                f"{code_components}"
            )
        self.codes = None if code_components is None else CodeMixture(self.latent_dim, code_components, classes or 1)
        self.likelihood, self.kl_schedule = likelihood or Bernoulli(), kl_schedule or Constant()
        self.step_schedules = [type(self.kl_schedule)] if self.kl_schedule.needs_progress else []
        self.likelihood.check(-torch.ones(1, *self.image_shape))
        unit = isinstance(self.likelihood, Gaussian) and self.likelihood.sigma == 1
        if isinstance(self.kl_schedule, PixelMeanWeight) and not unit:
            raise UsageError(
                "model.likelihood must be Gaussian with sigma 1 if model.kl_schedule is PixelMeanWeight, a weight beside "
                f"squared errors, got {type(self.likelihood).__name__}"
            )
        self.active_units, self.mutual_information_gap = ActiveUnits(self.latent_dim), MutualInformationGap()
        self._factor_names: tuple[str, ...] = ()  # of the data; empty if their gap is not computed
        self.fit_progress = FitProgress()

    # --- the model ----------------------------------------------------------------------------------------------------

    def networks(self) -> list[nn.Module]:
        """Return encoder and decoder."""
        return [self.encoder, self.decoder]

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute mean and log variance of q(z|x), float32 (B, D) each."""
        mean, log_variance = apply(self.encoder, x.to(self.dtype), labels).float().chunk(2, dim=1)
        return mean, log_variance

    def likelihood_parameters(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the parameters of p(x|z): (B, C, H, W), unbounded."""
        return apply(self.decoder, z.to(self.dtype), labels)

    def reparameterize(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Sample z = mean + sigma epsilon (section 2.4) from q(z|x), differentiably: (B, D), or k samples (k, B, D)."""
        shape = mean.shape if mean.dim() == 2 else mean.transpose(0, 1).shape  # each image has its own noise
        epsilon = self.noise(*shape, generator=None if self.training else self.evaluation_noise)
        epsilon = epsilon if mean.dim() == 2 else epsilon.transpose(0, 1)
        return mean + torch.exp(log_variance / 2) * epsilon

    def draw_latents(self, n: int, generator: Generators = None, labels: Tensor | None = None) -> Tensor:
        """Sample latents from the prior N(0, 1), or from the mixture of codes: float32 (n, latent_dim).

        Args:
            n: number of latents.
            generator: determines them.
            labels: int64 (n,), classes whose mixtures are sampled; None: all classes with equal probability.
        """
        if self.codes is not None:
            return self.codes.from_noise(self.noise(n, self.codes.noise_dim, generator=generator), labels)
        return self.noise(n, self.latent_dim, generator=generator)

    def sample_images(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample n images (n, C, H, W) in [-1, 1] for checked labels, from latents of their classes."""
        return self.decode(self.draw_latents(n, generator, labels), labels=labels)

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] to the posterior means (B, latent_dim)."""
        return self.posterior(x, labels)[0]

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode latents (B, latent_dim) to the means of p(x|z): float32 (B, C, H, W) in [-1, 1]."""
        return self.likelihood.mean(self.likelihood_parameters(z, labels))

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graphs of encoder and decoder, see ``ExportableParts``."""
        names = {
            "mean": "of the normal posterior; the latent for reconstruction",
            "log_variance": "of the normal posterior",
        }
        prior = {"distribution": "normal"} if self.codes is None else self.codes.describe()
        decoder = decoder_graph(self, self.decoder, self.likelihood.mean, prior)
        return {"encoder": encoder_graph(self, self.encoder, normalization, self.posterior, names), "decoder": decoder}

    # --- the loss -----------------------------------------------------------------------------------------------------

    def beta(self) -> float:
        """Compute the current weight of the KL; outside of a fit that at its end."""
        trainer, progress = trainer_of(self), 1.0
        if self.kl_schedule.needs_progress and trainer is not None and trainer.state.fn == "fit":
            progress = self.fit_progress.at(trainer.global_step)
        return self.kl_schedule(progress, prod(self.image_shape))

    def loss_terms(self, reconstruction: Tensor, kl: Tensor, beta: float) -> dict[str, Tensor]:
        """Compute the loss, and batch means of -log p(x|z), (B,), and of the KL, (B, D)."""
        reconstruction, kl = reconstruction.mean(), kl.mean(0)
        paid = kl.clamp(min=self.free_bits) if self.free_bits else kl
        loss = reconstruction + beta * paid.sum()
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl.sum(), "elbo": -(reconstruction + kl.sum())}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        x, labels = self.images_of(batch), self.labels_of(batch)
        mean, log_variance = self.posterior(x, labels)
        z = self.reparameterize(mean, log_variance)
        if self.codes is not None:
            self.codes.update(z.detach(), labels)
        reconstruction = -self.likelihood.log_prob(self.likelihood_parameters(z, labels), x)
        beta = self.beta()
        terms = self.loss_terms(reconstruction, kl_divergence(mean, log_variance), beta)
        return self.log_loss(terms | {"beta": torch.full_like(terms["kl"], beta)})

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.fit_progress = FitProgress()
        self.active_units.reset()  # of an interrupted evaluation
        self.mutual_information_gap.reset()
        data = datamodule_of(self.trainer)
        # The gap compares two dimensions of the code, each of which describes the whole image.
        has_gap = self.latent_dim > 1 and len(self.latent_shape) == 1
        self._factor_names = tuple(data.factor_names) if isinstance(data, FactorData) and has_gap else ()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.kl_schedule.needs_progress:
            steps = count_fit_steps(self.trainer, type(self.kl_schedule).__name__)
            self.fit_progress.begin(steps, self.trained_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["fit_progress"] = self.fit_progress.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "fit_progress" in checkpoint:
            self.fit_progress.load_state_dict(checkpoint["fit_progress"])

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Compute the loss terms by name; in test also the IWAE bound, for discrete likelihoods also bits/dim.

        In test there is also ``squared_error`` of each image: that of its reconstruction from the posterior mean.
        """
        x, labels = self.images_of(batch), self.labels_of(batch)
        self.likelihood.check(x)
        mean, log_variance = self.posterior(x, labels)
        kl, beta = kl_divergence(mean, log_variance), self.beta()
        if stage == "test" and self.iwae_samples:
            log_likelihood, log_weights = self.log_weights(x, mean, log_variance, self.iwae_samples, labels)
            terms = self.loss_terms(-log_likelihood.mean(0), kl, beta) | importance_weighted(log_weights)
        else:
            z = self.reparameterize(mean, log_variance)
            terms = self.loss_terms(-self.likelihood.log_prob(self.likelihood_parameters(z, labels), x), kl, beta)
        if self.likelihood.discrete:
            terms["bits_per_dim"] = -terms["elbo"] / (prod(self.image_shape) * math.log(2))
        if stage == "test":
            terms["squared_error"] = squared_error(self.decode(mean, labels=labels), x)
        self._update_metrics(batch, mean, stage)
        return terms

    def log_weights(
        self, x: Tensor, mean: Tensor, log_variance: Tensor, samples: int, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute log p(x|z) and log p(x, z) - log q(z|x) of k samples z for every image: float32 (k, B) each.

        Args:
            x: images (B, C, H, W).
            mean, log_variance: of q(z|x), (B, D) each.
            samples: k.
            labels: int64 (B,), if conditional.
        """
        origin = torch.zeros_like(mean)
        likelihoods, weights = [], []
        at_once = max(1, _DECODED_AT_ONCE // len(x))
        for done in range(0, samples, at_once):
            k = min(at_once, samples - done)
            z = self.reparameterize(mean.expand(k, *mean.shape), log_variance)
            parameters = self.likelihood_parameters(z.flatten(0, 1), None if labels is None else labels.repeat(k))
            log_p = self.likelihood.log_prob(parameters, x.repeat(k, 1, 1, 1)).unflatten(0, (k, len(x)))
            likelihoods.append(log_p)
            weights.append(log_p + normal_log_prob(z, origin, origin) - normal_log_prob(z, mean, log_variance))
        return torch.cat(likelihoods), torch.cat(weights)

    def _update_metrics(self, batch: dict[str, Any], codes: Tensor, stage: str) -> None:
        """Update the metrics of the whole set by posterior means."""
        if trainer_of(self) is None:
            return
        self.active_units.update(codes)
        if stage == "test" and self._factor_names and "factors" in batch:
            self.mutual_information_gap.update(codes, batch["factors"])

    def _log_metrics(self, stage: str) -> None:
        values = {"active_units": self.active_units.compute()}
        self.active_units.reset()
        gap = self.mutual_information_gap
        if gap.update_called:
            values["MIG"], of_factors = gap.compute()
            of_factors = of_factors.view(-1)  # torchmetrics squeezes the gap of a single factor
            values |= {f"MIG/{name}": value for name, value in zip(self._factor_names, of_factors, strict=True)}
            gap.reset()
        logged = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(logged, sync_dist=self.trainer.world_size > 1)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
        super().on_test_epoch_end()


def importance_weighted(log_weights: Tensor) -> dict[str, Tensor]:
    """Compute ``elbo`` and ``iwae``, bounds of log p(x), from log weights (k, B), as means over images."""
    k = len(log_weights)
    bound = torch.logsumexp(log_weights, 0) - math.log(k)  # Burda et al. 2016, equation 8
    return {"elbo": log_weights.mean(), "iwae": bound.mean()}
