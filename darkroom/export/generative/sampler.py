"""Sample images from diffusion models that ``darkroom export`` wrote, with numpy and ONNX Runtime only."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime


class Part:
    """Graph of a method in a folder of exported files: ``*.<part>.onnx`` with its description ``*.<part>.json``."""

    def __init__(self, folder: str | Path, part: str) -> None:
        (path,) = Path(folder).glob(f"*.{part}.onnx")
        self.about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(path)

    def __call__(self, **inputs: np.ndarray | list) -> list[np.ndarray]:
        """Return the outputs for inputs by name; inputs that the graph does not have are ignored."""
        names = {spec["name"]: spec["dtype"] for spec in self.about["inputs"]}
        return self.session.run(None, {name: np.asarray(inputs[name], dtype) for name, dtype in names.items()})


def uniform(generators: list[np.random.RandomState], size: int) -> np.ndarray:
    """Return the numbers (B, size) in [0, 1) of torch.rand on a CPU for the same seeds."""
    return np.stack([(one.randint(0, 2**32, size, np.uint32) & 0xFFFFFF) * 2.0**-24 for one in generators])


def pairs(numbers: np.ndarray) -> np.ndarray:
    """Map uniform to normal numbers (B, size) as torch does: Box-Muller on blocks of 16."""
    first, second = np.moveaxis(numbers.reshape(len(numbers), -1, 2, 8), 2, 0)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(numbers.shape)


def normal(generators: list[np.random.RandomState], shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """Return noise float32 (B, *shape): that of torch.randn on a CPU for the same seeds, of 16 values or more for each."""
    size, rest = int(np.prod(shape)), int(np.prod(shape)) % 16
    values = uniform(generators, size)
    values[:, : size - rest] = pairs(values[:, : size - rest])
    if rest:
        values[:, -16:] = pairs(uniform(generators, 16))
    return values.reshape(-1, *shape).astype(np.float32)


def encode(folder: str | Path, captions: list[str]) -> dict[str, np.ndarray]:
    """Return the condition of captions by an exported text encoder."""
    encoder = Part(folder, "text")
    words, longest = (encoder.about["options"][key] for key in ("words", "max_length"))
    index = {word: row for row, word in enumerate(words, start=1)}
    rows = [[index.get(word, 0) for word in re.findall(r"\w+", text.lower())][:longest] for text in captions]
    length = max(1, *map(len, rows))
    text, mask = encoder(words=[row + [-1] * (length - len(row)) for row in rows])
    return {"text": text, "text_mask": mask}


def sample(folder: str | Path, generators: list[np.random.RandomState], **given: np.ndarray) -> np.ndarray:
    """Sample images float32 (B, C, H, W) in [-1, 1], one for each generator, ``np.random.RandomState(seed % 2**32)``.

    Args:
        folder: of a model's exported files.
        generators: of the noise. The stages of a cascade take the same ones, one stage after another.
        given: condition by name: ``label`` (B,); ``text`` (B, L, D) and ``text_mask`` (B, L) of ``encode``; ``small``, the
            images (B, C, h, w) in [-1, 1] that a super-resolution model enlarges.
    """
    denoiser = Part(folder, "denoiser")
    options, shape = denoiser.about["options"], denoiser.about["inputs"][0]["shape"][1:]
    x, low, channels = normal(generators, shape), options.get("low"), shape[0]
    if low is not None:
        noisy = low["alpha"] * given["small"] + low["sigma"] * normal(generators, given["small"].shape[1:])
        given = given | {"low": Part(folder, "upsampler")(small=noisy)[0], "low_t": np.full(len(x), low["t"])}
    null, known = {name: np.full_like(given[name], value) for name, value in options["null"].items()}, [0 * x]
    for step in options["evaluations"]:
        inputs = {"x": step.get("input", 1) * x, "t": np.full(len(x), step["t"]), "x0": np.clip(known[0], -1, 1)}
        output = denoiser(**(given if step["guidance"] else given | null), **inputs)[0]
        output, v = output[:, :channels], output[:, channels:]
        if step["guidance"] not in (0, 1):  # classifier-free guidance
            unconditional = denoiser(**given | null, **inputs)[0][:, :channels]
            output = unconditional + step["guidance"] * (output - unconditional)
        x0, limits = step["to_x0"][0] * x + step["to_x0"][1] * output, np.ones(1)
        if options["threshold"] == "dynamic":
            limits = np.quantile(np.abs(x0), options["percentile"], (1, 2, 3), keepdims=True).clip(1)
        if options["threshold"] != "none":
            x0 = (np.clip(x0, -limits, limits) / limits).astype(np.float32)
        known, scale = [x0, *known[:2]], step["noise"]
        x = step["x"] * x + sum(factor * image for factor, image in zip(step["x0"], known, strict=False))
        if isinstance(scale, list):  # learned variance
            scale = np.exp(((v + 1) * np.log(scale[1]) + (1 - v) * np.log(scale[0])) / 4)
        x = (x + scale * normal(generators, shape)).astype(np.float32) if np.any(scale) else x
    return Part(folder, "decoder")(latent=x)[1] if options.get("codes") else np.clip(x, -1, 1)
