"""One script from the ES modules of the page, in the order of their imports."""

import re
from importlib.resources import files

_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./(\w+)\.js\";\n", re.MULTILINE)
_NAME = re.compile(r"^(?:export )?(?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)


def read_static(name: str) -> str:
    """Return the text of a file of the page."""
    return (files("darkroom.play") / "static" / name).read_text(encoding="utf-8")


def bundle(entry: str) -> str:
    """Return a module and all that it imports as one script, each once and after its own imports.

    Modules may only have imports of names from ``"./module.js"`` and exports of declarations, and share one scope.

    Args:
        entry: name of the module, without suffix.
    """
    texts: dict[str, str] = {}
    _collect(entry, texts, ())
    names = [name for text in texts.values() for name in _NAME.findall(text)]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"names of two modules must differ: {sorted(twice)}"
    return "\n".join(texts.values())


def _collect(name: str, texts: dict[str, str], above: tuple[str, ...]) -> None:
    assert name not in above, f"modules import each other: {' -> '.join((*above, name))}"
    if name in texts:
        return
    text = read_static(f"{name}.js")
    for imported in _IMPORT.findall(text):
        _collect(imported, texts, (*above, name))
    texts[name] = re.sub(r"^export ", "", _IMPORT.sub("", text), flags=re.MULTILINE)
