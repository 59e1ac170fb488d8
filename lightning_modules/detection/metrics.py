"""Metrics of detections over a whole set: COCO's, of boxes and masks, and PASCAL VOC's."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchvision.ops import box_iou

from darkroom.errors import UsageError
from darkroom.lightning_modules.detection.types import Detection, Target


class DetectionScores(Metric):
    """Base of metrics over a set: collects every box of every image in CPU memory.

    Args:
        num_classes: K classes of objects; labels are 1 to K.
        class_names: K names, of the labels in this order; default: the numbers.

    Raises:
        UsageError: another number of names than of classes.
    """

    full_state_update = False
    detections: list[Tensor]
    truths: list[Tensor]

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.class_names = tuple(class_names or map(str, range(1, num_classes + 1)))
        if len(self.class_names) != num_classes:
            raise UsageError(
                f"class_names must have model.num_classes names, {num_classes}, got {len(self.class_names)}"
            )
        # One tensor per image, a row per box: x1, y1, x2, y2, label, then score or (iscrowd, difficult, area).
        self.add_state("detections", [], dist_reduce_fx=None)
        self.add_state("truths", [], dist_reduce_fx=None)

    def update(self, preds: Sequence[Detection], target: Sequence[Target]) -> None:
        """Add images.

        Args:
            preds: per image ``boxes`` float (M, 4), xyxy in pixels, ``labels`` int (M,) from 1, ``scores`` float (M,).
            target: per image ``boxes`` float (N, 4), ``labels`` int (N,), optional ``iscrowd`` and ``difficult`` bool (N,),
                optional ``area`` float (N,), in pixels; by default that of its mask or box.
        """
        self.detections += _rows([(image["boxes"], image["labels"], image["scores"]) for image in preds])
        truths = []
        for image in target:
            no = torch.zeros_like(image["labels"])
            area = image.get("area", torch.full(no.shape, torch.nan, device=no.device))  # nan: of the mask or the box
            truths.append((image["boxes"], image["labels"], image.get("iscrowd", no), image.get("difficult", no), area))
        self.truths += _rows(truths)

    def named(self, score: str, values: Sequence[float]) -> dict[str, Tensor]:
        """Return a value per class, by name: ``score/<name>``."""
        names = (f"{score}/{name}" for name in self.class_names)
        return {name: self.scalar(value) for name, value in zip(names, values, strict=True)}

    def scalar(self, value: float) -> Tensor:
        """Return a value as a float32 scalar on the metric's device, where ranks can reduce it."""
        return torch.tensor(float(value), dtype=torch.float32, device=self.device)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = ()) -> nn.Module:
        return super()._apply(fn, exclude_state=(*exclude_state, *self._defaults))  # the boxes stay in CPU memory

    def _sync_dist(self, dist_sync_fn: Callable | None = None, process_group: Any | None = None) -> None:
        """Gather the images of all ranks in the sampler's order, so that ties are broken as in one process.

        torchmetrics gathers tensor by tensor, which deadlocks if ranks have different numbers of images.
        """
        group = process_group or self.process_group
        ranks: list[Any] = [None] * distributed.get_world_size(group)
        # Arrays, because a pickled tensor includes the storage of its whole batch.
        local = {
            name: [x.numpy() if isinstance(x, Tensor) else x for x in getattr(self, name)] for name in self._defaults
        }
        distributed.all_gather_object(ranks, local, group=group)
        for name in self._defaults:
            turns = zip_longest(*(rank[name] for rank in ranks))
            images = [image for turn in turns for image in turn if image is not None]
            setattr(self, name, [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in images])


