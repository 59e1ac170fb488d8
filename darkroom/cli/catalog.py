"""What there is: techniques, data sets and configs, read from the sources without importing them."""

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path

ROOMS = ("lightning_modules", "datamodules", "callbacks")


def import_all() -> None:
    """Imports every module of the rooms, so that the command line knows their classes by bare name."""
    for room in ROOMS:
        package = importlib.import_module(f"darkroom.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def classes(room: str, base: str) -> dict[str, str]:
    """Name and first line of docstring of every class in a room that derives from ``base``, sorted by file.

    A class whose docstring calls it a base is not for use by itself, and left out.
    """
    spec = importlib.util.find_spec(f"darkroom.{room}")
    known, found = {base}, {}
    nodes = [
        node
        for path in sorted(Path(spec.origin).parent.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    while True:  # a class may stand in a file before its parent's
        new = [n for n in nodes if n.name not in known and any(getattr(b, "id", "") in known for b in n.bases)]
        if not new:
            break
        known |= {node.name for node in new}
        found |= {node.name: (ast.get_docstring(node) or "").split("\n")[0] for node in new}
    return {n.name: found[n.name] for n in nodes if n.name in found and not found[n.name].startswith("Base of")}


def configs(folder: Path) -> dict[str, str]:
    """Path and first comment line of every config: what it promises."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        found[f"configs/{path.relative_to(folder).as_posix()}"] = first.lstrip("# ") if first.startswith("#") else ""
    return found


def show(config_folder: Path) -> None:
    """Prints the lists."""
    found = configs(config_folder)
    sweeps = {name: line for name, line in found.items() if name.startswith("configs/sweep/")}
    sections = {
        "Techniques (--model)": classes("lightning_modules", "Technique"),
        "Data sets (--data)": classes("datamodules", "VisionDataModule"),
        "Callbacks (--trainer.callbacks+)": classes("callbacks", "Callback"),
        "Configs (--config)": {name: line for name, line in found.items() if name not in sweeps},
        "Sweeps (wandb sweep)": sweeps,
    }
    for title, entries in sections.items():
        print(title)
        width = max(map(len, entries), default=0)
        for name, line in entries.items():
            print(f"  {name:{width}}  {line}".rstrip())
        print()
