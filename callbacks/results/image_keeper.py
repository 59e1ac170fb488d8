"""ImageKeeper: images of the samples with the highest scores of each group, in bounded memory."""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping

from lightning import Trainer

from darkroom.callbacks.writers.prediction_files import gather_rows

Group = tuple[str | int, ...]  # a kind, such as "cell", and the numbers of classes that it is about
Files = dict[str, bytes]  # PNG files of a sample by kind, see ``darkroom.runtime.records.results.image_path``
_BUDGET = 512  # samples of the groups of one kind


def share_budget(groups: int, most: int) -> int:
    """Return how many samples each of a number of groups may have; 0 if there are too many groups."""
    return min(most, _BUDGET // max(1, groups))


class ImageKeeper:
    """Keeps the images of the samples with the highest scores of each group, while samples are offered in batches.

    The result does not depend on the order of the samples: of equal scores, the sample with the lower number is kept.

    Args:
        limits: number of samples of a group, by kind of group; 0 and other kinds: none.

    Attributes:
        images: files of the kept samples, by number.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = dict(limits)
        self.images: dict[int, Files] = {}
        self._best: dict[Group, list[tuple[float, int]]] = {}  # heaps of (score, -sample)
        self._uses: Counter[int] = Counter()

    def offer(self, samples: Mapping[int, Mapping[Group, float]], encode: Callable[[int], Files]) -> None:
        """Offer the samples of a batch to groups.

        Args:
            samples: score in each group, by sample.
            encode: makes the files of a sample; called for those that a group keeps after the whole batch.
        """
        for sample, scores in samples.items():
            for group, score in scores.items():
                self._claim(group, score, sample)
        for sample in samples:
            if self._uses[sample] and sample not in self.images:
                self.images[sample] = encode(sample)

    def ranked(self, group: Group) -> list[int]:
        """Return the samples of a group, the highest score first."""
        return [-sample for _, sample in sorted(self._best.get(group, ()), reverse=True)]

    def gather(self, trainer: Trainer) -> None:
        """Replace the content by that of all ranks; every rank must call this."""
        merged = ImageKeeper(self.limits)
        own = [(group, score, -sample) for group, best in self._best.items() for score, sample in best]
        for group, score, sample in gather_rows(trainer, own):
            merged._claim(group, score, sample)
        images = gather_rows(trainer, [(one, files) for one, files in self.images.items() if merged._uses[one]])
        self.images, self._best, self._uses = dict(images), merged._best, merged._uses

    def _claim(self, group: Group, score: float, sample: int) -> None:
        limit = self.limits.get(str(group[0]), 0)
        best = self._best.setdefault(group, []) if limit else []
        # NaN is not ordered: a score that is not a number is the highest.
        entry = (float("inf") if score != score else score, -sample)
        if len(best) < limit:
            heapq.heappush(best, entry)
        elif not limit or (removed := heapq.heappushpop(best, entry)) == entry:
            return
        else:
            self._release(-removed[1])
        self._uses[sample] += 1

    def _release(self, sample: int) -> None:
        self._uses[sample] -= 1
        if not self._uses[sample]:
            del self._uses[sample]
            self.images.pop(sample, None)
