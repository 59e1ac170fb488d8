"""Options of a config that differ from the defaults, which are read from the sources without importing them."""

import ast
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from darkroom.renames import folder_of

_TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
_LEFT_OUT = {
    "trainer.callbacks",
    "trainer.logger",
    "trainer.plugins",
}  # lists of parts, which have options of their own
_PACKAGES = ("lightning_modules", "datamodules", "callbacks")
_UNKNOWN = object()  # a default that is computed

Source = tuple[Path, ast.ClassDef]


class _Argument(NamedTuple):
    """Argument of a constructor: its default, its annotation, and the file of both."""

    default: Any
    annotation: ast.expr | None
    path: Path


def differences(config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return option, value and default of every option of model, data and Trainer whose value is not the default.

    The default is "required" for options without one, and None for those of classes whose source is not found.
    """
    rows = list(_of_class("model", config.get("model"))) + list(_of_class("data", config.get("data")))
    trainer = config.get("trainer")
    if isinstance(trainer, Mapping):
        rows += _of_options("trainer", trainer, find_class(_TRAINER))
    if config.get("seed_everything") not in (None, 0):
        rows.append(("seed_everything", config["seed_everything"], 0))
    return [row for row in rows if row[0] not in _LEFT_OUT]


def option_text(value: Any) -> str:
    """Return the value of an option as in YAML, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple | dict):
        plain = list(value) if isinstance(value, tuple) else value
        return yaml.safe_dump(plain, default_flow_style=True, width=math.inf).strip()
    return str(value)


def _of_class(name: str, content: Any) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(content, Mapping):
        return
    path, options = content.get("class_path"), content.get("init_args") or content.get("dict_kwargs") or {}
    if isinstance(path, str) and isinstance(options, Mapping):
        yield from _of_options(name, options, find_class(path))


def _of_options(name: str, options: Mapping[str, Any], source: Source | None) -> Iterator[tuple[str, Any, Any]]:
    known = _arguments(source) if source else {}
    for option, value in options.items():
        argument = known.get(option)
        default = argument.default if argument else None
        key = f"{name}.{option}"
        if isinstance(value, Mapping) and "class_path" in value:
            if not isinstance(default, str) and default is not _UNKNOWN:
                yield key, str(value["class_path"]).rpartition(".")[2], default
            yield from _of_class(key, value)
        elif isinstance(value, Mapping) and argument and (group := _group(argument)):
            yield from _of_options(key, value, group)
        elif default is not _UNKNOWN and not _equal(value, default):
            yield key, value, default


def _equal(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        default = list(default)
    if isinstance(value, bool) or isinstance(default, bool):
        return value is default
    return bool(value == default)


def _arguments(source: Source) -> dict[str, _Argument]:
    """Return the arguments of a class's constructor, or the fields of a dataclass, by name."""
    path, node = source
    own = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
    found: dict[str, _Argument] = {}
    if own is None or own.args.kwarg:  # arguments of the parents
        for base in node.bases:
            parent_name = ast.unparse(base).partition("[")[0]
            # A dotted name is one of another module; its last part may be the name of the class itself.
            parent = find_class(parent_name) if "." in parent_name else _lookup(path, parent_name)
            found |= _arguments(parent) if parent else {}
    if own is not None:
        return found | _signature(own.args, path)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            default = _literal(item.value) if item.value else "required"
            found[item.target.id] = _Argument(default, item.annotation, path)
    return found


def _signature(arguments: ast.arguments, path: Path) -> dict[str, _Argument]:
    positional = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = zip(
        [*positional, *arguments.kwonlyargs], [*missing, *arguments.defaults, *arguments.kw_defaults], strict=True
    )
    return {
        one.arg: _Argument("required" if value is None else _literal(value), one.annotation, path)
        for one, value in pairs
        if one.arg != "self"
    }


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return _UNKNOWN


def _group(argument: _Argument) -> Source | None:
    """Return the first class in an annotation that has a source, such as that of a group of options."""
    for node in ast.walk(argument.annotation) if argument.annotation else ():
        if isinstance(node, ast.Name) and (found := _lookup(argument.path, node.id)):
            return found
    return None


def find_class(class_path: str) -> Source | None:
    """Return the source of a class by its full or bare name."""
    module, _, name = class_path.rpartition(".")
    if module:
        path = _file(module)
        return _lookup(path, name) if path else None
    for package in _PACKAGES:
        for path in sorted(folder_of(package).rglob("*.py")):
            if f"class {name}" in path.read_text(encoding="utf-8") and (found := _own(path, name)):
                return found
    return None


def _file(module: str) -> Path | None:
    """Return the file of a module; only its first package is looked up, and nothing is imported."""
    first, *rest = module.split(".")
    if first == "darkroom" and rest[:1] and rest[0] in _PACKAGES:
        folder, rest = folder_of(rest[0]), rest[1:]
    else:
        try:
            spec = find_spec(first)
        except ValueError:
            return None
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0])
    path = folder.joinpath(*rest)
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((one for one in candidates if one.is_file()), None)


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _own(path: Path, name: str) -> Source | None:
    for node in _parse(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
    return None


def _lookup(path: Path, name: str, depth: int = 0) -> Source | None:
    """Return a class that a file defines or imports."""
    found = _own(path, name)
    if found or depth > 4:
        return found
    for node in _parse(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name and (source := _file(node.module)):
                    return _lookup(source, alias.name, depth + 1)
        elif isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                    source = next((p for p in (folder.with_suffix(".py"), folder / "__init__.py") if p.is_file()), None)
                    return _lookup(source, alias.name, depth + 1) if source else None
    return None
