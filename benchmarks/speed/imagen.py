"""Imagen: training steps of both stages and sampling beside imagen-pytorch; time saved by the cache of embeddings."""

import tempfile
import uuid
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor

from benchmarks.results.peers.imagen_library import import_imagen_pytorch
from benchmarks.speed.diffusion import batch_size, our_step, train, without_gradients
from benchmarks.speed.harness import Options, Result, Side, compare, entry, side_of, without_trainer
from darkroom.errors import UserError
from darkroom.lightning_modules.diffusion import (
    DenoisingUNet,
    EfficientUNet,
    ImagenCascade,
    SuperResolution,
    TextToImage,
)
from darkroom.lightning_modules.diffusion.base import Diffusion
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.text import MiniLM, Text, TextEncoder
from darkroom.lightning_modules.optimizers import Optim

PEER = "imagen-pytorch"
SMALL, LARGE, STEPS, TOKENS, DIM = (3, 32, 32), (3, 64, 64), 20, 16, 768
SHAPES, SHAPES_DIM = (3, 16, 16), 64  # of imagen.yaml
GUIDANCE = 2.0


class Ready(TextEncoder):
    """Text encoder with constant tokens: encoding text is not part of the comparison."""

    tokens: Tensor

    def __init__(self, dim: int = DIM) -> None:
        super().__init__(dim, TOKENS)
        self.register_buffer("tokens", torch.randn(TOKENS, dim))

    def forward(self, captions: Sequence[str]) -> Text:
        """Return the same tokens for every caption."""
        tokens = self.tokens.expand(len(captions), -1, -1)
        return Text(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool))

    def tokens_of(self, caption: str) -> list[str]:
        """Return one piece for each token."""
        return [caption] * TOKENS


def base(options: Options) -> TextToImage:
    """Build a base model of about 16 M parameters, the size of the peer's."""
    network = DenoisingUNet(
        SMALL, None, 56, (1, 2, 4), 2, 16, 56, modulation="adaptive", resampling="conv", dropout=0.0, text_dim=DIM
    )
    return _text_to_image(network, SMALL, DIM, options)


def small_base(options: Options) -> TextToImage:
    """Build the network of imagen.yaml, with constant tokens instead of its text encoder."""
    network = DenoisingUNet(
        SHAPES, None, 32, (1, 2, 2), 1, 8, 16, modulation="adaptive", dropout=0.0, text_dim=SHAPES_DIM
    )
    return _text_to_image(network, SHAPES, SHAPES_DIM, options)


def _text_to_image(network: DenoisingUNet, shape: tuple[int, int, int], dim: int, options: Options) -> TextToImage:
    optim = Optim(channels_last=options.channels_last)
    return TextToImage(Ready(dim), shape, network, sampling=Sampling(steps=STEPS, guidance=GUIDANCE), optim=optim)


def upsampler(options: Options) -> SuperResolution:
    """Build a super-resolution model of about 30 M parameters, the size of the peer's."""
    network = EfficientUNet(LARGE, DIM, (82, 164, 328), (1, 2, 4), head_channels=82)
    optim = Optim(channels_last=options.channels_last)
    return SuperResolution(LARGE, 2, Ready(), network, sampling=Sampling(steps=STEPS), optim=optim)


def peer(options: Options) -> Any:
    """Build imagen-pytorch's cascade: its own blocks at 64 channels, attention where ours has it.

    Raises:
        ImportError: imagen-pytorch is not installed.
    """
    library = import_imagen_pytorch(DIM)
    shape = {"dim": 64, "text_embed_dim": DIM, "dim_mults": (1, 2, 4)}
    looks = dict.fromkeys(("layer_attns", "layer_cross_attns"), (False, True, True))
    coarsest = dict.fromkeys(looks, (False, False, True))
    unets = (
        library.Unet(num_resnet_blocks=2, **shape, **looks),
        library.Unet(num_resnet_blocks=(1, 2, 4), memory_efficient=True, lowres_cond=True, **shape, **coarsest),
    )
    sizes = (SMALL[1], LARGE[1])
    return options.place(
        library.Imagen(unets, image_sizes=sizes, timesteps=STEPS, text_embed_dim=DIM, cond_drop_prob=0.1)
    )


def small_peer(options: Options) -> Any:
    """Build imagen-pytorch's base model with about as many parameters as ``small_base``, and attention where it has it.

    Raises:
        ImportError: imagen-pytorch is not installed.
    """
    library = import_imagen_pytorch(SHAPES_DIM)
    looks = dict.fromkeys(("layer_attns", "layer_cross_attns"), (False, True, True))
    heads = {"attn_heads": 4, "attn_dim_head": 16}
    shape = {"dim": 28, "text_embed_dim": SHAPES_DIM, "dim_mults": (1, 2, 2)}
    unet = library.Unet(num_resnet_blocks=1, **shape, **looks, **heads)
    settings = {"timesteps": STEPS, "text_embed_dim": SHAPES_DIM, "cond_drop_prob": 0.1}
    return options.place(library.Imagen((unet,), image_sizes=(SHAPES[1],), **settings))


def _beside(sides: list[Side], add: Callable[[], Side], notes: list[str]) -> None:
    try:
        sides.append(add())
    except ImportError as error:
        notes.append(f"{error.name} is not installed (pip install -e '.[bench]'); left out.")


