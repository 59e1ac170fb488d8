"""PublicImagen: imagen-pytorch (P. Wang, MIT) as a method here, so that ``same_budget`` can train it."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from ema_pytorch import EMA
from torch import Tensor, nn

from benchmarks.results.peers.imagen_library import import_imagen_pytorch
from benchmarks.results.peers.sampling import seed_globally
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.text import TextEncoder
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.random import Generators


class TextAndImages(nn.Module):
    """A text encoder that trains, and the library's Imagen with a network of one stage.

    Args:
        text: the encoder.
        image_shape: (C, S, S).
        dim: channels of the first map.
        multipliers: factors of ``dim`` for the maps, each of half the side of the previous one. All but the first have
            attention to pixels and text.
        heads: of attention, each with 16 channels.
        sampling_steps: number of ancestral steps.
    """

    def __init__(
        self,
        text: TextEncoder,
        image_shape: tuple[int, int, int],
        dim: int,
        multipliers: Sequence[int],
        heads: int,
        sampling_steps: int,
    ) -> None:
        super().__init__()
        library, channels, side = import_imagen_pytorch(text.dim), image_shape[0], image_shape[1]
        attention = (False, *[True] * (len(multipliers) - 1))
        unet = library.Unet(
            dim=dim,
            dim_mults=tuple(multipliers),
            channels=channels,
            text_embed_dim=text.dim,
            max_text_len=text.max_length,
            attn_heads=heads,
            attn_dim_head=16,
            layer_attns=attention,
            layer_cross_attns=attention,
        )
        imagen = library.Imagen(
            unet, image_sizes=side, channels=channels, text_embed_dim=text.dim, timesteps=sampling_steps
        )
        self.text, self.unet = text, imagen.unets[0]
        # Not as a part: it takes its networks out of its own parts in training, and checkpoints would be without them.
        self.hidden = [imagen]

    def loss(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Compute the library's loss of images (B, C, S, S) in [-1, 1] and their captions."""
        text = self.text(captions)
        return self.hidden[0]((images + 1) / 2, unet=self.unet, text_embeds=text.tokens, text_masks=text.mask)

    def sample(self, captions: Sequence[str], guidance: float) -> Tensor:
        """Sample images (B, C, S, S) in [-1, 1] by the library's sampler."""
        text, settings = self.text(captions), {"cond_scale": guidance, "use_tqdm": False}
        imagen = self.hidden[0].to(text.tokens.device).eval()
        return imagen.sample(text_embeds=text.tokens, text_masks=text.mask, **settings) * 2 - 1


class PublicImagen(Generative, Technique):
    """The library's Imagen: predicted noise, continuous cosine schedule, min-SNR, dynamic thresholding.

    It differs from the library's defaults in the text encoder, which trains and has an EMA, as TextToImage's, instead of
    T5; in the widths; and in the number of sampling steps, which is 1,000 there. The EMA is that of the library's
    ImagenTrainer: decay 0.9999 with warm-up, updated after every tenth step.

    Args:
        text: encodes captions as tokens.
        image_shape: (C, S, S); the command line takes it from the data.
        dim, multipliers, heads, sampling_steps: see TextAndImages.
        guidance: weight of the caption in sampling.
        scores, optim: see Generative.
    """

    network: TextAndImages

    def __init__(
        self,
        text: TextEncoder,
        image_shape: tuple[int, int, int] | None = None,
        dim: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        heads: int = 4,
        sampling_steps: int = 50,
        guidance: float = 3.0,
        scores: CaptionScores | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(image_shape=image_shape, scores=scores, optim=optim)
        self.guidance = guidance
        shape = self.image_shape, dim, multipliers, heads, sampling_steps
        self.network = TextAndImages(text, *shape)
        average = TextAndImages(deepcopy(text), *shape)  # EMA cannot copy the library's Imagen
        average.load_state_dict(self.network.state_dict())
        self.ema = EMA(self.network, ema_model=average, include_online_model=False)

    @property
    def average(self) -> TextAndImages:
        """Return the network with the EMA weights."""
        assert isinstance(self.ema.ema_model, TextAndImages)
        return self.ema.ema_model

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        return self.log_loss({"loss": self.network.loss(self.images_of(batch), batch["caption"])})

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update()

    def evaluate(self, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
        """Return the loss of the EMA weights on a batch, with the same noise in every validation."""
        with seed_globally(torch.Generator().manual_seed(self.evaluated[0] if self.evaluated else 0)):
            return {"loss": self.average.loss(self.images_of(batch), batch["caption"])}

    def sample(  # type: ignore[override]  # captions instead of a number of images
        self, captions: Sequence[str], *, generator: Generators = None
    ) -> Tensor:
        """Sample an image (n, C, S, S) in [-1, 1] for each of n captions, from the first of several generators."""
        first = generator[0] if isinstance(generator, Sequence) else generator
        with self.sampling_mode(), seed_globally(first):
            return self.average.sample(captions, self.guidance)
