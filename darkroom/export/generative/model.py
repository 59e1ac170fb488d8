"""ExportedGenerator: the exported parts of a generative method instead of the method, for ``darkroom predict``."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.export.runners import Runner, open_runner
from darkroom.lightning_modules.autoencoding.code_distribution import mixture_codes
from darkroom.lightning_modules.base import Technique
from darkroom.lightning_modules.diffusion.imagen.super_resolution import reduce_images
from darkroom.lightning_modules.generation.base import Generative
from darkroom.lightning_modules.utils.random import Generators

Arrays = dict[str, np.ndarray]


class ExportedGenerator(Generative, Technique):
    """Generative model of the files that ``darkroom export`` wrote for its parts, for prediction.

    Args:
        path: one of the files; the others are read beside it, such as model.decoder.onnx beside model.encoder.onnx.

    Raises:
        DataError: a file is damaged.
        UsageError: the part that makes images is missing.
    """

    is_trained: ClassVar[bool] = True

    def __init__(self, path: str) -> None:
        self.parts = _open_parts(Path(path))
        maker = next((self.parts[name] for name in ("decoder", "generator", "denoiser") if name in self.parts), None)
        if "denoiser" in self.parts and self.parts["denoiser"].description.options.get("codes"):
            maker = self.parts.get("decoder")  # latent diffusion
        if maker is None:
            raise UsageError(
                f"ckpt_path {path} needs the file of the decoder, generator or denoiser beside it; copy it there"
            )
        self.description = maker.description
        shapes = {spec.name: spec.shape for spec in (*self.description.inputs, *self.description.outputs)}
        channels, height, width = (int(side) for side in shapes["x" if "x" in shapes else "image"][1:])
        options = self.description.options
        super().__init__((channels, height, width), options.get("num_classes"))
        self.path, self.class_names = Path(path), list(self.description.class_names)

    def networks(self) -> list[nn.Module]:
        """Return no modules: the graphs are not of torch."""
        return []

    def setup(self, stage: str) -> None:
        if stage != "predict":
            raise UsageError(f"ckpt_path {self.path} can only be used by predict, not by {stage}; give a checkpoint")
        super().setup(stage)

    def draw_latents(self, n: int, generator: Generators = None, labels: Tensor | None = None) -> Tensor:
        """Sample latents from the distribution that the description has, perhaps one for each class: float32 (n, D)."""
        prior = self.description.options["prior"]
        uniform, mixed = (prior["distribution"] == name for name in ("uniform", "mixture"))
        size = int(self.description.inputs[0].shape[1]) + mixed
        noise = self.noise(n, size, generator=generator, uniform=uniform)
        if uniform:
            return 2 * noise - 1
        if mixed:
            weights, means, roots = (torch.tensor(prior[name]) for name in ("weights", "means", "roots"))
            return mixture_codes(noise, weights, means, roots, labels)
        if "deviation" in prior:
            return torch.tensor(prior["mean"]) + noise * torch.tensor(prior["deviation"])
        return torch.tensor(prior["mean"]) + noise @ torch.tensor(prior["root"]) if "root" in prior else noise

    def encode(self, x: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Encode images (B, C, H, W) in [-1, 1] to latents (B, D).

        Raises:
            UsageError: the method has no encoder.
        """
        if "encoder" not in self.parts:
            raise UsageError(
                f"ckpt_path {self.path} has no encoder and samples from seeds; use --data Prompts, or predict with the "
                "checkpoint"
            )
        encoder = self.parts["encoder"]
        found = encoder({"image": self.to_uint8(x).cpu().numpy(), **_label(labels)})
        return torch.from_numpy(found[encoder.description.outputs[0].name])

    def decode(self, z: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Decode latents (B, D) to images (B, C, H, W) in [-1, 1]."""
        maker = self.parts["decoder" if "decoder" in self.parts else "generator"]
        return torch.from_numpy(maker({"latent": z.cpu().numpy(), **_label(labels)})["values"])

    def sample_images(self, n: int, labels: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Sample n images (n, C, H, W) in [-1, 1], one for each generator."""
        if "denoiser" not in self.parts:
            return self.decode(self.draw_latents(n, generator, labels), labels=labels)
        assert isinstance(generator, list), "predict_step has a generator for each image"
        return self._sample([one.initial_seed() for one in generator], _label(labels))

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> Tensor:
        """Sample images (B, C, H, W) in [-1, 1] from seeds, labels or captions, reconstruct images, or enlarge them."""
        names = {spec.name for spec in self.description.inputs}
        if not names & {"text", "low"}:
            return super().predict_step(batch, batch_idx)
        given: Arrays = {}
        if "low" in names:
            if "image" not in batch:
                raise UsageError(f"ckpt_path {self.path} enlarges images, but the batch has none; set data.predict_dir")
            low = self.description.options["low"]
            small = reduce_images(self.images_of(batch).float(), low["factor"], low["reduction"])
            given["small"], seeds = small.cpu().numpy(), [0] * len(small)
        else:
            seeds = batch["seed"].tolist()
        if "text" in names:
            given |= self._encode(list(batch.get("caption", [""] * len(seeds))))
        return self._sample(seeds, given)

    def _encode(self, captions: list[str]) -> Arrays:
        if "text" not in self.parts:
            raise UsageError(
                f"ckpt_path {self.path} has no text encoder, because it was not trained with the model; predict with the "
                "checkpoint, or pass embeddings to the sampler of docs/methods/diffusion.md"
            )
        from darkroom.export.generative.sampler import encode  # imports ONNX Runtime

        return encode(self.path.parent, captions)

    def _sample(self, seeds: list[int], given: Arrays) -> Tensor:
        if self.path.suffix != ".onnx":
            raise UsageError(
                f"ckpt_path {self.path} must be an .onnx file to sample by diffusion; export with --format onnx"
            )
        from darkroom.export.generative.sampler import sample

        generators = [np.random.RandomState(seed % 2**32) for seed in seeds]
        return torch.from_numpy(sample(self.path.parent, generators, **given))


def _open_parts(path: Path) -> dict[str, Runner]:
    """Open all files of a method, given one of them, by the names of the parts."""
    runner = open_runner(path)
    stem = path.name.removesuffix(f".{runner.description.part}{path.suffix}")
    files = path.parent.glob(f"{stem}.*{path.suffix}")
    others = (open_runner(file) for file in sorted(files) if file != path)
    return {one.description.part: one for one in (runner, *others) if one.description.part}


def _label(labels: Tensor | None) -> Arrays:
    return {} if labels is None else {"label": labels.cpu().numpy()}
