"""SuperResolution: Imagen's other stages (Saharia et al. 2022, section 2.4): large pictures out of small ones."""

from collections.abc import Sequence
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
from darkroom.lightning_modules.diffusion.imagen.text_conditioning import Reader, captions_of, check_captions
from darkroom.lightning_modules.diffusion.imagen.text_to_image import check_fixed_variance, check_text_dim
from darkroom.lightning_modules.diffusion.metrics.upsampling_scores import UpsamplingScores
from darkroom.lightning_modules.diffusion.objective.config import Objective
from darkroom.lightning_modules.diffusion.objective.noise_schedules import CosineSchedule, NoiseSchedule
from darkroom.lightning_modules.diffusion.sampling.sampler_config import SamplerName, Sampling
from darkroom.lightning_modules.diffusion.sampling.samplers import OnStep
from darkroom.lightning_modules.diffusion.text import TextEncoder
from darkroom.lightning_modules.generation.base import check_image_shape
from darkroom.lightning_modules.layers.ema import EMA, EMAOptions
from darkroom.lightning_modules.optimizers import Optim
from darkroom.lightning_modules.utils.arguments import build_options, check_choice
from darkroom.lightning_modules.utils.random import Generators

Reduction = Literal["area", "bilinear", "bicubic"]


class SuperResolution(Diffusion):
    """Imagen's super-resolution: denoising diffusion that is shown the picture in a lower resolution.

    The small picture is up-sampled and put beside the noisy large one. It is noised itself, by a level of its own that the
    network is told ("noise conditioning augmentation", Ho et al. 2022, "Cascaded Diffusion Models", section 4.2): so the
    network learns to trust it as far as it may be trusted, and makes up for what the stage before got wrong.

    Each stage is trained on its own, on true pictures that it makes small itself. ``crop`` trains on parts of large ones;
    the network, which has no attention but at its smallest map, then draws them whole.

    Batch: ``image``, and ``caption`` if the stage reads; to predict, ``image``, which is made small and large again.

    Args:
        image_shape: (C, H, W) of the large pictures; the command line takes it from the data.
        factor: how many times smaller the small ones' sides are.
        text: captions -> tokens; None: the stage sees pictures alone.
        network: predicts, called as ``network(x, t, low=, low_t=)``, with ``text=, text_mask=`` if the stage reads and
            ``x0=`` if it conditions itself; see ``EfficientUNet``, whose ``text_dim`` is the encoder's. None: the paper's.
        crop: side of the large squares to train on, a multiple of factor; None: whole pictures.
        reduction: how true pictures are made small: area averages, bilinear and bicubic are antialiased.
        noise_levels: least and greatest level of the small picture's noise in training, parts of the time in [0, 1].
        augmentation: the level when drawing, in [0, 1]; the paper's is 0.1 to 0.3. Level 0 is the schedule's first time,
            whose noise is about a byte's step.
        text_dropout: part of the captions, in [0, 1), that are learned as none.
        schedule: of the noise; None: ``CosineSchedule`` of 1,000 steps. The small picture's noise has the same.
        objective, ema: see DDPM; the variance is not learned.
        sampling: see DDPM; 20 steps by default, guidance 1 (the paper's for FID is 8), and a dynamic threshold.
        scores: of the images, ``UpsamplingScores``.
        optim: see Technique; its optimizer is Adam by default, lr 1e-4, fused.

    Raises:
        UsageError: a value out of its range, sizes that the factor does not divide, a network built for another model.
    """

    default_sampling: ClassVar[dict[str, Any]] = {"steps": 20, "guidance": 1.0, "threshold": "dynamic"}

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
        optim: Optim | None = None,
    ) -> None:
        _check_sizes(image_shape, factor, crop)
        check_fractions(text_dropout=text_dropout)
        if not 0 <= noise_levels[0] <= noise_levels[1] <= 1:
            raise UsageError(f"model.noise_levels is {noise_levels}; they are two rising parts of the time in [0, 1]")
        objective = build_options(Objective, objective)
        check_fixed_variance(objective)
        built_for = {"image_shape": image_shape, "learned_variance": False}
        built_for["self_conditioning"] = objective.self_conditioning
        default = partial(EfficientUNet, text_dim=None if text is None else text.dim)
        given = dict.fromkeys(("low", "low_t"), "the small picture is shown")
        if text is not None:
            given |= dict.fromkeys(("text", "text_mask"), "model.text reads captions")
        network = build_network(network, default=default, built_for=built_for, given=given)
        if text is not None:
            check_text_dim(network, text)
        if crop is not None and crop % getattr(network, "step", 1):
            raise UsageError(f"model.crop is {crop}; it is a multiple of {network.step}, which model.network can halve")
        if getattr(network, "residual", False) and objective.prediction != "x0":
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
            optim=optim,
        )
        self.factor, self.crop, self.noise_levels = factor, crop, tuple(noise_levels)
        self.reduction = check_choice("model.reduction", reduction, Reduction)
        self.augmentation = self.check_augmentation(augmentation)
        self.reader = None if text is None else Reader(text, text_dropout, ema)

    # --- the small picture --------------------------------------------------------------------------------------------

    @property
    def low_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the small pictures."""
        channels, height, width = self.image_shape
        return channels, height // self.factor, width // self.factor

    def reduced(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) -> (B, C, H / factor, W / factor), as the stage has learned them."""
        size = [side // self.factor for side in x.shape[-2:]]
        if self.reduction == "area":
            return F.interpolate(x, size, mode="area")
        return F.interpolate(x, size, mode=self.reduction, antialias=True).clamp(-1, 1)

    def upsampled(self, low: Tensor) -> Tensor:
        """Small pictures (B, C, h, w) -> bicubic (B, C, factor h, factor w)."""
        return F.interpolate(low, scale_factor=float(self.factor), mode="bicubic").clamp(-1, 1)

    def shown(self, low: Tensor, level: Tensor, generator: Generators = None) -> Condition:
        """What the network is told of small pictures.

        Args:
            low: (B, C, h, w) in [-1, 1].
            level: float (B,), how noisy they are made: parts of the time in [0, 1].
            generator: decides the noise.
        """
        low, low_t = self.upsampled(low), (level * (self.schedule.num_steps - 1)).long()
        return {"low": self.schedule.add_noise(low, self.noise(*low.shape, generator=generator), low_t), "low_t": low_t}

    def pictures_of(self, batch: dict[str, Any]) -> Tensor:
        x = super().pictures_of(batch)
        if self.crop is None:
            return x
        free = [side - self.crop for side in x.shape[-2:]]
        if self.training:
            corners = [[int(torch.randint(room + 1, ())) for room in free] for _ in x]
        else:
            corners = [[room // 2 for room in free]] * len(x)
        return torch.stack([x[i, :, y : y + self.crop, x_ : x_ + self.crop] for i, (y, x_) in enumerate(corners)])

    def condition_of(self, batch: dict[str, Any], x: Tensor, generator: Generators = None) -> Condition:
        if self.training:
            least, greatest = self.noise_levels
            level = least + (greatest - least) * torch.rand(len(x), dtype=torch.float32, device=x.device)
        else:
            level = torch.full((len(x),), self.augmentation, device=x.device)
        shown = self.shown(self.reduced(x), level, generator)
        return shown if self.reader is None else shown | self.reader(captions_of(batch, self), x.device)

    # --- the caption --------------------------------------------------------------------------------------------------

    @property
    def text(self) -> TextEncoder | None:
        """The encoder that reads for drawing."""
        return None if self.reader is None else self.reader.averaged

    @property
    def null(self) -> dict[str, float]:
        return {} if self.reader is None else Reader.null

    @property
    def unguided(self) -> str | None:
        if self.reader is not None and self.reader.dropout:
            return None
        lacks = "model.text is null" if self.reader is None else "model.text_dropout is 0"
        return f"{lacks}: guidance goes from what is learned without a caption to what is learned with it; set it to 1"

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.text is not None:
            self.text.prepare()

    def averages(self) -> list[tuple[EMA | None, nn.Module]]:
        texts = [] if self.reader is None else [(self.reader.ema, self.reader.encoder)]
        return super().averages() + texts

    def only_averages(self) -> Self:
        if self.reader is not None:
            self.reader.only_average()
        return super().only_averages()

    # --- drawing ------------------------------------------------------------------------------------------------------

    def sample(
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
        """Draws the large pictures of n small ones: (n, C, H, W) in [-1, 1], on the module's device.

        Args:
            captions: n of them; None for a stage that does not read, which does not look at them.
            low: (n, C, h, w) in [-1, 1].
            augmentation: how noisy the small ones are made, in [0, 1]: the more, the more is made up.
            guidance, sampler, steps, generator, callback: see ``TextToImage.sample``.

        The model's own settings, of its constructor, stand for what is None.
        """
        if low.dim() != 4 or low.shape[1] != self.image_shape[0]:
            raise UsageError(
                f"small pictures have the shape {tuple(low.shape)}; it should be (n, {self.image_shape[0]}, h, w)"
            )
        level = self.augmentation if augmentation is None else self.check_augmentation(augmentation)
        n, channels, height, width = low.shape
        with self.drawing(), self.precision():
            x = self.noise(n, channels, height * self.factor, width * self.factor, generator=generator)
            low = low.to(self.device, torch.float32)
            condition = self.shown(low, torch.full((n,), level, device=self.device), generator)
            if self.reader is not None:
                condition |= self.reader(self._captions_for(captions, n), self.device)
            sampling, weight = self.sampling_with(sampler=sampler, steps=steps), self.weight_or_own(guidance)
            return self.drawn_from(x, condition, sampling, weight, generator, callback)

    def _captions_for(self, captions: Sequence[str] | None, n: int) -> list[str]:
        captions = check_captions(captions or [])
        if len(captions) != n:
            raise UsageError(f"{len(captions)} captions were given for {n} small pictures; give one for each")
        return captions

    def check_augmentation(self, level: float) -> float:
        """The level, if it is a part of the time."""
        if not 0 <= level <= 1:
            raise UsageError(f"model.augmentation is {level}; it is a part of the time in [0, 1], such as 0.1")
        return level

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """The batch's pictures (B, C, H, W), made small and drawn large again."""
        if "image" not in batch:
            raise UsageError(
                "SuperResolution draws from small pictures, and captions alone have none; draw with ImagenCascade, of the "
                "checkpoints of base and super-resolution"
            )
        low = self.reduced(super().pictures_of(batch))
        captions = None if self.reader is None else list(batch.get("caption", [""] * len(low)))
        # One noise for all: what is drawn depends on the picture alone.
        generators = [torch.Generator().manual_seed(0) for _ in low]
        return self.sample(captions, low, generator=generators, callback=self.on_step)


def _check_sizes(image_shape: tuple[int, int, int] | None, factor: int, crop: int | None) -> None:
    check_image_shape(image_shape)
    if factor < 2 or any(side % factor for side in image_shape[1:]):
        raise UsageError(
            f"model.factor is {factor}; it is a whole number, from 2 up, that divides the sides of pictures, "
            f"{image_shape[1]} x {image_shape[2]}"
        )
    if crop is not None and (crop < factor or crop % factor or crop > min(image_shape[1:])):
        raise UsageError(
            f"model.crop is {crop}; it is a multiple of model.factor, {factor}, and at most {min(image_shape[1:])}, the "
            "pictures' side"
        )
