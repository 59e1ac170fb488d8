"""Untrusted files never run code, and secrets are never saved."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from torchvision.models import AlexNet_Weights, ResNet18_Weights

from darkroom.cli.config_checks import refuse_secrets
from darkroom.errors import DataError, UsageError
from darkroom.lightning_modules.diffusion.ddpm import DDPM
from darkroom.lightning_modules.diffusion.imagen.load_stage import load_stage
from darkroom.lightning_modules.diffusion.text.pretrained import T5
from darkroom.lightning_modules.layers.pretrained import fetch_imagenet_weights, imagenet_weights
from darkroom.lightning_modules.metrics.classifier_cache import load_or_train
from tests.conftest import CONFIGS


class Payload:
    """Object that creates a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {Path('canary').absolute()}",)


@pytest.fixture
def assert_payload_not_run() -> None:
    """Fail the test if the payload has run."""
    yield
    assert not Path("canary").exists()


def test_payload_runs_when_unpickled() -> None:
    pickle.loads(pickle.dumps(Payload()))
    assert Path("canary").exists()


WRITERS = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
}
HOW = "holds code (posix.system) beside tensors and plain values; it was not loaded, because loading would run"


@pytest.mark.fault("a checkpoint that runs code")
@pytest.mark.parametrize("writer", WRITERS)
def test_checkpoint_with_code_raises(
    darkroom: Callable, tiny: list[str], assert_payload_not_run: None, writer: str
) -> None:
    """Check every command, and resuming."""
    run = Path("runs/tiny/0/checkpoints")
    run.mkdir(parents=True)
    for path in (Path("evil.ckpt"), run / "last.ckpt"):
        WRITERS[writer]({"state_dict": {}, "hyper_parameters": {}, "extra": Payload()}, path)
    commands = [["fit", *tiny, "--ckpt_path", "evil.ckpt"]]
    if writer == "zip":
        commands += [
            ["fit", *tiny, "--ckpt_path", "last"],
            ["validate", *tiny, "--ckpt_path", "evil.ckpt"],
            ["test", *tiny, "--ckpt_path", "evil.ckpt"],
            ["predict", *tiny, "--ckpt_path", "evil.ckpt"],
            ["predict", *tiny, "--data", "Prompts", "--ckpt_path", "evil.ckpt"],
        ]
    for command in commands:
        outcome = darkroom(*command)
        assert outcome.code == 2, command
        expected = "holds code (a pickle of Python objects)" if writer == "pickle" else HOW
        assert expected in outcome.message, command
        assert ".ckpt" in outcome.message
        assert "weights_only" not in outcome.message  # torch would recommend unsafe loading
        assert not Path("canary").exists(), command


SEGMENTATION = ["fit", "--data", "ShapesSegmentation", "--trainer.accelerator", "cpu", "--trainer.fast_dev_run", "true"]


@pytest.mark.fault("weights that run code")
@pytest.mark.parametrize(
    ("named", "settings"),
    [
        ("model.init_from", ["--model", "UNet", "--model.pretrained", "evil.pt"]),
        ("model.init_from", ["--model", "FCN", "--model.width", "0.05", "--model.init_from", "evil.pt"]),
        ("model.members", ["--model", "Ensemble", "--model.members", '["evil.pt", "evil.pt"]']),
    ],
)
def test_weights_with_code_raise(
    darkroom: Callable, assert_payload_not_run: None, named: str, settings: list[str]
) -> None:
    torch.save({"state_dict": {}, "extra": Payload()}, "evil.pt")
    outcome = darkroom(*SEGMENTATION, *settings)
    assert outcome.code == 2
    assert f"{named}: evil.pt {HOW}" in outcome.message


def test_stages_and_cached_judges_with_code_raise(tmp_path: Path, assert_payload_not_run: None) -> None:
    torch.save({"hyper_parameters": {"_class_path": Payload()}}, "evil.ckpt")
    with pytest.raises(UsageError, match=r"model.base evil.ckpt holds code \(posix.system\)"):
        load_stage("evil.ckpt", DDPM, "model.base")
    torch.save({"state_dict": {}, "accuracy": Payload()}, "judge.pt")
    with pytest.raises(UsageError, match=r"judge.pt holds code \(posix.system\)"):
        load_or_train(lambda: torch.nn.Linear(1, 1), lambda: "judge", lambda network: 1.0, tmp_path)


