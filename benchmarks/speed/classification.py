"""Classification: training steps and inference of VGG11 beside torchvision's."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg11_bn

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
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


def _batch_size(options: Options) -> int:
    return 128 if options.device == "cuda" else 4


@entry
def vgg11_step(options: Options) -> Result:
    """Compare training steps of VGG11 with batch norm, 132.9 M parameters, at 224 px, with torchvision's network."""
    batch = _batch_size(options)
    image, label = options.images(batch, *SHAPE), torch.randint(CLASSES, (batch,), device=options.device)
    ours = _ours(options).train()
    loops = {"plain loop, fused AdamW": True, "plain loop, AdamW's default": None}
    networks = {name: _theirs(ours, options).train() for name in loops}  # before ours takes its first step
    loss = partial(training_loss, ours, {"image": image, "label": label})
    step = descend(ours.configure_optimizers(), loss, options)
    sides = [side_of("darkroom ImageClassifier", [ours.network], step, batch, options)]
    sides += [_plain(name, networks[name], image, label, fused, options) for name, fused in loops.items()]
    return compare(f"VGG11 training step, batch {batch}, 224 px", sides, options, peers=list(loops))


def _plain(name: str, network: nn.Module, image: Tensor, label: Tensor, fused: bool | None, options: Options) -> Side:
    def loss() -> Tensor:
        return F.cross_entropy(network(image).float(), label)

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused)
    return side_of(name, [network], descend(optimizer, loss, options), len(image), options)


@entry
def vgg11_inference(options: Options) -> Result:
    """Compare inference of VGG11 with batch norm at 224 px with torchvision's network."""
    batch, peer = _batch_size(options), "torchvision's VGG11"
    image, ours = options.images(batch, *SHAPE), _ours(options).eval()
    theirs = _theirs(ours, options).eval()
    calls: dict[str, tuple[nn.Module, nn.Module]] = {
        "darkroom ImageClassifier": (ours.network, ours),
        peer: (theirs, theirs),
    }
    sides = [
        side_of(name, [network], without_gradients(partial(called, image), options), batch, options)
        for name, (network, called) in calls.items()
    ]
    return compare(f"VGG11 inference, batch {batch}, 224 px", sides, options, peers=[peer])
