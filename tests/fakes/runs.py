"""Runs with the results of a test, in their true layout, without training anything."""

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from darkroom.runtime.records.results import Summary, Task, create_folder, image_path, write_summary
from darkroom.runtime.records.run_record import RunRecord
from darkroom.runtime.records.tables import write_table

CLASSES = {
    "classification": ("circle", "square", "star & <moon>"),
    "segmentation": ("background", "circle", "square"),
    "detection": ("circle", "square", "star"),
    "captions": (),
    "autoencoding": (),
}
MODELS = {
    "classification": ("classification.ImageClassifier", "ShapesImages", "accuracy"),
    "segmentation": ("segmentation.UNet", "ShapesSegmentation", "mIoU"),
    "detection": ("detection.YOLO", "ShapesDetection", "mAP"),
    "captions": ("diffusion.Imagen", "ShapesCaptions", "prompt_accuracy"),
    "autoencoding": ("autoencoding.VAE", "ShapesImages", "loss"),
}
Row = dict[str, Any]


def write_run(
    folder: Path,
    task: Task = "segmentation",
    samples: int = 12,
    kept: int = 12,
    side: int = 48,
    seed: int = 0,
    values: Mapping[str, float] | None = None,
) -> Path:
    """Write a finished run of three epochs and the results of its test; return its folder.

    Args:
        folder: of the run.
        task: of the method.
        samples: number of test samples.
        kept: number of samples with an image.
        side: of the images, in pixels.
        seed: of the run and of the random results.
        values: metrics of the test, instead of random ones.
    """
    rng = np.random.default_rng(seed)
    model, data, metric = MODELS[task]
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 3, "precision": "32-true"},
        "model": {"class_path": f"darkroom.lightning_modules.{model}", "init_args": {}},
        "data": {"class_path": data, "init_args": {"batch_size": 8}},
        "experiment": folder.parent.name,
        "checkpoint": {"monitor": f"val/{metric}", "mode": "min" if metric == "loss" else "max"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    metrics = dict(values or {f"test/{metric}": float(rng.uniform(0.3, 0.9)), "test/loss": float(rng.uniform(0.5, 1))})
    _write_metrics(folder, metric, metrics, rng)
    RunRecord(
        command="darkroom fit --config configs/fake.yaml",
        state="finished",
        started="2026-01-01T00:00:00+00:00",
        host=platform.node(),
        pid=2**22 + 1,
        seconds=754.2,
        peak_memory_mib=812.5,
        parameters=123_456,
        seed=seed,
        machine="Fake processor, 2 cores",
        versions={"python": "3.11.0", "torch": "2.11.0"},
        commit="0123456789",
    ).write(folder)
    test = create_folder(folder)
    _WRITERS[task](test, samples, kept, side, rng)
    notes = [] if task != "detection" else ["Images with a side above 512 pixels are scaled down to 512."]
    summary = Summary(task, list(CLASSES[task]), metrics, samples, "checkpoints/best.ckpt", 30, "2026-01-02", notes)
    write_summary(test, summary)
    return folder


def _write_metrics(folder: Path, metric: str, tested: Mapping[str, float], rng: np.random.Generator) -> None:
    names = ["train/loss", "lr-AdamW", "train/images_per_second", "val/loss", *([f"val/{metric}"] * (metric != "loss"))]
    rows: list[Row] = []
    for step in range(1, 31):
        values = 2 / step + rng.random() / 9, 1e-3 * step / 30, 100 + 5 * rng.random()
        rows.append({"step": step, "epoch": (step - 1) // 10, **dict(zip(names[:3], values, strict=True))})
        if step % 10 == 0:
            quality = {f"val/{metric}": 0.2 + 0.01 * step} | {"val/loss": 2.2 / step}
            rows.append({"step": step, "epoch": (step - 1) // 10, **quality})
    rows.append({"step": 30, "epoch": 2, **tested})
    write_table(folder / "metrics.csv", ["step", "epoch", *names, *tested], rows)


def scene(side: int, rng: np.random.Generator, size: float = 0.5) -> tuple[Image.Image, Image.Image]:
    """Return an image of a disc, and the mask of its pixels (1, else 0)."""
    image, mask = Image.new("RGB", (side, side), (40, 60, 70)), Image.new("L", (side, side))
    x, y = rng.uniform(0, side * (1 - size), 2)
    box = (x, y, x + size * side, y + size * side)
    ImageDraw.Draw(image).ellipse(box, fill=tuple(rng.integers(120, 256, 3).tolist()))
    ImageDraw.Draw(mask).ellipse(box, fill=1)
    return image, mask


def _write_images(test: Path, kept: int, side: int, rng: np.random.Generator) -> None:
    for sample in range(kept):
        scene(side, rng)[0].save(image_path(test, sample))


def _name(sample: int) -> Row:
    return {"sample": sample, "name": f"photos/{sample:04d} <a>.png"}


def _write_classification(test: Path, samples: int, kept: int, side: int, rng: np.random.Generator) -> None:
    truth = rng.integers(0, 3, samples)
    predicted = np.where(rng.random(samples) < 0.7, truth, rng.integers(0, 3, samples))
    probability = rng.uniform(0.34, 1, samples)
    rows = [
        {
            **_name(i),
            "truth": int(truth[i]),
            "predicted": int(predicted[i]),
            "probability": float(probability[i]),
            "loss": float(-np.log(probability[i] if truth[i] == predicted[i] else (1 - probability[i]) / 2 + 1e-9)),
        }
        for i in range(samples)
    ]
    write_table(test / "samples.csv", list(rows[0]), rows)
    _write_images(test, kept, side, rng)


def _write_segmentation(test: Path, samples: int, kept: int, side: int, rng: np.random.Generator) -> None:
    confusion, rows, objects = np.zeros((3, 3), np.int64), [], []
    for sample in range(samples):
        image, mask = scene(side, rng, float(rng.uniform(0.1, 0.7)))
        label = int(rng.integers(1, 3))
        truth = np.array(mask) * label
        prediction = np.roll(truth, int(rng.integers(0, side // 6 + 1)), 1)
        prediction = np.where((prediction > 0) & (rng.random() < 0.2), 3 - prediction, prediction)
        truth[0] = 255
        counts = np.bincount(3 * truth[1:].ravel().astype(int) + prediction[1:].ravel(), minlength=9).reshape(3, 3)
        confusion += counts
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        each = {i: float(counts[i, i] / union[i]) for i in range(3) if union[i]}
        iou = {f"IoU/{CLASSES['segmentation'][i]}": value for i, value in each.items()}
        accuracy = float(counts.diagonal().sum() / counts.sum())
        rows.append({**_name(sample), "mIoU": sum(each.values()) / len(each), "pixel_accuracy": accuracy, **iou})
        pixels = int(counts[label].sum())
        objects.append(
            {"sample": sample, "class": label, "pixels": pixels, "found": float(counts[label, label] / pixels)}
        )
        if sample < kept:
            image.save(image_path(test, sample))
            Image.fromarray(truth).save(image_path(test, sample, "truth"))
            Image.fromarray(prediction.astype(np.uint8)).save(image_path(test, sample, "prediction"))
    columns = ["sample", "name", "mIoU", "pixel_accuracy", *(f"IoU/{name}" for name in CLASSES["segmentation"])]
    write_table(test / "samples.csv", columns, rows)
    write_table(test / "objects.csv", ["sample", "class", "pixels", "found"], objects)
    cells = [{"truth": i, **{str(j): int(confusion[i, j]) for j in range(3)}} for i in range(3)]
    write_table(test / "confusion.csv", ["truth", "0", "1", "2"], cells)


def write_boxes(test: Path, truths: Sequence[Sequence[float]], detections: Sequence[Sequence[float]]) -> None:
    """Write objects (sample, class, x0, y0, x1, y1, ignored) and detections (sample, class, score, x0, y0, x1, y1)."""
    corners = ["x0", "y0", "x1", "y1"]
    for name, columns, rows in (
        ("truths", ["sample", "class", *corners, "ignored"], truths),
        ("detections", ["sample", "class", "score", *corners], detections),
    ):
        write_table(test / f"{name}.csv", columns, [dict(zip(columns, row, strict=True)) for row in rows])


def random_boxes(
    samples: int, side: int, rng: np.random.Generator, classes: int = 3, most: int = 5
) -> tuple[list[list[float]], list[list[float]]]:
    """Return random objects and detections near them, as rows of ``write_boxes``."""
    truths: list[list[float]] = []
    detections: list[list[float]] = []
    for sample in range(samples):
        for _ in range(int(rng.integers(0, most))):
            label, low = int(rng.integers(1, classes + 1)), rng.uniform(0, 0.6 * side, 2)
            box = np.concatenate([low, low + rng.uniform(0.1 * side, 0.3 * side, 2)])
            truths.append([sample, label, *box.tolist(), 0])
            for _ in range(int(rng.integers(0, 4))):
                near = box + rng.normal(0, rng.choice([0.01, 0.05, 0.12]) * side, 4)
                near[2:] = np.maximum(near[2:], near[:2] + 2)
                seen = label if rng.random() < 0.7 else int(rng.integers(1, classes + 1))
                detections.append([sample, seen, float(rng.random()), *near.tolist()])
        if rng.random() < 0.5:
            low = rng.uniform(0, 0.6 * side, 2)
            box = np.concatenate([low, low + rng.uniform(0.1 * side, 0.3 * side, 2)])
            detections.append([sample, int(rng.integers(1, classes + 1)), float(rng.random()), *box.tolist()])
    return truths, detections


def _write_detection(test: Path, samples: int, kept: int, side: int, rng: np.random.Generator) -> None:
    truths, detections = random_boxes(samples, side, rng)
    write_boxes(test, truths, detections)
    objects = np.bincount([int(row[0]) for row in truths], minlength=samples).tolist()
    found = np.bincount([int(row[0]) for row in detections], minlength=samples).tolist()
    rows = [
        {**_name(i), "width": side, "height": side, "objects": objects[i], "detections": found[i]}
        for i in range(samples)
    ]
    write_table(test / "samples.csv", list(rows[0]), rows)
    _write_images(test, kept, side, rng)


def _write_captions(test: Path, samples: int, kept: int, side: int, rng: np.random.Generator) -> None:
    rows = []
    for sample in range(samples):
        kind, colour = int(rng.random() < 0.7), int(rng.random() < 0.6)
        row: dict[str, str | int] = {
            "caption": f"a red disc, number {sample}",
            "form": ("single", "relation")[sample % 2],
        }
        held_out = ("", "", "red disc", "red disc; blue star")[sample % 4]
        row |= {"held_out": int(bool(held_out)), "held_out_objects": held_out, "seed": 2**62 + sample}
        row |= {"right": kind * colour}
        for name, right, asked, other in (("kind", kind, "disc", "star"), ("colour", colour, "red", "blue")):
            row |= {f"asked/{name}": asked, f"judged/{name}": asked if right else other, f"right/{name}": right}
        rows.append({**_name(sample), **row})
    write_table(test / "samples.csv", list(rows[0]), rows)
    _write_images(test, kept, side, rng)


def _write_autoencoding(test: Path, samples: int, kept: int, side: int, rng: np.random.Generator) -> None:
    rows = [{**_name(sample), "error": float(rng.gamma(2.0))} for sample in range(samples)]
    write_table(test / "samples.csv", list(rows[0]), rows)
    _write_images(test, kept, side, rng)


_WRITERS: Mapping[str, Callable[[Path, int, int, int, np.random.Generator], None]] = {
    "classification": _write_classification,
    "segmentation": _write_segmentation,
    "detection": _write_detection,
    "captions": _write_captions,
    "autoencoding": _write_autoencoding,
}
