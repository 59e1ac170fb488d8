"""Cost of metrics."""

from typing import Any

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from benchmarks.speed.harness import Options, Result, Side, compare, entry, one_thread
from darkroom.lightning_modules.detection import COCOScores, VOCScores
from darkroom.lightning_modules.metrics import SampleScores
from darkroom.lightning_modules.metrics.reference_classifier import ReferenceClassifier
from darkroom.lightning_modules.segmentation import SegmentationScores
from darkroom.lightning_modules.segmentation.base import most_likely


@entry
def segmentation_scores(options: Options) -> Result:
    """Compare mIoU, Dice and pixel accuracy of logits 8 x 21 x 256 x 256: one confusion matrix against three metrics."""
    logits = torch.randn(8, 21, 256, 256, device=options.device)
    truth = torch.randint(0, 21, (8, 256, 256), device=options.device)
    ours = SegmentationScores(21).to(options.device)
    kinds = (MulticlassJaccardIndex, MulticlassF1Score, MulticlassAccuracy)
    theirs = MetricCollection([kind(21, ignore_index=255, validate_args=False) for kind in kinds]).to(options.device)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    sides = [
        Side("darkroom, one confusion matrix", lambda: ours.update(most_likely(logits), truth), 8),
        Side("the same, logits channels_last", lambda: ours.update(most_likely(channels_last), truth), 8),
        Side("torchmetrics, three metrics", lambda: theirs.update(logits, truth), 8),
    ]
    peers = ["torchmetrics, three metrics"]
    return compare("Metrics of a batch, 8 x 21 x 256 x 256", sides, options, peers=peers)


@entry
def detection_scores(options: Options) -> Result:
    """Measure COCO AP and VOC AP of 200 images with 8,000 detections of 20 classes: update and compute."""
    generator = torch.Generator().manual_seed(0)
    found, truth = [], []
    for _ in range(200):
        corners = torch.rand(40, 2, generator=generator) * 400
        boxes = torch.cat([corners, corners + 20 + 80 * torch.rand(40, 2, generator=generator)], 1)
        labels = torch.randint(1, 21, (40,), generator=generator)
        scores = torch.rand(40, generator=generator).sort(descending=True).values
        found.append({"boxes": boxes, "scores": scores, "labels": labels})
        truth.append({"boxes": boxes[:10] + 5 * torch.rand(10, 4, generator=generator), "labels": labels[:10]})

    def judge(scores: Any) -> None:
        scores.update(found, truth)
        scores.compute()
        scores.reset()

    theirs = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
    sides = [
        Side("COCOScores", lambda: judge(ours), 200),
        Side("VOCScores", lambda: judge(voc), 200),
        Side("torchmetrics, faster-coco-eval", lambda: judge(theirs), 200),
    ]
    ours, voc = COCOScores(20), VOCScores(20)
    return compare(
        "Metrics of 200 images, 8,000 boxes, 20 classes", sides, Options(rounds=options.rounds), peers=[sides[2].name]
    )


class _Noise:
    """Sampler of noise at almost no cost, so that the metric alone is timed."""

    num_classes = None

    def __init__(self, shape: tuple[int, int, int], device: str) -> None:
        self.shape, self.device = shape, torch.device(device)

    def sample(self, n: int, *, labels: None, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(n, *self.shape, generator=generator).to(self.device)

    def to_uint8(self, images: torch.Tensor) -> torch.Tensor:
        return (images * 255).to(torch.uint8)


@entry
def score_cost(options: Options) -> Result:
    """Measure cnn_fid without sampling: features and statistics of 1000 real and 1000 generated images."""
    sides = []
    for shape in ((1, 28, 28), (3, 32, 32), (3, 64, 64)):
        real = torch.randint(0, 256, (1000, *shape), dtype=torch.uint8, device=options.device)
        noise = _Noise(shape, options.device)

        def score(real: torch.Tensor = real, noise: _Noise = noise) -> None:
            scores = SampleScores(num_samples=len(real))
            scores._network = ReferenceClassifier(real.shape[1], 10).eval()
            for some in real.split(100):
                scores.update("test", some, {})
            scores.compute("test", noise)

        sides.append(Side(" x ".join(map(str, shape)), score, len(real)))
    with one_thread():
        return compare(
            "cnn_fid of 1000 images", sides, options, ["One core on a CPU. The cost of sampling is not included."]
        )
