"""Synthetic images of one square and exact models of them: the prompt sets the colour, the noise the position."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from tests.callbacks.blobs import BlobData, BlobModel

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
CAPTIONS = (
    "a red square",
    "a green square",
    "a red square",
    "a blue square with a caption that is longer than its place",
)


def square(caption: str, place: tuple[int, int], side: int) -> Tensor:
    """Render an image (3, side, side) in [-1, 1] of a square on white, a quarter as wide as the image."""
    colour = next((colour for name, colour in COLOURS.items() if name in caption), (0.0, 0.0, 0.0))
    image, size = torch.ones(3, side, side), side // 4
    image[:, place[0] : place[0] + size, place[1] : place[1] + size] = torch.tensor(colour).view(3, 1, 1)
    return image


def places(generators: Sequence[torch.Generator], side: int) -> list[tuple[int, int]]:
    """Sample the position of the square from each generator."""
    most = side - side // 4 + 1
    return [tuple(torch.randint(most, (2,), generator=generator).tolist()) for generator in generators]


class Captioned(Dataset):
    """Squares with captions, in turn."""

    def __init__(self, side: int, length: int) -> None:
        self.side, self.length = side, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        caption = CAPTIONS[index % len(CAPTIONS)]
        (place,) = places([torch.Generator().manual_seed(index)], self.side)
        image = (square(caption, place, self.side) + 1) * 127.5
        return {"image": image.round().to(torch.uint8), "caption": caption}


class CaptionedData(BlobData):
    """Squares with captions and no classes."""

    class_names = ()

    def __init__(self, side: int = 16, **kwargs: Any) -> None:
        super().__init__((3, side, side), **kwargs)

    def dataset(self, split: str) -> Dataset:
        return Captioned(self.image_shape[1], 6)


class TextModel(BlobModel):
    """Samples the square of a prompt, paler at lower guidance; attention of every word is on the square."""

    unguided: str | None = None

    def __init__(self, side: int = 16) -> None:
        super().__init__((3, side, side))
        self.side, self.calls = side, []

    def sample(
        self,
        captions: Sequence[str],
        *,
        guidance: float | None = None,
        steps: int | None = None,
        generator: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        self.calls.append({"captions": list(captions), "guidance": guidance, "steps": steps})
        found = zip(captions, places(generator, self.side), strict=True)
        images = torch.stack([square(caption, place, self.side) for caption, place in found])
        return 1 - (1 - images) * min(1.0, (4.0 if guidance is None else guidance) / 4)

    def word_maps(
        self, captions: Sequence[str], *, generator: Sequence[torch.Generator] | None = None
    ) -> tuple[Tensor, list[list[str]], list[Tensor]]:
        images, words = self.sample(captions, generator=generator), [caption.split() for caption in captions]
        there = (images < 1).any(1).float() * 0.1
        return images, words, [one.expand(len(some), -1, -1) for one, some in zip(there, words, strict=True)]

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.sample(
            batch["caption"], generator=[torch.Generator().manual_seed(s) for s in batch["seed"].tolist()]
        )


class Stage:
    """Settings of a stage that samples without noise on its input."""

    def __init__(self, guidance: float) -> None:
        self.guidance = guidance

    def guidance_or_default(self, guidance: float | None) -> float:
        return self.guidance if guidance is None else guidance


class NoisyStage(Stage):
    """Settings of a stage that adds noise to its input."""

    def __init__(self, guidance: float, augmentation: float) -> None:
        super().__init__(guidance)
        self.augmentation = augmentation


class CascadeModel(TextModel):
    """Two-stage model of the same images, at half and at full size."""

    word_maps = None

    def __init__(self) -> None:
        super().__init__()
        self.stages = [Stage(2.0), NoisyStage(1.0, 0.25)]
        self.guidance, self.augmentation = [None, None], [0.1]

    def sample(
        self,
        captions: Sequence[str],
        *,
        guidance: float | Sequence[float] | None = None,
        steps: int | Sequence[int] | None = None,
        generator: Sequence[torch.Generator] | None = None,
        stages: bool = False,
    ) -> Tensor | list[Tensor]:
        last = super().sample(captions, guidance=guidance, steps=steps, generator=generator)
        return [F.avg_pool2d(last, 2), last] if stages else last


class UpsamplingModel(BlobModel):
    """Upsamples by a factor of two, with a small offset from nearest neighbours."""

    def __init__(self, side: int = 16) -> None:
        super().__init__((3, side, side))
        self.calls = []

    def reduced(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    def upsampled(self, low: Tensor) -> Tensor:
        return F.interpolate(low, scale_factor=2, mode="bicubic").clamp(-1, 1)

    def sample(
        self,
        captions: Sequence[str] | None,
        low: Tensor,
        *,
        augmentation: float | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        generator: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        self.calls.append({"captions": captions, "augmentation": augmentation, "guidance": guidance, "steps": steps})
        off = torch.stack([torch.randn(3, *low.shape[2:], generator=one) for one in generator])
        return F.interpolate(low + 0.02 * off, scale_factor=2)
