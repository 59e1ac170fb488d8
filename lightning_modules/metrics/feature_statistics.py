"""FeatureStatistics: FID, KID and Inception score of features of real images and samples."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities.distributed import gather_all_tensors

from darkroom.lightning_modules.metrics.feature_network import ClassifyingFeatureNetwork, FeatureNetwork
from darkroom.lightning_modules.metrics.reference_classifier import ReferenceClassifier
from darkroom.lightning_modules.utils.precision import with_float64

# Parts of the samples whose Inception scores are averaged; of a single sample it is 1 for any image.
INCEPTION_PARTS = 10


class FeatureStatistics:
    """Statistics of real images, which persist, and of the samples of one evaluation.

    Everything is computed in float32 or float64 without gradients, in any mode. Features of an image are computed once for
    all metrics. Sums are reduced over the ranks; features that are needed one by one are gathered.

    Args:
        network: computes the features.
        device: of the network.
        fid, kid, inception_score: metrics to compute.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        device: torch.device,
        fid: bool = True,
        kid: bool = False,
        inception_score: bool = False,
    ) -> None:
        self.network, self.device = network.to(device), device
        self.wanted = {"fid": fid, "kid": kid, "is": inception_score}
        self.home = with_float64(device)  # another device has no other ranks
        with torch.inference_mode():
            self.fid = FrechetInceptionDistance(_as_given(network.num_features), reset_real_features=False).to(
                self.home
            )
            vars(self.fid)["orig_dtype"] = torch.float64  # torchmetrics sets it only on ranks with images
            self.right = {real: MeanMetric(nan_strategy="disable").to(self.home) for real in (True, False)}
            self.features = {real: [torch.zeros(0, network.num_features, device=self.home)] for real in (True, False)}

    @torch.inference_mode()
    def update(self, images: Tensor, labels: Tensor | None, real: bool) -> None:
        """Add images, uint8 (B, C, H, W), and their labels, int64 (B,)."""
        with torch.autocast(self.device.type, enabled=False):
            features = self.network.features(images)
            if labels is not None and isinstance(self.network, ReferenceClassifier):
                self.right[real].update((self.network.logits(features).argmax(1) == labels).float().to(self.home))
            features = features.to(self.home)
            if self.wanted["fid"]:
                self.fid.update(features.double(), real=real)
            if self.wanted["kid"] or (self.wanted["is"] and not real):
                self.features[real].append(features)

    @torch.inference_mode()
    def compute(self, seed: int) -> dict[str, float]:
        """Compute the metrics by their names with the network's prefix, and reset the samples.

        Args:
            seed: determines the subsets of KID and Inception score.
        """
        values = {}
        with torch.autocast(self.device.type, enabled=False), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.wanted["fid"]:
                values["fid"] = self.fid.compute().item()
                self.fid.reset()
            if self.wanted["kid"] or self.wanted["is"]:
                values |= self._compute_from_features(_gather(self.features[False]))
        self.features[False] = self.features[False][:1]
        return {f"{self.network.prefix}{name}": value for name, value in values.items()}

    def _compute_from_features(self, samples: Tensor) -> dict[str, float]:
        values = {}
        if self.wanted["kid"]:
            values["kid"] = _kid(_gather(self.features[True]), samples)
        if self.wanted["is"] and isinstance(self.network, ClassifyingFeatureNetwork):
            values["is"] = _inception_score(self.network.logits(samples.to(self.device)))
        return values

    @torch.inference_mode()
    def accuracies(self) -> dict[str, float]:
        """Compute ``label_accuracy`` of the samples, which are reset, and ``cnn_accuracy`` of the real images."""
        names = {False: "label_accuracy", True: "cnn_accuracy"}
        with _quietly():
            values = {names[real]: metric.compute().item() for real, metric in self.right.items()}
        self.right[False].reset()
        return {
            name: value for name, value in values.items() if not math.isnan(value)
        }  # real images may have no labels


def _as_given(num_features: int) -> nn.Module:
    """Return a feature network for torchmetrics that takes features instead of images."""
    identity = nn.Identity()
    vars(identity)["num_features"] = num_features
    return identity


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence torchmetrics' warnings about stored features and ranks without images within the context."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _gather(features: list[Tensor]) -> Tensor:
    """Gather features of all ranks, which may have different numbers of them: (N, num_features)."""
    here = torch.cat(features)
    together = distributed.is_available() and distributed.is_initialized()
    return torch.cat(gather_all_tensors(here)) if together else here


def _kid(real: Tensor, samples: Tensor) -> float:
    """Compute KID of two sets of features, (M, d) and (N, d)."""
    size = min(1000, len(real), len(samples))
    subsets = 100 if size < max(len(real), len(samples)) else 1  # subsets of full size are all the same
    with _quietly():
        kid = KernelInceptionDistance(
            _as_given(real.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False
        )
    kid.update(real, real=True)
    kid.update(samples, real=False)
    return kid.compute()[0].item()


def _inception_score(logits: Tensor) -> float:
    """Compute the Inception score of logits (N, K), of N >= 20 samples in ten parts in random order."""
    order = torch.randperm(len(logits)).to(logits.device)
    parts = logits[order].log_softmax(1).tensor_split(INCEPTION_PARTS)  # torch.chunk makes six parts of 21 samples
    return torch.stack([_exp_mean_kl(log_p) for log_p in parts]).mean().item()


def _exp_mean_kl(log_p: Tensor) -> Tensor:
    """Compute exp E KL(p(y|x) || p(y)) of log probabilities (N, K)."""
    p = log_p.exp()
    mean = p.mean(0)
    return ((p * log_p).sum(1).mean() - torch.xlogy(mean, mean).sum()).exp()
