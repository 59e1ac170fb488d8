"""UpsamplingScores: metrics of super-resolution, beside bicubic interpolation."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from darkroom.lightning_modules.diffusion.metrics.attribute_tally import AttributeTally
from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, judge_for
from darkroom.lightning_modules.metrics.feature_network import FeatureNetwork
from darkroom.lightning_modules.metrics.feature_statistics import FeatureStatistics
from darkroom.lightning_modules.metrics.pretrained_features import build_pretrained_features
from darkroom.lightning_modules.metrics.scores import Scores, sum_over_ranks
from darkroom.protocols import UpsamplingSampler


@dataclass
class _Seen:
    """Real images of a stage on this rank, with their captions and attributes."""

    images: list[Tensor] = field(default_factory=list)  # uint8 (C, H, W) each
    captions: list[str] = field(default_factory=list)
    stated: list[Tensor] = field(default_factory=list)  # int64 (A,) each


class UpsamplingScores(Scores):
    """Metrics of real images that are downscaled and enlarged again, by the module and by bicubic interpolation.

    - ``psnr``, ``bicubic_psnr``: 10 log10 of 255^2 over an image's mean squared error, in dB, mean over the images; more is
      better, but a blurred image, the mean of all plausible ones, has a higher value than any of them;
    - ``edge_error``, ``bicubic_edge_error``: mean absolute difference of gradient magnitudes (Sobel; of values in [0, 1]),
      which is large for blurred edges; less is better;
    - ``prompt_accuracy``, ``bicubic_accuracy``, ``real_accuracy``: fraction of samples, of bicubic and of real images in
      which a judge (``AttributeJudge``) finds all attributes of the caption, for data with attributes;
    - ``cnn_fid``, ``bicubic_cnn_fid``: Frechet distance of the judge's features to those of the real images; with
      MobileNet's: ``mobilenet_fid``, ``bicubic_mobilenet_fid``; with Inception's: ``fid``, ``bicubic_fid``.

    The noise of each sample is a function of ``seed`` and of its index in the set, independent of batch size and world
    size.

    Args:
        accuracy: compute accuracies of the judge.
        fid: compute the Frechet distance.
        features: network of its features: ``judge``, ``mobilenet`` or ``inception``.
        num_samples: number of images, over all ranks: the first of the set, or all it has.
        batch_size: images sampled at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: determines the noise.
        inception_weights: file of Inception's weights; None: downloaded.
        cache_dir: folder of trained judges; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: a number is out of its range.
    """

    def __init__(
        self,
        accuracy: bool = True,
        fid: bool = False,
        features: Literal["judge", "mobilenet", "inception"] = "judge",
        num_samples: int = 200,
        batch_size: int = 100,
        every_n_validations: int = 1,
        seed: int = 0,
        inception_weights: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.least = 2 if fid else 1
        super().__init__(
            num_samples=num_samples, batch_size=batch_size, every_n_validations=every_n_validations, seed=seed
        )
        self.accuracy, self.fid, self.features = accuracy, fid, features
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self._judge: AttributeJudge | None = None
        self._pretrained: FeatureNetwork | None = None
        self._names: tuple[str, ...] = ()
        self._stages: dict[str, _Seen] = {}

    def prepare(self, module: LightningModule) -> None:
        """Load or train the judge, and load a pretrained network, as far as the metrics need them."""
        super().prepare(module)
        self._stages = {}
        if self.accuracy or (self.fid and self.features == "judge"):
            self._judge, self._names = judge_for(module, self.cache_dir)
        if self.fid and self.features != "judge":
            self._pretrained = self._pretrained or build_pretrained_features(self.features, self.inception_weights)

    def add_real(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Add real images, uint8 (B, C, H, W), with captions and attributes if their batch has them."""
        seen = self._stages.setdefault(stage, _Seen())
        seen.images += images.clone()  # a copy, which does not keep the whole batch in memory
        seen.captions += batch.get("caption", [])
        if self.accuracy:
            seen.stated += batch["attributes"]

    def score_samples(self, stage: str, module: UpsamplingSampler) -> dict[str, float]:
        """Enlarge downsampled real images by the module and by bicubic interpolation; compute the metrics of both."""
        seen, device = self._stages.setdefault(stage, _Seen()), module.device
        errors = torch.zeros(5, device=device)  # PSNR and edge error of both, and the number of images
        tallies: dict[str, AttributeTally] = {}
        if self.accuracy and self._judge is not None:
            tallies = {name: AttributeTally(self._judge, self._names, device) for name in _ACCURACIES}
        network = self._judge if self.features == "judge" else self._pretrained
        statistics: dict[str, FeatureStatistics] = {}
        if self.fid and network is not None:
            statistics = {prefix: FeatureStatistics(network, device) for prefix in _PREFIXES}
        for part in self._parts(len(seen.images)):
            real = torch.stack(seen.images[part])
            samples, bicubic = self._enlarge(module, real, seen.captions[part], part)
            images = dict(zip(_ACCURACIES, (samples, bicubic, real), strict=True))
            errors[:4] += torch.cat([_errors(samples, real), _errors(bicubic, real)])
            errors[4] += len(real)
            for name, tally in tallies.items():
                stated = torch.stack(seen.stated[part])
                tally.update(images[name], stated, stated.new_zeros(len(stated), dtype=torch.bool))
            for prefix, statistic in statistics.items():
                statistic.update(real, None, real=True)
                statistic.update(bicubic if prefix else samples, None, real=False)
        *sums, count = sum_over_ranks(errors).tolist()
        names = [prefix + name for prefix in _PREFIXES for name in ("psnr", "edge_error")]
        values = {name: value / count for name, value in zip(names, sums, strict=True)}
        values |= {name: tally.fractions()["all"] for name, tally in tallies.items()}
        for prefix, one in statistics.items():
            values |= {prefix + name: value for name, value in one.compute(self.seed).items()}
        return values

    def _enlarge(
        self, module: UpsamplingSampler, real: Tensor, captions: list[str], part: slice
    ) -> tuple[Tensor, Tensor]:
        """Downscale images and enlarge them, by the module and by interpolation: uint8 (B, C, H, W) each."""
        low = module.reduced(real.to(module.device).float() / 127.5 - 1)
        samples = module.sample(captions or None, low, generator=self._generators(part))
        return module.to_uint8(samples), module.to_uint8(module.upsampled(low))


_PREFIXES = ("", "bicubic_")
_ACCURACIES = ("prompt_accuracy", "bicubic_accuracy", "real_accuracy")


@torch.no_grad()
def _errors(images: Tensor, real: Tensor) -> Tensor:
    """Sum PSNR and edge error over images, uint8 (B, C, H, W): float32 (2,)."""
    a, b = images.float() / 255, real.float() / 255
    squared = (
        (a - b).square().mean((1, 2, 3)).clamp(min=(0.5 / 255) ** 2)
    )  # the rounding error of 8 bits; PSNR of equal images would be infinite
    edges = (gradients(a) - gradients(b)).abs().mean((1, 2, 3))
    return torch.stack([-10 * squared.log10().sum(), edges.sum()])


def gradients(images: Tensor) -> Tensor:
    """Compute magnitudes of Sobel gradients, in values per pixel: float (B, C, H, W) -> (B, C, H - 2, W - 2)."""
    smooth, slope = images.new_tensor([0.25, 0.5, 0.25]), images.new_tensor([-0.5, 0, 0.5])
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]
    dx, dy = F.conv2d(images.flatten(0, 1)[:, None], kernels).unflatten(0, images.shape[:2]).unbind(2)
    return (dx.square() + dy.square()).sqrt()
