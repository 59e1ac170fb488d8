"""Segmentation: training steps, evaluation and tiled inference."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import yaml
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import fcn_resnet50

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
    both_layouts,
    compare,
    descend,
    entry,
    side_of,
    training_loss,
    without_gradients,
    without_trainer,
)
from darkroom.datamodules.shapes.segmentation import ShapesSegmentation
from darkroom.lightning_modules import segmentation
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.segmentation import (
    Inference,
    SegmentationScores,
    SemanticSegmentation,
    UNet,
)

BATCH, SIZE, CLASSES = 4, 128, 2
PLAIN, ALONE = "plain loop, same network", "the network alone"
WORLD = len(ShapesSegmentation.class_names)
CONFIGS = Path(__file__).parents[2] / "configs" / "segmentation"


def _plain(name: str, network: nn.Module, options: Options) -> Side:
    """Build the side of a plain PyTorch loop: forward, cross-entropy, backward, AdamW with its defaults."""
    network = options.place(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image, mask = _batch(CLASSES, options)

    def loss() -> torch.Tensor:
        outputs = network(image)
        maps = outputs.values() if isinstance(outputs, dict) else [outputs]
        return torch.stack([F.cross_entropy(logits, mask, ignore_index=255) for logits in maps]).sum()

    return side_of(name, [network], descend(optimizer, loss, options), BATCH, options)


def _ours(name: str, model: SemanticSegmentation, options: Options) -> Side:
    """Build the side of a method's own training step and optimizer, without a Trainer."""
    model = without_trainer(options.place(model).train())
    optimizer = model.configure_optimizers()
    image, mask = _batch(model.num_classes, options)

    loss = partial(training_loss, model, {"image": image, "mask": mask})
    return side_of(name, model.networks(), descend(optimizer, loss, options), BATCH, options)


def _batch(classes: int, options: Options) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.randint(0, classes, (BATCH, SIZE, SIZE), device=options.device)
    return options.images(BATCH, 3, SIZE, SIZE), mask


@entry
def unet_step(options: Options) -> Result:
    """Compare training steps of U-Net, base width 64, with a plain loop over the same network and with smp's Unet."""
    unet = UNet(num_classes=CLASSES, optim=Optim(channels_last=options.channels_last))
    network = deepcopy(unet.network)
    sides = [_ours("darkroom UNet", unet, options), _plain(PLAIN, network, options)]
    notes = []
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        notes.append("segmentation-models-pytorch is not installed (pip install -e '.[bench]'); left out.")
    else:
        sides.append(_plain("smp.Unet(resnet34)", smp.Unet("resnet34", encoder_weights=None, classes=CLASSES), options))
    return compare(f"U-Net training step, batch {BATCH}, {SIZE} px", sides, options, notes, [PLAIN])


@entry
def unet_inference(options: Options) -> Result:
    """Compare inference of U-Net, base width 64, from images to logits, with its network alone."""
    unet = UNet(num_classes=CLASSES, optim=Optim(channels_last=options.channels_last))
    return _inference("U-Net", {"darkroom UNet": unet}, options)


@entry
def unet_small_inference(options: Options) -> Result:
    """Compare inference of U-Net, base width 16 as in its config, in both layouts with its network alone."""
    return _inference("U-Net of width 16,", _small(options)[0], options)


@entry
def fcn_resnet50_inference(options: Options) -> Result:
    """Compare inference of torchvision's fcn_resnet50, from images to logits, with its network alone."""
    network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES)
    ours = SemanticSegmentation(network, num_classes=CLASSES, optim=Optim(channels_last=options.channels_last))
    return _inference("fcn_resnet50", {"darkroom SemanticSegmentation": ours}, options)


def _inference(title: str, models: Mapping[str, SemanticSegmentation], options: Options) -> Result:
    """Compare inference of models with the same weights with the network of the first alone."""
    network = options.place(deepcopy(next(iter(models.values())).network)).eval()
    image, _ = _batch(CLASSES, options)
    sides = []
    for name, model in models.items():
        infer = partial(without_trainer(options.place(model).eval()).infer, {"image": image})
        sides.append(side_of(name, [model.network], without_gradients(infer, options), BATCH, options))
    sides.append(side_of(ALONE, [network], without_gradients(partial(network, image), options), BATCH, options))
    return compare(f"{title} inference, batch {BATCH}, {SIZE} px", sides, options, peers=[ALONE])


