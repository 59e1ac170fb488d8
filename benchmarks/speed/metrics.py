"""Cost of metrics."""

import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from benchmarks.speed.harness import Options, Result, Side, compare, entry
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
