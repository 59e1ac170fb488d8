"""SampleScores: how near drawn pictures come to real ones: FID, KID and Inception score."""

import math
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.feature_statistics import FeatureStatistics
from darkroom.lightning_modules.metrics.inception import Inception
from darkroom.lightning_modules.metrics.reference_classifier import ReferenceClassifier, trained_classifier
from darkroom.lightning_modules.metrics.scores import Scores, generator_of


class SampleScores(Scores):
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

    least = 2

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
        super().__init__(num_samples, batch_size, every_n_validations, seed)
        if not (fid or kid or inception_score):
            raise UsageError(
                "model.scores computes none of fid, kid and inception_score; set one, or model.scores to null"
            )
        self.features, self.fid, self.kid, self.inception_score = features, fid, kid, inception_score
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self._network: ReferenceClassifier | Inception | None = None
        self._statistics: dict[str, FeatureStatistics] = {}

    def prepare(self, module: LightningModule) -> None:
        super().prepare(module)
        self._statistics = {}
        if self.features == "inception":
            self._network = self._network or Inception(self.inception_weights)
            return
        datamodule = module.trainer.datamodule
        if datamodule is None:
            raise UsageError(
                "model.scores with features cnn trains a classifier on the data, so pass a datamodule to the Trainer; or "
                "set model.scores.features to inception"
            )
        self._network, _ = trained_classifier(datamodule, self.cache_dir)

    def look(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        self._of(stage, images.device).look(images, batch.get("label"), real=True)

    def compare(self, stage: str, module: LightningModule) -> dict[str, float]:
        statistics = self._of(stage, module.device)
        # Ranks take chunks in turn, so the pictures are the same for any number of them.
        for chunk in range(self._rank, math.ceil(self.num_samples / self.batch_size), self._world_size):
            index = torch.arange(chunk * self.batch_size, min((chunk + 1) * self.batch_size, self.num_samples))
            labels = None if module.num_classes is None else (index % module.num_classes).to(module.device)
            images = module.sample(len(index), labels=labels, generator=generator_of(self.seed, chunk))
            statistics.look(module.to_uint8(images), labels, real=False)
        values = statistics.compute(self.seed)
        if self.features == "inception":
            return values
        scores = {f"cnn_{name}": value for name, value in values.items()}
        return scores if module.num_classes is None else scores | statistics.accuracies()

    def _of(self, stage: str, device: torch.device) -> FeatureStatistics:
        """What is known of a stage's pictures, on this device."""
        if self._network is None:
            raise UsageError("SampleScores has no feature network yet; call prepare(module) in the module's setup")
        if stage not in self._statistics:
            wanted = {"fid": self.fid, "kid": self.kid, "inception_score": self.inception_score}
            self._statistics[stage] = FeatureStatistics(self._network, device, **wanted)
        return self._statistics[stage]