@entry
def unet_small_step(options: Options) -> Result:
    """Compare training steps of U-Net, base width 16 as in its config, in both layouts with a plain loop."""
    models, network = _small(options)
    sides = [_ours(name, model, options) for name, model in models.items()]
    sides.append(_plain(PLAIN, network, options))
    return compare(f"U-Net of width 16, training step, batch {BATCH}, {SIZE} px", sides, options, peers=[PLAIN])


def _small(options: Options) -> tuple[dict[str, SemanticSegmentation], nn.Module]:
    """Build U-Net of width 16 in NHWC and in the layout of the options, and a copy of its network."""
    layouts = both_layouts("darkroom UNet, channels_last", "darkroom UNet, in the layout of the peer", options)
    models: dict[str, SemanticSegmentation] = {
        name: UNet(num_classes=CLASSES, base_channels=16, optim=Optim(channels_last=last))
        for name, last in layouts.items()
    }
    first, *others = models.values()
    for other in others:
        other.load_state_dict(first.state_dict())
    return models, deepcopy(first.network)


@entry
def fcn_resnet50_step(options: Options) -> Result:
    """Compare training steps of torchvision's fcn_resnet50 with its auxiliary head: ours and a plain loop."""
    network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    ours = SemanticSegmentation(
        deepcopy(network), num_classes=CLASSES, aux_weight=1.0, optim=Optim(channels_last=options.channels_last)
    )
    sides = [_ours("darkroom SemanticSegmentation", ours, options), _plain(PLAIN, network, options)]
    return compare(f"fcn_resnet50 training step, batch {BATCH}, {SIZE} px", sides, options, peers=[PLAIN])


def _techniques() -> dict[str, SemanticSegmentation]:
    """Build every method from its config on Shapes."""
    models = {}
    for name in ("unet", "unet_paper", "fcn", "deconvnet", "dilated", "convolutionalized"):
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]
        own = {k: v for k, v in config["init_args"].items() if k not in ("optim", "loss")}
        layout = Optim(channels_last=config["init_args"]["optim"].get("channels_last", False))
        models[name] = getattr(segmentation, config["class_path"])(num_classes=WORLD, optim=layout, **own)
    return models


@entry
def segmentation_steps(options: Options) -> Result:
    """Compare the training steps of all segmentation methods with their configs."""
    sides = [_ours(name, model, options) for name, model in _techniques().items()]
    return compare(f"Training step, batch {BATCH}, {SIZE} px", sides, options)


@entry
def segmentation_evaluation(options: Options) -> Result:
    """Compare the evaluation of all segmentation methods over a set: loader, normalisation, network, loss, metrics."""
    scenes, sides = 64, []
    data = ShapesSegmentation(side=SIZE, test_size=scenes, eval_batch_size=BATCH, num_workers=0)
    data.setup("test")
    for name, model in _techniques().items():
        model = options.place(model).eval()
        scores = SegmentationScores(data.num_classes).to(options.device)

        def step(model: SemanticSegmentation = model, scores: SegmentationScores = scores) -> None:
            for batch in data.test_dataloader():
                batch = data.on_after_batch_transfer({key: value.to(options.device) for key, value in batch.items()})
                with torch.inference_mode(), options.autocast():
                    logits = model.infer(batch)
                    model.loss_terms(logits, batch)
                    scores.update(logits.max(1).indices, batch["mask"])
            scores.compute()
            scores.reset()

        sides.append(Side(name, step, scenes))
    return compare(f"Evaluation of {scenes} scenes, {SIZE} px, batches of {BATCH}", sides, options)


@entry
def tiled_inference(options: Options) -> Result:
    """Compare ways to segment an image of 2048 x 2048 by U-Net (width 16), tiles of 512; the rate is megapixels/s."""
    side, sides = 2048, []
    ways: dict[str, tuple[Literal["same", "valid"], Inference]] = {
        "tiles of 512, overlap 1/4, blended": ("same", Inference(tile=512)),
        "tiles of 512, no overlap": ("same", Inference(tile=512, overlap=0.0)),
        "valid convolutions, overlap-tile of 512": ("valid", Inference(tile=512, tiles_at_once=1)),
        "the whole image at once": ("same", Inference()),
    }
    image = options.images(1, 3, side, side)
    for name, (padding, inference) in ways.items():
        model = UNet(
            num_classes=CLASSES, base_channels=16, padding=padding, optim=Optim(channels_last=True), inference=inference
        )
        model = options.place(model).eval()

        def step(model: SemanticSegmentation = model) -> None:
            with torch.inference_mode(), options.autocast():
                model.infer({"image": image})

        sides.append(Side(name, step, side**2 / 1e6))
    notes = ["images/s are megapixels/s here."]
    return compare(f"Tiled inference, {side} x {side}", sides, options, notes)
