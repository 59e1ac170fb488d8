"""CaptionRecorder: asked and judged attributes of the image of each test caption."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor

from darkroom.callbacks.results import wandb_charts
from darkroom.callbacks.results.base import WORST, Sample, Subject, TaskRecorder, has_tensors
from darkroom.callbacks.results.image_keeper import Files, Group, share_budget
from darkroom.callbacks.writers.prediction_files import gather_rows
from darkroom.protocols import (
    CaptionForms,
    HoldsOutObjects,
    JudgedSamples,
    JudgesSamples,
    NamesAttributes,
    NamesAttributeValues,
    ScoredModel,
)


class CaptionRecorder(TaskRecorder):
    """Records the ``JudgedSamples`` of a module's ``scores``, which generates an image of each caption.

    Images are those with the most wrong attributes: of all samples, of each attribute, of each form of captions and of each
    held-out object; and the first samples of each form without a wrong one.
    """

    task = "captions"
    expected = "a batch with 'image' and 'caption'"

    def __init__(self, subject: Subject) -> None:
        data = subject.data
        self.attributes: tuple[str, ...] = tuple(data.attribute_names) if isinstance(data, NamesAttributes) else ()
        self.values: tuple[Sequence[str], ...] = (
            tuple(data.attribute_values) if isinstance(data, NamesAttributeValues) else ()
        )
        self.forms: tuple[str, ...] = tuple(data.form_names) if isinstance(data, CaptionForms) else ()
        self.held_out: dict[str, Sequence[Mapping[str, int]]] = {}
        if isinstance(data, HoldsOutObjects):
            self.held_out = dict(data.held_out_objects)
        super().__init__(subject)
        self._names: dict[int, str] = {}  # of the samples that have one
        self._captions = 0  # of this rank

    @classmethod
    def records(cls, module: LightningModule) -> bool:
        """Return True if the module's samples are judged."""
        return _judging_scores(module) is not None

    def start(self) -> None:
        """Receive the judged samples of the module."""
        scores = _judging_scores(self.subject.module)
        if scores is not None:
            scores.on_judged = self.add_judged

    def stop(self) -> None:
        """Receive no more samples."""
        scores = _judging_scores(self.subject.module)
        if scores is not None:
            scores.on_judged = None

    @property
    def columns(self) -> list[str]:
        """Columns of ``samples.csv`` after ``sample`` and ``name``, with the attributes that a caption states."""
        stated = [name for name in self.attributes if any(f"right/{name}" in row for row in self.rows)]
        attributes = [f"{what}/{name}" for name in stated for what in ("asked", "judged", "right")]
        form = ["form"] if self.forms else []
        return ["caption", *form, "held_out", "held_out_objects", "seed", "right", *attributes]

    def limits(self) -> dict[str, int]:
        """Return the number of samples of the groups of each kind, besides ``WORST``."""
        counts = {"attribute": len(self.attributes), "object": len(self.held_out)}
        counts |= dict.fromkeys(("form", "right"), max(1, len(self.forms)))
        return {kind: share_budget(count, self.subject.examples) for kind, count in counts.items()}

    def accepts(self, outputs: Any, batch: Any) -> bool:
        """Return True if the batch has images and captions."""
        return has_tensors(batch, image=4) and "caption" in batch

    def add(self, samples: Sequence[Sample], outputs: Any, batch: Mapping[str, Any]) -> None:
        """Add a batch of captions, whose images are generated and judged after the last batch."""
        self._captions += len(samples)
        self._names.update((sample.number, sample.name) for sample in samples if sample.name)

    def add_judged(self, samples: JudgedSamples) -> None:
        """Add generated images."""
        columns = (samples.stated, samples.judged, samples.held_out, samples.form)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        offered: dict[int, dict[Group, float]] = {}
        for index, (stated, judged, held_out, form) in enumerate(rows):
            number, objects = samples.numbers[index], self._find_held_out(stated)
            cells = self._compare(stated, judged)
            wrong = wrong_attributes(cells)
            row = {
                "sample": number,
                "name": self._names.get(number, ""),
                "caption": samples.captions[index],
                "held_out": int(held_out),
                "held_out_objects": "; ".join(objects),
                "seed": samples.seeds[index],
                "right": int(not wrong),
            }
            self.rows.append(row | ({"form": self.forms[form]} if self.forms else {}) | cells)
            offered[number] = self._groups(wrong, form, objects)
        places = {number: place for place, number in enumerate(samples.numbers)}
        self.images.offer(offered, lambda number: self._files(samples.images[places[number]]))

    def _compare(self, stated: Sequence[int], judged: Sequence[int]) -> dict[str, str | int]:
        """Return the cells of a row about the attributes that its caption states."""
        cells: dict[str, str | int] = {}
        for place, (name, asked, found) in enumerate(zip(self.attributes, stated, judged, strict=True)):
            if asked >= 0:
                cells[f"asked/{name}"] = self._value_name(place, asked)
                cells[f"judged/{name}"] = self._value_name(place, found)
                cells[f"right/{name}"] = int(asked == found)
        return cells

    def _value_name(self, attribute: int, value: int) -> str:
        return self.values[attribute][value] if self.values else str(value)

    def _find_held_out(self, stated: Sequence[int]) -> list[str]:
        """Return the names of the held-out objects that a caption states."""
        values = dict(zip(self.attributes, stated, strict=True))
        return [
            name
            for name, places in self.held_out.items()
            if any(all(values.get(key) == value for key, value in place.items()) for place in places)
        ]

    def _groups(self, wrong: Sequence[str], form: int, objects: Sequence[str]) -> dict[Group, float]:
        """Return the groups of a sample that the class describes, with its score in each."""
        if not wrong:
            return {("right", form): 0.0}
        groups: list[Group] = [WORST, ("form", form), *(("object", name) for name in objects)]
        groups += [("attribute", name) for name in wrong]
        return dict.fromkeys(groups, float(len(wrong)))

    def _files(self, image: Tensor) -> Files:
        return {"": self.encode_pixels(image)}

    def gather(self, trainer: Trainer) -> None:
        """Replace the content by that of all ranks, in the order of samples; every rank must call this."""
        super().gather(trainer)
        captions = sum(gather_rows(trainer, [self._captions]))
        if len(self.rows) < captions:
            self.notes.append(
                f"The first {len(self.rows):,} of {captions:,} test captions are judged; model.scores.num_samples sets "
                "their number."
            )

    def wandb_media(self) -> dict[str, Any]:
        """Return the table of the images with the most wrong attributes."""
        rows = [
            (wandb_charts.image(files[""]), row["sample"], row["caption"], ", ".join(wrong_attributes(row)))
            for row, files in self.worst()
        ]
        return wandb_charts.image_table(("sample", "caption", "wrong"), rows)


def wrong_attributes(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's wrong attributes."""
    return [key.removeprefix("right/") for key, value in row.items() if key.startswith("right/") and not value]


def _judging_scores(module: LightningModule) -> JudgesSamples | None:
    """Return the metrics of a module that judge its samples; None without them."""
    scores = module.scores if isinstance(module, ScoredModel) else None
    return scores if isinstance(scores, JudgesSamples) and scores.accuracy else None