def _training(
    title: str,
    build: Callable[[Options], Diffusion],
    of_peer: Callable[[Options], Any],
    stage: int,
    batch: int,
    options: Options,
) -> Result:
    """Compare training steps of a stage, ours and imagen-pytorch's, each with its own loss; Adam and clipping for both."""
    ours, notes = without_trainer(options.place(build(options)).train()), list[str]()
    image = options.images(batch, *ours.image_shape).clamp(-1, 1)
    step = our_step(ours, {"image": image, "caption": ["a picture"] * batch}, options)
    sides = [side_of(f"darkroom {type(ours).__name__}", [ours.network], step, batch, options)]

    def add() -> Side:
        imagen = of_peer(options)
        unet, text = imagen.unets[stage], torch.randn(batch, TOKENS, imagen.text_embed_dim, device=options.device)
        adam = torch.optim.Adam(unet.parameters(), lr=1e-4, fused=True)

        def loss() -> Tensor:
            return imagen((image + 1) / 2, text_embeds=text, unet_number=stage + 1)

        step = train(unet, loss, adam, lambda: None, options)
        return side_of(PEER, [unet], step, batch, options)

    _beside(sides, add, notes)
    notes.append("Ours also updates EMA weights.")
    return compare(f"{title}, training step, batch {batch}, {image.shape[-1]} px", sides, options, notes, [PEER])


def _sampling(
    title: str,
    ours: TextToImage | ImagenCascade,
    of_peer: Callable[[Options], Any],
    batch: int,
    options: Options,
) -> Result:
    """Compare sampling, 20 steps of each stage, with guidance in the first."""
    notes, captions = list[str](), ["a picture"] * batch
    ours = options.place(ours).eval()
    sample = without_gradients(lambda: ours.sample(captions), options)
    sides = [side_of(f"darkroom {type(ours).__name__}", ours.networks(), sample, batch, options)]

    def add() -> Side:
        imagen = of_peer(options).eval()
        text = torch.randn(batch, TOKENS, imagen.text_embed_dim, device=options.device)
        scales = tuple(GUIDANCE if stage == 0 else 1.0 for stage in range(len(imagen.unets)))
        plain = {
            "cond_scale": scales,
            "cfg_remove_parallel_component": False,
            "use_tqdm": False,
        }  # guidance as in Imagen
        sample = without_gradients(lambda: imagen.sample(text_embeds=text, **plain), options)
        return side_of(PEER, list(imagen.unets), sample, batch, options)

    _beside(sides, add, notes)
    notes.append(
        "Ours by DDIM, theirs by ancestral steps. Network calls are equal in number, but ours merges the two of guidance."
    )
    return compare(f"{title}, {batch} images at once", sides, options, notes, [PEER])


@entry
def text_to_image_step(options: Options) -> Result:
    """Compare training steps of the base model, 16 M parameters, 16 tokens of text, with imagen-pytorch's."""
    return _training("Text to image", base, peer, 0, batch_size(options, 8, 64), options)


@entry
def text_to_image_small_step(options: Options) -> Result:
    """Compare training steps of the network of imagen.yaml, 1.3 M parameters, with imagen-pytorch's.

    The tokens are constant; the config also trains its text encoder.
    """
    return _training("Text to image of its config", small_base, small_peer, 0, batch_size(options, 32, 64), options)


@entry
def super_resolution_step(options: Options) -> Result:
    """Compare training steps of a super-resolution model, 30 M parameters, 32 -> 64, with imagen-pytorch's."""
    return _training("Super-resolution", upsampler, peer, 1, batch_size(options, 8, 64), options)


@entry
def cascade_sampling(options: Options) -> Result:
    """Compare sampling with both stages, 20 steps each, guidance in the first, with imagen-pytorch's."""
    cascade = ImagenCascade(base(options), [upsampler(options)])
    return _sampling(f"Cascade 32 -> 64 px, {STEPS} steps each", cascade, peer, batch_size(options, 2, 32), options)


@entry
def text_to_image_small_sampling(options: Options) -> Result:
    """Compare sampling with the network of imagen.yaml, 20 steps, guidance, with imagen-pytorch's.

    Both have the dynamic threshold; the config has a static one.
    """
    ours, title = small_base(options).keep_ema_only(), f"Text to image of its config, {STEPS} steps"
    return _sampling(title, ours, small_peer, batch_size(options, 16, 64), options)


@entry
def embedding_cache(options: Options) -> Result:
    """Compare MiniLM's embeddings of 64 captions: from memory, from files, and computed."""
    title = "Embeddings of 64 captions by MiniLM"
    new = count()
    with tempfile.TemporaryDirectory() as folder:
        reader = MiniLM(cache_dir=folder).to(options.device)
        captions = [f"a small {uuid.uuid4().hex[:4]} circle left of a blue square" for _ in range(64)]
        try:
            reader(captions)
        except UserError as error:
            return Result(title, notes=[f"Left out: {error}"])

        def miss() -> Tensor:
            return reader([f"{caption} {next(new)}" for caption in captions]).tokens

        def from_files() -> Tensor:
            return MiniLM(cache_dir=folder).to(options.device)(captions).tokens

        sides = [
            side_of(name, [], step, len(captions), options)
            for name, step in (
                ("memory", lambda: reader(captions).tokens),
                ("files", from_files),
                ("computed and cached", miss),
            )
        ]
        return compare(title, sides, options, ["files: a new reader in every round, with an empty memory."])
