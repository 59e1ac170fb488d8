"""Measure FID between real images: ``python -m benchmarks.results.score_floor CLASS [--set KEY=VALUE ...]``.

The first N test images of a data set are compared with the next N: the value that a perfect model would reach.
"""

import argparse

import torch
import yaml

from darkroom.cli.catalog import import_all
from darkroom.datamodules.images.base import LabelledImages
from darkroom.lightning_modules.metrics.feature_network import FeatureNetwork
from darkroom.lightning_modules.metrics.feature_statistics import FeatureStatistics
from darkroom.lightning_modules.metrics.pretrained_features import build_pretrained_features
from darkroom.lightning_modules.metrics.reference_classifier import load_or_train_classifier


def main() -> None:
    """Print the metric, with the accuracy of the classifier if its features are used."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.score_floor", description=__doc__)
    parser.add_argument("data", metavar="CLASS", help="data set with labels, such as FashionMNIST")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the data, such as side=16"
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--features", choices=["cnn", "mobilenet", "inception"], default="cnn")
    arguments = parser.parse_args()
    import_all()
    kinds = {kind.__name__: kind for kind in LabelledImages.__subclasses__() for kind in (kind, *kind.__subclasses__())}
    options = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in arguments.set)}
    data = kinds[arguments.data](num_workers=0, **options)
    dataset = data.dataset("test")
    if len(dataset) < 2 * arguments.count:
        parser.error(f"--count must be at most half of the {len(dataset)} test images, got {arguments.count}")
    images = torch.stack([dataset[index]["image"] for index in range(2 * arguments.count)])
    network: FeatureNetwork
    if arguments.features == "cnn":
        network, accuracy = load_or_train_classifier(data)
        judged = f"classifier accuracy {accuracy:.1%}; "
    else:
        network, judged = build_pretrained_features(arguments.features, None), ""
    statistics = FeatureStatistics(network, torch.device("cpu"))
    for part, real in zip(images.split(arguments.count), (True, False), strict=True):
        statistics.update(part, None, real)
    ((name, value),) = statistics.compute(seed=0).items()
    print(f"{arguments.data}: {judged}{name} of two sets of {arguments.count}: {value:.2f}")


if __name__ == "__main__":
    main()
