"""Style of all figures: widths, fonts and colours. matplotlib is imported by the first figure, not before.

A figure does not depend on the user's ``matplotlibrc``, and does not change it.
"""

import logging
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.ImageFont import FreeTypeFont

WIDTHS = {
    "iccv-column": 3.28125,
    "iccv": 6.875,
    "icml-column": 3.25,
    "icml": 6.75,
    "ieee-column": 3.5,
    "neurips": 5.5,
    "eccv": 122 / 25.4,
    "slides": 13.333,
}  # inches; see parse_width
SCREEN = 144  # pixels per inch of a plot's PNG
PALE = (110, 110, 116)  # of text beside the data
# Okabe and Ito 2008, "Color Universal Design": eight colours that colour-blind readers distinguish. The yellow is darker
# here, since a line of their #F0E442 is hardly visible on white. Black comes last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#000000")
MARKERS, LINES = "os^Dv", ("-", "--", ":", "-.")  # beside the colours, for print without colour
FAMILY = "DejaVu Sans"  # matplotlib contains it, so that figures are equal on all machines
HEAT = "inferno"  # a perceptually uniform colour map of matplotlib
IGNORE = 255  # class id of pixels without a class
IGNORE_COLOUR, ERROR_COLOUR = (190, 190, 190), (244, 62, 62)
_FIRST_COLOURS = [(24, 24, 28), (230, 75, 70), (78, 186, 105), (72, 118, 232), (245, 196, 66), (198, 92, 214)]
_INK, _GRID, _EDGE = "#28282c", "#eaeaee", "#9a9aa0"
_LARGEST = 1000.0  # millimetres
logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs 50 lines for every PDF at level INFO
_STYLE: dict[str, Any] = {
    "font.family": FAMILY,
    "pdf.fonttype": 42,  # TrueType; conferences refuse the default, Type 3
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "darkroom",  # equal ids in every run
    "image.composite_image": False,  # one image in the file for each image of the figure
    "text.parse_math": False,  # names of classes may contain a dollar sign
    "axes.unicode_minus": True,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _EDGE,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _EDGE,
    "ytick.color": _EDGE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0,
}


def parse_width(text: str) -> float:
    """Return a width in inches from the name of a template or a number of millimetres, such as ``85``.

    The widths are those of the templates:

    - ``iccv-column`` and ``iccv``: 3.28 and 6.88 in, ``\\columnwidth`` (237.13594 pt) and ``\\textwidth`` of the author kit
      of CVPR and ICCV.
    - ``icml-column`` and ``icml``: 3.25 and 6.75 in, from ``icml2024.sty``.
    - ``ieee-column``: 3.5 in, ``\\columnwidth`` (252 pt) of ``IEEEtran.cls``.
    - ``neurips``: 5.5 in, ``\\textwidth`` of ``neurips_2024.sty``.
    - ``eccv``: 122 mm, the type area of Springer's ``llncs.cls``.
    - ``slides``: 13.33 in, a 16:9 slide of PowerPoint, Keynote and Google Slides.

    Raises:
        UsageError: the text is neither a name nor a number of millimetres above 0 and up to 1000.
    """
    name = text.strip().lower()
    if name in WIDTHS:
        return WIDTHS[name]
    try:
        millimetres = float(name.removesuffix("mm"))
    except ValueError:
        millimetres = 0.0
    if not 0 < millimetres <= _LARGEST:
        raise UsageError(
            f"width must be {', '.join(WIDTHS)}, or a number of millimetres above 0 and up to {_LARGEST:g}, got {text!r}"
        )
    return millimetres / 25.4


def font_file() -> Path:
    """Return the file of the font of all figures, which matplotlib contains."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def font_size(width: float) -> float:
    """Return the size of text in points for a figure of this width in inches: 8 in a paper, 16 on a slide."""
    return max(8.0, 1.2 * width)


@contextmanager
def styled(width: float = WIDTHS["neurips"]) -> Iterator[None]:
    """Draw figures of this width in inches, or write them, in Darkroom's style; the user's settings are restored."""
    import matplotlib

    size = font_size(width)
    settings: dict[Any, Any] = _STYLE | {
        "font.size": size,
        "axes.labelsize": size,
        "axes.titlesize": size,
        "xtick.labelsize": 0.9 * size,
        "ytick.labelsize": 0.9 * size,
        "legend.fontsize": 0.9 * size,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_axes(width: float, aspect: float = 0.62) -> tuple["Figure", "Axes"]:
    """Return an empty figure of a width in inches and its axes, with a height of ``aspect`` times the width.

    Call it within ``styled``, and pass the figure to ``Plot``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, aspect * width), layout="constrained")
    return figure, figure.add_subplot()


def label_axes(axes: "Axes", title: str, labels: tuple[str, str]) -> None:
    """Write the title and the labels of x and y, each with its unit."""
    axes.set_title(title, wrap=True)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def add_legend(axes: "Axes", reverse: bool = False) -> None:
    """Add a legend on the right of the axes, if an artist has a label; ``reverse``: the last one first.

    Names are wrapped to about a third of the figure's width.
    """
    import matplotlib

    letters = (
        0.35 * 72 * axes.figure.bbox.width / axes.figure.dpi / (0.6 * float(matplotlib.rcParams["legend.fontsize"]))
    )
    handles, names = axes.get_legend_handles_labels()
    names = [textwrap.fill(name, max(8, round(letters))) for name in names]
    order = slice(None, None, -1) if reverse else slice(None)
    if names:
        axes.legend(handles[order], names[order], loc="upper left", bbox_to_anchor=(1.03, 1.0))


def class_colours(count: int) -> Sequence[str]:
    """Return a colour for each of ``count`` classes or series, as hexadecimal text.

    Up to eight are those of ``COLOURS``. More are even steps of a hue circle in two degrees of brightness, which
    colour-blind readers cannot all distinguish.
    """
    import colorsys

    if count <= len(COLOURS):
        return COLOURS[:count]
    rgb = (colorsys.hls_to_rgb(i / count, 0.38 + 0.2 * (i % 2), 0.75) for i in range(count))
    return ["#" + "".join(f"{round(255 * value):02x}" for value in colour) for colour in rgb]


@cache
def class_palette(num_classes: int) -> "np.ndarray":
    """Return a colour per class, uint8 (256, 3). Class 0 is near black and 255, "ignore", grey, for any number."""
    import colorsys

    import numpy as np

    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(num_classes):
        hue, value = index * 0.618034 % 1, 0.65 + 0.3 * (index % 2)
        fallback = [round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.65, value)]
        colours[index] = _FIRST_COLOURS[index] if index < len(_FIRST_COLOURS) else fallback
    colours[IGNORE] = IGNORE_COLOUR
    return colours


@cache
def load_font(size: int) -> "FreeTypeFont":
    """Load the font of all figures, which matplotlib contains, at a size in pixels.

    Raises:
        UsageError: Pillow was built without FreeType.
    """
    from PIL import ImageFont

    try:
        return ImageFont.truetype(font_file(), size)
    except ImportError as error:
        raise UsageError("Pillow was built without FreeType, which figures need; install a wheel of Pillow") from error
