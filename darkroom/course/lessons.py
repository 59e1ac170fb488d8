"""Lessons of the course by number. Imports torch only for the exercises of a lesson."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.errors import UsageError

if TYPE_CHECKING:
    from darkroom.course.exercise import Exercise

TITLES = {
    1: "Image classification",
    2: "Sliding windows and proposals",
    3: "R-CNN to Faster R-CNN",
    4: "YOLO and SSD",
    5: "Convolutionalization and FCN",
    6: "Transposed and dilated convolutions",
    7: "U-Net and Mask R-CNN",
    8: "Autoencoder",
    9: "VAE and conditional VAE",
    10: "GAN",
    11: "DDPM and samplers",
    12: "Guidance and Imagen",
}


def require_lesson(number: int) -> None:
    """Raise a UsageError if there is no lesson of this number."""
    if number not in TITLES:
        raise UsageError(f"lesson must be one of {', '.join(map(str, TITLES))}, got {number}")


def file_name(number: int) -> str:
    """Return the name of the learner's file of a lesson."""
    return f"lesson_{number:02}.py"


def start_file(number: int) -> Path:
    """Return the file that a learner starts from, with functions to write and one to repair."""
    require_lesson(number)
    return Path(__file__).parent / "start" / file_name(number)


def exercises_of(number: int) -> "tuple[Exercise, ...]":
    """Return the exercises of a lesson in order; the last one is the broken version."""
    require_lesson(number)
    return importlib.import_module(f"darkroom.course.exercises.lesson_{number:02}").EXERCISES
