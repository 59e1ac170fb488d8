"""TextToImage: Imagen's base model (Saharia et al. 2022): small images of captions."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from typing_extensions import Self

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Condition, Diffusion
from darkroom.lightning_modules.diffusion.blocks import record_text_attention
from darkroom.lightning_modules.diffusion.build_network import build_network
from darkroom.lightning_modules.diffusion.export import (
    Inputs,
    denoiser_graph,
    text_graphs,
    text_inputs,
    text_notes,
)
from darkroom.lightning_modules.diffusion.imagen.caption_supervision import AttributeHead, CaptionSupervision
from darkroom.lightning_modules.diffusion.imagen.text_conditioning import TextConditioning, captions_of, check_captions
from darkroom.lightning_modules.diffusion.metrics.caption_scores import CaptionScores
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep, Step
from darkroom.lightning_modules.diffusion.text import TextEncoder
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.utils.arguments import build_options
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols import TextNetwork
from darkroom.protocols.export import ExportGraph
from darkroom.runtime.records.results import Task


def check_text_dim(network: nn.Module, text: TextEncoder) -> None:
    """Raise a UsageError for a network that takes tokens of another dimension than the encoder's."""
    if isinstance(network, TextNetwork) and network.text_dim != text.dim:
        raise UsageError(
            f"model.network.text_dim is {network.text_dim}, but the tokens of model.text, a {type(text).__name__}, have "
            f"{text.dim} numbers; set it to {text.dim}"
        )


def check_fixed_variance(objective: Objective) -> None:
    """Raise a UsageError for a learned variance, which Imagen's models do not have."""
    if objective.learned_variance:
        raise UsageError("model.objective.learned_variance must be false for Imagen's models")


def check_supervision(text: TextEncoder, sizes: Sequence[int] | None) -> Sequence[int]:
    """Return the sizes of the attributes.

    Raises:
        UsageError: the text encoder does not train, or the data have no attributes.
    """
    if not text.trains:
        raise UsageError(
            f"model.supervision must be null for a {type(text).__name__}, which does not train; use LearnedTextEncoder"
        )
    if not sizes:
        raise UsageError("model.supervision needs data with attributes; use ShapesCaptions, or set it to null")
    return sizes


