"""Structural rules of the repository, as explained in CONTRIBUTING.md."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import tomllib
import yaml

from darkroom import __version__
from tests import language

ROOT = Path(__file__).parents[1]
PACKAGES = ("lightning_modules", "datamodules", "callbacks")
SOURCES = [path for folder in ("darkroom", *PACKAGES) for path in sorted((ROOT / folder).rglob("*.py"))]

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
    "_assert_scalar": "torch: the operation of run-time assertions in an exported graph, without a public name",
    "_python_dispatch": "torch: the module of TorchDispatchMode, which has no public name",
    "_pytree": "torch: the module of functions on nested containers, which has no public name",
    "_subclasses": "torch: the package of fake tensors, which has no public name",
    "_defaults": "torchmetrics: the states of a metric, by name",
    "_replace": "namedtuple: public, in spite of its name",
    "_exit": "os: public, in spite of its name",
    "_compiled_call_impl": "torch: what nn.Module.compile sets and a call uses, without a public name",
    "_actions": "argparse: the options of a parser, for the nearest one to a misspelt name",
    "_expand_help": "argparse: the documented way to change the help of an option is a subclass of the formatter",
    "_config": "torch: the setting by which exported graphs also take sides and batches of 1",
    "_RESOURCES": "torchvision: URLs of a dataset, without a public name",
}

# getattr and hasattr by a literal name, with the reason. All other code uses a Protocol or a declared attribute.
LITERAL_NAMES = {
    "sched_getaffinity": "os: Linux only",
    "mallopt": "a C library: glibc only",
    "data_filter": "tarfile: Python 3.10 before its security release lacks it",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return name if name.split(".")[0] == "darkroom" else f"darkroom.{name}"


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Modules and names that a file imports, at any depth of its code."""
    found: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


# --- imports ----------------------------------------------------------------------------------------------------------


def import_graph() -> dict[str, set[str]]:
    """Return the modules of this repository that each of them imports."""
    names = {module_of(path): path for path in SOURCES}
    return {name: (imported(path) & names.keys()) - {name} for name, path in names.items()}


def layer_of(module: str) -> int:
    """Return the layer of a module: foundations; runtime; methods, data callbacks; reports, exports, course, commands."""
    folders = module.split(".")
    top = ("cli", "report", "export", "plan", "play", "course")
    if module == "darkroom.__main__" or (folders[1:2] and folders[1] in top):
        return 3
    if folders[1:2] and folders[1] in PACKAGES:
        return 2
    return 1 if folders[1:2] == ["runtime"] else 0


def test_imports_have_no_cycles() -> None:
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_follow_layers() -> None:
    arrows = [(low, high) for low, highs in import_graph().items() for high in highs if layer_of(high) > layer_of(low)]
    assert not arrows


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_data_and_callbacks_do_not_import_each_other(package: str) -> None:
    others = {f"darkroom.{other}" for other in PACKAGES if other != package}
    for path in (ROOT / package).rglob("*.py"):
        packages = {".".join(name.split(".")[:2]) for name in imported(path)}
        assert not packages & others, name_of(path)
        if package == "lightning_modules":
            assert not packages & {"PIL", "wandb", "csv"}, f"{name_of(path)}: modules compute, callbacks draw and write"


def test_packages_are_imported_only_below_darkroom() -> None:
    """Check absolute imports: ``import callbacks`` in the repository root gives a second copy of every class."""
    others = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    names = re.compile(rf"^\s*(?:from|import)\s+(?:{'|'.join(PACKAGES)})\b", re.MULTILINE)
    for path in [*SOURCES, *others]:
        if not names.search(path.read_text(encoding="utf-8")):
            continue  # parsing every file takes seconds
        assert not {name.split(".")[0] for name in imported(path)} & set(PACKAGES), name_of(path)


def test_every_package_is_listed_in_pyproject() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({module_of(path.parent / "__init__.py") for path in SOURCES} | {"darkroom.configs"})


def test_citation_has_package_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by the format


# --- size and shape ---------------------------------------------------------------------------------------------------


def test_folders_have_at_most_twelve_files() -> None:
    folders = ("darkroom", *PACKAGES, "configs", "benchmarks", "tests")
    paths = [path for folder in folders for kind in ("py", "yaml") for path in (ROOT / folder).rglob(f"*.{kind}")]
    counts = Counter(path.parent for path in paths if path.name != "__init__.py")
    assert {name_of(folder): count for folder, count in counts.items() if count > 12} == {}


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in SOURCES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                yield path, node