def test_cached_torchvision_weights_with_code_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_payload_not_run: None
) -> None:
    """Check files in torchvision's download folder, which torchvision would unpickle."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    for weights in (ResNet18_Weights.IMAGENET1K_V1, AlexNet_Weights.DEFAULT):
        torch.save({"extra": Payload()}, tmp_path / "hub/checkpoints" / weights.url.rsplit("/", 1)[-1])
    with pytest.raises(UsageError, match=r"model.weights: .*resnet18-\w+.pth holds code \(posix.system\)"):
        fetch_imagenet_weights("resnet18")
    with pytest.raises(UsageError, match=r"model.weights: .*alexnet-\S+.pth holds code \(posix.system\)"):
        imagenet_weights("alexnet", 1, 3)


def test_text_encoders_with_code_raise(tmp_path: Path, assert_payload_not_run: None) -> None:
    pytest.importorskip("transformers")
    from tests.fakes.text_models import write_t5

    folder = write_t5(tmp_path / "t5")
    (folder / "model.safetensors").unlink()
    torch.save({"extra": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="the text encoder cannot be read"):
        T5(str(folder), cache="memory")(["a circle"])


@pytest.mark.parametrize("content", [np.float64(1), torch.nn.Linear(1, 1), Path("x")], ids=["number", "module", "path"])
def test_non_tensor_objects_are_named(darkroom: Callable, tiny: list[str], content: object) -> None:
    torch.save({"state_dict": {}, "extra": content}, "odd.ckpt")
    outcome = darkroom("test", *tiny, "--ckpt_path", "odd.ckpt")
    assert outcome.code == 2
    assert "odd.ckpt holds code (" in outcome.message
    assert ("numpy" if isinstance(content, np.generic) else type(content).__name__) in outcome.message


@pytest.mark.fault("YAML that runs code")
def test_yaml_does_not_construct_objects(darkroom: Callable, tiny: list[str], assert_payload_not_run: None) -> None:
    call = f"!!python/object/apply:os.system ['touch {Path('canary').absolute()}']"
    Path("evil.yaml").write_text(f"trainer:\n  max_epochs: {call}\n")
    outcome = darkroom("fit", *tiny, "--config", "evil.yaml")
    assert outcome.code == 2
    assert "config evil.yaml is not valid YAML: could not determine a constructor" in outcome.message
    for setting in ("--trainer.max_epochs", "--model", "--trainer", "--model.init_args"):
        assert darkroom("fit", *tiny, setting, call).code == 2
    Path("part.yaml").write_text(f"class_path: UNet\ninit_args:\n  base_channels: {call}\n")
    assert darkroom("fit", *tiny, "--model", "part.yaml").code == 2


@pytest.mark.parametrize("class_path", ["os.system", "subprocess.Popen"])
def test_config_builds_only_expected_classes(
    darkroom: Callable, tiny: list[str], assert_payload_not_run: None, class_path: str
) -> None:
    touch = f"touch {Path('canary').absolute()}"
    evil = {"class_path": class_path, "init_args": {"args": touch, "command": touch, "shell": True}}
    for place in ("callbacks", "logger", "profiler", "strategy"):
        Path("evil.yaml").write_text(yaml.safe_dump({"trainer": {place: [evil] if place == "callbacks" else evil}}))
        assert darkroom("fit", *tiny, "--config", "evil.yaml").code == 2, place
    for place in ("loss", "optimizer", "lr_scheduler"):
        Path("evil.yaml").write_text(yaml.safe_dump({"model": {"init_args": {place: evil}}}))
        assert darkroom("fit", *tiny, "--config", "evil.yaml").code == 2, place


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_not_saved(darkroom: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check configs, checkpoints, logs, W&B's files and the console."""
    secrets = {
        "WANDB_API_KEY": "ca9a51" * 6 + "ca9a",
        "AWS_SECRET_ACCESS_KEY": "canary/of+aws/" + "x" * 26,
        "HF_TOKEN": "hf_" + "canary" * 6,
        "MY_PASSWORD": "canary-of-my-own",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcome = darkroom("fit", *tiny, "--config", CONFIGS / "logger/wandb.yaml")
    assert outcome.code == 0
    import wandb

    wandb.teardown()  # its process may still be writing
    files = [path for path in Path.cwd().rglob("*") if path.is_file()]
    assert {"config.yaml", "metrics.csv", "last.ckpt"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    for name, value in secrets.items():
        assert value not in outcome.out + outcome.err, name
        for path in files:
            assert value.encode() not in path.read_bytes(), (name, path)


def config_with(root: str) -> Namespace:
    """Return a config with a value of data.root."""
    return Namespace(data=Namespace(class_path="ImageMaskFolder", init_args=Namespace(root=root)))


@pytest.mark.parametrize(
    "value",
    [
        "https://me:hunter2@host/data",
        "s3://:hunter2@bucket/data",
        "https://host/data?X-Amz-Signature=hunter2",
        "https://host/data?a=b&access_token=hunter2",
        "https://host/data?sig=hunter2",
        "hf_hunter2hunter2hunter2hunter2hunter2",
        "pipe:curl -H 'Authorization: Bearer hunter2' https://host/data",
        "hunter2hunter2-in-the-environment",
    ],
)
def test_secrets_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BUCKET_SECRET", "hunter2hunter2-in-the-environment")
    with pytest.raises(UsageError, match="^data.root holds a password, a key or a token"):
        refuse_secrets(config_with(value))


def test_secret_in_config_raises(darkroom: Callable) -> None:
    """Check that the message names the key and does not repeat the secret."""
    Path("mine.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"root": "https://me:hunter2@host/data"}}}))
    outcome = darkroom("fit", "--model", "UNet", "--data", "ImageMaskFolder", "--config", "mine.yaml")
    assert outcome.code == 2
    assert "data.root holds a password, a key or a token" in outcome.message
    assert "~/.netrc" in outcome.message
    assert "hunter2" not in outcome.out + outcome.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "value",
    [
        "https://host/data?page=2&size=10",
        "https://me@host:8080/data",
        "https://host/keys/token=1/data",
        'pipe:curl -H "Authorization: Bearer $TOKEN" https://host/a?sig=$SIG',
        "data/a:b@c",
    ],
)
def test_addresses_without_secrets_are_accepted(value: str) -> None:
    refuse_secrets(config_with(value))