class COCOScores(DetectionScores):
    """COCO's average precision and recall (Lin et al. 2014; https://cocodataset.org/#detection-eval), by faster-coco-eval.

    - ``mAP``: over IoU .5, .55, ..., .95 and the classes, precision at 101 recalls; ``AP50``, ``AP75``: at one IoU;
    - ``AP_small``, ``AP_medium``, ``AP_large``: of objects up to 32^2, up to 96^2 and above, in pixels of the image in the
      batch: the ``area`` of the target, as in COCO's files, else that of its mask, else that of its box, a larger one;
    - ``AR1``, ``AR10``, ``AR100``: recall with so many detections per image and class. The last limit, which all others
      take too, is that of the model if it is above COCO's 100; the name has it;
    - ``AP/<name>``: mAP of a class;
    - with ``masks`` the same by the IoU of masks: ``mask_mAP``, ..., ``mask_AP/<name>``.

    nan for a class without object to be found; means leave such classes out. Detections in a crowd region (``iscrowd``) do
    not count, nor does the region. COCO has no ``difficult``: such objects count as all others.

    Args:
        num_classes, class_names: see DetectionScores.
        masks: evaluate masks too; ``preds`` and ``target`` then have ``masks`` bool (N, H, W).
        max_detections: largest number of detections per image of the model; those beyond COCO's 100 count too.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """

    detection_masks: list[list[dict[str, Any]]]
    truth_masks: list[list[dict[str, Any]]]

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        masks: bool = False,
        max_detections: int = 100,
    ) -> None:
        super().__init__(num_classes, class_names)
        self.limits = 1, 10, max(100, max_detections)
        if find_spec("faster_coco_eval") is None:
            raise UsageError("the metrics of COCO need faster-coco-eval; install it: pip install faster-coco-eval")
        self.masks = masks
        if masks:
            self.add_state("detection_masks", [], dist_reduce_fx=None)
            self.add_state("truth_masks", [], dist_reduce_fx=None)

    def __hash__(self) -> int:
        return id(self)  # torchmetrics hashes the states, and dicts of run lengths have no hash

    def update(self, preds: Sequence[Detection], target: Sequence[Target]) -> None:
        """Add images, see DetectionScores. Masks are stored as run lengths."""
        super().update(preds, target)
        if self.masks:
            self.detection_masks += [_run_lengths(image["masks"]) for image in preds]
            self.truth_masks += [_run_lengths(image["masks"]) for image in target]

    def compute(self) -> dict[str, Tensor]:
        """Compute COCO's average precisions of boxes and, as ``mask_<name>``, of masks, over all ranks."""
        scores = self._scores("bbox")
        return scores | {f"mask_{name}": x for name, x in self._scores("segm").items()} if self.masks else scores

    def _scores(self, kind: Literal["bbox", "segm"]) -> dict[str, Tensor]:
        # Not through torchmetrics' MeanAveragePrecision: it evaluates every class a second time for its AP, its float32
        # thresholds differ slightly from COCO's, and it cannot gather from ranks with different numbers of images.
        from faster_coco_eval import COCOeval_faster

        truths = self._index(self.truths, "iscrowd", self.truth_masks if self.masks else None)
        detections = self._index(self.detections, "score", self.detection_masks if kind == "segm" else None)
        evaluation = COCOeval_faster(truths, detections, kind)
        evaluation.params.maxDets = list(self.limits)
        evaluation.evaluate()
        evaluation.accumulate()
        # (IoU, recall, class, size, limit) and (IoU, class, size, limit), with sizes all, small, medium, large
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
        of_all = precision[..., 0, -1]
        scores = {"mAP": of_all, "AP50": of_all[0], "AP75": of_all[5]}
        scores |= {f"AP_{size}": precision[..., i, -1] for i, size in enumerate(("small", "medium", "large"), 1)}
        scores |= {f"AR{limit}": recall[..., 0, i] for i, limit in enumerate(self.limits)}
        named = self.named("AP", [_mean(of_class) for of_class in np.moveaxis(of_all, 2, 0)])
        return {name: self.scalar(_mean(values)) for name, values in scores.items()} | named

    def _index(self, images: list[Tensor], field: Literal["iscrowd", "score"], masks: list[list[dict]] | None) -> Any:
        """Build a COCO data set of the images' boxes (and masks); ``field`` is the sixth column of their rows."""
        from faster_coco_eval import COCO
        from faster_coco_eval.core import mask as mask_utils

        number = {"iscrowd": int, "score": float}[field]
        boxes: list[dict[str, Any]] = []
        for image, rows in enumerate(images):
            for x1, y1, x2, y2, label, value, *others in rows.tolist():
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), field: number(value)}
                if others and not math.isnan(others[-1]):
                    box |= {"area": others[-1], "stated": True}
                boxes.append({"id": len(boxes) + 1, "image_id": image, "category_id": int(label), **box})
        sizes: list[dict[str, int]] = [{}] * len(images)
        if masks is not None:
            runs = [run for image in masks for run in image]
            for box, run, area in zip(boxes, runs, mask_utils.area(runs), strict=True):
                box.update(segmentation=run, area=box["area"] if box.pop("stated", False) else float(area))
            sizes = [dict(zip(("height", "width"), image[0]["size"], strict=True)) if image else {} for image in masks]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image, **size} for image, size in enumerate(sizes)],
            "categories": [{"id": label, "name": name} for label, name in enumerate(self.class_names, 1)],
            "annotations": boxes,
        }
        coco.createIndex()
        return coco


