"""Training steps of networks."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Options, Result, Side, compare, entry
from lightning_modules.segmentation import UNet, UNetNetwork

BATCH, SIZE, CLASSES = 4, 128, 2


def _side(name: str, network: nn.Module, step: Callable[[], object], compiled: bool) -> Side:
    with FlopCounterMode(display=False) as counter:
        step()
    parameters = sum(p.numel() for p in network.parameters())
    if compiled:  # only now: what is compiled cannot be counted
        network.compile()
    return Side(name, step, BATCH, parameters, counter.get_total_flops())


def _plain(name: str, network: nn.Module, options: Options) -> Side:
    """A plain PyTorch loop: forward, cross-entropy, backward, AdamW with its defaults."""
    network = options.place(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image = options.images(BATCH, 3, SIZE, SIZE)
    mask = torch.randint(0, CLASSES, (BATCH, SIZE, SIZE), device=options.device)

    def step() -> None:
        optimizer.zero_grad()
        with options.autocast():
            loss = F.cross_entropy(network(image), mask, ignore_index=255)
        loss.backward()
        optimizer.step()

    return _side(name, network, step, options.compile)


def _ours(options: Options) -> Side:
    """UNet's own forward, loss and optimizer."""
    model = UNet(num_classes=CLASSES, channels_last=options.channels_last)
    options.place(model)
    optimizer = model.configure_optimizers()
    image = torch.randn(BATCH, 3, SIZE, SIZE, device=options.device)
    mask = torch.randint(0, CLASSES, (BATCH, SIZE, SIZE), device=options.device)

    def step() -> None:
        optimizer.zero_grad()
        with options.autocast():
            loss = model.loss_terms(model(image), mask)["loss"]
        loss.backward()
        optimizer.step()

    return _side("darkroom UNet", model.network, step, options.compile)


@entry
def unet_step(options: Options) -> Result:
    """U-Net, base width 64, training step, against a plain loop over the same network and against smp's Unet."""
    sides = [_ours(options), _plain("plain loop, same network", UNetNetwork(num_classes=CLASSES), options)]
    notes = []
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        notes.append("segmentation-models-pytorch is not installed (pip install 'darkroom[bench]'); left out.")
    else:
        sides.append(_plain("smp.Unet(resnet34)", smp.Unet("resnet34", encoder_weights=None, classes=CLASSES), options))
    return compare(f"U-Net training step, batch {BATCH}, {SIZE} px", sides, options, notes)
