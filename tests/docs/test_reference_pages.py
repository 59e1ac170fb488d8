"""Every public module of the packages has a place in the reference."""

import re

from tests.docs.pages import ROOT

# Shims of the previous version, and helpers without an interface for users.
LEFT_OUT = re.compile(r"/utils/|__init__|__main__|/write_shards\.py$")


def test_every_module_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    documented = re.findall(r"^::: darkroom\.(\S+)$", pages, re.MULTILINE)
    folders = {"lightning_modules": ROOT, "datamodules": ROOT, "callbacks": ROOT, "protocols": ROOT / "darkroom"}
    files = [
        path.relative_to(parent).as_posix()
        for name, parent in folders.items()
        for path in (parent / name).rglob("*.py")
    ]
    modules = {file.removesuffix(".py").replace("/", ".") for file in files if not LEFT_OUT.search(file)}
    assert modules <= set(documented)
    assert len(documented) == len(set(documented))
