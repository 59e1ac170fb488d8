"""Synthetic images of one blob and a model whose latent code is the position of the blob."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from darkroom.datamodules.base import VisionDataModule


def blobs(z: Tensor, shape: tuple[int, int, int], labels: Tensor | None = None) -> Tensor:
    """Render images in [-1, 1] of a blob at x = z0 (right) and y = z1 (up), both in [-4, 4]; the class sets its width."""
    channels, height, width = shape
    y, x = torch.meshgrid(torch.linspace(4, -4, height), torch.linspace(-4, 4, width), indexing="ij")
    spread = torch.ones(len(z)) if labels is None else 0.4 + 0.4 * labels.float()
    distance = (x - z[:, 0, None, None]) ** 2 + (y - (z[:, 1:2] if z.shape[1] > 1 else 0 * z)[:, :, None]) ** 2
    return (2 * torch.exp(-distance / (2 * spread[:, None, None] ** 2)) - 1)[:, None].expand(-1, channels, -1, -1)


class Blobs(Dataset):
    """One blob for each index, its class index modulo three."""

    def __init__(self, shape: tuple[int, int, int], length: int, labelled: bool) -> None:
        self.shape, self.length, self.labelled = shape, length, labelled

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        z = torch.randn(1, 2, generator=torch.Generator().manual_seed(index))
        label = torch.tensor(index % 3)
        image = blobs(z, self.shape, label[None] if self.labelled else None)[0]
        sample = {"image": ((image + 1) * 127.5).round().to(torch.uint8)}
        return sample | ({"label": label} if self.labelled else {})


class BlobData(VisionDataModule):
    """Blobs, with or without labels."""

    class_names = ("small", "middle", "large")

    def __init__(self, shape: tuple[int, int, int] = (1, 20, 28), labelled: bool = True, **kwargs: Any) -> None:
        half = [0.5] * shape[0]
        super().__init__(**{"batch_size": 4, "num_workers": 0, "mean": half, "std": half, **kwargs})
        self.image_shape, self.labelled = shape, labelled

    def dataset(self, split: str) -> Dataset:
        return Blobs(self.image_shape, {"train": 8, "val": 14, "test": 10, "predict": 5}[split], self.labelled)


class BlobModel(LightningModule):
    """Exact encoder and decoder of blobs; counts encoded images and calls of `reconstruct`."""

    def __init__(
        self, shape: tuple[int, int, int] = (1, 20, 28), latent_dim: int = 2, num_classes: int | None = None
    ) -> None:
        super().__init__()
        self.shape, self.latent_dim, self.num_classes = shape, latent_dim, num_classes
        self.weight = nn.Parameter(torch.zeros(1))
        self.encoded, self.reconstructed, self.sampled_labels = 0, 0, []

    def draw_latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, self.latent_dim, generator=generator)

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes is None)
        self.encoded += len(x)
        mass = (x[:, 0] + 1) / (x[:, 0] + 1).sum((1, 2), keepdim=True)
        across = (mass.sum(1) * torch.linspace(-4, 4, x.shape[3])).sum(1)
        up = (mass.sum(2) * torch.linspace(4, -4, x.shape[2])).sum(1)
        codes = torch.zeros(len(x), self.latent_dim)
        codes[:, -1], codes[:, 0] = up, across
        return codes

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        assert (labels is None) == (self.num_classes is None)
        z = z if self.latent_dim == 1 else z[:, [0, -1]]
        return blobs(z + self.weight, self.shape, labels)

    def reconstruct(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        self.reconstructed += 1
        return self.decode(self.encode(x, labels=labels), labels=labels)

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        self.sampled_labels.append(labels)
        return self.decode(self.draw_latents(n, generator), labels=labels)

    def interpolate(self, a: Tensor, b: Tensor, steps: int, *, labels: Tensor | None = None) -> Tensor:
        start, end = (self.encode(x, labels=labels)[:, None] for x in (a, b))
        z = torch.lerp(start, end, torch.linspace(0, 1, steps).view(1, -1, 1)).flatten(0, 1)
        labels = None if labels is None else labels.repeat_interleave(steps)
        return self.decode(z, labels=labels).unflatten(0, (len(a), steps))

    def to_uint8(self, images: Tensor) -> Tensor:
        return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def labels_of(self, batch: dict[str, Any]) -> Tensor | None:
        return None if self.num_classes is None else batch["label"]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return -self.weight.sum()  # the blobs move up and to the right

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        labels = self.labels_of(batch)
        if "image" in batch:
            return self.reconstruct(batch["image"], labels=labels)
        z = [self.draw_latents(1, torch.Generator().manual_seed(seed)) for seed in batch["seed"].tolist()]
        return self.decode(torch.cat(z), labels=labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(*callbacks: Any, logger: Any = False, **kwargs: Any) -> Trainer:
    """Return a Trainer without progress output that writes into the current folder."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=logger, callbacks=list(callbacks), default_root_dir=".", **quiet, **kwargs)
