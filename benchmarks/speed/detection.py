"""Detection: training steps and inference of all methods, and beside torchvision's detectors in a plain loop."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torchvision.models import detection as torchvision_detection
from torchvision.models.detection import ssd as torchvision_ssd
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
    both_layouts,
    compare,
    descend,
    entry,
    side_of,
    without_gradients,
    without_trainer,
)
from darkroom.datamodules.proposals.methods import GridProposals
from darkroom.datamodules.shapes.detection import ShapesDetection
from darkroom.lightning_modules import detection
from darkroom.lightning_modules.detection import SSD, FasterRCNN, MaskRCNN, ObjectDetection
from darkroom.lightning_modules.detection.ssd import SSDNetwork, box_sizes
from darkroom.lightning_modules.detection.torchvision.rcnn import TwoStageNetwork
from darkroom.lightning_modules.optimizers import Optim

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
LADDER = ("sliding_window", "rcnn", "fast_rcnn", "faster_rcnn", "mask_rcnn", "ssd", "yolo")
BATCH = 4
FASTER, MASK, SSD300 = "Faster R-CNN, ResNet50 and pyramid", "Mask R-CNN, ResNet50 and pyramid", "SSD300, VGG16"
SMALL = {
    "faster_rcnn": "Faster R-CNN of its config",
    "mask_rcnn": "Mask R-CNN of its config",
    "ssd": "SSD of its config, enlarged to 256 px",
}
SMALL_BATCH = 8  # of these configs
PLAIN, TORCHVISION = "torchvision in a plain loop", "torchvision"
_POOLED = (
    "On a CPU Darkroom pools regions by matrix products. They are counted, the work of torchvision's kernel is not."
)
_PASTED = "Darkroom pastes masks by matrix products. They are counted, the work of torchvision's interpolation is not."


def _config(name: str) -> tuple[str, dict[str, Any]]:
    """Return the class and the arguments of a config's model on Shapes; ``optim`` has the memory layout alone."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]
    arguments = config["init_args"]
    layout = Optim(channels_last=arguments["optim"].get("channels_last", False))
    return config["class_path"], arguments | {"optim": layout}


def _technique(name: str, **changes: Any) -> ObjectDetection:
    """Build a method from its config on Shapes."""
    class_name, arguments = _config(name)
    return getattr(detection, class_name)(num_classes=5, **(arguments | changes))


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


# --- sides --------------------------------------------------------------------------------------------------------------


def _ours(name: str, model: ObjectDetection, batch: dict[str, Any], options: Options) -> Side:
    """Build the side of a method's training step, its check of the batch included, without a Trainer; plain AdamW."""
    model = without_trainer(options.place(model)).train()

    def loss() -> torch.Tensor:
        model.check(batch)
        return torch.stack(list(model.loss_terms(batch).values())).sum()

    return _training(name, model, model.networks(), loss, batch, options)


def _plain(network: nn.Module, batch: dict[str, Any], options: Options) -> Side:
    """Build the side of a plain loop around torchvision's detector."""
    network = options.place(network).train()

    def loss() -> torch.Tensor:
        return torch.stack(list(network(batch["image"], batch["target"]).values())).sum()

    return _training(PLAIN, network, [network], loss, batch, options)


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


def _finding(name: str, model: ObjectDetection, batch: dict[str, Any], options: Options) -> Side:
    """Build the side of a method's inference, from images on the device to boxes."""
    model = without_trainer(options.place(model)).eval()
    find = without_gradients(partial(model.detect, batch), options)
    return side_of(name, model.networks(), find, len(batch["image"]), options)


def _finding_by_torchvision(network: nn.Module, batch: dict[str, Any], options: Options) -> Side:
    """Build the side of the inference of torchvision's detector."""
    network = options.place(network).eval()
    find = without_gradients(partial(network, batch["image"]), options)
    return side_of(TORCHVISION, [network], find, len(batch["image"]), options)


# --- all methods --------------------------------------------------------------------------------------------------------


@entry
def detection_steps(options: Options) -> Result:
    """Compare the training steps of all detectors with their configs, on scenes of 128 px; R-CNN's is fine-tuning."""
    batch, masks = _batch(options, proposals=GridProposals(limit=300)), _batch(options, masks=True)
    sides = [_ours(name, _technique(name), masks if name == "mask_rcnn" else batch, options) for name in LADDER]
    return compare(f"Detectors, training step, batch {BATCH}, 128 px", sides, options)


@entry
def detection_inference(options: Options) -> Result:
    """Compare untrained detectors with their configs, from images on the device to boxes.

    R-CNN and Fast R-CNN take the 300 boxes of a grid that the batch has as proposals.
    """
    batch = _batch(options, proposals=GridProposals(limit=300))
    sides = [_finding(name, _technique(name), batch, options) for name in LADDER]
    return compare(f"Detectors, inference, batch {BATCH}, 128 px", sides, options)


