"""ObjectDetection: trains any network that finds boxes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.detection.boxes import repeatable
from darkroom.lightning_modules.detection.metrics import COCOScores, VOCScores
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.precision import check_images

Detections = list[dict[str, Tensor]]
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.modules.instancenorm._InstanceNorm)


class ObjectDetection(Technique):
    """Any network as an object detector: steps, losses and scores.

    Batch: ``image``, list of float (3, H, W) in [0, 1]; ``target``, list of dicts ``boxes`` (N, 4) xyxy in pixels,
    ``labels`` (N,) from 1, perhaps ``masks``, ``difficult``, ``iscrowd``; perhaps ``proposals``, list of (P, 4). Logs
    ``train/loss`` and its terms, the same of ``val``, and for val and test COCO's ``mAP`` and VOC's ``VOC_AP50`` with all
    that belongs to them (``COCOScores``, ``VOCScores``). ``test/images_per_second`` is the time from images on the device
    to boxes on one device, without loader and scores, the first batch left out if there are others. Crowds and difficult
    objects have no part in ``val/loss``, as they have none in training.

    Args:
        network: as torchvision's detectors: in training (images, targets) -> dict of losses, else images -> list of dicts
            ``boxes``, ``scores``, ``labels`` and perhaps ``masks`` (M, 1, H, W) of probabilities. It counts the background.
        num_classes: classes of objects, without the background; the command line takes it from the data.
        masks: judge masks too; the network must give and the data must have them.
        optim: see Technique.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int | None = None,
        masks: bool = False,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(optim=optim)
        if num_classes is None or num_classes < 1:
            raise UsageError(f"model.num_classes is {num_classes}; it counts classes of objects, at least 1")
        self.network, self.num_classes, self.masks = network, num_classes, masks

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "predict":
            return
        names = getattr(self.trainer.datamodule, "class_names", None)
        scores = MetricCollection(
            [COCOScores(self.num_classes, names, self.masks), VOCScores(self.num_classes, names)], compute_groups=False
        )
        self.val_scores, self.test_scores = scores.clone(prefix="val/"), scores.clone(prefix="test/")
        self._seconds: list[tuple[int, float]] = []

    # --- what a technique says of itself ------------------------------------------------------------------------------

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The terms of the loss by name, scalars; their sum is the loss."""
        with _losses_only(self.network):
            return self.network(list(batch["image"]), _plain(batch["target"]))

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """What the network sees in a batch, one dict per image: ``boxes`` (M, 4) xyxy in pixels of the image, ``scores``
        (M,) in [0, 1], descending, ``labels`` (M,) from 1, and where it finds them ``masks`` bool (M, H, W)."""
        return [found | _binary(found) for found in self.network(list(batch["image"]))]

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Loss terms and detections of a validation batch; a technique that can shares the work."""
        return self.loss_terms(batch), self.detect(batch)

    def check(self, batch: Mapping[str, Any]) -> None:
        """Refuses what the network cannot take, and what it would learn nonsense from; see ``check_batch``."""
        check_batch(batch, self.num_classes)
        for image in batch["image"]:
            check_images(image, self)

    # --- steps --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.check(batch)
        terms = self.loss_terms(batch)
        return self.log_loss(terms | {"loss": torch.stack(list(terms.values())).sum()})

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Detections:
        self.check(batch)
        terms, found = self.evaluate({**batch, "target": [_learnable(target) for target in batch["target"]]})
        self.val_scores.update(found, batch["target"])
        losses = {f"val/{name}": term for name, term in terms.items()}
        losses["val/loss"] = torch.stack(list(terms.values())).sum()
        self.log_evaluation(losses, len(found))
        return found

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Detections:
        self.check(batch)
        self._wait()
        start = time.perf_counter()
        found = self.detect(batch)
        self._wait()
        self._seconds.append((len(found), time.perf_counter() - start))
        self.test_scores.update(found, batch["target"])
        return found

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Detections:
        """Detections of a batch, see ``detect``."""
        return self.detect(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores(self.val_scores)

    def on_test_epoch_end(self) -> None:
        self._log_scores(self.test_scores)
        warm = self._seconds[1:] or self._seconds
        # A rank without a batch has no rate, but must log as the others do.
        rate = sum(images for images, _ in warm) / max(1e-9, sum(seconds for _, seconds in warm))
        self.log("test/images_per_second", rate, sync_dist=self.trainer.world_size > 1)
        self._seconds = []

    def _log_scores(self, scores: MetricCollection) -> None:
        values = scores.compute()
        scores.reset()
        headline = {name: value for name, value in values.items() if name.endswith(("/mAP", "/VOC_AP50"))}
        self.log_dict(headline, prog_bar=True)
        self.log_dict({name: value for name, value in values.items() if name not in headline})

    def _wait(self) -> None:
        """Lets the device finish, so that the clock sees its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _learnable(target: Mapping[str, Any]) -> dict[str, Any]:
    """A target without crowds and difficult objects."""
    keep = torch.ones_like(target["labels"], dtype=torch.bool)
    for flag in ("iscrowd", "difficult"):
        keep &= ~target[flag] if flag in target else True
    return {name: value[keep] if isinstance(value, Tensor) else value for name, value in target.items()}


@contextmanager
def _losses_only(network: nn.Module) -> Iterator[None]:
    """Within, a network in evaluation gives its losses as in training, but nothing is dropped or remembered: dropout and
    norms stay as they are. Its random choices are the same every time."""
    if network.training:
        yield
        return
    before = {module: module.training for module in network.modules()}
    with repeatable(next(network.parameters()).device):
        try:
            for module in before:
                module.training = not isinstance(module, _NORMS)
            yield
        finally:
            for module, training in before.items():
                module.training = training


def _plain(targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
    """Targets as torchvision's detectors take them."""
    known = ("boxes", "labels", "masks")
    return [{key: target[key] for key in known if key in target} for target in targets]


def _binary(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's masks, probabilities (M, 1, H, W), as bool (M, H, W)."""
    return {"masks": found["masks"][:, 0] >= 0.5} if "masks" in found else {}


def check_batch(batch: Mapping[str, Any], num_classes: int) -> None:
    """Refuses targets that a detector would learn nonsense from, and images of bytes.

    Raises:
        UsageError: names the image of the batch and its first wrong box.
    """
    images, targets = batch["image"], batch["target"]
    if len(images) != len(targets):
        raise UsageError(f"the batch has {len(images)} images and {len(targets)} targets; every image needs one")
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        if image.dtype == torch.uint8:
            raise UsageError(
                "uint8 images reached the network; the datamodule's on_after_batch_transfer scales them to [0, 1] (pass "
                "the datamodule to the Trainer, or scale them yourself)"
            )
        if image.dim() != 3 or image.shape[0] != images[0].shape[0]:
            first = tuple(images[0].shape)
            raise UsageError(
                f"image {index} of the batch{_named(batch, index)} is {tuple(image.shape)}, image 0 {first}; all should be "
                "(C, H, W) of as many channels"
            )
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise UsageError(
                f"image {index} of the batch has boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}; they should "
                "be (N, 4), xyxy, and (N,)"
            )
        if "masks" in target and target["masks"].shape != (len(boxes), *image.shape[-2:]):
            raise UsageError(
                f"image {index} of the batch is {tuple(image.shape[-2:])} with {len(boxes)} boxes, but its masks are "
                f"{tuple(target['masks'].shape)}"
            )
    # One look at all boxes of the batch: every further one would wait for the device.
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([target["labels"] for target in targets])
    sizes = boxes.new_tensor([image.shape[:-3:-1] for image in images])  # width, height
    counts = [len(target["labels"]) for target in targets]
    limits = sizes.repeat_interleave(torch.tensor(counts, device=boxes.device), 0, output_size=sum(counts))
    wrong = {
        "is not finite": ~boxes.isfinite().all(1),
        "has no area": (boxes[:, 2:] <= boxes[:, :2]).any(1),
        "reaches out of its image": (boxes[:, :2] < -0.5).any(1) | (boxes[:, 2:] > limits + 0.5).any(1),
        f"has a label outside of 1 to {num_classes} (0 is the background)": (labels < 1) | (labels > num_classes),
    }
    masks = torch.stack(list(wrong.values()))
    if masks.any():
        reason, box = masks.nonzero()[0].tolist()
        image = next(i for i in range(len(counts)) if box < sum(counts[: i + 1]))
        raise UsageError(
            f"box {box - sum(counts[:image])} of image {image} of the batch{_named(batch, image)} {list(wrong)[reason]}: "
            f"{boxes[box].tolist()}, label {labels[box].item()}; boxes are x0, y0, x1, y1 in pixels"
        )


def _named(batch: Mapping[str, Any], index: int) -> str:
    return f" ({batch['path'][index]})" if "path" in batch else ""
