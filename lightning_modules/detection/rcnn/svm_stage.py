"""What R-CNN learns after its network: examples, box regression, SVMs with hard negatives."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.rcnn.svm import linear_svm, ridge

# The authors' settings, from their code.
_MEAN_NORM = 20.0  # of scaled features: the range of C was found on such
_NORM_IMAGES, _NORM_BOXES = 200, 200  # that the mean norm is measured on
_HARD, _EASY = -1.0001, -1.2  # a negative with a higher score is added, with a lower one is dropped
_RETRAIN = 2000  # a class's SVM is trained again when more negatives than this were added to it


class Examples:
    """Features that an epoch collects: those of true boxes, the SVMs' positives, and pairs for the box regression.

    Its length is the number of pairs; a copy stays as it is. Kept in main memory. Of a class with more than ``max_pairs``
    pairs the first ones are kept, which is a random choice, since the loader shuffles.

    Args:
        num_classes: K.
        max_pairs: of regions and true boxes, per class.
        state: what ``state_dict`` said, to go on from there.
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
        """Examples of some images: ``fc7`` (N, D7) and ``labels`` (N,) of true boxes; ``pool5`` (M, D5), ``offsets`` (M, 4)
        and ``pair_labels`` (M,) of pairs; ``norms`` (S, 2) of pool5 and fc7, of regions as they come."""
        parts = {name: part.cpu() for name, part in parts.items()}
        one_hot = F.one_hot(parts["pair_labels"], self.num_classes + 1)
        number = ((self.counts + one_hot.cumsum(0)) * one_hot).sum(1)
        kept = number <= self.max_pairs
        self.counts = self.counts + one_hot[kept].sum(0)
        for name in ("pool5", "offsets", "pair_labels"):
            parts[name] = parts[name][kept]
        self.parts = {name: [*self.parts[name], part] for name, part in parts.items()}

    def measured(self, proposals: Tensor) -> Tensor:
        """The regions of the next image on which the mean norm is measured: evenly spread over the first images' that have
        any."""
        self.images += len(proposals) > 0
        count = min(len(proposals), _NORM_BOXES) if self.images <= _NORM_IMAGES else 0
        places = torch.linspace(0, max(0, len(proposals) - 1), count, device=proposals.device)
        return proposals[places.round().long()]

    def whole(self, name: str) -> Tensor:
        """Everything that was added under a name."""
        self.parts[name] = [torch.cat(self.parts[name])]
        return self.parts[name][0]

    def scales(self) -> list[float]:
        """Factors for pool5 and fc7 that bring their mean norm to 20."""
        norms = self.whole("norms").double()
        if not len(norms):
            raise UsageError("RCNN found no proposal in any training picture; see data.proposals (min_side, limit)")
        return (_MEAN_NORM / norms.mean(0).clamp(min=1e-12)).tolist()

    def forget_pairs(self) -> None:
        """Drops what the box regression was solved from."""
        self.parts = {**self.parts, "pool5": [], "offsets": [], "pair_labels": []}

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, **{name: self.whole(name) for name in self.names if self.parts[name]}}


def fit_boxes(pool5: Tensor, offsets: Tensor, penalty: float) -> Tensor:
    """Ridge regression from the features of regions to their true boxes (Girshick et al. 2014, appendix C).

    Offsets are centred first. The constant is a feature as others are, and regularised too. The authors also whiten the
    offsets and undo that afterwards; with one lambda for all four this changes nothing, and is left out.

    Args:
        pool5: (M, D), scaled.
        offsets: (M, 4), see ``boxes.encode``, undivided.
        penalty: lambda.

    Returns:
        weights (4, D + 1): offsets are ``pool5 @ w[:, :-1].T + w[:, -1]``. Zeros if there is no pair.
    """
    if not len(pool5):
        return pool5.new_zeros(4, pool5.shape[1] + 1)
    mean = offsets.double().mean(0)
    with_constant = torch.cat([pool5, pool5.new_ones(len(pool5), 1)], 1)
    weights = ridge(with_constant.double(), offsets.double() - mean, penalty)
    weights[-1] += mean
    return weights.T.to(pool5.dtype)


class HardNegatives:
    """Linear SVMs of all classes, and the negatives that they need: those within or beyond the margin.

    As the authors do it: all negatives of the first image; then, image by image, those that score above -1.0001. The SVM of
    a class is trained again whenever more than 2000 were added to it, whereupon those below -1.2 are dropped. One pass.

    Its length is the number of negatives; a copy stays as it is. All on one device.

    Args:
        num_classes: K.
        cost: C of the SVMs.
        max_negatives: vectors kept at most, over all classes; of more, those with the highest scores remain.
        state: ``positives`` (N, D), scaled, and their ``labels`` (N,), from 1; or what ``state_dict`` said.
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
        """Moves everything to a device."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))

    def scores(self, features: Tensor) -> Tensor:
        """Of features (P, D): (P, K)."""
        return F.linear(features, self.weights[:, :-1], self.weights[:, -1])

    def hard(self, features: Tensor, candidates: Tensor) -> Tensor:
        """Which of the candidates, bool (P, K), the SVMs do not know as negatives of a class: (P, K)."""
        return candidates & (self.scores(features) > _HARD) if self.trained else candidates

    def add(self, features: Tensor, hard: Tensor) -> None:
        """Adds features (P, D) as negatives of the classes that ``hard`` (P, K) marks; trains again where it is time."""
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
        """Trains the SVMs of these classes, bool (K,), and drops what has become easy for them."""
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
        return {name: getattr(self, name) for name in names}
