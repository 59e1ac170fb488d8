"""W&B server of one run that can stop responding or exit, and a callback that kills a run or W&B's process."""

import gzip
import json
import os
import signal
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tests.fakes.trouble import wait_until

PROJECT = {"id": "p", "name": "darkroom", "entity": {"id": "e", "name": "me"}}


class WandbServer:
    """Server that accepts a run of W&B and records its history.

    Args:
        silent_from: first request that gets no answer, though its connection stays open: a part of its address or of the
            name of its query.
        dies_at: the same, but there the server is gone.
    """

    def __init__(self, silent_from: str | None = None, dies_at: str | None = None) -> None:
        self.silent_from, self.dies_at = silent_from, dies_at
        self.history: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self._over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(ConnectionError):
                    super().handle()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = server._answer(self.path, body)
                if answer is None:
                    self.close_connection = True
                    return
                text = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = answer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, path: str, body: bytes) -> dict[str, Any] | None:
        query = json.loads(body) if path == "/graphql" else {}
        name = query.get("operationName", path)
        if self.silent_from and (self.silent_from == "anything" or self.silent_from in name):
            self.silent_from = "anything"
            self._over.wait()
            return None
        if self.dies_at and self.dies_at in name:
            self._http.shutdown()
            self._http.server_close()
            return None
        if path == "/graphql":
            return {"data": self._of(name, query.get("variables") or {})}
        if "file_stream" in path:
            self._take(json.loads(body))
        return {}

    def _of(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        if name == "Viewer":
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            return {"model": {**PROJECT, "bucket": self._bucket(variables["name"]) if self.history else None}}
        if name == "UpsertBucket":
            return {"upsertBucket": {"bucket": self._bucket(variables["name"]), "inserted": not self.history}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/up/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def _bucket(self, run: str) -> dict[str, Any]:
        tail = json.dumps([json.dumps(row) for row in self.history[-1:]])
        known = {"historyLineCount": len(self.history), "eventsLineCount": 0, "logLineCount": 0, "historyTail": tail}
        empty = {"eventsTail": "[]", "summaryMetrics": "{}", "config": "{}", "wandbConfig": '{"t": 1}', "tags": []}
        return {"id": "b", "name": run, "displayName": "it", "description": "", "project": PROJECT, **known, **empty}

    def _take(self, sent: dict[str, Any]) -> None:
        rows = sent.get("files", {}).get("wandb-history.jsonl")
        if rows:
            self.history[rows["offset"] :] = map(json.loads, rows["content"])
        if sent.get("complete"):
            self.exit_codes.append(sent["exitcode"])


def wandb_processes(of: int) -> list[int]:
    """Return the running W&B processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"wandb-core") and str(of).encode() in words:
            found.append(int(folder.name))
    return found


class KillOnceTracked(Callback):
    """Kill the run or W&B's own process before a given step, once W&B has written the loss of an earlier one."""

    def __init__(self, step: int, whom: Literal["run", "wandb"]) -> None:
        self.step, self.whom = step, whom

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != self.step:
            return
        assert trainer.log_dir is not None
        (log,) = Path(trainer.log_dir).glob("wandb/*run-*-*/*.wandb")
        wait_until(lambda: b"train/loss" in log.read_bytes())
        (pid,) = wandb_processes(os.getpid())
        os.kill(os.getpid() if self.whom == "run" else pid, signal.SIGKILL)
        wait_until(lambda: not wandb_processes(os.getpid()))
