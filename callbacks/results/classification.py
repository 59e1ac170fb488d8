"""ClassificationRecorder: truth, prediction, probability and loss of each test image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkroom.callbacks.results import wandb_charts
from darkroom.callbacks.results.base import WORST, Sample, TaskRecorder, has_tensors
from darkroom.callbacks.results.image_keeper import Files, Group, share_budget


class ClassificationRecorder(TaskRecorder):
    """Records ``ClassificationOutputs``.

    Images are those with the highest loss, of all samples, of each class and of each pair of a true and a predicted class;
    those with the lowest loss of each class; and the mistakes with the highest probability.
    """

    task = "classification"
    expected = "a dict of 'probabilities' (B, K) and 'losses' (B,), with 'label' (B,) in the batch"

    @property
    def columns(self) -> list[str]:
        """Columns of ``samples.csv`` after ``sample`` and ``name``."""
        return ["truth", "predicted", "probability", "loss"]

    def limits(self) -> dict[str, int]:
        """Return the number of samples of the groups of each kind, besides ``WORST``."""
        classes, most = len(self.class_names), self.subject.examples
        of_class = share_budget(2 * classes, most)
        return {
            "confident": self.subject.worst,
            "class": of_class,
            "best": of_class,
            "cell": share_budget(classes**2, most),
        }

    def accepts(self, outputs: Any, batch: Any) -> bool:
        """Return True if there are a probability of every class, a loss and a label for each image."""
        return has_tensors(outputs, probabilities=2, losses=1) and has_tensors(batch, label=1)

    def add(self, samples: Sequence[Sample], outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        best = outputs["probabilities"].max(1)
        columns = batch["label"], best.indices, best.values, outputs["losses"]
        table = torch.stack([column.float() for column in columns], 1).tolist()  # one copy from the device
        offered: dict[int, dict[Group, float]] = {}
        for sample, (truth, predicted, probability, loss) in zip(samples, table, strict=True):
            truth, predicted = int(truth), int(predicted)
            cells = {"truth": truth, "predicted": predicted, "probability": probability, "loss": loss}
            self.rows.append({"sample": sample.number, "name": sample.name, **cells})
            scores: dict[Group, float] = {
                WORST: loss,
                ("class", truth): loss,
                ("best", truth): -loss,
                ("cell", truth, predicted): loss,
            }
            if truth != predicted:
                scores["confident",] = probability
            offered[sample.number] = scores
        self.offer(samples, offered, batch["image"], self._files)

    def _files(self, image: Tensor) -> Files:
        return {"": self.encode_image(image)}

    def wandb_media(self) -> dict[str, Any]:
        """Return the confusion matrix and the table of the images with the highest loss."""
        names, counts = self.class_names, np.zeros((len(self.class_names),) * 2, np.int64)
        for row in self.rows:
            counts[row["truth"], row["predicted"]] += 1
        rows = [
            (
                wandb_charts.image(files[""]),
                row["sample"],
                names[row["truth"]],
                names[row["predicted"]],
                row["probability"],
                row["loss"],
            )
            for row, files in self.worst()
        ]
        columns = ("sample", "truth", "prediction", "probability", "loss")
        return wandb_charts.confusion_chart(counts, names) | wandb_charts.image_table(columns, rows)
