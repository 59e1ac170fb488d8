"""Classification: training steps and inference of VGG11 beside torchvision's, and of its config in a plain loop."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg11_bn

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
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.optimizers import Optim

CLASSES, SHAPE = 1000, (3, 224, 224)
SMALL_CLASSES, SMALL_SHAPE, SMALL_BATCH = 40, (3, 32, 32), 64  # of vgg.yaml on Shapes
# Name of a plain loop -> ``fused`` of its AdamW.
LOOPS = {"plain loop, fused AdamW": True, "plain loop, AdamW's default": None}
OURS, LAST, IN_LAYOUT = "darkroom ImageClassifier", "darkroom, channels_last", "darkroom, in the layout of the peer"
ALONE = "the network alone"


def _ours(options: Options) -> ImageClassifier:
    network = BackboneClassifier("vgg11_bn", CLASSES, SHAPE, head="connected")
    ours = ImageClassifier(network, CLASSES, optim=Optim(channels_last=options.channels_last))
    return without_trainer(options.place(ours))


def _theirs(ours: ImageClassifier, options: Options) -> nn.Module:
    """Build torchvision's network with the weights of ours, whose layers have the same order."""
    network = vgg11_bn(weights=None)
    names, weights = network.state_dict(), ours.network.state_dict().values()
    network.load_state_dict(dict(zip(names, weights, strict=True)))
    return options.place(network)


def _small(options: Options) -> tuple[dict[str, ImageClassifier], nn.Module]:
    """Build the classifier of vgg.yaml in NHWC and in the layout of the options, and a copy of its network."""
    network = BackboneClassifier("vgg11_bn", SMALL_CLASSES, SMALL_SHAPE, width=0.125)
    models = {}
    for name, last in both_layouts(LAST, IN_LAYOUT, options).items():
        model = ImageClassifier(deepcopy(network), SMALL_CLASSES, optim=Optim(channels_last=last))
        models[name] = without_trainer(model.to(options.device))
    return models, options.place(network)


def _batch_size(options: Options) -> int:
    return 128 if options.device == "cuda" else 4


def _train(
    title: str, ours: Mapping[str, ImageClassifier], loops: Mapping[str, nn.Module], image: Tensor, options: Options
) -> Result:
    """Compare training steps of ours with plain loops, fused or not as ``LOOPS`` says."""
    classes = next(iter(ours.values())).num_classes
    label = torch.randint(classes, (len(image),), device=options.device)
    sides = []
    for name, model in ours.items():
        loss = partial(training_loss, model.train(), {"image": image, "label": label})
        step = descend(model.configure_optimizers(), loss, options)
        sides.append(side_of(name, [model.network], step, len(image), options))
    sides += [_plain(name, network.train(), image, label, options) for name, network in loops.items()]
    return compare(
        f"{title} training step, batch {len(image)}, {image.shape[-1]} px", sides, options, peers=list(loops)
    )


def _plain(name: str, network: nn.Module, image: Tensor, label: Tensor, options: Options) -> Side:
    def loss() -> Tensor:
        return F.cross_entropy(network(image).float(), label)

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=LOOPS[name])
    return side_of(name, [network], descend(optimizer, loss, options), len(image), options)


def _infer(
    title: str, ours: Mapping[str, ImageClassifier], peer: str, network: nn.Module, image: Tensor, options: Options
) -> Result:
    """Compare inference of ours with that of a network alone."""
    calls: dict[str, tuple[nn.Module, nn.Module]] = {name: (model.network, model) for name, model in ours.items()}
    sides = [
        side_of(name, [one], without_gradients(partial(called.eval(), image), options), len(image), options)
        for name, (one, called) in (calls | {peer: (network, network)}).items()
    ]
    return compare(f"{title} inference, batch {len(image)}, {image.shape[-1]} px", sides, options, peers=[peer])


@entry
def vgg11_step(options: Options) -> Result:
    """Compare training steps of VGG11 with batch norm, 132.9 M parameters, at 224 px, with torchvision's network."""
    ours, image = _ours(options), options.images(_batch_size(options), *SHAPE)
    loops = {name: _theirs(ours, options) for name in LOOPS}
    return _train("VGG11", {OURS: ours}, loops, image, options)


@entry
def vgg11_inference(options: Options) -> Result:
    """Compare inference of VGG11 with batch norm at 224 px with torchvision's network."""
    ours, image = _ours(options), options.images(_batch_size(options), *SHAPE)
    return _infer("VGG11", {OURS: ours}, "torchvision's VGG11", _theirs(ours, options), image, options)


@entry
def vgg11_small_step(options: Options) -> Result:
    """Compare training steps of VGG11 with an eighth of the channels at 32 px, as in its config, with plain loops."""
    ours, network = _small(options)
    loops = {name: deepcopy(network) for name in LOOPS}
    return _train("VGG11 of its config,", ours, loops, options.images(SMALL_BATCH, *SMALL_SHAPE), options)


@entry
def vgg11_small_inference(options: Options) -> Result:
    """Compare inference of VGG11 with an eighth of the channels at 32 px with its network alone."""
    ours, network = _small(options)
    image = options.images(SMALL_BATCH, *SMALL_SHAPE)
    return _infer("VGG11 of its config,", ours, ALONE, network, image, options)