# --- beside torchvision's at the published widths -----------------------------------------------------------------------


def _pair(name: str, options: Options) -> tuple[ObjectDetection, nn.Module]:
    """Build ours and torchvision's with the same architecture and weights, for five classes.

    The weights determine the boxes, and the boxes the work of RoIAlign and suppression.
    """
    nothing = {"weights": None, "weights_backbone": None, "num_classes": 6}
    layout = Optim(channels_last=options.channels_last)
    if name == SSD300:
        ssd, public = SSD(num_classes=5, sizes="coco", optim=layout), torchvision_detection.ssd300_vgg16(**nothing)
        ssd.network.load_caffe(public.state_dict())
        return ssd, public
    build, published = {
        FASTER: (FasterRCNN, torchvision_detection.fasterrcnn_resnet50_fpn),
        MASK: (MaskRCNN, torchvision_detection.maskrcnn_resnet50_fpn),
    }[name]
    ours = build(num_classes=5, min_side=320, max_side=320, optim=layout)
    theirs = published(**nothing, min_size=320, max_size=320)
    theirs.load_state_dict(ours.network.state_dict())
    return ours, theirs


def _train_against_torchvision(options: Options, name: str, size: int = 2) -> Result:
    ours, theirs = _pair(name, options)
    batch = _batch(options, size, side=320, masks=name == MASK)
    sides = [_ours("darkroom", ours, batch, options), _plain(theirs, batch, options)]
    notes = [] if name == SSD300 else [_POOLED]
    return compare(f"{name}, training step, batch {size}, 320 px", sides, options, notes, [PLAIN])


def _infer_against_torchvision(options: Options, name: str, size: int = 2) -> Result:
    ours, theirs = _pair(name, options)
    batch = _batch(options, size, side=320)
    sides = [_finding("darkroom", ours, batch, options), _finding_by_torchvision(theirs, batch, options)]
    notes = [_PASTED] if name == MASK else []
    return compare(f"{name}, inference, batch {size}, 320 px", sides, options, notes, [TORCHVISION])


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
    return _train_against_torchvision(options, SSD300)


@entry
def ssd_inference_against_torchvision(options: Options) -> Result:
    """Compare inference of SSDs of the same architecture, with the same random weights, from images to boxes."""
    return _infer_against_torchvision(options, SSD300)


# --- beside torchvision's at the widths of the configs ------------------------------------------------------------------


def _small_pair(name: str) -> tuple[ObjectDetection, nn.Module]:
    """Build ours with its config on Shapes, and torchvision's detector with the same layers and weights."""
    ours = _technique(name)
    (network,) = ours.networks()
    if isinstance(network, SSDNetwork):
        return ours, _ssd_of_torchvision(network, _config(name)[1])
    assert isinstance(network, TwoStageNetwork)
    theirs = _two_stages_of_torchvision(network, _config(name)[1])
    theirs.load_state_dict(network.state_dict())
    return ours, theirs


