"""AutoencodingRecorder: squared error of the reconstruction of each test image."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from darkroom.callbacks.results import wandb_charts
from darkroom.callbacks.results.base import WORST, Sample, TaskRecorder, has_tensors
from darkroom.callbacks.results.image_keeper import Files, Group


class AutoencodingRecorder(TaskRecorder):
    """Records ``ReconstructionOutputs``. Images are those with the highest error; reconstructions are not recorded."""

    task = "autoencoding"
    expected = "a dict of 'errors' (B,)"

    @property
    def columns(self) -> list[str]:
        """Columns of ``samples.csv`` after ``sample`` and ``name``."""
        return ["error"]

    def accepts(self, outputs: Any, batch: Any) -> bool:
        """Return True if there is an error of each image."""
        return has_tensors(outputs, errors=1) and has_tensors(batch, image=4)

    def add(self, samples: Sequence[Sample], outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch."""
        errors = outputs["errors"].tolist()
        for sample, error in zip(samples, errors, strict=True):
            self.rows.append({"sample": sample.number, "name": sample.name, "error": error})
        scores: dict[int, dict[Group, float]] = {
            sample.number: {WORST: error} for sample, error in zip(samples, errors, strict=True)
        }
        self.offer(samples, scores, batch["image"], self._files)

    def _files(self, image: Tensor) -> Files:
        return {"": self.encode_image(image)}

    def wandb_media(self) -> dict[str, Any]:
        """Return the table of the images with the highest error."""
        rows = [(wandb_charts.image(files[""]), row["sample"], row["error"]) for row, files in self.worst()]
        return wandb_charts.image_table(("sample", "error"), rows)