class TextToImage(Diffusion):
    """Imagen's base model: denoising diffusion conditioned on the tokens of a text encoder (Saharia et al. 2022, section
    2).

    The mean of the tokens is added to the time embedding, and every attention attends to tokens and pixels
    (``DenoisingUNet``). A tenth of the captions is dropped in training: zeros, masked. Guidance then samples images closer
    to their caption, and dynamic thresholding prevents saturated colours. An encoder that trains (``LearnedTextEncoder``)
    has an EMA, as the network. A frozen one (``T5``, ``MiniLM``) is not part of the checkpoint.

    Batch: ``image`` and ``caption``; to predict, ``caption`` and ``seed`` (Prompts).

    Args:
        text: encodes captions as tokens.
        image_shape: (C, H, W); the command line takes it from the data.
        network: called as ``network(x, t, text=, text_mask=)``, with ``x0=`` for self-conditioning; see ``DenoisingUNet``,
            whose ``text_dim`` must be the encoder's. None: the CIFAR-10 network of DDPM, conditioned on text.
        text_dropout: fraction of the captions, in [0, 1), that are dropped in training.
        supervision: of a text encoder that trains, by the attributes in ``attributes`` of the batch; None: none.
        attribute_sizes: number of values of each attribute; the command line takes it from the data. Used only with
            ``supervision``.
        schedule: of the noise; None: ``CosineSchedule`` of 1,000 steps.
        objective, ema: see DDPM; the variance is not learned.
        sampling: see DDPM; guidance is 1.35 by default, the paper's for FID, and the threshold dynamic.
        scores: of the images, ``CaptionScores``.
        optim, init_from: see Technique; its optimizer is Adam by default, lr 1e-4, fused.

    Raises:
        UsageError: a value out of its range, a network built for another model, or guidance of a model that does not drop
            captions.
    """

    task: ClassVar[Task] = "captions"
    default_sampling: ClassVar[dict[str, Any]] = {"steps": 50, "guidance": 1.35, "threshold": "dynamic"}

    def __init__(
        self,
        text: TextEncoder,
        image_shape: tuple[int, int, int] | None = None,
        network: nn.Module | None = None,
        text_dropout: float = 0.1,
        supervision: CaptionSupervision | None = None,
        attribute_sizes: list[int] | None = None,
        schedule: NoiseSchedule | None = None,
        objective: Objective | None = None,
        ema: EMAOptions | None = EMAOptions(),  # noqa: B008 (frozen)
        sampling: Sampling | None = None,
        scores: CaptionScores | None = None,
        **kwargs: Any,
    ) -> None:
        objective = build_options(Objective, objective)
        check_fixed_variance(objective)
        built_for = {
            "image_shape": image_shape,
            "num_classes": None,
            "learned_variance": False,
            "self_conditioning": objective.self_conditioning,
        }
        default = partial(DenoisingUNet, text_dim=text.dim)
        given = dict.fromkeys(("text", "text_mask"), "model.text encodes captions")
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
            **kwargs,
        )
        self.reader = TextConditioning(text, text_dropout, ema)
        self.supervision, self.attributes = supervision, None
        if supervision is not None:
            self.supervision = build_options(CaptionSupervision, supervision)
            self.attributes = AttributeHead(text.dim, check_supervision(text, attribute_sizes))
        self.binding_gaps = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})
        self.check_guidance(self.guidance)

    # --- the caption --------------------------------------------------------------------------------------------------

    @property
    def text(self) -> TextEncoder:
        """Text encoder that is used in sampling."""
        return self.reader.sampling_encoder

    @property
    def null_condition(self) -> dict[str, float]:
        """Null condition of the text."""
        return TextConditioning.null_condition

    @property
    def unguided(self) -> str | None:
        """Reason why guidance is not possible: no text dropout; None: it is possible."""
        if self.reader.dropout:
            return None
        return (
            "model.text_dropout is 0: guidance needs a model that is trained both with and without captions; set it to 1, "
            "or train with a model.text_dropout such as 0.1"
        )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.text.prepare()

    def ema_pairs(self) -> list[tuple[EMA | None, nn.Module]]:
        """Return network and text encoder, each with its EMA."""
        return [*super().ema_pairs(), (self.reader.ema, self.reader.encoder)]

    def shards(self) -> list[nn.Module]:
        """Return the trained modules and their EMAs; with supervision also its head."""
        return super().shards() + ([] if self.attributes is None else [self.attributes])

    def keep_ema_only(self) -> Self:
        """Replace the weights of network and text encoder by their EMA weights."""
        self.reader.keep_ema_only()
        return super().keep_ema_only()

    def make_condition(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        """Build the condition: the encoded captions of the batch, in training dropped with ``text_dropout``."""
        return self.reader(captions_of(batch, self), x.device)

    def training_terms(self, batch: dict[str, Any], x: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Compute the loss terms; with supervision, add the weighted cross-entropy of the attributes."""
        condition = self.make_condition(batch, x)
        terms = self.losses(self.network, x, t, noise, condition)
        if self.supervision is None or self.attributes is None:
            return terms
        if "attributes" not in batch:
            raise UsageError("model.supervision needs data with attributes; use ShapesCaptions, or set it to null")
        error = self.attributes.loss(condition, batch["attributes"])
        weight = self.supervision.weight_at(self.trainer.global_step)  # 0: computed all the same, as DDP needs it
        return terms | {"loss": terms["loss"] + weight * error, "attributes": error}

    def evaluation_terms(
        self, batch: dict[str, Any], stage: str, x: Tensor, t: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss terms, and log the binding gap of captions whose two objects can be exchanged.

        That is the loss with the caption of exchanged objects minus the loss with the own caption, at the same times and
        noise. It is 0 for a model that ignores which attribute belongs to which object, and it needs no samples.
        """
        terms = super().evaluation_terms(batch, stage, x, t, noise)
        if "exchanged" in batch:
            gap = self.binding_gaps[stage]
            assert isinstance(gap, MeanMetric)
            rows = [row for row, caption in enumerate(batch["exchanged"]) if caption]
            if rows:
                condition = self.reader([batch["exchanged"][row] for row in rows], x.device)
                other = self.losses(self.sampling_network, x[rows], t[rows], noise[rows], condition)
                gap.update(other["loss"] - terms["loss"][rows])
            self.log(f"{stage}/binding_gap", gap)
        return terms

    def condition_inputs(self) -> Inputs:
        """Return the token embeddings as inputs of the exported network."""
        return text_inputs(self.text.dim)

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graphs of the denoiser and, if it trains with the model, of the text encoder."""
        denoiser = denoiser_graph(self, self.condition_inputs(), text_notes(self.text))
        return {"denoiser": denoiser, **text_graphs(self.text)}

    # --- sampling -----------------------------------------------------------------------------------------------------

    def sample(  # type: ignore[override]  # captions instead of a number of images
        self,
        captions: Sequence[str],
        *,
        guidance: float | None = None,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        generator: Generators = None,
        callback: OnStep | None = None,
    ) -> Tensor:
        """Sample an image for each of n captions: (n, C, H, W) in [-1, 1] on the module's device. Options that are None are
        the model's own.

        Args:
            captions: at least one.
            guidance: weight of the caption; 1 is the conditional model itself, 0 the unconditional one.
            sampler: ancestral, ddim, dpm_solver++, heun or flow_heun.
            steps: of the sampler.
            generator: determines the result; a list has one for each image; None: torch's global one.
            callback: called after every step with a ``samplers.Step``.
        """
        captions = check_captions(captions)
        with self.sampling_mode(), self.precision():
            condition = self.reader(captions, self.device)
            x, weight = self.draw_latents(len(captions), generator), self.guidance_or_default(guidance)
            sampling = self.sampling_with(sampler=sampler, steps=steps)
            return self.sample_from(x, condition, sampling, weight, generator, callback)

    def word_maps(
        self, captions: Sequence[str], *, steps: int | None = None, generator: Generators = None
    ) -> tuple[Tensor, list[list[str]], list[Tensor]]:
        """Sample images without guidance, and compute the attention of pixels to each word (Tang et al. 2023, "DAAM").

        Args:
            captions: n of them.
            steps: of the sampler; None: the model's own.
            generator: see ``sample``.

        Returns:
            Images (n, C, H, W) in [-1, 1]; the words of each caption; for each caption maps (words, H, W) float32 in [0,
            1]: the attention probability of each pixel to each word, mean over all maps and steps.
        """
        captions = check_captions(captions)
        total, count = torch.zeros((), device=self.device), 0
        with record_text_attention(self.sampling_network) as recorded:

            def add_maps(step: Step) -> None:
                nonlocal total, count
                for part in recorded:
                    total, count = total + F.interpolate(part, step.x.shape[-2:], mode="bilinear"), count + 1
                recorded.clear()  # maps of all steps would fill the memory

            images = self.sample(captions, guidance=1.0, steps=steps, generator=generator, callback=add_maps)
        if not count:
            raise UsageError(
                f"{type(self.network).__name__} has no cross-attention to words; leave AttentionMapLogger out, or use "
                "DenoisingUNet"
            )
        words = [self.text.words_of(caption) for caption in captions]
        maps = [
            torch.cat([part[:0], *(part[tokens].sum(0, keepdim=True) for _, tokens in of_caption)])
            for part, of_caption in zip(total / count, words, strict=True)
        ]
        return images, [[word for word, _ in of_caption] for of_caption in words], maps

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Sample images (B, C, H, W) in [-1, 1] of the batch's captions, each from its own seed."""
        if "label" in batch:
            raise UsageError(f"{type(self).__name__} takes captions, not labels; leave data.labels out")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds_of(batch)]
        return self.sample(captions_of(batch, self), generator=generators, callback=self.on_step)


def seeds_of(batch: dict[str, Any]) -> list[int]:
    """Return the seeds of a batch's images.

    Raises:
        UsageError: the batch has no seeds, because it is not from Prompts.
    """
    if "seed" not in batch:
        raise UsageError("the batch has no 'seed'; predict with --data Prompts --data.captions '[\"a red circle\"]'")
    return batch["seed"].tolist()
