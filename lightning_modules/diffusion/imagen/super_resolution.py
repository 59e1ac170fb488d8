"""SuperResolution: Imagen's super-resolution models (Saharia et al. 2022, sections 2.4 and 2.5)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion.base import Condition, Diffusion, check_fractions
from darkroom.lightning_modules.diffusion.build_network import build_network
from darkroom.lightning_modules.diffusion.efficient_unet import EfficientUNet
from darkroom.lightning_modules.diffusion.export import (
    Inputs,
    denoiser_graph,
    low_inputs,
    text_graphs,
    text_inputs,
    text_notes,
    upsampler_graph,
)
from darkroom.lightning_modules.diffusion.imagen.text_conditioning import TextConditioning, captions_of, check_captions
from darkroom.lightning_modules.diffusion.imagen.text_to_image import check_fixed_variance, check_text_dim
from darkroom.lightning_modules.diffusion.metrics.upsampling_scores import UpsamplingScores
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.diffusion.text import TextEncoder
from darkroom.lightning_modules.generation.base import check_image_shape
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.utils.arguments import build_options, check_choice
from darkroom.lightning_modules.utils.normalization import Statistics
from darkroom.lightning_modules.utils.random import Generators
from darkroom.protocols import ResidualNetwork, SteppedNetwork
from darkroom.protocols.export import ExportGraph

Reduction = Literal["area", "bilinear", "bicubic"]


class SuperResolution(Diffusion):
    """Imagen's super-resolution: denoising diffusion conditioned on the image in a lower resolution.

    The small image is upsampled and concatenated to the noisy large one. It is noised, too, at a level of its own that is
    an input of the network ("noise conditioning augmentation", Ho et al. 2022, "Cascaded Diffusion Models", section 3).
    So the network learns to correct errors of the stage before.

    Each stage is trained on its own, on real images that it downscales itself. With ``crop`` it trains on crops and samples
    whole images, which needs a network without attention except at its smallest map.

    Batch: ``image``, and ``caption`` if the stage has a text encoder. In prediction ``image`` is downscaled and enlarged.

    Args:
        image_shape: (C, H, W) of the large images; the command line takes it from the data.
        factor: ratio of the sides of large and small images.
        text: encodes captions as tokens; None: no text.
        network: called as ``network(x, t, low=, low_t=)``, with ``text=, text_mask=`` if there is a text encoder and
            ``x0=`` for self-conditioning; see ``EfficientUNet``, whose ``text_dim`` must be the encoder's. None: the
            paper's.
        crop: side of the square crops to train on, a multiple of factor; None: whole images.
        reduction: interpolation that downscales real images, antialiased: area, bilinear or bicubic.
        noise_levels: range of the small image's noise level in training, fractions of the time in [0, 1].
        augmentation: noise level in sampling, in [0, 1]; 0.1 to 0.3 in the paper (appendix D.2). Level 0 is the
            schedule's first time, whose noise is about one 8-bit level.
        text_dropout: fraction of the captions, in [0, 1), that are dropped in training.
        schedule: of the noise, also of the small image's; None: ``CosineSchedule`` of 1,000 steps.
        objective, ema: see DDPM; the variance is not learned.
        sampling: see DDPM; 20 steps by default, guidance 1 (the paper's for FID is 8), and a dynamic threshold.
        scores: of the images, ``UpsamplingScores``.
        optim, init_from: see Technique; its optimizer is Adam by default, lr 1e-4, fused.

    Raises:
        UsageError: a value out of its range, a size that the factor does not divide, or a network built for another model.
    """

    default_sampling: ClassVar[dict[str, Any]] = {"steps": 20, "guidance": 1.0, "threshold": "dynamic"}
    free_arguments: ClassVar[tuple[str, ...]] = ("augmentation",)

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        factor: int = 4,
        text: TextEncoder | None = None,
        network: nn.Module | None = None,
        crop: int | None = None,
        reduction: Reduction = "area",
        noise_levels: tuple[float, float] = (0.0, 1.0),
        augmentation: float = 0.1,
        text_dropout: float = 0.1,
        schedule: NoiseSchedule | None = None,
        objective: Objective | None = None,
        ema: EMAOptions | None = EMAOptions(),  # noqa: B008 (frozen)
        sampling: Sampling | None = None,
        scores: UpsamplingScores | None = None,
        **kwargs: Any,
    ) -> None:
        _check_sizes(check_image_shape(image_shape), factor, crop)
        check_fractions(text_dropout=text_dropout)
        if not 0 <= noise_levels[0] <= noise_levels[1] <= 1:
            raise UsageError(
                f"model.noise_levels must be two ascending fractions of the time in [0, 1], got {noise_levels}"
            )
        objective = build_options(Objective, objective)
        check_fixed_variance(objective)
        built_for = {
            "image_shape": image_shape,
            "learned_variance": False,
            "self_conditioning": objective.self_conditioning,
        }
        default = partial(EfficientUNet, text_dim=None if text is None else text.dim)
        given = dict.fromkeys(("low", "low_t"), "the network is conditioned on the small image")
        if text is not None:
            given |= dict.fromkeys(("text", "text_mask"), "model.text encodes captions")
        network = build_network(network, default=default, built_for=built_for, given=given)
        if text is not None:
            check_text_dim(network, text)
        if crop is not None and isinstance(network, SteppedNetwork) and crop % network.step:
            raise UsageError(
                f"model.crop must be a multiple of {network.step}, so that model.network can halve it, got {crop}"
            )
        if isinstance(network, ResidualNetwork) and network.residual and objective.prediction != "x0":
            raise UsageError(
                "model.network.residual adds the small image to the prediction: model.objective.prediction must be x0, "
                f"got {objective.prediction}"
            )
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
        self.factor, self.crop, self.noise_levels = factor, crop, noise_levels
        self.reduction = check_choice("model.reduction", reduction, Reduction)
        self.augmentation = self.check_augmentation(augmentation)
        self.reader = None if text is None else TextConditioning(text, text_dropout, ema)
        self.check_guidance(self.guidance)

    # --- the small image ----------------------------------------------------------------------------------------------

    @property
    def low_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the small images."""
        channels, height, width = self.image_shape
        return channels, height // self.factor, width // self.factor

    def reduced(self, x: Tensor) -> Tensor:
        """Downscale images (B, C, H, W) to (B, C, H / factor, W / factor), as in training."""
        return reduce_images(x, self.factor, self.reduction)

    def upsampled(self, low: Tensor) -> Tensor:
        """Upsample small images (B, C, h, w) bicubically to (B, C, factor h, factor w) in [-1, 1]."""
        return self._enlarge(low).clamp(-1, 1)

    def _enlarge(self, low: Tensor) -> Tensor:
        return F.interpolate(low, scale_factor=float(self.factor), mode="bicubic")

    def condition_on_image(self, low: Tensor, level: Tensor, generator: Generators = None) -> Condition:
        """Return the condition of small images: upsampled, after noise was added to them.

        Noise of the upsampled image would be weaker: the mean of factor x factor pixels has a factor-th of its deviation.

        Args:
            low: (B, C, h, w) in [-1, 1].
            level: noise level of each, float (B,): a fraction of the time in [0, 1].
            generator: determines the noise.
        """
        low_t = self._low_times(level)
        noisy = self.schedule.add_noise(low, self.noise(*low.shape, generator=generator), low_t)
        return {"low": self._enlarge(noisy), "low_t": low_t}

    def _low_times(self, level: Tensor) -> Tensor:
        """Return the times int64 of noise levels in [0, 1]."""
        return (level * (self.schedule.num_steps - 1)).long()

    def target_images(self, batch: dict[str, Any]) -> Tensor:
        """Return the batch's images (B, C, H, W); with ``crop``, random crops in training, else central ones."""
        x = super().target_images(batch)
        if self.crop is None:
            return x
        margins = [side - self.crop for side in x.shape[-2:]]
        if self.training:
            corners = [[int(torch.randint(margin + 1, ())) for margin in margins] for _ in x]
        else:
            corners = [[margin // 2 for margin in margins]] * len(x)
        return torch.stack([x[i, :, y : y + self.crop, x_ : x_ + self.crop] for i, (y, x_) in enumerate(corners)])

    def make_condition(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        """Build the condition: small images with noise, the level of the noise, and the text if there is an encoder.

        The noise level is uniform in ``noise_levels`` in training and ``augmentation`` in evaluation.
        """
        if self.training:
            least, greatest = self.noise_levels
            level = least + (greatest - least) * torch.rand(len(x), dtype=torch.float32, device=x.device)
        else:
            level = torch.full((len(x),), self.augmentation, device=x.device)
        condition = self.condition_on_image(self.reduced(x), level, generator)
        return condition if self.reader is None else condition | self.reader(captions_of(batch, self), x.device)

    # --- the caption --------------------------------------------------------------------------------------------------

    @property
    def text(self) -> TextEncoder | None:
        """Text encoder that is used in sampling; None: no text."""
        return None if self.reader is None else self.reader.sampling_encoder

    @property
    def null_condition(self) -> dict[str, float]:
        """Null condition of the text; {} without a text encoder. The small image is always a condition."""
        return {} if self.reader is None else TextConditioning.null_condition

    @property
    def unguided(self) -> str | None:
        """Reason why guidance is not possible: no text, or no text dropout; None: it is possible."""
        if self.reader is not None and self.reader.dropout:
            return None
        lacks = "model.text is null" if self.reader is None else "model.text_dropout is 0"
        return f"{lacks}: guidance needs a model that is trained both with and without captions; set it to 1"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.text is not None:
            self.text.prepare()

    def ema_pairs(self) -> list[tuple[EMA | None, nn.Module]]:
        """Return network and text encoder, each with its EMA."""
        pairs = super().ema_pairs()
        return pairs if self.reader is None else [*pairs, (self.reader.ema, self.reader.encoder)]

    def keep_ema_only(self) -> Self:
        """Replace the weights of network and text encoder by their EMA weights."""
        if self.reader is not None:
            self.reader.keep_ema_only()
        return super().keep_ema_only()

    def condition_inputs(self) -> Inputs:
        """Return small images, and token embeddings if there is a text encoder, as inputs of the exported network."""
        low = low_inputs(self.image_shape, self.schedule.num_steps)
        return low if self.text is None else {**low, **text_inputs(self.text.dim)}

    def export_graphs(self, normalization: Statistics) -> Mapping[str, ExportGraph]:
        """Return the graphs of denoiser and upsampler and, if it trains with the model, of the text encoder."""
        t = int(self._low_times(torch.tensor(self.augmentation)))
        alpha, sigma = float(self.schedule.alphas[t]), float(self.schedule.sigmas[t])
        low = {"t": t, "alpha": alpha, "sigma": sigma, "factor": self.factor, "reduction": self.reduction}
        return {
            "denoiser": denoiser_graph(self, self.condition_inputs(), text_notes(self.text), low=low),
            "upsampler": upsampler_graph(self._enlarge, self.low_shape, self.image_shape),
            **text_graphs(self.text),
        }

    # --- sampling -----------------------------------------------------------------------------------------------------

    def sample(  # type: ignore[override]  # captions and small images instead of a number of images
        self,
        captions: Sequence[str] | None,
        low: Tensor,
        *,
        augmentation: float | None = None,
        guidance: float | None = None,
        sampler: SamplerName | None = None,
        steps: int | None = None,
        generator: Generators = None,
        callback: OnStep | None = None,
    ) -> Tensor:
        """Sample large images of n small ones: (n, C, H, W) in [-1, 1] on the module's device. Options that are None are
        the model's own.

        Args:
            captions: n captions; ignored by a stage without a text encoder.
            low: small images (n, C, h, w) in [-1, 1].
            augmentation: noise level of the small images, in [0, 1]; details are less determined by them with more noise.
            guidance, sampler, steps, generator, callback: see ``TextToImage.sample``.
        """
        if low.dim() != 4 or low.shape[1] != self.image_shape[0]:
            raise UsageError(
                f"small images must have the shape (n, {self.image_shape[0]}, h, w), got {tuple(low.shape)}"
            )
        level = self.augmentation if augmentation is None else self.check_augmentation(augmentation)
        n, channels, height, width = low.shape
        with self.sampling_mode(), self.precision():
            x = self.noise(n, channels, height * self.factor, width * self.factor, generator=generator)
            low = low.to(self.device, torch.float32)
            condition = self.condition_on_image(low, torch.full((n,), level, device=self.device), generator)
            if self.reader is not None:
                condition |= self.reader(self._captions_for(captions, n), self.device)
            sampling, weight = self.sampling_with(sampler=sampler, steps=steps), self.guidance_or_default(guidance)
            return self.sample_from(x, condition, sampling, weight, generator, callback)

    def _captions_for(self, captions: Sequence[str] | None, n: int) -> list[str]:
        checked = check_captions(captions or [])
        if len(checked) != n:
            raise UsageError(f"captions must be one for each of {n} small images, got {len(checked)}")
        return checked

    def check_augmentation(self, level: float) -> float:
        """Return a noise level; raise a UsageError if it is not in [0, 1]."""
        if not 0 <= level <= 1:
            raise UsageError(f"model.augmentation must be a fraction of the time in [0, 1], such as 0.1, got {level}")
        return level

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Downscale the batch's images and enlarge them again: (B, C, H, W)."""
        if "image" not in batch:
            raise UsageError(
                "SuperResolution needs images, but the batch has only captions; sample with ImagenCascade, from the "
                "checkpoints of base and super-resolution"
            )
        low = self.reduced(super().target_images(batch))
        captions = None if self.reader is None else list(batch.get("caption", [""] * len(low)))
        # The same noise for all, so a sample depends only on its image.
        generators = [torch.Generator().manual_seed(0) for _ in low]
        return self.sample(captions, low, generator=generators, callback=self.on_step)


def reduce_images(x: Tensor, factor: int, reduction: Reduction) -> Tensor:
    """Downscale images (B, C, H, W) in [-1, 1] to (B, C, H / factor, W / factor)."""
    size = [side // factor for side in x.shape[-2:]]
    if reduction == "area":
        return F.interpolate(x, size, mode="area")
    return F.interpolate(x, size, mode=reduction, antialias=True).clamp(-1, 1)


def _check_sizes(image_shape: tuple[int, int, int], factor: int, crop: int | None) -> None:
    if factor < 2 or any(side % factor for side in image_shape[1:]):
        raise UsageError(
            f"model.factor must be an integer of at least 2 that divides the sides of images, {image_shape[1]} x "
            f"{image_shape[2]}, got {factor}"
        )
    if crop is not None and (crop < factor or crop % factor or crop > min(image_shape[1:])):
        raise UsageError(
            f"model.crop must be a multiple of model.factor, {factor}, and at most {min(image_shape[1:])}, the side of the "
            f"images, got {crop}"
        )
