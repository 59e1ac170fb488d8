"""Diffusion: training steps and sampling beside widely used libraries; cost of guidance and gradient checkpointing."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.harness import (
    Options,
    Result,
    Side,
    compare,
    entry,
    side_of,
    training_loss,
    without_gradients,
    without_trainer,
)
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.diffusion.ddpm import DDPM
from darkroom.lightning_modules.diffusion.sampling.guidance import Guided
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet
from darkroom.lightning_modules.optimizers import Optim

SHAPE, CLASSES, STEPS = (3, 32, 32), 10, 20
# diffusers' arguments for the CIFAR-10 network of Ho et al. 2020, as in google/ddpm-cifar10-32: 35,746,307 parameters.
HO = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "dropout": 0.1,
}
# The network of ddpm_conditional.yaml, and diffusers' arguments for it.
SMALL: dict[str, Any] = {
    "base_channels": 32,
    "multipliers": (1, 2, 2),
    "blocks": 1,
    "attention": 8,
    "modulation": "adaptive",
}
SMALL_HO = HO | {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
    "dropout": 0.0,
}
# denoising-diffusion-pytorch's Unet: with its defaults, equally many parameters in fewer operations; and in our shape.
UNETS = {"its defaults": (64, (1, 2, 4, 8)), "our shape": (144, (1, 2, 2, 2))}


@dataclass
class Peer:
    """Network of a library, with the library's training and sampling."""

    name: str
    network: nn.Module
    loss: Callable[[Tensor], Tensor]  # of images (B, C, H, W) in [-1, 1]
    optimizer: torch.optim.Optimizer
    average: Callable[[], object]  # updates the EMA weights
    sample: Callable[[int], Tensor]  # samples n images by DDIM


