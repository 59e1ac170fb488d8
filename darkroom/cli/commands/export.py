"""``darkroom export``: write a trained model as a file that runs without Darkroom, and compare it with ``predict``."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from darkroom.cli.catalog import import_all, import_users
from darkroom.cli.checkpoint_checks import require_checkpoint
from darkroom.cli.console import explain, filter_warnings
from darkroom.cli.options.data_options import keep_data_section
from darkroom.cli.results import describe_card
from darkroom.cli.usage_errors import shorten_error
from darkroom.datamodules.base import VisionDataModule
from darkroom.errors import UsageError
from darkroom.export.checkpoint import TrainedMethod, load_trained
from darkroom.export.description import Precision, format_spec
from darkroom.export.formats.files import SUFFIXES, Format, require_onnx
from darkroom.export.formats.weights import write_weights
from darkroom.export.outputs import TASKS
from darkroom.export.write import Written, require_other_options, write_method, write_reduced
from darkroom.ranges import PositiveInt

_RUNNERS = {"onnx": "ONNX Runtime", "torch_export": "torch.export"}


def parse(argv: Sequence[str]) -> tuple[Namespace, VisionDataModule | None]:
    """Parse the command line; return the options, and the datamodule of the run if there is one.

    Raises:
        UsageError: an option is invalid or missing.
    """
    import_all()
    parser = ArgumentParser(prog="darkroom export", description=__doc__, exit_on_error=False)
    parser.add_argument("--ckpt_path", type=str, required=True, help="such as runs/unet/0/checkpoints/best.ckpt")
    parser.add_argument("--format", type=Format, default="onnx", help="of the file")
    parser.add_argument("--half", type=bool, default=False, help="weights and activations in float16")
    parser.add_argument("--int8", type=bool, default=False, help="weights and activations in 8 bits; onnx only")
    parser.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="file, or folder of the file; default: export/ in the run's folder",
    )
    parser.add_argument(
        "--samples", type=PositiveInt, default=16, help="validation images that are compared with predict"
    )
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        help="config whose data section is used; default: that of the checkpoint's run",
    )
    parser.add_subclass_arguments(VisionDataModule, "data", required=False)
    try:
        config = parser.parse_args(keep_data_section(_with_config_of_run(argv)))
    except ArgumentError as error:
        raise UsageError(shorten_error(str(error), [])) from error
    built = parser.instantiate_classes(config)
    return config, built.data if config.data is not None else None


def _with_config_of_run(argv: Sequence[str]) -> list[str]:
    """Add the config of the checkpoint's run, if there is one and no config is given; flags without value are true."""
    words = [word for text in argv for word in (text.split("=", 1) if text.startswith("--ckpt_path=") else [text])]
    flags = ("--half", "--int8")
    words = [f"{word}=true" if word in flags and _is_flag(words, index) else word for index, word in enumerate(words)]
    if "--ckpt_path" in words[:-1] and not any(word.startswith("--config") for word in words):
        config = Path(words[words.index("--ckpt_path") + 1]).parent.parent / "config.yaml"
        words = ["--config", str(config), *words] if config.is_file() else words
    return words


def take_model_options(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate the options ``--model.NAME VALUE`` from a command line.

    Returns:
        The other words, and the options by name; of ``--model.inference.tile 512`` a mapping within ``inference``.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--model.") else [word])]
    others, options = [], dict[str, Any]()
    place = 0
    while place < len(words):
        if not words[place].startswith("--model."):
            others.append(words[place])
            place += 1
            continue
        *groups, name = words[place].removeprefix("--model.").split(".")
        target = options
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = yaml.safe_load(words[place + 1]) if place + 1 < len(words) else None
        place += 2
    return others, options


def _is_flag(words: Sequence[str], index: int) -> bool:
    return words[index + 1 : index + 2] in ([], [""]) or words[index + 1].startswith("--")


def output_path(checkpoint: Path, output: Path | None, kind: Format) -> Path:
    """Return the path of the exported file.

    Args:
        checkpoint: that is exported.
        output: file with the suffix of the format, or folder; None: ``export`` in the run's folder, or the checkpoint's.
        kind: format of the file.
    """
    suffix = SUFFIXES[kind]
    if output is not None:
        return output if output.suffix == suffix else output / f"model{suffix}"
    in_run = checkpoint.parent.name == "checkpoints"
    return (checkpoint.parents[1] / "export" if in_run else checkpoint.parent) / f"model{suffix}"


def report(written: Written, kind: Format) -> str:
    """Return what was written, and how it compares with ``predict``."""
    description, check = written.description, written.check
    inputs, outputs = (", ".join(map(format_spec, ports)) for ports in (description.inputs, description.outputs))
    agreement, decisions = check.agreement, TASKS[description.task].decisions
    same = f", {agreement.fraction:.2%} of {agreement.decisions} {decisions} the same" if agreement.decisions else ""
    reference = f"{description.method} in torch" if description.part else "predict"
    name = f"{description.method} {description.part}".strip()
    return "\n".join(
        [
            f"{name}: {inputs} -> {outputs}",
            *(f"note: {note}" for note in written.notes),
            f"compared with {reference} on {check.samples}: largest difference {agreement.largest:.1e}{same}",
            f"time per image on one core: {reference} {check.torch_ms:.1f} ms, {_RUNNERS[kind]} {check.exported_ms:.1f} ms",
            f"written: {written.path}, {written.path.with_suffix('.json').name}",
        ]
    )


def _write(trained: TrainedMethod, data: VisionDataModule | None, config: Namespace, path: Path) -> str:
    """Write the file that the options describe; return the report."""
    kind = config.format
    if kind == "safetensors":
        count = write_weights(trained, path)
        return f"{type(trained.model).__name__}: {count} tensors, equal to the checkpoint's\nwritten: {path}"
    if config.half or config.int8:
        precision: Precision = "float16" if config.half else "int8"
        return report(write_reduced(trained, data, precision, path, config.samples), kind)
    return "\n".join(report(one, kind) for one in write_method(trained, data, kind, path, config.samples))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        filter_warnings()
        words = list(sys.argv[1:] if argv is None else argv)
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # the user's own classes are in the working directory
        import_users({part for word in words for part in word.split(".")})
        words, options = take_model_options(words)
        config, data = parse(words)
        kind, checkpoint = config.format, Path(config.ckpt_path)
        require_other_options(kind, config.half, config.int8)
        require_checkpoint(checkpoint, config.ckpt_path, checkpoint.parent)
        if kind == "onnx":
            require_onnx()
        path = output_path(checkpoint, config.output, kind)
        print(_write(load_trained(checkpoint, options), data, config, path))
        if path.parent == checkpoint.parents[1] / "export":
            print(describe_card(checkpoint.parents[1]))
    except KeyboardInterrupt:
        print("\ninterrupted; no file is written", file=sys.stderr)
        return 130
    except Exception as error:
        return explain(error)
    return 0
