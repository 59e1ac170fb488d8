"""Find words and openings that the glossary bans: ``python -m tests.language [PATH ...]``."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("darkroom", "lightning_modules", "datamodules", "callbacks", "benchmarks", "tests")
TEXTS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "configs/**/*.yaml")

# What an engineer reads twice, and the term of the field.
BANNED = {
    r"pictures?": "image, figure or photo",
    r"drawn|drew": "sampled, generated or plotted",
    r"told": "conditioned on, given or stated",
    r"anew": "again or from scratch",
    r"goes on|went on": "resumes or continues",
    r"embedded world": "Shapes, the synthetic dataset",
    r"given back": "reconstructed",
    r"lies? in memory": "in-memory",
    r"way (?:down|up)": "encoder, decoder, contracting or expanding path",
    r"waits? for the device": "synchronizes",
    r"by heart": "overfits",
    r"divided among": "sharded",
    r"wide enough|in the place of|what stands for": "say the number; instead of; null condition",
    r"techniques?": "method (the class Technique keeps its name)",
    r"has not|have not (?:a|any|the)\b": "has no",
    r"(?:is|are) no (?!longer|more|less|fewer|other|need|way\b)\w+": "say what it is",
}
# The class Technique keeps its name; all other words are banned at the start of a sentence too.
_WORDS = "|".join(rf"(?P<_{i}>(?{'' if 'technique' in word else 'i'}:{word}))" for i, word in enumerate(BANNED))
_BANNED = re.compile(rf"\b(?:{_WORDS})\b")
_OPENING = re.compile(r"(?:What|Whether|Which|How|Where|Why|Who|When)\b")


class Offence(NamedTuple):
    path: Path
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.found!r}: {self.instead}"


def find_banned(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line (from 0), the word and the right term of each banned word, outside of `code`."""
    plain = re.sub(r"`[^`\n]+`", lambda code: " " * len(code[0]), text)
    for match in _BANNED.finditer(plain):
        index = int((match.lastgroup or "")[1:])
        yield plain.count("\n", 0, match.start()), match[0], list(BANNED.values())[index]


def python_texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield line, text and whether it is a docstring, of docstrings, comments and messages of a file."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield node.body[0].lineno, text, True
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and "warn" in _called(node)):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value, False
    if any(_BANNED.search(line, line.find("#")) for line in source.splitlines() if "#" in line):  # tokenizing is slow
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string, False


def _called(call: ast.Call) -> str:
    """Return the name of a called function or method, without its module or object."""
    function = call.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def offences(path: Path) -> list[Offence]:
    """Return what a Python, Markdown or YAML file says against the rules."""
    found = []
    if path.suffix == ".py":
        for line, text, docstring in python_texts(path):
            if docstring and _OPENING.match(text.lstrip()):
                found.append(Offence(path, line, text.split()[0], "open with a verb or a noun"))
            found += [Offence(path, line + at, word, instead) for at, word, instead in find_banned(text)]
        return found
    lines = path.read_text(encoding="utf-8").split("\n")
    if path.suffix == ".yaml":  # comments alone are prose
        lines = [line[line.index("#") :] if "#" in line else "" for line in lines]
    text = "\n".join(lines)
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    return [Offence(path, 1 + at, word, instead) for at, word, instead in find_banned(text)]


def files(paths: Iterable[Path] = ()) -> list[Path]:
    """Return the files below some paths that have prose; of the whole repository without paths."""
    if not (roots := list(paths)):
        texts = [path for pattern in TEXTS for path in ROOT.glob(pattern)]
        return sorted(texts + [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")])
    inside = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))]
    return sorted(path for path in inside if path.suffix in (".py", ".md", ".yaml"))


if __name__ == "__main__":
    everything = [offence for path in files(map(Path, sys.argv[1:])) for offence in offences(path)]
    print(*everything, f"{len(everything)} offences", sep="\n")
