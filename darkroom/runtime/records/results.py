"""Results of ``darkroom test`` in the folder ``test`` of a run: a summary, a row per sample, and images.

Classes are numbers: ``truth``, ``predicted`` and ``class`` hold the labels of the data. Only the columns ``IoU/<class>``
have names of classes, as the metrics have. Of captions, the rows are those that were sampled and judged.

==================  ====================================================================================================
``summary.json``    ``Summary``
``samples.csv``     a row for each test sample: ``sample``, its number in the order of the data set; ``name``, its file if
                    it has one; and per task
                    classification: ``truth``, ``predicted``, ``probability`` of the predicted class, ``loss``
                    segmentation: ``mIoU``, ``pixel_accuracy`` and ``IoU/<class>`` of this image, empty if neither its
                    truth nor its prediction has the class
                    detection: ``width``, ``height`` of the network input; ``objects`` that are not ignored; ``detections``
                    captions: ``caption``; ``form`` if it has one; ``held_out``, 1 if it has an object that training
                    never shows; ``held_out_objects``, their names; ``seed`` of the generator that sampled the noise;
                    ``right``, 1 if all attributes are those of the caption; and of each attribute that the caption
                    states ``asked/<attribute>``, ``judged/<attribute>`` (names of values) and ``right/<attribute>``
                    autoencoding: ``error``, the squared error of the reconstruction, summed over the image
``confusion.csv``   segmentation: pixels; the first column ``truth`` has the true class, the others, whose names are the
                    numbers of classes, the predicted ones
``objects.csv``     segmentation: connected areas of the truth: ``sample``, ``class``, ``pixels``, ``found`` (fraction)
``truths.csv``      detection: ``sample``, ``class``, ``x0``, ``y0``, ``x1``, ``y1`` pixels, ``ignored`` (crowd, difficult)
``detections.csv``  detection: ``sample``, ``class``, ``score``, ``x0``, ``y0``, ``x1``, ``y1``
``images/``         ``<sample>.png`` and, for segmentation, ``<sample>-truth.png`` and ``<sample>-prediction.png``, whose
                    pixels are class ids, 255 = ignored; for those samples that a report may show. Those of captions
                    are the generated ones. A side is at most 512 pixels: larger images are scaled down, which a note says
==================  ====================================================================================================
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from darkroom.errors import DataError
from darkroom.runtime.records.tables import Table, read_table

FOLDER = "test"  # in the run folder
Task = Literal["classification", "segmentation", "detection", "captions", "autoencoding"]
TABLES = ("samples", "confusion", "objects", "truths", "detections")


@dataclass(frozen=True)
class Summary:
    """Subject and metrics of a test.

    Args:
        task: of the method, which determines the tables.
        class_names: of the data, from label 0; for detection, label i is ``class_names[i - 1]``.
        metrics: of the whole test, by name, such as ``test/mIoU``.
        num_samples: number of test samples.
        checkpoint: file that was tested; None: initial weights.
        step: training step of the checkpoint.
        tested: time of the end, ISO 8601 with time zone.
        notes: sentences on what the results lack.
    """

    task: Task
    class_names: list[str]
    metrics: dict[str, float]
    num_samples: int
    checkpoint: str | None = None
    step: int = 0
    tested: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """Results of a test, read back.

    Args:
        folder: ``test`` in the run folder.
        summary: what was tested, and the metrics.
        tables: cells by column, by name of the table.
    """

    folder: Path
    summary: Summary
    tables: Mapping[str, Table]

    def image(self, sample: int, kind: Literal["", "truth", "prediction"] = "") -> Path | None:
        """Return the image of a sample, or its map of the true or predicted classes; None if it was not kept."""
        path = image_path(self.folder, sample, kind)
        return path if path.is_file() else None


def image_path(folder: Path, sample: int, kind: str = "") -> Path:
    """Return the path of a sample's image in a folder of results."""
    return folder / "images" / f"{sample:06d}{f'-{kind}' if kind else ''}.png"


def create_folder(run: Path) -> Path:
    """Create an empty folder of results in a run folder, instead of that of an earlier test."""
    folder = run / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    return folder


def write_summary(folder: Path, summary: Summary) -> None:
    """Write the summary; the last file of a test, so that a folder without one is incomplete."""
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")


def read_summary(folder: Path) -> Summary:
    """Return the summary in a folder of results.

    Raises:
        OSError, ValueError, TypeError, KeyError: it is missing or damaged.
    """
    content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return Summary(**{one.name: content[one.name] for one in fields(Summary) if one.name in content})


def read_results(run: Path) -> Results | None:
    """Return the test results of a run; None if it was not tested.

    Raises:
        DataError: a test was interrupted, or a file is damaged.
    """
    folder = run / FOLDER
    if not folder.is_dir():
        return None
    path = folder / "summary.json"
    if not path.is_file():
        raise DataError(f"{folder} has no summary.json, because the test did not end; run darkroom test again")
    try:
        summary = read_summary(folder)
        tables = {}
        for name in TABLES:
            path = folder / f"{name}.csv"
            if path.is_file():
                tables[name] = read_table(path)
        path = folder / "samples.csv"
        count = len(tables.get("samples", {}).get("sample", ()))
        if "samples" in tables and count != summary.num_samples:
            raise ValueError(f"it has {count} samples, but the test had {summary.num_samples}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}); run darkroom test again") from error
    return Results(folder, summary, tables)
