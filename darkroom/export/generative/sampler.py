"""Sample images from diffusion models that ``darkroom export`` wrote, with numpy and ONNX Runtime only."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Part:
    """Graph of a method in a folder of exported files: ``*.<part>.onnx`` with its description ``*.<part>.json``."""

    def __init__(self, folder: str | Path, part: str) -> None:
        (path,) = Path(folder).glob(f"*.{part}.onnx")
        self.about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(path)

    def __call__(self, **inputs: Any) -> list[np.ndarray]:
        """Return the outputs for inputs by name; inputs that the graph does not have are ignored."""
        return self.session.run(
            None, {s["name"]: np.asarray(inputs[s["name"]], s["dtype"]) for s in self.about["inputs"]}
        )


def normal(generator: np.random.RandomState, shape: list[int]) -> np.ndarray:
    """Return the noise of torch.randn on a CPU for the same seed, of 16 values or more: Box-Muller on blocks of 16."""

    def uniform(n: int) -> np.ndarray:
        return (generator.randint(0, 2**32, n, np.uint32) & 0xFFFFFF) * 2.0**-24

    def pairs(numbers: np.ndarray) -> np.ndarray:
        first, second = numbers.reshape(-1, 2, 8).swapaxes(0, 1)
        radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()

    values, rest = uniform(size := int(np.prod(shape))), size % 16
    values[: size - rest] = pairs(values[: size - rest])
    values[size - 16 :] = pairs(uniform(16)) if rest else values[size - 16 :]
    return values.reshape(shape).astype(np.float32)


def encode(folder: str | Path, captions: list[str]) -> dict[str, np.ndarray]:
    """Return the condition of captions by an exported text encoder."""
    encoder = Part(folder, "text")
    rule = encoder.about["options"]
    index = {word: i for i, word in enumerate(rule["words"], start=1)}
    rows = [
        [index.get(word, 0) for word in re.findall(r"\w+", text.lower())][: rule["max_length"]] for text in captions
    ]
    length = max(1, *map(len, rows))
    text, mask = encoder(words=[row + [-1] * (length - len(row)) for row in rows])
    return {"text": text, "text_mask": mask}


def sample(folder: str | Path, generators: list[np.random.RandomState], **given: np.ndarray) -> np.ndarray:
    """Sample images float32 (B, C, H, W) in [-1, 1], one for each generator, ``np.random.RandomState(seed)``.

    Args:
        folder: of a model's exported files.
        generators: of the noise; a cascade passes those of its first stage on.
        given: condition by name: ``label`` (B,); ``text`` (B, L, D) and ``text_mask`` (B, L) of ``encode``; ``small``, the
            images (B, C, h, w) in [-1, 1] that a super-resolution model enlarges.
    """
    denoiser = Part(folder, "denoiser")
    options, shape = denoiser.about["options"], denoiser.about["inputs"][0]["shape"][1:]
    x, low, known = np.stack([normal(one, shape) for one in generators]), options.get("low"), list[np.ndarray]()
    if low is not None:
        noise = np.stack([normal(one, shape) for one in generators])
        noisy = low["alpha"] * Part(folder, "upsampler")(small=given["small"])[0] + low["sigma"] * noise
        given = given | {"low": noisy, "low_t": np.full(len(x), low["t"])}
    null = given | {name: np.full_like(given[name], value) for name, value in options["null"].items()}
    for step in options["evaluations"]:
        weight, channels = step["guidance"], x.shape[1]
        inputs = {"x": x, "t": np.full(len(x), step["t"]), "x0": np.clip(known[0], -1, 1) if known else 0 * x}
        output = denoiser(**(given if weight else null), **inputs)[0]
        output, v = output[:, :channels], output[:, channels:]
        if weight not in (0, 1):  # classifier-free guidance
            unconditional = denoiser(**null, **inputs)[0][:, :channels]
            output = unconditional + weight * (output - unconditional)
        x0, limit = step["to_x0"][0] * x + step["to_x0"][1] * output, 1.0
        if options["threshold"] == "dynamic":
            quantile = np.quantile(np.abs(x0), options["percentile"], (1, 2, 3), keepdims=True)
            limit = quantile.clip(1).astype(np.float32)
        known = [x0 if options["threshold"] == "none" else np.clip(x0, -limit, limit) / limit, *known[:2]]
        x = step["x"] * x + sum(factor * image for factor, image in zip(step["x0"], known, strict=False))
        if step["noise"]:
            scale, noise = step["noise"], np.stack([normal(one, shape) for one in generators])
            if isinstance(scale, list):  # learned variance
                scale = np.exp(((v + 1) * np.log(scale[1]) + (1 - v) * np.log(scale[0])) / 4).astype(np.float32)
            x = x + scale * noise
    return np.clip(x, -1, 1)
