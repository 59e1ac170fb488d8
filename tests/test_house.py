"""The laws of the house that a machine can check."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tomllib
import yaml

from darkroom import __version__

ROOT = Path(__file__).parents[1]
ROOMS = [
    path for room in ("lightning_modules", "datamodules", "callbacks") for path in sorted((ROOT / room).rglob("*.py"))
]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    tree = ast.walk(ast.parse(path.read_text()))
    names = [a.name for node in tree if isinstance(node, ast.Import) for a in node.names]
    tree = ast.walk(ast.parse(path.read_text()))
    names += [node.module or "" for node in tree if isinstance(node, ast.ImportFrom)]
    return {name.removeprefix("darkroom.").split(".")[0] for name in names}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_data_and_callbacks_never_import_each_other(path: Path) -> None:
    others = {"lightning_modules", "datamodules", "callbacks"} - {path.relative_to(ROOT).parts[0]}
    assert not imported(path) & others
    if path.relative_to(ROOT).parts[0] == "lightning_modules":
        assert not imported(path) & {"PIL", "wandb", "csv"}  # modules compute, callbacks draw and write


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_classes_and_functions_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def import_graph() -> dict[str, set[str]]:
    """Modules of ours that each module of ours imports, at any depth of its code."""
    paths = {}
    for package in ("darkroom", "lightning_modules", "datamodules", "callbacks"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            paths[name if package == "darkroom" else f"darkroom.{name}"] = path
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        graph[name] = (found & paths.keys()) - {name}
    return graph


def test_no_import_circles() -> None:
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in [*ROOMS, *(ROOT / "darkroom").rglob("*.py")]}
    names = {"darkroom." + ".".join(folder.parts) for folder in folders}
    assert sorted(listed) == sorted(
        {name.replace("darkroom.darkroom", "darkroom") for name in names} | {"darkroom.configs"}
    )


def test_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires


def test_nothing_imports_a_second_copy() -> None:
    """In the repository's root ``import callbacks`` succeeds too, as a second copy of every class."""
    for path in sorted(ROOT.rglob("*.py")):
        if ".venv" in path.parts or "build" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                assert name.split(".")[0] not in ("callbacks", "datamodules", "lightning_modules"), path
