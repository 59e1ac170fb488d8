"""Tiny methods of the shipped configs, with random weights and the data of their configs."""

from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, set_loader

from darkroom.cli.catalog import import_all
from darkroom.cli.linking import link_model
from darkroom.cli.run import load_config
from darkroom.datamodules.base import VisionDataModule
from darkroom.export.checkpoint import TrainedMethod
from darkroom.lightning_modules.base import Technique
from tests.test_configs import ABSENT, CONFIGS, SMALL, SMALL_NETWORKS, config_of

FAMILIES = ("classification", "segmentation", "detection")
PERCEPTION = sorted(
    path.relative_to(CONFIGS).as_posix() for name in FAMILIES for path in (CONFIGS / name).glob("*.yaml")
)


def build_method(name: str, folder: Path) -> tuple[TrainedMethod, VisionDataModule]:
    """Build the method and the data of a config.

    Args:
        name: of the config.
        folder: for cached proposals.
    """
    import_all()
    set_loader("yaml", load_config, (yaml.YAMLError,))
    config = load_config((CONFIGS / name).read_text())
    model, data = config["model"], config["data"]
    _shrink(model["init_args"], SMALL[config_of(name)["model"]["class_path"]])
    _shrink(model["init_args"], {f"network.{key}": value for key, value in _few(model).items()})
    model["init_args"] |= {option: None for option in ABSENT if option in model["init_args"]}
    arguments = data["init_args"]
    arguments |= {f"{split}_size": 4 for split in ("train", "val", "test")} | {"num_workers": 0}
    if "proposals" in arguments:
        arguments |= {"proposals_dir": str(folder), "proposal_workers": 0}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Technique, "model")
    parser.add_subclass_arguments(VisionDataModule, "data")
    parsed = parser.parse_object({"model": model, "data": data})
    built_data = parser.instantiate_classes(Namespace(data=parsed.data)).data
    link_model(built_data, parsed.model)
    torch.manual_seed(0)
    built = parser.instantiate_classes(Namespace(model=parsed.model)).model.eval()
    for weight in [one for one in built.parameters() if one.dim() > 1 and not one.any()]:
        torch.nn.init.normal_(weight, std=0.05)  # decisions must not be ties
    built.memory_format = torch.contiguous_format
    normalization = built_data.mean, built_data.std
    trained = TrainedMethod(built, built, normalization, tuple(built_data.class_names), 0, Path("tiny.ckpt"))
    return trained, built_data


def _few(model: dict[str, Any]) -> dict[str, Any]:
    network = model["init_args"].get("network") or {}
    return SMALL_NETWORKS.get(network.get("class_path", ""), {})


def _shrink(arguments: dict[str, Any], small: dict[str, Any]) -> None:
    """Set arguments of a config, those of nested classes by their path; ``proposals`` of R-CNN are options of its RPN."""
    for path, value in small.items():
        owner, *inner = ["rpn", path] if path == "proposals" and "rpn" in arguments else path.split(".")
        if not inner:
            arguments[owner] = value
            continue
        part = arguments.setdefault(owner, {})
        part = part.setdefault("init_args", {}) if "class_path" in part else part
        part[inner[0]] = value