class VOCScores(DetectionScores):
    """PASCAL VOC's average precision (Everingham et al. 2010, section 4.2; the development kit's VOCevaldet).

    The detections of a class, over the whole set and by descending score, each claim the object of that class in their
    image with the highest IoU. Below ``iou_threshold`` the detection is wrong; if the object is ``difficult`` it does not
    count; if it is the first to claim the object it is right; if not, wrong. Recall is of the objects that are not
    difficult. With the best precision at a recall or any higher one (IoU .5 being the threshold):

    - ``VOC_AP50``: its integral over recall (VOC 2010 and later), the mean over the classes;
    - ``VOC07_AP50``: its mean at the recalls 0, .1, ..., 1 (until VOC 2009), the mean over the classes;
    - ``VOC_AP50/<name>``, ``VOC07_AP50/<name>``: those of a class.

    nan for a class without object to be found; means leave such classes out. A crowd region (``iscrowd``), absent
    from VOC, counts as difficult. Our boxes, from pixel edge to pixel edge, have the areas of VOC's inclusive corners.

    Args:
        num_classes, class_names: see DetectionScores.
        iou_threshold: in (0, 1]; that of VOC is .5.

    Raises:
        UsageError: the threshold is out of its range.
    """

    def __init__(self, num_classes: int, class_names: Sequence[str] | None = None, iou_threshold: float = 0.5) -> None:
        super().__init__(num_classes, class_names)
        if not 0 < iou_threshold <= 1:
            raise UsageError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
        self.iou_threshold = iou_threshold

    def compute(self) -> dict[str, Tensor]:
        """Compute the average precisions of VOC 2010 and VOC 2007, overall and per class, over all ranks."""
        detections = torch.cat([torch.zeros(0, 6), *self.detections])
        truths = torch.cat([torch.zeros(0, 8), *self.truths])
        iou, claimed = self._claims()
        extra = F.pad((truths[:, 5:7] > 0).any(1), (0, 1))  # difficult or crowd; and one for "none"
        pairs = []
        for label in range(1, len(self.class_names) + 1):
            chosen = (detections[:, 4] == label).nonzero()[:, 0]
            chosen = chosen[detections[chosen, 5].argsort(descending=True, stable=True)]
            right = first_claims(iou[chosen] >= self.iou_threshold, claimed[chosen], extra)
            objects = (truths[:, 4] == label) & ~extra[:-1]
            pairs.append(average_precisions(right, int(objects.sum())))
        scores: dict[str, Tensor] = {}
        for kind, values in zip(("VOC", "VOC07"), torch.tensor(pairs, dtype=torch.float64).T, strict=True):
            name = f"{kind}_AP{100 * self.iou_threshold:g}"
            scores |= {name: self.scalar(values.nanmean()), **self.named(name, values)}
        return scores

    def _claims(self) -> tuple[Tensor, Tensor]:
        """Return each detection's highest IoU with an object of its class and image, and the row of that object."""
        start, ious, rows = 0, [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)]
        for found, true in zip(self.detections, self.truths, strict=True):
            iou = box_iou(found[:, :4], true[:, :4])  # nan for two boxes without area, which claims nothing
            same_class = found[:, 4, None] == true[:, 4]
            highest = F.pad(iou.where(same_class, 0), (0, 1)).max(1)  # without object: the added column of IoU 0
            ious.append(highest.values)
            rows.append(highest.indices + start)
            start += len(true)
        return torch.cat(ious), torch.cat(rows)


def first_claims(claims: Tensor, claimed: Tensor, extra: Tensor) -> Tensor:
    """Return which detections are true positives: the first to claim their object. Claims of extra objects are left out.

    Args:
        claims: bool (M,), by descending score: the detection overlaps its object enough.
        claimed: int (M,): index of that object.
        extra: bool: the object need not be found.

    Returns:
        bool (M',).
    """
    counted = ~(claims & extra[claimed])
    claims, claimed = claims[counted], claimed[counted]
    candidates = claims.nonzero()[:, 0]
    _, first = np.unique(claimed[candidates].numpy(), return_index=True)
    right = torch.zeros_like(claims)
    right[candidates[torch.from_numpy(first)]] = True
    return right


def average_precisions(right: Tensor, objects: int) -> tuple[float, float]:
    """Compute the integral of precision over recall, and its mean at eleven recalls; nan without objects.

    Args:
        right: bool (M,), by descending score: the detection is a true positive.
        objects: number of objects to be found.
    """
    if not objects:
        return float("nan"), float("nan")
    found = right.cumsum(0)
    precision = found.double() / torch.arange(1, len(right) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or a higher one
    integral = best[right].sum() / objects  # each object found adds as much recall
    # found / objects >= k / 10 in integers, because .3 and 3 * .1 are two numbers
    at = torch.searchsorted(10 * found, objects * torch.arange(11))
    return integral.item(), F.pad(best, (0, 1))[at].mean().item()  # a recall that is never reached has precision 0


def _rows(images: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Stack the columns of each image, float32 in CPU memory, with one copy from the device for all images."""
    tables = [torch.column_stack([column.float() for column in columns]) for columns in images]
    return list(torch.cat(tables).cpu().split([len(table) for table in tables]))


def _run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """Encode masks bool (N, H, W) as run lengths, a few hundred bytes each.

    COCO's runs go down the columns. These go along the rows, the memory layout of the masks, because the transposed masks
    are encoded. Their areas and overlaps are the same.
    """
    from faster_coco_eval.core import mask as mask_utils

    return mask_utils.encode(masks.bool().byte().contiguous().cpu().numpy().T)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that COCO's evaluation defines; it marks the others with -1."""
    return values[values > -1].mean() if (values > -1).any() else float("nan")
