"""``darkroom push`` and ``pull`` against a local server of the hub's HTTP interface."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.cli.commands.pull import is_wanted
from darkroom.runtime.records.run_record import read_record
from tests.cli.hub.hub_server import TOKEN, HubServer, Repository
from tests.fakes.runs import write_run


def use_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Let huggingface-hub use a server, without the cache and the login of the user."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in {
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        use_hub(server, monkeypatch, tmp_path / "hub_home")
        yield server


@pytest.fixture
def run() -> Path:
    """A run with a checkpoint, a figure and predictions."""
    folder = write_run(Path("runs/unet/0"))
    for name in ("figures/test_masks/0000030.png", "predictions/a.png", "predictions/deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    save(folder)
    return folder


def save(run: Path, **hyper_parameters: str) -> None:
    (run / "checkpoints").mkdir(exist_ok=True)
    torch.save(
        {"state_dict": {"a": torch.ones(3)}, "hyper_parameters": hyper_parameters}, run / "checkpoints/best.ckpt"
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


def test_pulled_files_are_those_that_were_pushed(darkroom: Callable, hub: HubServer, run: Path) -> None:
    pushed = darkroom("push", run, "me/unet", "--license", "apache-2.0", "--include", "predictions/*.png")
    assert pushed.code == 0, pushed.err
    assert f"{hub.url}/me/unet" in pushed.out
    assert TOKEN not in pushed.out + pushed.err
    pulled = darkroom("pull", "me/unet")
    assert pulled.code == 0, pulled.err
    assert "darkroom predict --ckpt_path unet/checkpoints/best.ckpt" in pulled.out
    found = files(Path("unet"))
    assert found == hub.repositories["me/unet"].commits[0][1]
    assert found.keys() == {
        *("README.md", "config.yaml", "metrics.csv", "run.json", "test/summary.json", "checkpoints/best.ckpt"),
        *("figures/test_masks/0000030.png", "predictions/a.png"),
    }
    for name in found.keys() - {"README.md", "run.json"}:
        assert found[name] == (run / name).read_bytes(), name
    assert found["README.md"] == (run / "card.md").read_bytes()
    assert b"license: apache-2.0" in found["README.md"]


def test_public_record_has_no_machine_and_no_command(darkroom: Callable, hub: HubServer, run: Path) -> None:
    record = read_record(run)
    assert record is not None
    dataclasses.replace(record, command="darkroom fit --data.root /home/me/data", host="workstation").write(run)
    darkroom("push", run, "me/unet")
    content = hub.repositories["me/unet"].commits[0][1]["run.json"]
    assert b"/home/me" not in content
    assert b"workstation" not in content


def test_two_revisions(darkroom: Callable, hub: HubServer, run: Path) -> None:
    darkroom("push", run, "me/unet")
    first = (run / "checkpoints/best.ckpt").read_bytes()
    save(run, backbone="vgg16")
    darkroom("push", run, "me/unet")
    (old, _), (new, _) = hub.repositories["me/unet"].commits
    assert darkroom("pull", "me/unet", "--revision", old, "--output", "pulled").code == 0
    assert Path("pulled/checkpoints/best.ckpt").read_bytes() == first
    hub.requests.clear()
    assert darkroom("pull", "me/unet", "--output", "pulled").code == 0
    assert Path("pulled/checkpoints/best.ckpt").read_bytes() == (run / "checkpoints/best.ckpt").read_bytes()
    downloads = [request for request in hub.requests if request.startswith("GET /me/unet/resolve")]
    assert downloads == [f"GET /me/unet/resolve/{new}/checkpoints/best.ckpt"]  # the others have not changed


def test_dry_run_lists_files_and_sends_nothing(darkroom: Callable, hub: HubServer, run: Path) -> None:
    done = darkroom("push", run / "checkpoints/best.ckpt", "me/unet", "--dry_run")
    assert done.code == 0
    for name in ("README.md", "config.yaml", "checkpoints/best.ckpt", "figures/test_masks/0000030.png"):
        assert name in done.out
    assert "nothing was uploaded" in done.out
    assert hub.requests == []


def test_folder_is_included_with_all_its_files(darkroom: Callable, hub: HubServer, run: Path) -> None:
    done = darkroom("push", "--include", "predictions", "--include", "test/*.csv", run, "me/unet", "--dry_run")
    for name in ("predictions/a.png", "predictions/deep/b.png", "test/samples.csv"):
        assert name in done.out


def test_figures_can_be_left_out(darkroom: Callable, hub: HubServer, run: Path) -> None:
    darkroom("push", run, "me/unet", "--without_figures")
    ((_, found),) = hub.repositories["me/unet"].commits
    assert not [name for name in found if name.endswith(".png")]
    assert b"](figures" not in found["README.md"]


def test_edited_card_is_uploaded_as_it_is(darkroom: Callable, hub: HubServer, run: Path) -> None:
    darkroom("push", run, "me/unet", "--dry_run")
    edited = (run / "card.md").read_text().replace("## Limits", "## Limits\n\nNot for surgery.")
    (run / "card.md").write_text(edited)
    darkroom("push", run, "me/unet")
    assert hub.repositories["me/unet"].commits[0][1]["README.md"].decode() == edited


def test_private_repository(darkroom: Callable, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert darkroom("push", run, "me/unet", "--private").code == 0
    assert hub.repositories["me/unet"].private
    assert darkroom("pull", "me/unet", "--output", "mine").code == 0
    monkeypatch.delenv("HF_TOKEN")
    stranger = darkroom("pull", "me/unet", "--output", "other")
    assert stranger.code == 1
    assert "does not exist" in stranger.message
    assert "private" in stranger.message


def test_public_repository_is_refused_where_private_is_asked(darkroom: Callable, hub: HubServer, run: Path) -> None:
    hub.repositories["me/unet"] = Repository(private=False)
    done = darkroom("push", run, "me/unet", "--private")
    assert done.code == 2
    assert "exists and is public" in done.message
    assert hub.repositories["me/unet"].commits == []


@pytest.mark.parametrize("place", ["config", "environment", "checkpoint", "include"])
def test_secret_is_never_uploaded(
    darkroom: Callable, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    secret = "hf_" + "x" * 34
    options: list[str] = []
    if place == "config":
        with (run / "config.yaml").open("a") as file:
            file.write("logger: {password: hunter2}\n")
    elif place == "environment":
        monkeypatch.setenv("MY_API_KEY", "0123456789abcdef0")
        with (run / "config.yaml").open("a") as file:
            file.write("note: 0123456789abcdef0\n")
    elif place == "checkpoint":
        save(run, url=f"https://host/?token={secret}")
    else:
        (run / "predictions/log.txt").write_text(secret)
        options = ["--include", "predictions/*"]
    done = darkroom("push", run, "me/unet", *options)
    assert done.code == 2
    assert "holds a password, a key or a token; nothing was uploaded" in done.message
    assert secret not in done.err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("push", "runs/unet/0", "unet"), 2, "REPO_ID must be OWNER/NAME"),
        (("push", "runs/unet/1", "me/unet"), 2, "runs/unet/1 does not exist"),
        (("push", "runs/unet/0/config.yaml", "me/unet"), 2, "must be a checkpoint in the folder checkpoints"),
        (("push", "runs/unet/0", "me/unet", "--include", "nothing/*"), 2, "--include nothing/* must match files"),
        (("push", "runs/unet/0", "me/unet", "--include", "../../../secret"), 2, "must match files in runs/unet/0"),
        (("push", "runs/unet/0", "me/unet", "--license", "mine"), 2, "--license must be an identifier"),
        (("push", "runs/unet/0", "you/unet"), 1, "no permission for you/unet"),
        (("push", "runs/unet/0", "you/public"), 1, "no permission for you/public"),
        (("pull", "me/unet"), 1, "me/unet does not exist on http"),
        (("pull", "you/public", "--revision", "v9"), 1, "--revision v9 must be a branch, a tag or a commit"),
        (("pull", "you/public"), 2, "you/public must have config.yaml and checkpoints/*.ckpt"),
        (("pull", "you/public", "--output", "runs/unet/0"), 2, "holds files that darkroom pull did not write"),
    ],
)
def test_mistakes_end_in_one_message(
    darkroom: Callable, hub: HubServer, run: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    hub.repositories["you/public"] = Repository(private=False)
    Path("secret").touch()
    done = darkroom(*arguments)
    assert done.code == code
    assert message in done.message
    assert len(done.message.splitlines()) == 1


def test_missing_token_names_login(
    darkroom: Callable, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    done = darkroom("push", run, "me/unet")
    assert done.code == 1
    assert "set HF_TOKEN" in done.message
    assert hub.requests == []


def test_invalid_token_is_named(darkroom: Callable, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    assert "the token has no permission for me/unet" in darkroom("push", run, "me/unet").message


def test_missing_package_names_install_command(darkroom: Callable, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = darkroom("push", run, "me/unet")
    assert done.code == 2
    assert "[hub]" in done.message


@pytest.mark.parametrize("command", [("pull", "me/unet"), ("push", "runs/unet/0", "me/unet")])
def test_hub_that_is_down_or_out_of_reach(
    darkroom: Callable, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with HubServer(status=500) as server:
        use_hub(server, monkeypatch, tmp_path / "hub_home")
        down = darkroom(*command)
    assert (down.code, "answered with status 500 (out of order)" in down.message) == (1, True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    gone = darkroom(*command)
    assert (gone.code, "cannot be reached" in gone.message) == (1, True)
    assert len(gone.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("Data processing error: CAS"), 1, "the transfer failed (Data processing error: CAS)"),
        (KeyboardInterrupt(), 130, "the repository is as it was"),
    ],
)
def test_transfer_that_breaks(
    darkroom: Callable,
    hub: HubServer,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_commit", fail)
    done = darkroom("push", run, "me/unet")
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("checkpoints/best.ckpt", True),
        ("export/model.onnx", True),
        ("config.yaml", True),
        ("callbacks/mine.py", False),
        ("weights.pkl", False),
        ("pytorch_model.bin", False),
        (".cache/huggingface/x.json", False),
    ],
)
def test_code_is_not_pulled(name: str, wanted: bool) -> None:
    assert is_wanted(name) == wanted


def test_path_out_of_the_folder_is_not_pulled(darkroom: Callable, hub: HubServer, run: Path) -> None:
    darkroom("push", run, "me/unet")
    hub.repositories["me/unet"].commits[0][1]["../evil.yaml"] = b"x"
    assert darkroom("pull", "me/unet", "--output", "inside/pulled").code == 0
    assert not Path("inside/evil.yaml").exists()


@pytest.mark.slow
def test_pulled_run_tests_predicts_and_loads(
    darkroom: Callable, hub: HubServer, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert darkroom("test", "--ckpt_path", tiny_run / "checkpoints/best.ckpt").code == 0
    assert darkroom("push", tiny_run, "me/tiny", "--license", "mit").code == 0
    assert darkroom("pull", "me/tiny").code == 0
    for command in ("test", "predict"):
        done = darkroom(command, "--ckpt_path", "tiny/checkpoints/best.ckpt")
        assert done.code == 0, done.err
    assert list(Path("tiny/predictions").glob("*"))
    (code,) = re.findall(r"```python\n(.*?)```", Path("tiny/README.md").read_text(), re.DOTALL)
    assert "| these weights | mit |" in Path("tiny/card.md").read_text()
    assert "| samples, train | 8 |" in Path("tiny/card.md").read_text()
    monkeypatch.chdir("tiny")
    names: dict[str, Any] = {}
    exec(code, names)
    assert not names["model"].training
