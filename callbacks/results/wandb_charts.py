"""Charts and tables of W&B from recorded results; wandb is imported when they are made."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

_MOST_ROWS = 10_000  # of a table in W&B
_RECALLS = 101  # points of a curve


def confusion_chart(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the chart of a confusion matrix (K, K), with the truth along the rows; none above 100 classes."""
    import wandb

    if counts.size > _MOST_ROWS:
        return {}
    rows = [
        [class_names[truth], class_names[guess], int(count)]
        for truth, row in enumerate(counts)
        for guess, count in enumerate(row)
    ]
    columns = ("Actual", "Predicted", "nPredictions")  # names that W&B's chart requires
    table = wandb.Table(columns=[*columns], data=rows)
    title = {"title": "Confusion matrix of the test"}
    chart = wandb.plot_table("wandb/confusion_matrix/v1", table, {name: name for name in columns}, title)
    return {"test/confusion_matrix": chart}


def precision_chart(curves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the chart of precision by recall, from the precision at equally distant recalls of each class, (R,)."""
    import wandb

    rows = [
        [name, round(float(recall), 4), round(float(value), 4)]
        for name, curve in curves.items()
        for recall, value in zip(np.linspace(0, 1, len(curve)), curve, strict=True)
    ]
    if not rows:
        return {}
    table = wandb.Table(columns=["class", "recall", "precision"], data=rows)
    fields = {"x": "recall", "y": "precision", "class": "class"}
    title = {"title": "Precision by recall at IoU 0.5", "x-axis-title": "Recall", "y-axis-title": "Precision"}
    return {"test/pr_curve": wandb.plot_table("wandb/area-under-curve/v0", table, fields, title)}


def image_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the table of the worst images, whose first column has images; none without rows."""
    import wandb

    if not rows:
        return {}
    table = wandb.Table(columns=["image", *columns], data=[list(row) for row in rows])
    return {"test/worst_images": table}


def decode(content: bytes) -> np.ndarray:
    """Decode a PNG to uint8 (H, W, 3) or (H, W)."""
    with Image.open(BytesIO(content)) as image:
        return np.array(image)


def image(content: bytes) -> Any:
    """Return a PNG as W&B's image."""
    import wandb

    return wandb.Image(decode(content))


def labelled_image(content: bytes, labels: Mapping[int, str], **annotations: Any) -> Any:
    """Return a PNG as W&B's image with ``masks`` or ``boxes`` of these labels."""
    import wandb

    classes = [{"id": label, "name": name} for label, name in labels.items()]
    return wandb.Image(decode(content), classes=classes, **annotations)


def points_of_curves(classes: int) -> int:
    """Return the number of points of each curve, so that all of them fit a table."""
    return max(2, min(_RECALLS, _MOST_ROWS // max(1, classes)))


def precision_at_recalls(right: np.ndarray, objects: int, points: int) -> np.ndarray:
    """Compute the best precision at each of equally distant recalls, or at any higher one.

    Args:
        right: bool (M,), by descending score: the detection is a true positive.
        objects: number of objects to be found, at least 1.
        points: R.

    Returns:
        float64 (R,), for recalls 0, 1 / (R - 1), ..., 1; 0 for recalls that are never reached.
    """
    found = right.cumsum()
    precision = found / np.arange(1, len(right) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    # found / objects >= k / (R - 1) in integers, because .3 and 3 * .1 are two numbers
    return best[np.searchsorted(found * (points - 1), objects * np.arange(points))]
