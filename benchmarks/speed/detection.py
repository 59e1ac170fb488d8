"""Detection: training steps and inference beside torchvision's in a plain loop; metrics, proposals, images with boxes."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import detection as torchvision_detection
from torchvision.transforms import v2

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
    compare,
    descend,
    entry,
    one_thread,
    side_of,
    without_gradients,
)
from darkroom.datamodules.detection.base import DetectionDataModule
from darkroom.datamodules.detection.yolo_folder import YoloFolder
from darkroom.datamodules.loading import KeyedSamples
from darkroom.datamodules.proposals.cache import ProposalCache, fill
from darkroom.datamodules.proposals.methods import GridProposals, SelectiveSearch
from darkroom.datamodules.shapes.detection import DetectionScenes, ShapesDetection
from darkroom.lightning_modules import detection
from darkroom.lightning_modules.detection import COCOScores, FasterRCNN, MaskRCNN, ObjectDetection, VOCScores
from darkroom.lightning_modules.detection.base import check_batch

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
LADDER = ("sliding_window", "rcnn", "fast_rcnn", "faster_rcnn", "mask_rcnn", "ssd", "yolo")
BATCH = 4
FASTER, MASK, SSD = "Faster R-CNN, ResNet50 and pyramid", "Mask R-CNN, ResNet50 and pyramid", "SSD300, VGG16"


def _techniques() -> dict[str, ObjectDetection]:
    """Build every method from its config on Shapes."""
    models = {}
    for name in LADDER:
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]
        own = {k: v for k, v in config["init_args"].items() if k not in ("optimizer", "lr_scheduler")}
        models[name] = getattr(detection, config["class_path"])(num_classes=5, **own)
    return models


def _batch(options: Options, size: int = BATCH, **kwargs: Any) -> dict[str, Any]:
    data = ShapesDetection(eval_batch_size=size, test_size=size, num_workers=0, **kwargs)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    batch["image"] = [image.to(options.device) for image in batch["image"]]
    for target in batch["target"]:
        target |= {key: value.to(options.device) for key, value in target.items() if torch.is_tensor(value)}
    if "proposals" in batch:
        batch["proposals"] = [boxes.to(options.device) for boxes in batch["proposals"]]
    return data.on_after_batch_transfer(batch)


def _ours(name: str, model: ObjectDetection, batch: dict[str, Any], options: Options) -> Side:
    """Build the side of a method's training step, its check of the targets included, without a Trainer; plain AdamW."""
    model = options.place(model).train()

    def loss() -> torch.Tensor:
        check_batch(batch, model.num_classes)
        return torch.stack(list(model.loss_terms(batch).values())).sum()

    return _training(name, model, model.networks(), loss, batch, options)


def _plain(name: str, network: nn.Module, batch: dict[str, Any], options: Options) -> Side:
    """Build the side of a plain loop around torchvision's detector."""
    network = options.place(network).train()

    def loss() -> torch.Tensor:
        return torch.stack(list(network(batch["image"], batch["target"]).values())).sum()

    return _training(name, network, [network], loss, batch, options)


def _training(
    name: str,
    model: nn.Module,
    networks: list[nn.Module],
    loss: Callable[[], torch.Tensor],
    batch: dict[str, Any],
    options: Options,
) -> Side:
    step = descend(torch.optim.AdamW(model.parameters(), lr=1e-5), loss, options)
    return side_of(name, networks, step, len(batch["image"]), options)


def _finding(name: str, networks: list[nn.Module], find: Callable[[], object], images: int, options: Options) -> Side:
    return side_of(name, networks, without_gradients(find, options), images, options)


@entry
def detection_steps(options: Options) -> Result:
    """Compare the training steps of all detectors with their configs, on scenes of 128 px; R-CNN's is fine-tuning."""
    batch = _batch(options, proposals=GridProposals(limit=300))
    sides = [_ours(name, model, batch, options) for name, model in _techniques().items() if name != "mask_rcnn"]
    masks = _batch(options, masks=True)
    sides.append(_ours("mask_rcnn", _techniques()["mask_rcnn"], masks, options))
    return compare(f"Detectors, training step, batch {BATCH}, 128 px", sides, options)


@entry
def detection_inference(options: Options) -> Result:
    """Compare untrained detectors with their configs, from images on the device to boxes.

    R-CNN and Fast R-CNN take the 300 boxes of a grid that the batch has as proposals.
    """
    batch = _batch(options, proposals=GridProposals(limit=300))
    sides = []
    for name, model in _techniques().items():
        model = options.place(model).eval()
        sides.append(_finding(name, model.networks(), partial(model.detect, batch), BATCH, options))
    return compare(f"Detectors, inference, batch {BATCH}, 128 px", sides, options)


def _pair(name: str) -> tuple[ObjectDetection, nn.Module]:
    """Build ours and torchvision's with the same architecture and weights, for five classes.

    The weights determine the boxes, and the boxes the work of RoIAlign and suppression.
    """
    nothing = {"weights": None, "weights_backbone": None, "num_classes": 6}
    if name == SSD:
        ssd, public = detection.SSD(num_classes=5, sizes="coco"), torchvision_detection.ssd300_vgg16(**nothing)
        ssd.network.load_caffe(public.state_dict())
        return ssd, public
    build, published = {
        FASTER: (FasterRCNN, torchvision_detection.fasterrcnn_resnet50_fpn),
        MASK: (MaskRCNN, torchvision_detection.maskrcnn_resnet50_fpn),
    }[name]
    ours, theirs = build(num_classes=5, min_side=320, max_side=320), published(**nothing, min_size=320, max_size=320)
    theirs.load_state_dict(ours.network.state_dict())
    return ours, theirs


