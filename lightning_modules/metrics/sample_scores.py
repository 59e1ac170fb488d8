"""SampleScores: FID, KID and Inception score of samples."""

import math
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor

from darkroom.errors import UsageError
from darkroom.lightning_modules.metrics.feature_network import FeatureNetwork
from darkroom.lightning_modules.metrics.feature_statistics import INCEPTION_PARTS, FeatureStatistics
from darkroom.lightning_modules.metrics.pretrained_features import build_pretrained_features
from darkroom.lightning_modules.metrics.reference_classifier import load_or_train_classifier
from darkroom.lightning_modules.metrics.scores import Scores, generator_of
from darkroom.protocols import ImageSampler
from darkroom.runtime.lightning_compat import datamodule_of


class SampleScores(Scores):
    """Metrics of a module's samples against real images, after a validation and in test.

    - FID (Heusel et al. 2017): Frechet distance of two Gaussians with the sets' means and covariances of features;
    - KID (Binkowski et al. 2018): squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased; mean over 100
      subsets of 1000 images, or of all if there are fewer;
    - Inception score (Salimans et al. 2016): exp E KL(p(y|x) || p(y)) in ten parts of the samples, their mean.

    Only Inception's features give the published numbers: ``fid``, ``kid``, ``is``. Features of a classifier trained on the
    data need no download; their metrics are ``cnn_fid``, ``cnn_kid``, ``cnn_is``. They compare models on one data set, not
    data sets. With ``cnn``, a class-conditional module also logs ``label_accuracy``, the fraction of samples that the
    classifier assigns to their class, and ``cnn_accuracy``, the same for real images. For photos and drawings without
    classes there are features of MobileNetV2 on ImageNet: ``mobilenet_fid``, ``mobilenet_kid``, ``mobilenet_is``.

    FID falls with the number of images and is biased even between two halves of one set, in particular for fewer images
    than features. Compare values only at the same ``num_samples``.

    The latents are the same every time. They depend only on ``seed`` and ``batch_size``.

    Args:
        features: ``cnn``, the data set's own classifier; ``mobilenet``, see ``MobileNet``; ``inception``, see
            ``Inception``.
        fid, kid, inception_score: compute this metric.
        num_samples: number of samples, over all ranks, and of real images: the first of the set, or all it has. At least 2,
            with inception_score at least 20.
        batch_size: images sampled at once on each rank.
        every_n_validations: compute only after a fit's first validation and every n-th from there on; always in the other
            commands.
        seed: determines the latents.
        inception_weights: file of Inception's weights; None: downloaded.
        cache_dir: folder of the trained classifiers; None: ``~/.cache/darkroom/classifiers``.

    Raises:
        UsageError: a number is out of its range, or nothing is computed; in ``prepare``, weights or data are missing.
    """

    least = 2

    def __init__(
        self,
        features: Literal["cnn", "mobilenet", "inception"] = "cnn",
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
        if inception_score and num_samples < 2 * INCEPTION_PARTS:
            raise UsageError(
                f"model.scores.num_samples must be at least {2 * INCEPTION_PARTS} with inception_score, two in each of "
                f"{INCEPTION_PARTS} parts, got {num_samples}"
            )
        super().__init__(
            num_samples=num_samples, batch_size=batch_size, every_n_validations=every_n_validations, seed=seed
        )
        if not (fid or kid or inception_score):
            raise UsageError(
                "model.scores computes none of fid, kid and inception_score; set one, or model.scores to null"
            )
        self.features, self.fid, self.kid, self.inception_score = features, fid, kid, inception_score
        self.inception_weights, self.cache_dir = inception_weights, cache_dir
        self._network: FeatureNetwork | None = None
        self._statistics: dict[str, FeatureStatistics] = {}

    def prepare(self, module: LightningModule) -> None:
        """Load the pretrained network, or load or train the classifier, by ``features``.

        Raises:
            UsageError: features are cnn, and the datamodule to train a classifier on is missing.
        """
        super().prepare(module)
        self._statistics = {}
        if self.features != "cnn":
            self._network = self._network or build_pretrained_features(self.features, self.inception_weights)
            return
        datamodule = datamodule_of(module.trainer)
        if datamodule is None:
            raise UsageError(
                "model.scores with features cnn needs a datamodule, on which it trains a classifier; pass one to the "
                "Trainer, or set model.scores.features to mobilenet or inception"
            )
        self._network, _ = load_or_train_classifier(datamodule, self.cache_dir)

    def add_real(self, stage: str, images: Tensor, batch: dict[str, Any]) -> None:
        """Add the features of real images, uint8 (B, C, H, W), with the labels of their batch if it has any."""
        self._of(stage, images.device).update(images, batch.get("label"), real=True)

    def score_samples(self, stage: str, module: ImageSampler) -> dict[str, float]:
        """Sample ``num_samples`` images, all classes equally often, and compute the metrics, the same on all ranks."""
        statistics = self._of(stage, module.device)
        # Ranks take chunks in turn, so the samples do not depend on the world size.
        for chunk in range(self._rank, math.ceil(self.num_samples / self.batch_size), self._world_size):
            index = torch.arange(chunk * self.batch_size, min((chunk + 1) * self.batch_size, self.num_samples))
            labels = None if module.num_classes is None else (index % module.num_classes).to(module.device)
            images = module.sample(len(index), labels=labels, generator=generator_of(self.seed, chunk))
            statistics.update(module.to_uint8(images), labels, real=False)
        values = statistics.compute(self.seed)
        return values if module.num_classes is None else values | statistics.accuracies()

    def _of(self, stage: str, device: torch.device) -> FeatureStatistics:
        """Return the statistics of a stage's images, on this device."""
        if self._network is None:
            raise UsageError("SampleScores has no feature network; call prepare(module) in the module's setup")
        if stage not in self._statistics:
            wanted = {"fid": self.fid, "kid": self.kid, "inception_score": self.inception_score}
            self._statistics[stage] = FeatureStatistics(self._network, device, **wanted)
        return self._statistics[stage]