def _two_stages_of_torchvision(ours: TwoStageNetwork, config: Mapping[str, Any]) -> nn.Module:
    """Build torchvision's Faster or Mask R-CNN with the arguments of ours, around a copy of its body and pyramid."""
    rpn, channels, hidden = config["rpn"], config["fpn_channels"], config["head_channels"]
    sizes, before, after = rpn["anchor_sizes"], rpn["proposals_before_nms"], rpn["proposals"]

    def pool(side: int) -> MultiScaleRoIAlign:
        return MultiScaleRoIAlign([str(level) for level in range(len(sizes))], side, 2, canonical_scale=7 * min(sizes))

    arguments = {
        "min_size": config["min_side"],
        "max_size": config["max_side"],
        "image_mean": ours.transform.image_mean,
        "image_std": ours.transform.image_std,
        "rpn_anchor_generator": AnchorGenerator(
            ours.rpn.anchor_generator.sizes, ours.rpn.anchor_generator.aspect_ratios
        ),
        "rpn_pre_nms_top_n_train": before[0],
        "rpn_pre_nms_top_n_test": before[1],
        "rpn_post_nms_top_n_train": after[0],
        "rpn_post_nms_top_n_test": after[1],
        "rpn_nms_thresh": ours.rpn.nms_thresh,
        "rpn_batch_size_per_image": rpn["samples"],
        "box_roi_pool": pool(7),
        "box_head": TwoMLPHead(channels * 49, hidden),
        "box_predictor": FastRCNNPredictor(hidden, 6),
        "box_batch_size_per_image": config["roi_samples"],
        "box_score_thresh": ours.roi_heads.score_thresh,
        "box_nms_thresh": ours.roi_heads.nms_thresh,
        "box_detections_per_img": ours.roi_heads.detections_per_img,
    }
    backbone = copy.deepcopy(ours.backbone)
    if "mask_channels" not in config:
        return torchvision_detection.FasterRCNN(backbone, **arguments)
    width = config["mask_channels"]
    arguments |= {
        "mask_roi_pool": pool(14),
        "mask_head": MaskRCNNHeads(channels, (width,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(width, width, 6),
    }
    return torchvision_detection.MaskRCNN(backbone, **arguments)


class _SSDMaps(nn.Module):
    """Copy of the layers of our SSD on a ResNet: images (B, 3, S, S) -> maps by name, as torchvision's SSD takes them."""

    def __init__(self, ours: SSDNetwork) -> None:
        super().__init__()
        self.body, self.extra = copy.deepcopy(ours.body), copy.deepcopy(ours.extra)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = list(self.body(image).values())
        for layers in self.extra:
            maps.append(layers(maps[-1]))
        return {str(index): map_ for index, map_ in enumerate(maps)}


def _ssd_of_torchvision(ours: SSDNetwork, config: Mapping[str, Any]) -> nn.Module:
    """Build torchvision's SSD around copies of the layers of ours on a ResNet, with its default boxes."""
    maps, side = len(ours.body.channels) + len(ours.extra), config["image_size"]
    ratios = [[2] if index in (0, maps - 2, maps - 1) else [2, 3] for index in range(maps)]
    return torchvision_ssd.SSD(
        _SSDMaps(ours),
        DefaultBoxGenerator(ratios, scales=box_sizes("voc", maps), clip=False),
        (side, side),
        num_classes=6,
        image_mean=list(ours.normalization.mean),
        image_std=list(ours.normalization.std),
        head=copy.deepcopy(ours.head),
    )


def _in_layouts(name: str, ours: ObjectDetection, options: Options) -> dict[str, ObjectDetection]:
    """Return copies of ours in NHWC, as in its config, and in torchvision's layout."""
    models = {}
    for side, last in both_layouts(
        "darkroom, channels_last", "darkroom, in the layout of torchvision", options
    ).items():
        models[side] = _technique(name, optim=Optim(channels_last=last))
        models[side].load_state_dict(ours.state_dict())
    return models


def _train_small(options: Options, name: str) -> Result:
    ours, theirs = _small_pair(name)
    batch = _batch(options, SMALL_BATCH, masks=name == "mask_rcnn")
    sides = [_ours(side, model, batch, options) for side, model in _in_layouts(name, ours, options).items()]
    sides.append(_plain(theirs, batch, options))
    notes = [] if name == "ssd" else [_POOLED]
    return compare(f"{SMALL[name]}, training step, batch {SMALL_BATCH}, 128 px", sides, options, notes, [PLAIN])


def _infer_small(options: Options, name: str) -> Result:
    ours, theirs = _small_pair(name)
    batch = _batch(options, SMALL_BATCH)
    sides = [_finding(side, model, batch, options) for side, model in _in_layouts(name, ours, options).items()]
    sides.append(_finding_by_torchvision(theirs, batch, options))
    notes = [_PASTED] if name == "mask_rcnn" else []
    return compare(f"{SMALL[name]}, inference, batch {SMALL_BATCH}, 128 px", sides, options, notes, [TORCHVISION])


@entry
def faster_rcnn_small_step(options: Options) -> Result:
    """Compare training steps of the Faster R-CNN of its config with torchvision's of the same layers in a plain loop."""
    return _train_small(options, "faster_rcnn")


@entry
def faster_rcnn_small_inference(options: Options) -> Result:
    """Compare inference of the untrained Faster R-CNN of its config with torchvision's of the same layers and weights."""
    return _infer_small(options, "faster_rcnn")


@entry
def mask_rcnn_small_step(options: Options) -> Result:
    """Compare training steps of the Mask R-CNN of its config with torchvision's of the same layers in a plain loop."""
    return _train_small(options, "mask_rcnn")


@entry
def mask_rcnn_small_inference(options: Options) -> Result:
    """Compare inference of the untrained Mask R-CNN of its config with torchvision's of the same layers and weights."""
    return _infer_small(options, "mask_rcnn")


@entry
def ssd_small_step(options: Options) -> Result:
    """Compare training steps of the SSD of its config with torchvision's of the same layers in a plain loop."""
    return _train_small(options, "ssd")


@entry
def ssd_small_inference(options: Options) -> Result:
    """Compare inference of the untrained SSD of its config with torchvision's of the same layers and weights."""
    return _infer_small(options, "ssd")