def _train_against_torchvision(options: Options, name: str, size: int = 2) -> Result:
    ours, theirs = _pair(name)
    batch, peer = _batch(options, size, side=320, masks="Mask" in name), "torchvision in a plain loop"
    sides = [_ours("darkroom", ours, batch, options), _plain(peer, theirs, batch, options)]
    return compare(f"{name}, training step, batch {size}, 320 px", sides, options, peers=[peer])


def _infer_against_torchvision(options: Options, name: str, size: int = 2) -> Result:
    ours, theirs = (options.place(network).eval() for network in _pair(name))
    assert isinstance(ours, ObjectDetection)
    batch, peer = _batch(options, size, side=320), "torchvision"
    sides = [
        _finding("darkroom", ours.networks(), lambda: ours.detect(batch), size, options),
        _finding(peer, [theirs], lambda: theirs(batch["image"]), size, options),
    ]
    return compare(f"{name}, inference, batch {size}, 320 px", sides, options, peers=[peer])


@entry
def faster_rcnn_against_torchvision(options: Options) -> Result:
    """Compare Faster R-CNN with ResNet50 and a pyramid: ours, and torchvision's in a plain loop."""
    return _train_against_torchvision(options, FASTER)


@entry
def faster_rcnn_inference_against_torchvision(options: Options) -> Result:
    """Compare inference of the same untrained Faster R-CNNs, from images to boxes."""
    return _infer_against_torchvision(options, FASTER)


@entry
def mask_rcnn_against_torchvision(options: Options) -> Result:
    """Compare Mask R-CNN with ResNet50 and a pyramid: ours, and torchvision's in a plain loop."""
    return _train_against_torchvision(options, MASK)


@entry
def mask_rcnn_inference_against_torchvision(options: Options) -> Result:
    """Compare inference of the same untrained Mask R-CNNs, from images to boxes and masks."""
    return _infer_against_torchvision(options, MASK)


@entry
def ssd_against_torchvision(options: Options) -> Result:
    """Compare SSD300: ours, and torchvision's in a plain loop."""
    return _train_against_torchvision(options, SSD)


@entry
def ssd_inference_against_torchvision(options: Options) -> Result:
    """Compare inference of SSDs of the same architecture, with the same random weights, from images to boxes."""
    return _infer_against_torchvision(options, SSD)


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


@entry
def selective_search(options: Options) -> Result:
    """Measure Selective Search on 16 scenes of 256 px: in this process, in two workers, and from the cache."""
    scenes = DetectionScenes(ShapesDetection(side=256).generator, "val", 16)
    images = [scene["image"].permute(1, 2, 0).numpy() for scene in (scenes[index] for index in range(16))]
    method = SelectiveSearch()
    with tempfile.TemporaryDirectory() as folder:
        cache = ProposalCache(method, folder)
        fill(scenes, cache, 0)

        def compute(workers: int) -> None:
            with tempfile.TemporaryDirectory() as empty:
                fill(scenes, ProposalCache(method, empty), workers)

        sides = [
            Side("this process", lambda: compute(0), 16),
            Side("two workers", lambda: compute(2), 16),
            Side("from the cache", lambda: [cache.get(image) for image in images], 16),
        ]
        return compare("Selective Search (fast), 16 scenes of 256 px", sides, Options(rounds=min(3, options.rounds)))


def _folder(root: Path, count: int = 24) -> DetectionDataModule:
    """Write images of 500 x 375 with six boxes each, as text labels."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
            smooth.save(root / "images" / split / f"{index}.jpg", quality=90)
            boxes = np.concatenate([rng.uniform(0.25, 0.75, (6, 2)), rng.uniform(0.1, 0.4, (6, 2))], 1)
            lines = [" ".join(["0", *(f"{value:.4f}" for value in box)]) for box in boxes]
            (root / "labels" / split / f"{index}.txt").write_text("\n".join(lines))
    ssd = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(), v2.RandomIoUCrop(), v2.RandomHorizontalFlip()]
    return YoloFolder(root=str(root), class_names=["one"], augment=ssd, num_workers=0)


def _read(samples: KeyedSamples, count: int) -> list[dict[str, Any]]:
    return [samples[0, index] for index in range(count)]


@entry
def boxes_from_files(options: Options) -> Result:
    """Compare ways of loading JPEG files of 500 x 375 with six boxes, on one core.

    The ways are flips, SSD's whole augmentation, and flips with grid proposals.
    """
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        data = _folder(Path(folder, "data"))
        plain = YoloFolder(root=str(Path(folder, "data")), class_names=["one"], num_workers=0)
        grid = YoloFolder(root=str(Path(folder, "data")), class_names=["one"], num_workers=0, proposals=GridProposals())
        sides = []
        for name, one in {"flip": plain, "SSD's augmentation": data, "flip, grid proposals": grid}.items():
            one.setup("fit")
            sides.append(Side(name, partial(_read, one._datasets["train"], 24), 24))
        return compare("Images with boxes from JPEG files, one core", sides, Options(rounds=options.rounds))
