"""Option for the width of charts."""

import argparse

from darkroom.callbacks.plotting.style import WIDTHS, parse_width
from darkroom.errors import UsageError


def add_width(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--width`` to a parser; its value is in inches."""
    help_ = f"of charts: {', '.join(WIDTHS)}, or a number of millimetres; default: iccv-column"
    parser.add_argument("--width", type=_parse, default=WIDTHS["iccv-column"], help=help_)


def _parse(text: str) -> float:
    try:
        return parse_width(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