def test_class_hierarchies_have_at_most_three_levels() -> None:
    bases = {
        node.name: [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases] for _, node in classes()
    }

    @functools.cache
    def height(name: str) -> int:
        return 1 + max((height(base) for base in bases[name] if base in bases and base != name), default=0)

    assert {name: height(name) for name in bases if height(name) > 3} == {}


def test_constructors_have_at_most_fifteen_arguments() -> None:
    wide = {}
    for _, node in classes():
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                count = len(method.args.args) + len(method.args.kwonlyargs) - 1
                if count > 15:
                    wide[node.name] = count
    assert wide == {}


def test_technique_has_fewer_than_120_lines() -> None:
    (technique,) = [node for _, node in classes() if node.name == "Technique"]
    assert technique.end_lineno is not None
    assert technique.end_lineno - technique.lineno < 120


# --- names ------------------------------------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_private_names() -> set[str]:
    """Return private attributes, methods, functions and classes defined in the sources."""
    found: set[str] = set()
    for path in SOURCES:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in found if is_private(name)}


def test_private_lightning_names_are_used_in_one_file() -> None:
    own, foreign = own_private_names(), set()
    for path in SOURCES:
        if name_of(path) == LIGHTNING_COMPAT:
            continue
        used = {node.attr for node in nodes_of(path) if isinstance(node, ast.Attribute)}
        used |= {name.rsplit(".", 1)[-1] for name in imported(path) if not name.startswith("darkroom")}
        foreign |= {(name_of(path), name) for name in used if is_private(name) and name not in own}
    assert {entry for entry in foreign if entry[1] not in FOREIGN_PRIVATE} == set()


def test_attributes_are_not_looked_up_by_literal_name() -> None:
    found = set()
    for path in SOURCES:
        for node in nodes_of(path):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                name = node.args[1]
                if isinstance(name, ast.Constant) and name.value not in LITERAL_NAMES:
                    found.add((name_of(path), name.value))
    assert found == set()


# --- docstrings -------------------------------------------------------------------------------------------------------


# Hooks that Lightning, torch or Python define and document.
HOOKS = re.compile(
    r"__\w+__|forward|backward|step|reset|update|compute|setup|teardown|extra_repr|get_extra_state|set_extra_state"
    r"|(?:on|configure|log|load|save|optimizer|lr_scheduler|transfer)_\w+|prepare_data|state_dict|load_state_dict"
    r"|\w+_(?:step|dataloader|hyperparams)|training_step|run|name|version|save_dir|log_dir|experiment|finalize|set_epoch"
)


def public_definitions(scope: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in scope.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)


def undocumented(path: Path) -> Iterator[str]:
    """Yield the public definitions of a file without docstring, and the file itself if it has none."""
    if not ast.get_docstring(parsed(path)):
        yield name_of(path)
    top = [node.name for node in parsed(path).body if isinstance(node, ast.FunctionDef)]
    for node in public_definitions(parsed(path)):
        setter = any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list)
        hook = isinstance(node, ast.FunctionDef) and node.name not in top and HOOKS.fullmatch(node.name)
        if not (hook or setter or ast.get_docstring(node)):
            yield f"{name_of(path)}: {node.name}"


def test_public_classes_functions_and_methods_have_docstrings() -> None:
    assert [name for path in SOURCES for name in undocumented(path)] == []


# --- language ---------------------------------------------------------------------------------------------------------


def test_prose_follows_the_glossary() -> None:
    """Check openings of docstrings, and words that the glossary bans, in code, configs and docs."""
    found = [str(offence) for path in language.files() for offence in language.offences(path)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Pictures are drawn anew.", ["Pictures", "drawn", "anew"]),
        ("The picture of `pictures`", ["picture"]),
        ("it is no image, and there is no longer an image", ["is no image"]),
        ("This is an image.", []),
    ],
)
def test_banned_words_are_found(text: str, words: list[str]) -> None:
    assert [word for _, word, _ in language.find_banned(text)] == words


def test_no_text_advises_a_package_of_another_project() -> None:
    """The name `darkroom` on the package index belongs to another project; `install_command` has the right one."""
    stranger = "install 'darkroom" + "["
    assert [path for path in language.files() if stranger in path.read_text(encoding="utf-8")] == []


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1500


def test_no_file_has_conflict_markers() -> None:
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".css", ".js", ".sh", ".txt", ".cfg", ""}
    folders = ("darkroom", "lightning_modules", "datamodules", "callbacks", "configs", "docs", "benchmarks", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    paths += [path for path in ROOT.iterdir() if path.suffix in suffixes]
    marked = [
        name_of(path)
        for path in paths
        if path.is_file() and re.search(rb"^(<{7}|>{7}) ", path.read_bytes(), re.MULTILINE)
    ]
    assert marked == []
