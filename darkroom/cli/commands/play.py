"""``darkroom play``: a page that runs a run's model in the browser."""

import argparse
import sys
from pathlib import Path

from darkroom.cli.catalog import import_users
from darkroom.cli.checkpoint_checks import require_checkpoint
from darkroom.cli.commands.export import parse
from darkroom.cli.console import explain, filter_warnings
from darkroom.errors import UsageError
from darkroom.export.checkpoint import load_trained
from darkroom.export.formats.files import require_onnx
from darkroom.play.runtime import require_runtime
from darkroom.play.serve import HOST, open_server
from darkroom.play.write import write_playground
from darkroom.report.run import read_run


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "darkroom play",
        description="Write play/index.html in the folder of a run: a page that runs its model in the browser, without a "
        "server or network.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/unet/0")
    parser.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, or a file")
    parser.add_argument("--serve", action="store_true", help=f"then serve the page on {HOST} until Ctrl+C")
    parser.add_argument("--port", type=int, default=8765, help="of the server; 0: any that is free; default: 8765")
    parser.add_argument("--runtime", type=Path, metavar="FILE", help="onnxruntime-web as npm packs it")
    return parser.parse_args(argv)


def _write(options: argparse.Namespace) -> Path:
    run = read_run(options.run)
    named = options.checkpoint in ("best", "last")
    checkpoint = run.folder / "checkpoints" / f"{options.checkpoint}.ckpt" if named else Path(options.checkpoint)
    require_checkpoint(checkpoint, options.checkpoint, checkpoint.parent)
    require_onnx()
    runtime = require_runtime(options.runtime)
    import_users({part for value in run.options.values() for part in str(value).split(".")})
    config = run.folder / "config.yaml"
    _, data = parse(["--ckpt_path", str(checkpoint), *(["--config", str(config)] if config.is_file() else [])])
    if data is None:
        raise UsageError(f"{config} has no data section, whose test images the page shows")
    return write_playground(run, load_trained(checkpoint), data, runtime)


def main(argv: list[str]) -> int:
    """Run the command; return its exit code."""
    options = _arguments(argv)
    try:
        filter_warnings()
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # the user's own classes are in the working directory
        page = _write(options)
        print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
        if options.serve:
            _serve(page, options.port)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return explain(error)
    return 0


def _serve(page: Path, port: int) -> None:
    try:
        server = open_server(page.parent, port)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used ({error}); set --port to another one, or 0") from error
    with server:
        print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl+C ends the server)", flush=True)
        server.serve_forever()
