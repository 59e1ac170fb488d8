"""FeatureStatistics: what features of real and of drawn pictures say of their distance: FID, KID and Inception score."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities.distributed import gather_all_tensors

from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge
from darkroom.lightning_modules.metrics.inception import Inception
from darkroom.lightning_modules.metrics.reference_classifier import ReferenceClassifier
from darkroom.lightning_modules.utils.precision import with_float64


class FeatureStatistics:
    """Statistics of a stage's pictures: real ones, which stay, and the drawn ones of one comparison.

    Everything is float32 or float64 without gradients, whatever mode it is called in; the features of a picture are
    computed once for all scores. Sums are reduced over the ranks; features, where needed one by one, are gathered.

    Args:
        network: gives the features.
        device: where they are computed.
        fid, kid, inception_score: which are wanted.
    """

    def __init__(
        self,
        network: ReferenceClassifier | AttributeJudge | Inception,
        device: torch.device,
        fid: bool = True,
        kid: bool = False,
        inception_score: bool = False,
    ) -> None:
        self.network, self.device = network.to(device), device
        self.wanted = {"fid": fid, "kid": kid, "is": inception_score}
        self.home = with_float64(device)  # there are no other ranks where it is not the device
        with torch.inference_mode():
            self.fid = FrechetInceptionDistance(_as_given(network.num_features), reset_real_features=False).to(
                self.home
            )
            self.fid.orig_dtype = torch.float64  # known to torchmetrics only on ranks with pictures
            self.right = {real: MeanMetric(nan_strategy="disable").to(self.home) for real in (True, False)}
            self.features = {real: [torch.zeros(0, network.num_features, device=self.home)] for real in (True, False)}

    @torch.inference_mode()
    def look(self, images: Tensor, labels: Tensor | None, real: bool) -> None:
        """Adds pictures, uint8 (B, C, H, W), and what their classes should be, int64 (B,)."""
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
        """The wanted scores; the drawn pictures are forgotten. The seed decides the subsets of KID and Inception score."""
        values = {}
        with torch.autocast(self.device.type, enabled=False), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self.wanted["fid"]:
                values["fid"] = self.fid.compute().item()
                self.fid.reset()
            drawn = _gathered(self.features[False]) if self.wanted["kid"] or self.wanted["is"] else None
            if self.wanted["kid"]:
                values["kid"] = _kid(_gathered(self.features[True]), drawn)
            if self.wanted["is"]:
                values["is"] = _inception_score(self.network.logits(drawn.to(self.device)))
        self.features[False] = self.features[False][:1]
        return values

    @torch.inference_mode()
    def accuracies(self) -> dict[str, float]:
        """``label_accuracy`` of the drawn pictures, which are forgotten, and ``cnn_accuracy`` of the real ones."""
        names = {False: "label_accuracy", True: "cnn_accuracy"}
        with _quietly():
            values = {names[real]: metric.compute().item() for real, metric in self.right.items()}
        self.right[False].reset()
        return {name: value for name, value in values.items() if not math.isnan(value)}  # real ones may have no labels


def _as_given(num_features: int) -> nn.Module:
    """Stands for torchmetrics' feature network where features are given instead of pictures."""
    identity = nn.Identity()
    identity.num_features = num_features
    return identity


@contextmanager
def _quietly() -> Iterator[None]:
    """Within, torchmetrics does not warn that it keeps features, nor that a rank saw nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _gathered(features: list[Tensor]) -> Tensor:
    """Features of all ranks, of which each may have another number: (N, num_features)."""
    here = torch.cat(features)
    together = distributed.is_available() and distributed.is_initialized()
    return torch.cat(gather_all_tensors(here)) if together else here


def _kid(real: Tensor, drawn: Tensor) -> float:
    """KID of two sets of features, (M, d) and (N, d)."""
    size = min(1000, len(real), len(drawn))
    subsets = 100 if size < max(len(real), len(drawn)) else 1  # of equal sets as a whole there is only one
    with _quietly():
        kid = KernelInceptionDistance(
            _as_given(real.shape[1]), subsets=subsets, subset_size=size, sync_on_compute=False
        )
    kid.update(real, real=True)
    kid.update(drawn, real=False)
    return kid.compute()[0].item()


def _inception_score(logits: Tensor) -> float:
    """Inception score of a set whose logits are (N, K)."""
    with _quietly():
        score = InceptionScore(nn.Identity(), splits=10, sync_on_compute=False)
    score.update(logits)
    return score.compute()[0].item()
