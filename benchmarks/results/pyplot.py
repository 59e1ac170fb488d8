"""matplotlib's interface for charts, or one message where it is missing."""

from types import ModuleType

from darkroom.paths import install_command


def import_pyplot() -> ModuleType:
    """Import matplotlib.pyplot.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise SystemExit(f"charts need matplotlib: {install_command('bench')}") from error
    return plt
