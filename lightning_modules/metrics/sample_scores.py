"""SampleScores: how near drawn pictures come to real ones: FID, KID and Inception score."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities.distributed import gather_all_tensors

from darkroom.errors import UsageError
from lightning_modules.layers.precision import with_float64
from lightning_modules.metrics.inception import Inception
from lightning_modules.metrics.reference_classifier import ReferenceClassifier, trained_classifier


class SampleScores:
    """Compares pictures that a module draws with real ones, after a validation and in test.

    - FID (Heusel et al. 2017): Frechet distance of two Gaussians with the sets' means and covariances of features;
    - KID (Binkowski et al. 2018): squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased; mean over 100
      subsets of 1000 pictures, or of all where there are no more;
    - Inception score (Salimans et al. 2016): exp E KL(p(y|x) || p(y)) in ten parts of the drawn set, their mean.

    Only Inception's features give the published numbers: ``fid``, ``kid``, ``is``. Those of a classifier trained on
    the data themselves need no download and are named ``cnn_fid``, ``cnn_kid``, ``cnn_is``; they compare models on one data
    set, no data sets. With it, a module that draws by class is also judged by ``label_accuracy``: the part of drawn
    pictures in which the classifier sees the class that was asked for, beside ``cnn_accuracy``, the same of real pictures.

    FID falls with the number of pictures and has a bias even between two halves of one set, the more so with fewer pictures
    than features: its value has a meaning only together with ``num_samples``, and is compared at the same.

    Drawn are the same latents every time; they depend on ``seed`` and ``batch_size`` alone, not on ranks or training.

    Args:
        features: ``cnn``, the data set's own classifier; ``inception``, see ``Inception``.
        fid, kid, inception_score: which are computed.
        num_samples: pictures drawn, over all ranks, and real ones compared with: the first of the set, or all it has.
        batch_size: pictures drawn at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: decides the latents.
        inception_weights: file of Inception's weights; None: downloaded.
        cache_dir: folder of the trained classifiers; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: a number out of its range, or nothing to compute.
    """

    def __init__(
        self,
        features: Literal["cnn", "inception"] = "cnn",
        fid: bool = True,
        kid: bool = False,
        inception_score: bool = False,
        num_samples: int = 1000,
        batch_size: int = 100,
        every_n_validations: int = 1,
        seed: int = 0,
        inception_weights: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        least = {"num_samples": (num_samples, 2), "batch_size": (batch_size, 1), "seed": (seed, 0)}
        for name, (value, low) in (least | {"every_n_validations": (every_n_validations, 1)}).items():
            if value < low:
                raise UsageError(f"model.scores.{name} is {value}; it must be at least {low}")
        if not (fid or kid or inception_score):
            raise UsageError(
                "model.scores computes none of fid, kid and inception_score; set one, or model.scores to null"
            )
        self.features, self.fid, self.kid, self.inception_score = features, fid, kid, inception_score
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.every_n_validations, self.validations = every_n_validations, 0
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self._network: ReferenceClassifier | Inception | None = None
        self._rank, self._world_size, self._fitting = 0, 1, True
        self._judges: dict[str, _Judge] = {}

    def prepare(self, module: LightningModule) -> None:
        """Makes the feature network ready, on all ranks; forgets real pictures seen before. Called in ``setup``."""
        trainer = module.trainer
        self._rank, self._world_size, self._judges = trainer.global_rank, trainer.world_size, {}
        self._fitting = trainer.state.fn in (None, "fit")
        if self.features == "inception":
            self._network = self._network or Inception(self.inception_weights)
            return
        if trainer.datamodule is None:
            raise UsageError(
                "model.scores with features cnn trains a classifier on the data, so pass a datamodule to the Trainer; or "
                "set model.scores.features to inception"
            )
        self._network, _ = trained_classifier(trainer.datamodule, self.cache_dir)

    def wants(self, stage: str) -> bool:
        """Whether ``update`` still takes real pictures of a stage, or is given them for nothing."""
        return self._room(stage) > 0

    def update(self, stage: str, images: Tensor, labels: Tensor | None) -> None:
        """Adds real pictures until there are enough; later ones, and those of later epochs, cost nothing.

        Args:
            stage: ``val`` or ``test``.
            images: uint8 (B, C, H, W).
            labels: int64 (B,), or None.
        """
        room = self._room(stage)
        if room > 0:
            judge = self._judge(stage, images.device)
            judge.look(images[:room], None if labels is None else labels[:room], real=True)

    def compute(self, stage: str, module: LightningModule) -> dict[str, float]:
        """Draws pictures and judges them; the same values on all ranks, {} where this validation is left out.

        Args:
            stage: ``val`` or ``test``.
            module: has ``sample(n, labels=, generator=)``, ``to_uint8`` and ``num_classes``.

        Raises:
            UsageError: fewer than two real pictures.
        """
        judge = self._judge(stage, module.device)
        judge.complete = True
        if stage == "val" and self._fitting:
            self.validations += 1
            if (self.validations - 1) % self.every_n_validations:
                return {}
        judge.require(2, stage)
        # Ranks take chunks in turn, so the pictures are the same for any number of them.
        for chunk in range(self._rank, math.ceil(self.num_samples / self.batch_size), self._world_size):
            index = torch.arange(chunk * self.batch_size, min((chunk + 1) * self.batch_size, self.num_samples))
            labels = None if module.num_classes is None else (index % module.num_classes).to(module.device)
            key = np.random.SeedSequence((self.seed, chunk)).generate_state(1, np.uint64)[0] >> 1
            generator = torch.Generator().manual_seed(int(key))
            images = module.to_uint8(module.sample(len(index), labels=labels, generator=generator))
            judge.look(images, labels, real=False)
        values = judge.compute(self.seed)
        if self.features == "inception":
            return values
        scores = {f"cnn_{name}": value for name, value in values.items()}
        return scores if module.num_classes is None else scores | judge.accuracies()

    def _room(self, stage: str) -> int:
        """How many real pictures of a stage this rank still takes."""
        judge, share = self._judges.get(stage), share_of_rank(self.num_samples, self._rank, self._world_size)
        return share if judge is None else 0 if judge.complete else share - judge.real_here

    def _judge(self, stage: str, device: torch.device) -> "_Judge":
        """What is known of a stage's pictures, on this device."""
        if self._network is None:
            raise UsageError("SampleScores has no feature network yet; call prepare(module) in the module's setup")
        if stage not in self._judges:
            wanted = {"fid": self.fid, "kid": self.kid, "is": self.inception_score}
            self._judges[stage] = _Judge(self._network.to(device), wanted, device)
        return self._judges[stage]


