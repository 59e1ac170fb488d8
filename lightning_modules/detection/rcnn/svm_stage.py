"""Phases of R-CNN after fine-tuning: examples, box regression, SVMs with hard negatives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.rcnn.svm import linear_svm, ridge

# The authors' settings, from their code.
_MEAN_NORM = 20.0  # of scaled features, for which the authors chose C
_NORM_IMAGES, _NORM_BOXES = 200, 200  # images, and boxes of each, on which the mean norm is measured
_HARD, _EASY = -1.0001, -1.2  # negatives with a higher score are added, with a lower score dropped
_RETRAIN = 2000  # added negatives after which a class's SVM is trained again


@dataclass(frozen=True)
class SVMOptions:
    """Options of R-CNN's SVMs.

    Args:
        enabled: train SVMs; without them the softmax scores the detections.
        cost: C; features are scaled to a mean norm of 20. The paper's value suits thousands of images; for classes with few
            objects try a hundred times as much.
        max_negatives: most negatives in memory, see ``HardNegatives``.

    Raises:
        UsageError: a value is not above 0.
    """

    enabled: bool = True
    cost: float = 1e-3
    max_negatives: int = 100_000

    def __post_init__(self) -> None:
        _require_positive("svm", cost=self.cost, max_negatives=self.max_negatives)


@dataclass(frozen=True)
class BoxRegressionOptions:
    """Options of R-CNN's box regression.

    Args:
        enabled: regress boxes; without it detections have the proposed boxes.
        penalty: lambda of the ridge regression; features are scaled to a mean norm of 20. The paper's value suits thousands
            of images; for classes with few objects try a hundredth of it.
        max_pairs: most pairs of regions and true boxes per class, see ``Examples``.

    Raises:
        UsageError: a value is not above 0.
    """

    enabled: bool = True
    penalty: float = 1000.0
    max_pairs: int = 5000

    def __post_init__(self) -> None:
        _require_positive("box_regression", penalty=self.penalty, max_pairs=self.max_pairs)


def _require_positive(group: str, **values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise UsageError(f"model.{group}.{name} must be above 0, got {value}")


class Examples:
    """Features collected in an epoch: of true boxes, the SVMs' positives, and of pairs for the box regression.

    Its length is the number of pairs. Additions do not change a copy. Stored in main memory. Of a class with more than
    ``max_pairs`` pairs the first ones are stored, a random choice because the loader shuffles.

    Args:
        num_classes: K.
        max_pairs: most pairs of regions and true boxes per class.
        state: return value of ``state_dict``, to resume from.
    """

    names = ("fc7", "labels", "pool5", "offsets", "pair_labels", "norms")

    def __init__(self, num_classes: int, max_pairs: int, state: Mapping[str, Any] | None = None) -> None:
        self.num_classes, self.max_pairs = num_classes, max_pairs
        state = state or {"images": 0}
        self.images = state["images"]
        self.parts = {name: [state[name].cpu()] if name in state else [] for name in self.names}
        labels = torch.cat([torch.zeros(0, dtype=torch.long), *self.parts["pair_labels"]])
        self.counts = torch.bincount(labels, minlength=num_classes + 1)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def add(self, **parts: Tensor) -> None:
        """Add examples of some images.

        Args:
            **parts: ``fc7`` (N, D7) and ``labels`` (N,) of true boxes; ``pool5`` (M, D5), ``offsets`` (M, 4) and
                ``pair_labels`` (M,) of pairs; ``norms`` (S, 2) of pool5 and fc7 of proposals.
        """
        parts = {name: part.cpu() for name, part in parts.items()}
        one_hot = F.one_hot(parts["pair_labels"], self.num_classes + 1)
        number = ((self.counts + one_hot.cumsum(0)) * one_hot).sum(1)
        kept = number <= self.max_pairs
        self.counts = self.counts + one_hot[kept].sum(0)
        for name in ("pool5", "offsets", "pair_labels"):
            parts[name] = parts[name][kept]
        self.parts = {name: [*self.parts[name], part] for name, part in parts.items()}

    def select_for_norms(self, proposals: Tensor) -> Tensor:
        """Select proposals of the next image for the mean norm: evenly spread, of the first images with proposals only."""
        self.images += len(proposals) > 0
        count = min(len(proposals), _NORM_BOXES) if self.images <= _NORM_IMAGES else 0
        places = torch.linspace(0, max(0, len(proposals) - 1), count, device=proposals.device)
        return proposals[places.round().long()]

    def concatenate(self, name: str) -> Tensor:
        """Concatenate all parts that were added under a name."""
        self.parts[name] = [torch.cat(self.parts[name])]
        return self.parts[name][0]

    def scales(self) -> list[float]:
        """Return the factors that scale pool5 and fc7 to a mean norm of 20."""
        norms = self.concatenate("norms").double()
        if not len(norms):
            raise UsageError("no training image has a proposal; see data.proposals (min_side, limit)")
        return (_MEAN_NORM / norms.mean(0).clamp(min=1e-12)).tolist()

    def drop_pairs(self) -> None:
        """Drop the pairs, once the box regression is solved."""
        self.parts = {**self.parts, "pool5": [], "offsets": [], "pair_labels": []}

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, **{name: self.concatenate(name) for name in self.names if self.parts[name]}}


def fit_boxes(pool5: Tensor, offsets: Tensor, penalty: float) -> Tensor:
    """Solve the ridge regression from features of regions to their true boxes (Girshick et al. 2014, appendix C).

    Offsets are centred first. The bias is the weight of a constant feature and is regularized too. The authors also whiten
    the offsets and undo that afterwards; with one lambda for all four this changes nothing and is left out.

    Args:
        pool5: (M, D), scaled.
        offsets: (M, 4), see ``boxes.encode``, undivided.
        penalty: lambda.

    Returns:
        Weights (4, D + 1): offsets are ``pool5 @ w[:, :-1].T + w[:, -1]``. Zeros without pairs.
    """
    if not len(pool5):
        return pool5.new_zeros(4, pool5.shape[1] + 1)
    mean = offsets.double().mean(0)
    with_constant = torch.cat([pool5, pool5.new_ones(len(pool5), 1)], 1)
    weights = ridge(with_constant.double(), offsets.double() - mean, penalty)
    weights[-1] += mean
    return weights.T.to(pool5.dtype)


class HardNegatives:
    """Linear SVMs of all classes, and their hard negatives: those within or beyond the margin.

    As in the authors' code: all negatives of the first image; then, image by image, those with a score above -1.0001. The
    SVM of a class is trained again whenever more than 2000 negatives were added to it; those with a score below -1.2 are
    dropped then. One pass.

    Its length is the number of negatives. Additions do not change a copy. All tensors are on one device.

    Args:
        num_classes: K.
        cost: C of the SVMs.
        max_negatives: most vectors, over all classes; beyond it, those with the lowest scores are dropped.
        state: ``positives`` (N, D), scaled, and their ``labels`` (N,), from 1; or the return value of ``state_dict``.
    """

    def __init__(self, num_classes: int, cost: float, max_negatives: int, state: Mapping[str, Any]) -> None:
        self.cost, self.max_negatives = cost, max_negatives
        positives, self.labels = state["positives"], state["labels"]
        self.positives, self.positive = positives, F.one_hot(self.labels, num_classes + 1)[:, 1:].bool()
        self.negatives = state.get("negatives", positives[:0])
        self.negative = state.get("negative", self.positive[:0])  # of which classes
        self.added = state.get("added", self.labels.new_zeros(num_classes))
        self.weights = state.get("weights", positives.new_zeros(num_classes, positives.shape[1] + 1))
        self.trained = state.get("trained", False)

    def __len__(self) -> int:
        return len(self.negatives)

    def to(self, device: torch.device) -> None:
        """Move all tensors to a device."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))

    def scores(self, features: Tensor) -> Tensor:
        """Compute the scores (P, K) of features (P, D)."""
        return F.linear(features, self.weights[:, :-1], self.weights[:, -1])

    def select_hard(self, features: Tensor, candidates: Tensor) -> Tensor:
        """Select the candidates, bool (P, K), that the SVMs do not score clearly as negatives of a class: (P, K)."""
        return candidates & (self.scores(features) > _HARD) if self.trained else candidates

    def add(self, features: Tensor, hard: Tensor) -> None:
        """Add features (P, D) as negatives of the classes that ``hard`` (P, K) marks; retrain SVMs with many new ones."""
        self.negatives, self.negative = torch.cat([self.negatives, features]), torch.cat([self.negative, hard])
        self.added = self.added + hard.sum(0)
        if not self.trained and len(features):
            self.train(torch.ones_like(self.added, dtype=torch.bool))
        elif (self.added > _RETRAIN).any():
            self.train(self.added > _RETRAIN)
        if len(self.negatives) > self.max_negatives:
            worst = self.scores(self.negatives).where(self.negative, float("-inf")).amax(1)
            self._keep(worst.argsort(descending=True, stable=True)[: self.max_negatives].sort().values)

    def train(self, classes: Tensor) -> None:
        """Train the SVMs of these classes, bool (K,), and drop the negatives that have become easy for them."""
        k = classes.nonzero().flatten()
        features = torch.cat([self.positives, self.negatives])
        targets = torch.cat([self.positive[:, k].float(), -self.negative[:, k].float()])
        solved = linear_svm(features, targets, self.cost, start=self.weights[k])
        self.weights = self.weights.index_copy(0, k, solved)
        self.added, self.trained = self.added * ~classes, True
        self.negative = self.negative & ~(classes & (self.scores(self.negatives) < _EASY))
        self._keep(self.negative.any(1).nonzero().flatten())

    def _keep(self, rows: Tensor) -> None:
        self.negatives, self.negative = self.negatives[rows], self.negative[rows]

    def state_dict(self) -> dict[str, Any]:
        names = ("positives", "labels", "negatives", "negative", "added", "weights", "trained")
        return {name: value for name, value in vars(self).items() if name in names}
