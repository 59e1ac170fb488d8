"""ObjectDetection: trains any network that detects objects."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from darkroom.errors import UsageError
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.detection.boxes import fixed_seed, keep_best
from darkroom.lightning_modules.detection.export.graph import network_graph
from darkroom.lightning_modules.detection.inference import DetectionInference, Limits
from darkroom.lightning_modules.detection.metrics import COCOScores, VOCScores
from darkroom.lightning_modules.detection.tiles import detect_in_tiles
from darkroom.lightning_modules.detection.types import Detection, Detections
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.check_batch import check_first_batch
from darkroom.lightning_modules.utils.normalization import Statistics, refuse_normalized_data
from darkroom.lightning_modules.utils.precision import check_images
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.lightning_compat import class_names_of, datamodule_of
from darkroom.runtime.records.results import Task

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.modules.instancenorm._InstanceNorm)


class ObjectDetection(Technique):
    """Object detection with any network: steps, losses and metrics.

    Batch:

    - ``image``: list of float (3, H, W) in [0, 1];
    - ``target``: list of ``Target``;
    - ``proposals``, where the method needs them: list of (P, 4).

    Logs ``train/loss`` and its terms, the same of ``val``, and for val and test the metrics of ``COCOScores`` (``mAP``) and
    ``VOCScores`` (``VOC_AP50``). ``test/images_per_second`` is the rate from images on the device to boxes on one device,
    without loader and metrics; the first batch is left out if there are others. Crowds and difficult objects count neither
    in training nor in ``val/loss``.

    Args:
        network: as torchvision's detectors: in training (images, targets) -> dict of losses, else images -> list of dicts
            ``boxes``, ``scores``, ``labels`` and optional ``masks`` (M, 1, H, W) of probabilities. Its classes include the
            background.
        num_classes: classes of objects, without the background; the command line takes it from the data.
        masks: evaluate masks too; the network must predict them and the data must have them.
        inference: thresholds beside the network's own, by default none, and tiles.
        optim, init_from: see Technique.
    """

    task: ClassVar[Task] = "detection"
    needs: ClassVar[Mapping[str, type]] = {"target": list}
    # Networks of others select detections themselves; COCO's metrics count 100 of an image and class.
    default_limits: ClassVar[Limits] = Limits(score_threshold=0.0, nms_threshold=1.0, max_detections=100)
    free_arguments: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(
        self,
        network: nn.Module,
        num_classes: int | None = None,
        masks: bool = False,
        inference: DetectionInference | None = None,
        optim: Optim | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__(optim=optim, init_from=init_from)
        if num_classes is None or num_classes < 1:
            raise UsageError(f"model.num_classes must be a number of classes of objects, at least 1, got {num_classes}")
        self.network, self.num_classes, self.masks = network, num_classes, masks
        self.inference = build_options(DetectionInference, inference)
        self.limits = self.inference.limits(self.default_limits)
        for scaling in network.modules():
            if isinstance(scaling, GeneralizedRCNNTransform):
                self.own_normalization = scaling.image_mean, scaling.image_std

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "predict":
            return
        names = class_names_of(self.trainer)
        metrics = MetricCollection(
            [
                COCOScores(self.num_classes, names, self.masks, self.limits.max_detections),
                VOCScores(self.num_classes, names),
            ],
            compute_groups=False,
        )
        self.val_scores, self.test_scores = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
        self._seconds: list[tuple[int, float]] = []

    # --- what methods override ----------------------------------------------------------------------------------------

    def loss_terms(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the scalar terms of the loss, by name; their sum is the loss."""
        self._check_sides(batch)
        with _losses_in_eval(self.network):
            return self.network(list(batch["image"]), _torchvision_targets(batch["target"]))

    def detect(self, batch: Mapping[str, Any]) -> Detections:
        """Detect the objects of a batch, one dict per image."""
        self._check_sides(batch)
        found = [_binarize_masks(one) for one in self.network(list(batch["image"]))]
        return found if self.limits == self.default_limits else [keep_best(one, self.limits) for one in found]

    def infer(self, batch: Mapping[str, Any]) -> Detections:
        """Detect the objects of a batch of test or prediction, those of large images in the tiles of ``inference``."""
        if all(self.inference.fits(image.shape[-2:]) for image in batch["image"]):
            return self.detect(batch)
        singles = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(len(batch["image"]))]
        return [detect_in_tiles(self.detect, one, self.inference, self.limits) for one in singles]

    def _check_sides(self, batch: Mapping[str, Any]) -> None:
        """Check that torchvision's resizing, if the network has it, leaves a pixel of each side of the images."""
        for scaling in self.network.children():
            if not isinstance(scaling, GeneralizedRCNNTransform) or scaling.fixed_size is not None:
                continue
            for index, image in enumerate(batch["image"]):
                height, width = image.shape[-2:]
                if scaling.max_size * min(height, width) < max(height, width):
                    raise UsageError(
                        f"image {index} of the batch{_path(batch, index)} has {height} x {width} pixels; the longer side "
                        f"must be at most {scaling.max_size} times the shorter one, because {type(self.network).__name__} "
                        f"resizes it to {scaling.max_size}: leave the image out, or use FasterRCNN, FastRCNN or SSD"
                    )

    def evaluate(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Detections]:
        """Compute loss terms and detections of a validation batch; methods override it to share the work."""
        return self.loss_terms(batch), self.detect(batch)

    def check(self, batch: Mapping[str, Any]) -> None:
        """Check images and targets of a batch, see ``check_batch``."""
        check_batch(batch, self.num_classes)
        for image in batch["image"]:
            check_images(image, self)

    # --- steps --------------------------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Check the values of boxes and labels on the CPU: later, each read would synchronize with the device."""
        if self.device.type != "cpu" and isinstance(batch, Mapping) and "target" in batch:
            check_targets(batch)
            check_boxes(batch, self.num_classes)
        return batch

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:  # type: ignore[override]  # a hook that is never skipped
        check_first_batch(self, batch, batch_idx)
        if batch_idx == 0:  # after the check above: data of another task normalize rightly
            refuse_normalized_data(self, datamodule_of(self.trainer))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        self.check(batch)
        terms = self.loss_terms(batch)
        return self.log_loss(terms | {"loss": torch.stack(list(terms.values())).sum()})

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Detections:  # type: ignore[override]  # callbacks take any output
        self.check(batch)
        targets = [_drop_crowds_and_difficult(target) for target in batch["target"]]
        terms, found = self.evaluate({**batch, "target": targets})
        self.val_scores.update(found, batch["target"])
        losses = {f"val/{name}": term for name, term in terms.items()}
        losses["val/loss"] = torch.stack(list(terms.values())).sum()
        self.log_evaluation(losses, len(found))
        return found

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Detections:  # type: ignore[override]  # callbacks take any output
        self.check(batch)
        self._synchronize()
        start = time.perf_counter()
        found = self.infer(batch)
        self._synchronize()
        self._seconds.append((len(found), time.perf_counter() - start))
        self.test_scores.update(found, batch["target"])
        return found

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Detections:
        """Detect the objects of a batch, see ``infer``."""
        return self.infer(batch)

    def export_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from uint8 images to detections, see ``ExportableModel``.

        Raises:
            UsageError: ``inference`` has tiles.
        """
        if self.inference.tile is not None:
            raise UsageError(
                f"model.inference.tile is {self.inference.tile}, but the exported graph of a detector takes whole images; "
                "add --model.inference.tile null"
            )
        return self.whole_image_graph(normalization)

    def whole_image_graph(self, normalization: Statistics) -> ExportGraph:
        """Return the graph from one uint8 image to its detections.

        Networks of others have a loop over images; methods override it by graphs for whole batches.
        """
        return network_graph(self.network, self.limits, normalization, self.masks)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics(self.val_scores)

    def on_test_epoch_end(self) -> None:
        self._log_metrics(self.test_scores)
        warm = self._seconds[1:] or self._seconds
        # A rank without a batch has no rate, but must log as the others do.
        rate = sum(images for images, _ in warm) / max(1e-9, sum(seconds for _, seconds in warm))
        self.log("test/images_per_second", rate, sync_dist=self.trainer.world_size > 1)
        self._seconds = []

    def _log_metrics(self, metrics: MetricCollection) -> None:
        values = metrics.compute()
        metrics.reset()
        headline = {name: value for name, value in values.items() if name.endswith(("/mAP", "/VOC_AP50"))}
        self.log_dict(headline, prog_bar=True)
        self.log_dict({name: value for name, value in values.items() if name not in headline})

    def _synchronize(self) -> None:
        """Synchronize with the device, so that the clock measures its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _drop_crowds_and_difficult(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target without crowds and difficult objects."""
    keep = torch.ones_like(target["labels"], dtype=torch.bool)
    for flag in ("iscrowd", "difficult"):
        keep &= ~target[flag] if flag in target else True
    return {name: value[keep] if isinstance(value, Tensor) else value for name, value in target.items()}


@contextmanager
def _losses_in_eval(network: nn.Module) -> Iterator[None]:
    """Make a network in eval mode return its losses, with dropout and norms in eval mode and a fixed seed."""
    if network.training:
        yield
        return
    before = {module: module.training for module in network.modules()}
    with fixed_seed(next(network.parameters()).device):
        try:
            for module in before:
                module.training = not isinstance(module, _NORMS)
            yield
        finally:
            for module, training in before.items():
                module.training = training


def _torchvision_targets(targets: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
    """Return targets with the keys that torchvision's detectors take."""
    known = ("boxes", "labels", "masks")
    return [{key: target[key] for key in known if key in target} for target in targets]


def _binarize_masks(found: Detection) -> Detection:
    """Return detections whose masks, torchvision's probabilities (M, 1, H, W), are bool (M, H, W)."""
    return {**found, "masks": found["masks"][:, 0] >= 0.5} if "masks" in found else found


def check_batch(batch: Mapping[str, Any], num_classes: int) -> None:
    """Check that the images are float and the targets valid; their values only on the CPU, see ``check_boxes``.

    Raises:
        UsageError: names the image of the batch and its first invalid box.
    """
    images, targets = batch["image"], batch["target"]
    check_targets(batch)
    for index, image in enumerate(images):
        if image.dtype == torch.uint8:
            raise UsageError(
                "uint8 images reached the network; the datamodule's on_after_batch_transfer scales them to [0, 1] (pass "
                "the datamodule to the Trainer, or scale them yourself)"
            )
        if image.dim() != 3 or image.shape[0] != images[0].shape[0]:
            first = tuple(images[0].shape)
            raise UsageError(
                f"image {index} of the batch{_path(batch, index)} is {tuple(image.shape)}, image 0 {first}; all must be "
                "(C, H, W) with the same C"
            )
    if all(target["boxes"].device.type == "cpu" for target in targets):
        check_boxes(batch, num_classes)


def check_targets(batch: Mapping[str, Any]) -> None:
    """Check the number of targets, and the shapes of boxes, labels and masks.

    Raises:
        UsageError: names the image of the batch.
    """
    images, targets = batch["image"], batch["target"]
    if len(images) != len(targets):
        raise UsageError(f"the batch has {len(images)} images and {len(targets)} targets; every image needs one")
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise UsageError(
                f"image {index} of the batch has boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}; they must be "
                "(N, 4), xyxy, and (N,)"
            )
        if "masks" in target and target["masks"].shape != (len(boxes), *image.shape[-2:]):
            raise UsageError(
                f"image {index} of the batch is {tuple(image.shape[-2:])} with {len(boxes)} boxes, but its masks are "
                f"{tuple(target['masks'].shape)}"
            )


def check_boxes(batch: Mapping[str, Any], num_classes: int) -> None:
    """Check the values of all boxes and labels of a batch.

    Raises:
        UsageError: names the image of the batch and its first invalid box.
    """
    images, targets = batch["image"], batch["target"]
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([target["labels"] for target in targets])
    sizes = boxes.new_tensor([image.shape[:-3:-1] for image in images])  # width, height
    counts = [len(target["labels"]) for target in targets]
    limits = sizes.repeat_interleave(torch.tensor(counts, device=boxes.device), 0, output_size=sum(counts))
    faults = {
        "is not finite": ~boxes.isfinite().all(1),
        "has no area": (boxes[:, 2:] <= boxes[:, :2]).any(1),
        "reaches out of its image": (boxes[:, :2] < -0.5).any(1) | (boxes[:, 2:] > limits + 0.5).any(1),
        f"has a label outside of 1 to {num_classes} (0 is the background)": (labels < 1) | (labels > num_classes),
    }
    invalid = torch.stack(list(faults.values()))
    if invalid.any():
        reason, box = invalid.nonzero()[0].tolist()
        image = next(i for i in range(len(counts)) if box < sum(counts[: i + 1]))
        raise UsageError(
            f"box {box - sum(counts[:image])} of image {image} of the batch{_path(batch, image)} {list(faults)[reason]}: "
            f"{boxes[box].tolist()}, label {labels[box].item()}; boxes are x0, y0, x1, y1 in pixels"
        )


def _path(batch: Mapping[str, Any], index: int) -> str:
    return f" ({batch['path'][index]})" if "path" in batch else ""