def share_of_rank(count: int, rank: int, world_size: int) -> int:
    """How many of ``count`` things are a rank's when they are dealt in turn."""
    return count // world_size + (rank < count % world_size)


class _Judge:
    """Statistics of a stage's pictures: real ones, which stay, and the drawn ones of one comparison.

    Everything is float32 or float64 without gradients, whatever mode it is called in; the features of a picture are
    computed once for all scores. Sums are reduced over the ranks; features, where needed one by one, are gathered.
    """

    def __init__(self, network: ReferenceClassifier | Inception, wanted: dict[str, bool], device: torch.device) -> None:
        self.network, self.wanted, self.device = network, wanted, device
        self.home = with_float64(device)  # there are no other ranks where it is not the device
        self.complete = False  # whether the real pictures are all seen
        self.real_here = 0  # on this rank
        with torch.inference_mode():
            self.fid = FrechetInceptionDistance(_as_given(network.num_features), reset_real_features=False).to(
                self.home
            )
            self.fid.orig_dtype = torch.float64  # known to torchmetrics only on ranks with pictures
            self.real = SumMetric(nan_strategy="disable").to(self.home)
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
        if real:
            self.real_here += len(images)
            self.real.update(float(len(images)))

    def require(self, least: int, stage: str) -> None:
        """Refuses to compare with fewer real pictures, over all ranks."""
        with torch.inference_mode():
            count = int(self.real.compute())
        if count < least:
            raise UsageError(
                f"model.scores compares with pictures of the {stage} split, at least {least}, but saw {count}; give more, "
                "or set model.scores to null"
            )

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
