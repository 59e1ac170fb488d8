"""TextToImage: Imagen's base model (Saharia et al. 2022): small pictures out of noise and a sentence."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Condition, Diffusion
from darkroom.lightning_modules.diffusion.blocks import watching_text
from darkroom.lightning_modules.diffusion.build_network import build_network
from darkroom.lightning_modules.diffusion.imagen.text_conditioning import Reader, captions_of, check_captions
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep, Step
from darkroom.lightning_modules.diffusion.text import TextEncoder
from darkroom.lightning_modules.diffusion.unet import Denoiser
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.random import Generators


def check_text_dim(network: nn.Module, text: TextEncoder) -> None:
    """Refuses a network that reads tokens of another length than the encoder writes."""
    if getattr(network, "text_dim", text.dim) != text.dim:
        raise UsageError(
            f"model.network.text_dim is {network.text_dim}, but model.text, a {type(text).__name__}, makes tokens of "
            f"{text.dim} numbers; set it to {text.dim}"
        )


def check_fixed_variance(objective: Objective) -> None:
    """Refuse a learned variance, which Imagen's models do not have."""
    if objective.learned_variance:
        raise UsageError("model.objective.learned_variance must be false for models of text")


class TextToImage(Diffusion):
    """Imagen's base model: denoising diffusion told by a text encoder's tokens (Saharia et al. 2022, section 2).

    The tokens' mean is added to the embedding of the time, and every attention looks at the tokens beside the pixels
    (``Denoiser``). A tenth of the captions is learned as none: zeros, masked. Guidance then draws pictures that are more
    like their caption, and dynamic thresholding keeps their colours from saturating. An encoder that trains (``Words``) is
    averaged as the network is; a frozen one (``T5``, ``MiniLM``) is no part of the checkpoint.

    Batch: ``image`` and ``caption``; to predict, ``caption`` and ``seed`` (Prompts).

    Args:
        text: captions -> tokens.
        image_shape: (C, H, W); the command line takes it from the data.
        network: predicts, called as ``network(x, t, text=, text_mask=)``, and ``x0=`` if this model conditions itself; see
            ``Denoiser``, whose ``text_dim`` is the encoder's. None: the paper's CIFAR-sized one, told by text.
        text_dropout: part of the captions, in [0, 1), that are learned as none.
        schedule: of the noise; None: ``CosineSchedule`` of 1,000 steps.
        objective, ema: see DDPM; the variance is not learned.
        sampling: see DDPM; guidance is 1.35 by default, the paper's for FID, and the threshold dynamic.
        scores: of the images, ``CaptionScores``.
        optim: see Technique; its optimizer is Adam by default, lr 1e-4, fused.

    Raises:
        UsageError: a value out of its range, a network built for another model, or guidance where no caption is dropped.
    """

    default_sampling: ClassVar[dict[str, Any]] = {"steps": 50, "guidance": 1.35, "threshold": "dynamic"}

    def __init__(
        self,
        text: TextEncoder,
        image_shape: tuple[int, int, int] | None = None,
        network: nn.Module | None = None,
        text_dropout: float = 0.1,
        schedule: NoiseSchedule | None = None,
        objective: Objective | None = None,
        ema: EMAOptions | None = EMAOptions(),  # noqa: B008 (frozen)
        sampling: Sampling | None = None,
        scores: CaptionScores | None = None,
        optim: Optim | None = None,
    ) -> None:
        objective = build_options(Objective, objective)
        check_fixed_variance(objective)
        built_for = {"image_shape": image_shape, "num_classes": None, "learned_variance": False}
        built_for["self_conditioning"] = objective.self_conditioning
        default = partial(Denoiser, text_dim=text.dim)
        given = dict.fromkeys(("text", "text_mask"), "model.text reads captions")
        network = build_network(network, default=default, built_for=built_for, given=given)
        check_text_dim(network, text)
        super().__init__(
            image_shape=image_shape,
            num_classes=None,
            network=network,
            schedule=schedule or CosineSchedule(),
            objective=objective,
            ema=ema,
            sampling=sampling,
            scores=scores,
            optim=optim,
        )
        self.reader = Reader(text, text_dropout, ema)

    # --- the caption --------------------------------------------------------------------------------------------------

    @property
    def text(self) -> TextEncoder:
        """The encoder that reads for drawing."""
        return self.reader.averaged

    @property
    def null(self) -> dict[str, float]:
        return Reader.null

    @property
    def unguided(self) -> str | None:
        if self.reader.dropout:
            return None
        return (
            "model.text_dropout is 0: guidance goes from what is learned without a caption to what is learned with it; set "
            "it to 1, or train with a model.text_dropout such as 0.1"
        )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.text.prepare()

    def averages(self) -> list[tuple[EMA | None, nn.Module]]:
        return [*super().averages(), (self.reader.ema, self.reader.encoder)]

    def only_averages(self) -> Self:
        self.reader.only_average()
        return super().only_averages()

    def condition_of(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        return self.reader(captions_of(batch, self), x.device)

    # --- drawing ------------------------------------------------------------------------------------------------------

    def sample(
        self,
        captions: Sequence[str],
        *,
        guidance: float | None = None,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        generator: Generators = None,
        callback: OnStep | None = None,
    ) -> Tensor:
        """Draws a picture for each of n captions: (n, C, H, W) in [-1, 1], on the module's device.

        Args:
            captions: what is to be drawn, 1 at least.
            guidance: weight of the caption; 1 is the conditional model itself, 0 the unconditional one.
            sampler: ancestral, ddim, dpm_solver++ or heun.
            steps: of the sampler.
            generator: if given, it alone decides the result; of several, each its own picture; None: torch's global one.
            callback: is told of every step; see ``samplers.Step``.

        The model's own settings, of its constructor, stand for what is None.
        """
        captions = check_captions(captions)
        with self.drawing(), self.precision():
            condition = self.reader(captions, self.device)
            x, weight = self.draw_latents(len(captions), generator), self.weight_or_own(guidance)
            sampling = self.sampling_with(sampler=sampler, steps=steps)
            return self.drawn_from(x, condition, sampling, weight, generator, callback)

    def word_maps(
        self, captions: Sequence[str], *, steps: int | None = None, generator: Generators = None
    ) -> tuple[Tensor, list[list[str]], list[Tensor]]:
        """Where the network looked for each word while it drew, without guidance (Tang et al. 2023, "DAAM").

        Args:
            captions: n of them.
            steps: of the sampler; None: the model's own.
            generator: see ``sample``.

        Returns:
            Pictures (n, C, H, W) in [-1, 1]; of each caption its words; of each caption (words, H, W) float32 in [0, 1]:
            the part of its attention that a place gave to a word, mean over all maps and steps, as large as the picture.
        """
        captions = check_captions(captions)
        total, count = torch.zeros((), device=self.device), 0
        with watching_text(self.averaged) as seen:

            def take_in(step: Step) -> None:
                nonlocal total, count
                for part in seen:
                    total, count = total + F.interpolate(part, step.x.shape[-2:], mode="bilinear"), count + 1
                seen.clear()  # of many steps they would fill the memory

            pictures = self.sample(captions, guidance=1.0, steps=steps, generator=generator, callback=take_in)
        if not count:
            raise UsageError(
                f"{type(self.network).__name__} has no attention to words that could be watched; leave AttentionMapLogger "
                "out, or use Denoiser"
            )
        words = [self.text.words_of(caption) for caption in captions]
        maps = [
            torch.cat([part[:0], *(part[tokens].sum(0, keepdim=True) for _, tokens in said)])
            for part, said in zip(total / count, words, strict=True)
        ]
        return pictures, [[word for word, _ in said] for said in words], maps

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1] of the batch's captions, each from its own seed."""
        if "label" in batch:
            raise UsageError(f"{type(self).__name__} draws from captions, not from labels; leave data.labels out")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds_of(batch)]
        return self.sample(captions_of(batch, self), generator=generators, callback=self.on_step)


def seeds_of(batch: dict[str, Any]) -> list[int]:
    """The seeds of a batch's pictures.

    Raises:
        UsageError: it has none: it is not of Prompts.
    """
    if "seed" not in batch:
        raise UsageError("to predict give captions, --data Prompts --data.captions '[\"a red circle\"]'")
    return batch["seed"].tolist()
