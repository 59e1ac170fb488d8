"""Measure cnn_fid between real images: ``python -m benchmarks.results.score_floor CLASS [--root FOLDER] [--count N]``.

The first N test images of a data set are compared with the next N: the value that a perfect model would reach.
"""

import argparse

import torch
from torch import Tensor

from darkroom.cli.catalog import import_all
from darkroom.datamodules.images.base import LabelledImages
from darkroom.lightning_modules.metrics import SampleScores
from darkroom.lightning_modules.metrics.reference_classifier import load_or_train_classifier


class _Real:
    """Sampler of real images, one after another."""

    num_classes, device = None, torch.device("cpu")

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def sample(self, n: int, *, labels: None, generator: torch.Generator) -> Tensor:
        chosen, self.images = self.images[:n], self.images[n:]
        return chosen

    def to_uint8(self, images: Tensor) -> Tensor:
        return images


def main() -> None:
    """Print the classifier's accuracy and the metric."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.score_floor", description=__doc__)
    parser.add_argument("data", metavar="CLASS", help="data set with labels, such as FashionMNIST")
    parser.add_argument("--root")
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    import_all()
    kinds = {kind.__name__: kind for kind in LabelledImages.__subclasses__() for kind in (kind, *kind.__subclasses__())}
    data = kinds[arguments.data](num_workers=0, **({"root": arguments.root} if arguments.root else {}))
    dataset = data.dataset("test")
    images = torch.stack([dataset[index]["image"] for index in range(2 * arguments.count)])
    scores = SampleScores(num_samples=arguments.count)
    scores._network, accuracy = load_or_train_classifier(data)
    scores.update("test", images[: arguments.count], {})
    value = scores.compute("test", _Real(images[arguments.count :]))["cnn_fid"]
    print(
        f"{arguments.data}: classifier accuracy {accuracy:.1%}; cnn_fid of two sets of {arguments.count}: {value:.2f}"
    )


if __name__ == "__main__":
    main()