def of_diffusers(options: Options, arguments: Mapping[str, Any] = HO) -> Peer:
    """Build diffusers' side: the same network, with the optimizer and the EMA of its training example."""
    import diffusers
    from diffusers.training_utils import EMAModel

    library: Any = diffusers  # its lazy imports show a type checker placeholders without methods
    network = options.place(library.UNet2DModel(**arguments)).train()
    noising, sampling = library.DDPMScheduler(), library.DDIMScheduler()
    sampling.set_timesteps(STEPS)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)
    ema.to(options.device)

    def loss(x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        t = torch.randint(noising.config.num_train_timesteps, (len(x),), device=x.device)
        return F.mse_loss(network(noising.add_noise(x, noise, t), t).sample.float(), noise)

    def sample(n: int) -> Tensor:
        x = torch.randn(n, 3, arguments["sample_size"], arguments["sample_size"], device=options.device)
        for t in sampling.timesteps:
            x = sampling.step(network(x, t).sample, t, x).prev_sample
        return x

    adam = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    return Peer("diffusers", network, loss, adam, lambda: ema.step(network.parameters()), sample)


def of_denoising_diffusion_pytorch(options: Options, shape: str) -> Peer:
    """Build denoising-diffusion-pytorch's side, with the optimizer and the EMA of its Trainer."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as library
    from ema_pytorch import EMA

    library.tqdm = lambda steps, **_: steps
    dim, multipliers = UNETS[shape]
    network = Unet(dim, dim_mults=multipliers, dropout=0.1, flash_attn=options.device == "cuda")
    settings = {"objective": "pred_noise", "beta_schedule": "linear", "sampling_timesteps": STEPS}
    diffusion = options.place(GaussianDiffusion(network, image_size=32, auto_normalize=False, **settings)).train()
    ema = EMA(diffusion, beta=0.995, update_every=10, include_online_model=False)
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99))
    return Peer(
        f"denoising-diffusion-pytorch, {shape}", network, diffusion, adam, ema.update, lambda n: diffusion.sample(n)
    )


PEERS: tuple[Callable[[Options], Peer], ...] = (
    of_diffusers,
    *(partial(of_denoising_diffusion_pytorch, shape=shape) for shape in UNETS),
)


def peers(options: Options, notes: list[str], builders: Sequence[Callable[[Options], Peer]] = PEERS) -> list[Peer]:
    """Build the peers that are installed; add to the notes how to install the others."""
    found = []
    for build in builders:
        try:
            found.append(build(options))
        except ImportError as error:
            notes.append(f"{error.name} is not installed (pip install -e '.[bench]'); left out.")
    return found


def _ours(options: Options, network: nn.Module | None = None, shape: tuple[int, int, int] = SHAPE) -> DDPM:
    ours = DDPM(shape, network=network, optim=Optim(channels_last=options.channels_last))
    return without_trainer(options.place(ours).train())


def batch_size(options: Options, on_cpu: int, on_cuda: int) -> int:
    """Return the batch size for the device."""
    return on_cuda if options.device == "cuda" else on_cpu


def train(
    network: nn.Module,
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    average: Callable[[], object],
    options: Options,
) -> Callable[[], None]:
    """Return a training step: loss, backward, gradients clipped to a norm of 1, optimizer, EMA."""

    def step() -> None:
        optimizer.zero_grad()
        with options.autocast():
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average()

    return step


def our_step(ours: Diffusion, batch: dict[str, Any], options: Options) -> Callable[[], None]:
    """Return our training step, with our optimizer and EMA."""
    adam, ema = ours.configure_optimizers(), ours.ema
    assert ema is not None
    return train(ours.network, lambda: training_loss(ours, batch), adam, lambda: ema.update(ours.network), options)


@entry
def ddpm_step(options: Options) -> Result:
    """Compare DDPM training steps of the CIFAR-10 network, 35.7 M parameters, with those of the peers."""
    batch, notes = batch_size(options, 16, 128), list[str]()
    image = options.images(batch, *SHAPE).clamp(-1, 1)
    ours = _ours(options)
    sides = [side_of("darkroom DDPM", [ours.network], our_step(ours, {"image": image}, options), batch, options)]
    for peer in peers(options, notes):
        step = train(peer.network, partial(peer.loss, image), peer.optimizer, peer.average, options)
        sides.append(side_of(peer.name, [peer.network], step, batch, options))
    notes.append(
        "Loss, backward, clipping, Adam and EMA, each library's own. denoising-diffusion-pytorch updates the EMA after "
        "every tenth step, the others after each."
    )
    same = [side.name for side in sides[1:] if not side.name.endswith("its defaults")]  # which are a smaller network
    return compare(f"DDPM training step, batch {batch}, 32 px", sides, options, notes, same)


@entry
def ddpm_small_step(options: Options) -> Result:
    """Compare training steps of the U-Net of ddpm_conditional.yaml, without its classes, with those of diffusers.

    Its maps have 32, 64 and 64 channels, those of 8 and 4 pixels attention; the time scales and shifts.
    """
    batch, notes, shape = batch_size(options, 64, 128), list[str](), (3, 16, 16)
    image = options.images(batch, *shape).clamp(-1, 1)
    network = DenoisingUNet(shape, **SMALL, dropout=0.0)
    ours = _ours(options, network, shape)
    sides = [side_of("darkroom DDPM", [ours.network], our_step(ours, {"image": image}, options), batch, options)]
    for peer in peers(options, notes, [partial(of_diffusers, arguments=SMALL_HO)]):
        step = train(peer.network, partial(peer.loss, image), peer.optimizer, peer.average, options)
        sides.append(side_of(peer.name, [peer.network], step, batch, options))
    notes.append("Loss, backward, clipping, Adam and EMA, each library's own. diffusers' norms have 8 groups.")
    same = [side.name for side in sides[1:]]
    return compare(f"DDPM of 32 to 64 channels, training step, batch {batch}, 16 px", sides, options, notes, same)


@entry
def ddim_20(options: Options) -> Result:
    """Compare sampling with the same networks: 20 steps of DDIM, the predicted image clipped."""
    return _ddim("DDIM", _ours(options), PEERS, batch_size(options, 4, 64), options)


@entry
def ddpm_small_sampling(options: Options) -> Result:
    """Compare 20 steps of DDIM by the U-Net of ddpm_conditional.yaml, without its classes, with those of diffusers."""
    shape, builders = (3, 16, 16), [partial(of_diffusers, arguments=SMALL_HO)]
    ours = _ours(options, DenoisingUNet(shape, **SMALL, dropout=0.0), shape)
    notes = [
        "diffusers' norms have 8 groups, and it convolves the enlarged map where ours has a transposed convolution."
    ]
    return _ddim("DDIM of 32 to 64 channels", ours, builders, batch_size(options, 16, 64), options, notes)


def _ddim(
    title: str,
    ours: DDPM,
    builders: Sequence[Callable[[Options], Peer]],
    batch: int,
    options: Options,
    notes: Sequence[str] = (),
) -> Result:
    left_out, ours = list[str](), ours.eval()
    sample = without_gradients(lambda: ours.sample(batch, sampler="ddim", steps=STEPS), options)
    sides = [side_of("darkroom DDPM", [ours.sampling_network], sample, batch, options)]
    for peer in peers(options, left_out, builders):
        peer.network.eval()
        sample = without_gradients(partial(peer.sample, batch), options)
        sides.append(side_of(peer.name, [peer.network], sample, batch, options))
    same = [side.name for side in sides[1:] if not side.name.endswith("its defaults")]
    title = f"{title}, {STEPS} steps, {batch} images at once, {ours.image_shape[1]} px"
    return compare(title, sides, options, [*notes, *left_out], same)


@entry
def compiled_denoiser(options: Options) -> Result:
    """Compare a pass of the CIFAR-10 network, eager and compiled with constant weights, which takes minutes on a CPU."""
    batch = batch_size(options, 4, 64)
    x, t = options.images(batch, *SHAPE), torch.full((batch,), 500, device=options.device)
    eager = options.place(DenoisingUNet(SHAPE)).eval()
    frozen = copy.deepcopy(eager)
    frozen.compile(options={"freezing": True})
    sides = [
        Side(name, without_gradients(partial(network, x, t), options), batch)
        for name, network in (("eager", eager), ("compiled, constant weights", frozen))
    ]
    return compare(f"Pass of the denoiser, {batch} images, 32 px", sides, options)


@entry
def guidance_pass(options: Options) -> Result:
    """Compare guidance by one pass of 2 B rows with two passes of B rows."""
    batch = batch_size(options, 4, 8)
    network = options.place(DenoisingUNet(SHAPE, num_classes=CLASSES)).eval()
    null = network.null_label
    assert null is not None
    guided = Guided(network, 2.0, {"label": null})
    x, t = options.images(batch, *SHAPE), torch.full((batch,), 500, device=options.device)
    label = torch.arange(batch, device=options.device)

    def one() -> Tensor:
        return guided(x, t, label=label)

    def two() -> Tensor:
        without = network(x, t, label=torch.full_like(label, null))
        return torch.lerp(without.float(), network(x, t, label=label).float(), 2.0)

    sides = [
        side_of(f"{name} of {rows}", [network], without_gradients(step, options), batch, options)
        for name, rows, step in (("one pass", 2 * batch, one), ("two passes", batch, two))
    ]
    return compare(f"Guidance of {batch} images, one time step, 32 px", sides, options)


@entry
def checkpointing(options: Options) -> Result:
    """Compare memory and time of a training step with and without gradient checkpointing."""
    batch = batch_size(options, 16, 128)
    image = options.images(batch, *SHAPE).clamp(-1, 1)
    sides: list[Side] = []
    for name, wanted in {"all activations saved": False, "gradient checkpointing": True}.items():
        ours = _ours(options, DenoisingUNet(SHAPE, gradient_checkpointing=wanted))
        sides.append(side_of(name, [ours.network], our_step(ours, {"image": image}, options), batch, options))
    return compare(f"DDPM training step, batch {batch}, 32 px, with and without gradient checkpointing", sides, options)
