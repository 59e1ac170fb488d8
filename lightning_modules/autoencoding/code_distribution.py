"""Distributions fitted to the codes of an autoencoder, for sampling (Ghosh et al. 2020, section 4)."""

from importlib.util import find_spec
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.utils.precision import KeepFloat32, with_float64


class CodeDistribution(KeepFloat32):
    """Running normal distribution of codes: the mean of all batches at first, of about the last hundred later.

    A diagonal covariance, of independent values, has D numbers instead of D^2, for codes that are maps.

    Its state is in buffers, so it is part of checkpoints; under DDP the first rank's are used, as with batch norm.

    Args:
        latent_dim: D.
        memory: number of batches in the running mean.
        diagonal: keep the diagonal of the covariance only, (D,).
    """

    mean: Tensor
    covariance: Tensor
    batches: Tensor

    def __init__(self, latent_dim: int, memory: int = 100, diagonal: bool = False) -> None:
        super().__init__()
        self.memory, self.diagonal = memory, diagonal
        self.register_buffer("mean", torch.zeros(latent_dim, dtype=torch.float32))
        ones = torch.ones(latent_dim, dtype=torch.float32)
        self.register_buffer("covariance", ones if diagonal else ones.diag())
        self.register_buffer("batches", torch.zeros((), dtype=torch.float32))

    @property
    def noise_dim(self) -> int:
        """Number of values of noise that make a code."""
        return len(self.mean)

    @torch.no_grad()
    def update(self, codes: Tensor) -> None:
        """Add a batch of codes, float (B, D)."""
        with torch.autocast(codes.device.type, enabled=False):
            codes = codes.float()
            weight = 1 / (self.batches + 1).clamp(max=self.memory)
            mean, shift = codes.mean(0), codes.mean(0) - self.mean
            spread = self._mean_product(codes - mean)
            # Covariance of a mixture of two: the mean of both covariances, and the spread of the means.
            apart = weight * (1 - weight) * self._mean_product(shift[None])
            self.covariance.copy_(torch.lerp(self.covariance, spread, weight) + apart)
            self.mean.copy_(torch.lerp(self.mean, mean, weight))
            self.batches += 1

    def _mean_product(self, codes: Tensor) -> Tensor:
        """Compute the mean of z z^T over codes z (n, D): (D, D), or its diagonal (D,)."""
        return codes.square().mean(0) if self.diagonal else codes.T @ codes / len(codes)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map standard normal noise (n, D) to codes, float32 (n, D)."""
        with torch.autocast(noise.device.type, enabled=False):
            root = self.root().to(noise)
            return self.mean + (noise * root if self.diagonal else noise @ root)

    def root(self) -> Tensor:
        """Compute the symmetric root of the covariance: float64 (D, D), or its diagonal, float32 (D,)."""
        return self.covariance.sqrt() if self.diagonal else symmetric_root(self.covariance)

    def describe(self) -> dict[str, Any]:
        """Return the distribution as numbers: a code is mean + noise @ root, or mean + noise * deviation."""
        root = "deviation" if self.diagonal else "root"
        return {"distribution": "normal", "mean": self.mean.tolist(), root: self.root().float().tolist()}


def symmetric_root(covariance: Tensor) -> Tensor:
    """Compute the symmetric root of covariances (..., D, D) in float64: unique, and defined for singular ones."""
    values, vectors = torch.linalg.eigh(covariance.to(with_float64(covariance.device), torch.float64))
    return (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT


class CodeMixture(KeepFloat32):
    """Mixture of normal distributions of codes, fitted by scikit-learn to the last codes of the training.

    With classes there is a mixture of the codes of each class: q(z|x, y) averaged over the images of a class differs from
    the prior, and between classes. Its state is in buffers, so it is part of checkpoints.

    Args:
        latent_dim: D.
        components: K, of each class; fewer are fitted to fewer than 2 K codes.
        classes: C, at least 1.
        memory: number of codes that it is fitted to, of all classes.

    Raises:
        UsageError: scikit-learn is not installed.
    """

    weights: Tensor
    means: Tensor
    roots: Tensor
    recent: Tensor
    labels: Tensor
    seen: Tensor

    def __init__(self, latent_dim: int, components: int, classes: int = 1, memory: int = 8192) -> None:
        super().__init__()
        if find_spec("sklearn") is None:
            raise UsageError(
                "model.code_components of a mixture needs scikit-learn, which is not installed: pip install -e '.[digits]'"
            )
        self.components, count = components, classes * components
        # The components of all classes in turn; a class has a weight for each, 0 for those of others: (C, C K).
        own = torch.eye(classes, dtype=torch.float32).repeat_interleave(components, 1)
        self.register_buffer("weights", own / components)
        self.register_buffer("means", torch.zeros(count, latent_dim, dtype=torch.float32))
        self.register_buffer("roots", torch.eye(latent_dim, dtype=torch.float32).repeat(count, 1, 1))
        self.register_buffer("recent", torch.zeros(memory, latent_dim, dtype=torch.float32))
        self.register_buffer("labels", torch.zeros(memory, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def noise_dim(self) -> int:
        """Number of values of noise that make a code: the last one chooses the component."""
        return self.means.shape[1] + 1

    @torch.no_grad()
    def update(self, codes: Tensor, labels: Tensor | None = None) -> None:
        """Save a batch of codes, float (B, D), and their labels, int64 (B,), instead of the oldest."""
        codes = codes[-len(self.recent) :]
        places = (self.seen + torch.arange(len(codes), device=codes.device)) % len(self.recent)
        self.recent.index_copy_(0, places, codes.float())
        if labels is not None:
            self.labels.index_copy_(0, places, labels[-len(codes) :])
        self.seen += len(codes)

    @torch.no_grad()
    def fit(self) -> None:
        """Fit the mixtures to the saved codes by expectation-maximization, always from the same start.

        Codes that are not finite are left out. A class without codes keeps its distribution, at first the prior.
        """
        from sklearn.mixture import GaussianMixture

        saved, labels = (part[: int(self.seen)].cpu() for part in (self.recent, self.labels))
        finite = saved.isfinite().all(1)
        for label in range(len(self.weights)):
            codes = saved[finite & (labels == label)].double().numpy()
            count, first = min(self.components, len(codes) // 2), label * self.components
            if not count:
                continue
            found, place = GaussianMixture(count, random_state=0).fit(codes), slice(first, first + count)
            self.weights[label] = 0
            self.weights[label, place] = torch.from_numpy(found.weights_).to(self.weights)
            self.means[place] = torch.from_numpy(found.means_).to(self.means)
            self.roots[place] = symmetric_root(torch.from_numpy(found.covariances_)).to(self.roots)

    def from_noise(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map standard normal noise (n, D + 1) to codes of classes, int64 (n,): float32 (n, D); see ``mixture_codes``."""
        return mixture_codes(noise, self.weights, self.means, self.roots, labels)

    def describe(self) -> dict[str, Any]:
        """Return the mixture as numbers, see ``mixture_codes``."""
        state = {"weights": self.weights, "means": self.means, "roots": self.roots}
        return {"distribution": "mixture", **{name: value.tolist() for name, value in state.items()}}


