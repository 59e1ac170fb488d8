"""Classification: training steps and inference of VGG11 beside torchvision's in a plain loop."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg11_bn

from benchmarks.speed.harness import Options, Result, compare, entry, sampled, side_of, training_loss, without_logging
from darkroom.lightning_modules.classification import BackboneClassifier, ImageClassifier
from darkroom.lightning_modules.optimizers import Optim

CLASSES = 1000
PEER = "torchvision's VGG11, plain loop"


def _ours(options: Options) -> ImageClassifier:
    network = BackboneClassifier("vgg11_bn", CLASSES, (3, 224, 224), head="connected")
    return options.place(ImageClassifier(network, CLASSES, optim=Optim(channels_last=options.channels_last)))


def _descend(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], options: Options) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        with options.autocast():
            value = loss()
        value.backward()
        optimizer.step()

    return step


@entry
def vgg11_step(options: Options) -> Result:
    """Compare training steps of VGG11 with batch norm, 132.9 M parameters, at 224 px."""
    batch = 128 if options.device == "cuda" else 4
    image, label = options.images(batch, 3, 224, 224), torch.randint(CLASSES, (batch,), device=options.device)
    ours, theirs = without_logging(_ours(options).train()), options.place(vgg11_bn(weights=None)).train()
    our_loss = partial(training_loss, ours, {"image": image, "label": label})
    adam = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
    steps: dict[str, tuple[nn.Module, Callable[[], None]]] = {
        "darkroom ImageClassifier": (ours.network, _descend(ours.configure_optimizers(), our_loss, options)),
        PEER: (theirs, _descend(adam, lambda: F.cross_entropy(theirs(image).float(), label), options)),
    }
    sides = [side_of(name, [network], step, batch, options) for name, (network, step) in steps.items()]
    return compare(f"VGG11 training step, batch {batch}, 224 px", sides, options, peers=[PEER])


@entry
def vgg11_inference(options: Options) -> Result:
    """Compare inference of VGG11 with batch norm at 224 px."""
    batch = 128 if options.device == "cuda" else 4
    image, ours, theirs = options.images(batch, 3, 224, 224), _ours(options).eval(), vgg11_bn(weights=None).eval()
    networks = {"darkroom ImageClassifier": ours, PEER: options.place(theirs)}
    sides = [
        side_of(name, [network], sampled(partial(network, image), options), batch, options)
        for name, network in networks.items()
    ]
    return compare(f"VGG11 inference, batch {batch}, 224 px", sides, options, peers=[PEER])
