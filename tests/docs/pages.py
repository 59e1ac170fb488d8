"""Run every command and every Python block of a page, in order, in the working folder: ``python -m tests.docs.pages PAGE``.

The page says what a reader cannot see:

* ``<!-- setup: NAME -->`` calls the function NAME of tests/docs/setups.py, which makes the reader's own files;
* ``<!-- not run: REASON -->`` before a block leaves it out.

A block with ``title="path"`` is a file of the reader and is written there. Fits are shortened and networks narrowed.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>setup|not run): (?P<text>.+?) -->)|(?:^ *```(?P<kind>\w+)(?P<options>[^\n]*)\n(?P<body>.*?)^ *```)",
    re.DOTALL | re.MULTILINE,
)
# Their effects lie outside of the working folder: tests/test_install.py and the lanes try them.
OUTSIDE = ("pip", "python3", "git", "cd", "make", ".", "source")


class Block(NamedTuple):
    kind: str  # bash, python, yaml, ...; "setup" for a function that makes files
    body: str
    file: str | None
    not_run: str | None  # the reason


def read_blocks(markdown: str) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    reason = None
    for match in _BLOCK.finditer(markdown):
        if match["mark"] == "setup":
            yield Block("setup", match["text"], None, None)
        elif match["mark"]:
            reason = match["text"]
        else:
            indent = len(match[0]) - len(match[0].lstrip(" "))
            body = re.sub(rf"^ {{{indent}}}", "", match["body"], flags=re.MULTILINE)
            title = re.search(r'title="([^"]+)"', match["options"])
            yield Block(match["kind"], body, title[1] if title else None, reason)
            reason = None


def read_commands(body: str) -> list[list[str]]:
    """Split a block of bash into the words of its commands."""
    joined = body.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words for words in lines if words]


_SHOWN = ("--help", "--print_config")  # print something, and run nothing


def shorten(words: list[str]) -> list[str]:
    """Return a command of darkroom that takes seconds: few steps, few images, narrow networks."""
    command, *rest = words[1:]
    shows = any(word in _SHOWN or word.endswith(".help") for word in rest)
    if shows or command not in ("fit", "test", "validate", "predict", "chain"):
        return words[1:]
    few = {"accelerator": "cpu", "limit_val_batches": 1, "limit_test_batches": 1, "limit_predict_batches": 1}
    few |= {"num_sanity_val_steps": 0, "enable_progress_bar": "false"}
    if command in ("fit", "chain"):
        few |= {"limit_train_batches": 2, "max_epochs": 1, "log_every_n_steps": 1, "check_val_every_n_epoch": 1}
    added = [str(part) for name, value in few.items() for part in (f"--trainer.{name}", value)]
    return [command, *rest, *_narrow(rest), *added]


def _narrow(rest: list[str]) -> list[str]:
    from tests.test_configs import SMALL, config_of

    configs = [after for word, after in pairwise(rest) if word == "--config"]
    stages = [word.split()[0] for word in takewhile(lambda word: not word.startswith("-"), rest)]  # of a chain
    configs = [*stages, *configs]
    shipped = [name for path in configs if (ROOT / path).is_file() and (name := path.removeprefix("configs/")) != path]
    methods = [name for name in shipped if "model" in config_of(name) and "data" in config_of(name)]
    if not methods:
        return []
    config = config_of(methods[0])
    narrow = {f"model.{name}": value for name, value in SMALL.get(config["model"]["class_path"], {}).items()}
    kinds = {config_of(name)["model"].get("class_path") for name in methods} - {None}  # overlays of data have no class
    if len(kinds) > 1:
        narrow = {}  # stages of a chain that have other options
    if any(_replaces_network(Path(path)) for path in configs if Path(path).is_file()):
        narrow = {name: value for name, value in narrow.items() if not name.startswith("model.network.")}
    own = any(word.startswith("--data") for word in rest) or any(name.startswith("data/") for name in shipped)
    if config["data"]["class_path"].startswith("Shapes") and not own:
        narrow |= {f"data.{split}_size": 4 for split in ("train", "val", "test")} | {"data.batch_size": 4}
    return [str(part) for name, value in narrow.items() if f"--{name}" not in rest for part in (f"--{name}", value)]


def _replaces_network(config: Path) -> bool:
    """Return whether a page's own config names another network, whose options differ."""
    model = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("model")
    return isinstance(model, dict) and "network" in (model.get("init_args") or {})


def run_page(page: Path) -> int:
    """Run a page in the working folder; return how many blocks ran."""
    from darkroom.__main__ import main
    from tests.docs import setups

    ran = 0
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["darkroom"]  # for messages
    for block in read_blocks(page.read_text(encoding="utf-8")):
        if block.not_run:
            continue
        if block.kind == "setup":
            getattr(setups, block.body)()
        elif block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.body, encoding="utf-8")
        elif block.kind == "python":
            exec(compile(block.body, f"{page.name}: python", "exec"), {"__name__": "__main__"})
            ran += 1
        elif block.kind in ("bash", "console"):
            for words in read_commands(block.body):
                if words[0] in OUTSIDE:
                    continue
                if words[0] != "darkroom":
                    raise SystemExit(
                        f"{page.name}: cannot run {shlex.join(words)}; mark its block <!-- not run: WHY -->"
                    )
                print("$", shlex.join(words), flush=True)
                code = main(shorten(words))
                if code:
                    raise SystemExit(f"{page.name}: exit code {code}: {shlex.join(words)}")
            ran += 1
    return ran


if __name__ == "__main__":
    print(run_page(Path(sys.argv[1])), "blocks ran")