class FitsCodeMixture(LightningModule):
    """Method that fits the mixture of its codes, if it has one, before each validation of a fit."""

    codes: "CodeDistribution | CodeMixture | None"

    def on_validation_start(self) -> None:
        """Fit the mixture to the codes that the first rank has seen."""
        super().on_validation_start()
        if isinstance(self.codes, CodeMixture) and self.trainer.state.fn == "fit":
            if self.trainer.is_global_zero:
                self.codes.fit()
            self.codes.load_state_dict(self.trainer.strategy.broadcast(self.codes.state_dict()))


def mixture_codes(noise: Tensor, weights: Tensor, means: Tensor, roots: Tensor, labels: Tensor | None = None) -> Tensor:
    """Map standard normal noise to samples of a mixture, float32 (n, D).

    Args:
        noise: (n, D + 1); the last value, as its normal probability, chooses the component.
        weights: of the components M for each class, (C, M).
        means: (M, D).
        roots: symmetric roots of the covariances, (M, D, D).
        labels: int64 (n,), the class of each sample; None: all classes with equal probability.
    """
    with torch.autocast(noise.device.type, enabled=False):
        probability = torch.special.ndtr(noise[:, -1:].contiguous())
        own = weights.mean(0).expand(len(noise), -1) if labels is None else weights[labels]
        below = own.cumsum(1)
        # Times the sum, which rounding may make less than 1: the components after those of a class are of other classes.
        chosen = torch.searchsorted(below, probability * below[:, -1:])[:, 0]
        return means[chosen] + torch.einsum("ni,nij->nj", noise[:, :-1], roots[chosen])
