"""Catalog of methods, datamodules, callbacks and configs, read from the sources without importing them."""

import ast
import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from darkroom.errors import UsageError
from darkroom.renames import PACKAGES, folder_of, own_folder

# Groups of entry points by which installed packages add classes of their own.
ENTRY_POINTS = ("darkroom.modules", "darkroom.datamodules", "darkroom.callbacks")


def import_all() -> None:
    """Import every module of Darkroom and every entry point, so that the command line accepts bare class names.

    Raises:
        UsageError: an entry point of another package cannot be imported.
    """
    for name in PACKAGES:
        package = importlib.import_module(f"darkroom.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for point in plugins():
        try:
            point.load()
        except Exception as error:
            raise UsageError(
                f"the entry point {point.name} = {point.value} cannot be imported ({error}); repair or uninstall it"
            ) from error


def plugins() -> list[EntryPoint]:
    """Return the entry points by which installed packages add modules, datamodules and callbacks."""
    installed = entry_points()  # read once: each reading takes 0.03 s
    return [point for group in ENTRY_POINTS for point in installed.select(group=group)]


def import_users(names: set[str]) -> None:
    """Import the user's own classes of these names from ``callbacks/``, ``datamodules/`` and ``lightning_modules/``.

    The folders are those in the working directory. Files with none of the names are not imported.

    Raises:
        UsageError: a file cannot be read or imported.
    """
    folders = [folder for package in PACKAGES if (folder := own_folder(package)) is not None]
    for path in [path for folder in folders for path in sorted(folder.rglob("*.py"))]:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as Python ({error}); fix or remove it") from error
        if names & {node.name for node in tree.body if isinstance(node, ast.ClassDef)}:
            module = ".".join(path.relative_to(Path.cwd()).with_suffix("").parts)
            importlib.import_module(module.removesuffix(".__init__"))


def classes(room: str, base: str) -> dict[str, str]:
    """Return name and first docstring line of every class in a package that derives from ``base``, sorted by file.

    A class whose docstring starts with "Base of" is abstract, and is omitted.
    """
    known, found = {base}, dict[str, str]()
    nodes = [
        node
        for path in sorted(folder_of(room).rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    while True:  # a class may be in a file before that of its parent
        new = [
            n for n in nodes if n.name not in known and {ast.unparse(base).split("[")[0] for base in n.bases} & known
        ]
        if not new:
            break
        known |= {node.name for node in new}
        found |= {node.name: (ast.get_docstring(node) or "").split("\n")[0] for node in new}
    return {n.name: found[n.name] for n in nodes if n.name in found and not found[n.name].startswith("Base of")}


def configs(folder: Path) -> dict[str, str]:
    """Return path and first comment line of every config."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        found[f"configs/{path.relative_to(folder).as_posix()}"] = first.lstrip("# ") if first.startswith("#") else ""
    return found
