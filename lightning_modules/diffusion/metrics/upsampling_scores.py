"""UpsamplingScores: whether a super-resolution stage does better than interpolation."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from darkroom.lightning_modules.diffusion.metrics.attribute_tally import AttributeTally
from darkroom.lightning_modules.metrics.attribute_judge import AttributeJudge, judge_of
from darkroom.lightning_modules.metrics.feature_statistics import FeatureStatistics
from darkroom.lightning_modules.metrics.inception import Inception
from darkroom.lightning_modules.metrics.scores import Scores, summed


@dataclass
class _Seen:
    """The real pictures of a stage on this rank, and what is known of them."""

    images: list[Tensor] = field(default_factory=list)  # uint8 (C, H, W) each
    captions: list[str] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)  # int64 (A,) each


class UpsamplingScores(Scores):
    """Makes real pictures small, has them enlarged again, and compares with what they were; beside bicubic interpolation.

    - ``psnr``, ``bicubic_psnr``: 10 log10 of 255^2 over a picture's mean squared error, in dB, mean over the pictures; more
      is better, though the mean of all that could be true, a blurred picture, has more than any of them;
    - ``edge_error``, ``bicubic_edge_error``: mean absolute difference of the gradients' lengths (Sobel; of values in
      [0, 1]), which blurred edges make large; less is better;
    - ``prompt_accuracy``, ``bicubic_accuracy``, ``real_accuracy``: the part of drawn, of bicubic and of real pictures in
      which a judge (``AttributeJudge``) finds all that the caption says, where the data know that;
    - ``cnn_fid``, ``bicubic_cnn_fid``: the Frechet distance of the judge's features to those of the real pictures; with
      Inception's: ``fid``, ``bicubic_fid``.

    Each picture has noise of its own, a function of ``seed`` and its number in the set: batches and ranks have no say.

    Args:
        accuracy: whether the judge judges.
        fid: whether features are compared.
        features: whose: ``judge`` or ``inception``.
        num_samples: pictures, over all ranks: the first of the set, or all it has.
        batch_size: pictures drawn at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: decides the noise.
        inception_weights: file of Inception's weights; None: downloaded.
        cache_dir: folder of trained judges; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: a number out of its range.
    """

    def __init__(
        self,
        accuracy: bool = True,
        fid: bool = False,
        features: Literal["judge", "inception"] = "judge",
        num_samples: int = 200,
        batch_size: int = 100,
        every_n_validations: int = 1,
        seed: int = 0,
        inception_weights: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.least = 2 if fid else 1
        super().__init__(num_samples, batch_size, every_n_validations, seed)
        self.accuracy, self.fid, self.features = accuracy, fid, features
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self._judge: AttributeJudge | None = None
        self._inception: Inception | None = None
        self._names: tuple[str, ...] = ()
        self._stages: dict[str, _Seen] = {}

    def prepare(self, module: LightningModule) -> None:
        super().prepare(module)
        self._stages = {}
        if self.accuracy or (self.fid and self.features == "judge"):
            self._judge, self._names = judge_of(module, self.cache_dir)
        if self.fid and self.features == "inception":
            self._inception = self._inception or Inception(self.inception_weights)

    def look(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        seen = self._stages.setdefault(stage, _Seen())
        seen.images += images.clone()  # not the whole batch
        seen.captions += batch.get("caption", [])
        if self.accuracy:
            seen.said += batch["attributes"]

    def compare(self, stage: str, module: LightningModule) -> dict[str, float]:
        seen, device = self._stages.setdefault(stage, _Seen()), module.device
        errors = torch.zeros(5, device=device)  # PSNR and edge error of both, and how many pictures
        tallies = {name: AttributeTally(self._judge, self._names, device) for name in _ACCURACIES if self.accuracy}
        network = self._judge if self.features == "judge" else self._inception
        statistics = {prefix: FeatureStatistics(network, device) for prefix in _PREFIXES if self.fid}
        for part in self._parts(len(seen.images)):
            real = torch.stack(seen.images[part])
            drawn, bicubic = self._enlarged(module, real, seen.captions[part], part)
            pictures = dict(zip(_ACCURACIES, (drawn, bicubic, real), strict=True))
            errors[:4] += torch.cat([_errors(drawn, real), _errors(bicubic, real)])
            errors[4] += len(real)
            for name, tally in tallies.items():
                said = torch.stack(seen.said[part])
                tally.look(pictures[name], said, said.new_zeros(len(said), dtype=torch.bool))
            for prefix, statistic in statistics.items():
                statistic.look(real, None, real=True)
                statistic.look(bicubic if prefix else drawn, None, real=False)
        *sums, count = summed(errors).tolist()
        names = [prefix + name for prefix in _PREFIXES for name in ("psnr", "edge_error")]
        values = {name: value / count for name, value in zip(names, sums, strict=True)}
        values |= {name: tally.parts()["all"] for name, tally in tallies.items()}
        fid = "cnn_fid" if self.features == "judge" else "fid"
        return values | {prefix + fid: one.compute(self.seed)["fid"] for prefix, one in statistics.items()}

    def _enlarged(
        self, module: LightningModule, real: Tensor, captions: list[str], part: slice
    ) -> tuple[Tensor, Tensor]:
        """Pictures made small and enlarged again, by the module and by interpolation: uint8 (B, C, H, W) each."""
        low = module.reduced(real.to(module.device).float() / 127.5 - 1)
        drawn = module.sample(captions or None, low, generator=self._generators(part))
        return module.to_uint8(drawn), module.to_uint8(module.upsampled(low))


_PREFIXES = ("", "bicubic_")
_ACCURACIES = ("prompt_accuracy", "bicubic_accuracy", "real_accuracy")


@torch.no_grad()
def _errors(images: Tensor, real: Tensor) -> Tensor:
    """Sums over pictures, uint8 (B, C, H, W), of PSNR and edge error: float32 (2,)."""
    a, b = images.float() / 255, real.float() / 255
    squared = (
        (a - b).square().mean((1, 2, 3)).clamp(min=(0.5 / 255) ** 2)
    )  # bytes know no less; equal ones were infinite
    edges = (gradients(a) - gradients(b)).abs().mean((1, 2, 3))
    return torch.stack([-10 * squared.log10().sum(), edges.sum()])


def gradients(images: Tensor) -> Tensor:
    """Lengths of Sobel's gradients, in values per pixel: float (B, C, H, W) -> (B, C, H - 2, W - 2)."""
    smooth, slope = images.new_tensor([0.25, 0.5, 0.25]), images.new_tensor([-0.5, 0, 0.5])
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]
    dx, dy = F.conv2d(images.flatten(0, 1)[:, None], kernels).unflatten(0, images.shape[:2]).unbind(2)
    return (dx.square() + dy.square()).sqrt()
