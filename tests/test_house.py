"""Rules of the house that a machine can check; CONTRIBUTING.md explains them."""

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tomllib
import yaml

from darkroom import __version__

ROOT = Path(__file__).parents[1]
ROOMS = ("lightning_modules", "datamodules", "callbacks")
SOURCES = [path for folder in ("darkroom", *ROOMS) for path in sorted((ROOT / folder).rglob("*.py"))]

# Where private names of Lightning may be used; a test of it checks that each exists in the installed version.
LIGHTNING_COMPAT = "darkroom/runtime/lightning_compat.py"

# Private names of other libraries than Lightning, with the reason.
FOREIGN_PRIVATE = {
    "_foreach_sub": "torch: one kernel for a list of tensors, without a public name",
    "_foreach_mul_": "likewise",
    "_foreach_add_": "likewise",
    "_foreach_div_": "likewise",
    "_parameters": "torch: a module's own parameters, without those of its children, to be replaced in place",
    "_BatchNorm": "torch: the base class of all batch norms",
    "_InstanceNorm": "likewise",
    "_DropoutNd": "likewise",
    "_defaults": "torchmetrics: the states of a metric, by name",
    "_replace": "namedtuple: public, in spite of its name",
    "_RESOURCES": "torchvision: the addresses of a data set, which have no public name",
}

# getattr and hasattr by a literal name, with the reason. Everything else meets in a Protocol or a declared attribute.
LITERAL_NAMES = {
    "sched_getaffinity": "os: Linux alone",
    "mallopt": "a C library: glibc alone",
    "data_filter": "tarfile: Python 3.10 before its security release lacks it",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name if name.split(".")[0] == "darkroom" else f"darkroom.{name}"


def imported(path: Path) -> set[str]:
    """Modules and names that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


# --- imports ----------------------------------------------------------------------------------------------------------


def import_graph() -> dict[str, set[str]]:
    """Modules of ours that each module of ours imports."""
    names = {module_of(path): path for path in SOURCES}
    return {name: (imported(path) & names.keys()) - {name} for name, path in names.items()}


def floor_of(module: str) -> int:
    """How high a module stands: the ground, what surrounds a run, the three rooms, the command line."""
    folders = module.split(".")
    if module in ("darkroom.__main__",) or folders[1:2] == ["cli"]:
        return 3
    if folders[1:2] and folders[1] in ROOMS:
        return 2
    return 1 if folders[1:2] == ["runtime"] else 0


def test_no_import_circles() -> None:
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_go_down() -> None:
    arrows = [(low, high) for low, highs in import_graph().items() for high in highs if floor_of(high) > floor_of(low)]
    assert not arrows


@pytest.mark.parametrize("room", ROOMS)
def test_modules_data_and_callbacks_never_import_each_other(room: str) -> None:
    others = {f"darkroom.{other}" for other in ROOMS if other != room}
    for path in (ROOT / room).rglob("*.py"):
        packages = {".".join(name.split(".")[:2]) for name in imported(path)}
        assert not packages & others, name_of(path)
        if room == "lightning_modules":
            assert not packages & {"PIL", "wandb", "csv"}, f"{name_of(path)}: modules compute, callbacks draw and write"


def test_nothing_imports_a_second_copy() -> None:
    """In the repository's root ``import callbacks`` succeeds too, as a second copy of every class."""
    for path in [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imported(path)} & set(ROOMS), name_of(path)


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({module_of(path.parent / "__init__.py") for path in SOURCES} | {"darkroom.configs"})


def test_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires


# --- size and shape ---------------------------------------------------------------------------------------------------


def test_no_folder_holds_more_than_twelve_files() -> None:
    folders = ("darkroom", *ROOMS, "configs", "benchmarks", "tests")
    paths = [path for folder in folders for kind in ("py", "yaml") for path in (ROOT / folder).rglob(f"*.{kind}")]
    counts = Counter(path.parent for path in paths if path.name != "__init__.py")
    assert {name_of(folder): count for folder, count in counts.items() if count > 12} == {}


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in SOURCES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                yield path, node


def test_class_towers_are_at_most_three_high() -> None:
    bases = {
        node.name: [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases] for _, node in classes()
    }

    @functools.cache
    def height(name: str) -> int:
        return 1 + max((height(base) for base in bases[name] if base in bases and base != name), default=0)

    assert {name: height(name) for name in bases if height(name) > 3} == {}


def test_no_constructor_has_more_than_fifteen_arguments() -> None:
    wide = {}
    for _, node in classes():
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                count = len(method.args.args) + len(method.args.kwonlyargs) - 1
                if count > 15:
                    wide[node.name] = count
    assert wide == {}


def test_technique_stays_small() -> None:
    (technique,) = [node for _, node in classes() if node.name == "Technique"]
    assert technique.end_lineno is not None
    assert technique.end_lineno - technique.lineno < 120


# --- names ------------------------------------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_private_names() -> set[str]:
    """Private attributes, methods, functions and classes that our sources define."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in found if is_private(name)}


def test_private_names_of_lightning_stand_in_one_file() -> None:
    own, strangers = own_private_names(), set()
    for path in SOURCES:
        if name_of(path) == LIGHTNING_COMPAT:
            continue
        used = {node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}
        used |= {name.rsplit(".", 1)[-1] for name in imported(path) if not name.startswith("darkroom")}
        strangers |= {(name_of(path), name) for name in used if is_private(name) and name not in own}
    assert {entry for entry in strangers if entry[1] not in FOREIGN_PRIVATE} == set()


def test_no_attribute_is_looked_up_by_a_literal_name() -> None:
    found = set()
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                name = node.args[1]
                if isinstance(name, ast.Constant) and name.value not in LITERAL_NAMES:
                    found.add((name_of(path), name.value))
    assert found == set()


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_classes_and_functions_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(parsed(path))
    for node in parsed(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
