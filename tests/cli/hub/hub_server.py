"""Server of the Hugging Face hub's HTTP interface: model repositories with commits, in memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
OWNER = "me"
LICENSES = ("apache-2.0", "mit", "unknown")


@dataclass
class Repository:
    """Repository: its commits, oldest first, each with all its files."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return hash and files of main or a commit; None if it does not exist."""
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass(frozen=True)
class Answer:
    """Answer to a request."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def refuse(status: int, code: str, message: str) -> Answer:
    """Return an answer with an error, as the hub's."""
    return Answer({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})


class HubServer:
    """Hub with one user, ``me``, whose files of ten bytes or more named ``*.ckpt`` are in large file storage.

    Args:
        status: of the answer to every request, such as 500; None: answer it.
    """

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self._large: dict[str, bytes] = {}
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
                path = unquote(urlsplit(self.path).path)
                server.requests.append(f"{self.command} {path}")
                answer = server._answer(self.command, path, body, self.headers.get("Authorization", ""))
                content = answer.content
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(answer.status)
                for name, value in ({"Content-Length": str(len(data))} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_POST = do_PUT = answer

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, method: str, path: str, body: bytes, authorization: str) -> Answer:
        if self.status is not None:
            return refuse(self.status, "", "out of order")
        if method == "PUT":
            self._large[path.rpartition("/")[2]] = body
            return Answer({})
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        trusted = authorization == f"Bearer {TOKEN}"
        if method == "POST" and not trusted:
            return refuse(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name = next(
            (name for name in re.findall(r"[\w.-]+/[\w.-]+?(?=/|\.git/|$)", path.removeprefix("/api/models/"))), ""
        )
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not trusted):
            return refuse(401 if not trusted else 404, "RepoNotFound", "Repository not found")
        if method == "POST" and not name.startswith(f"{OWNER}/"):
            return refuse(403, "", "Forbidden: you must have write access")
        return self._of_repository(name, repository, path, body)

    def _validate(self, card: str) -> Answer:
        license = re.search(r"^license: (.+)$", card, re.MULTILINE)
        if license and license[1] in LICENSES:
            return Answer({"errors": [], "warnings": []})
        message = f'"license" must be one of [{", ".join(LICENSES)}]'
        return Answer({"errors": [{"message": message}], "warnings": []}, 400)

    def _create(self, asked: dict[str, Any]) -> Answer:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != OWNER:
            return refuse(
                403, "", f'You don\'t have the rights to create a model under the namespace "{asked["organization"]}"'
            )
        self.repositories[name] = Repository(asked.get("visibility") == "private" or asked.get("private", False))
        return Answer({"url": f"{self.url}/{name}", "name": name})

    def _of_repository(self, name: str, repository: Repository, path: str, body: bytes) -> Answer:
        if path.endswith("/info/lfs/objects/batch"):
            return Answer({"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]})
        if "/preupload/" in path:
            return Answer({"files": [self._mode(one) for one in json.loads(body)["files"]]})
        if "/commit/" in path:
            return self._commit(name, repository, body)
        found = re.search(r"/(revision|tree|resolve)/([\w.-]+)(?:/(.+))?$", path)
        what, revision, file = found.groups() if found else ("revision", "main", None)
        commit = repository.files(revision)
        if commit is None:
            return refuse(404, "RevisionNotFound", "Invalid rev id")
        if what == "resolve":
            return self._file(*commit, str(file))
        if what == "tree":
            return Answer([self._entry(path, content) for path, content in commit[1].items()])
        siblings = [{"rfilename": file} for file in commit[1]]
        return Answer({"id": name, "sha": commit[0], "private": repository.private, "siblings": siblings})

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        actions = {"upload": {"href": f"{self.url}/upload/{asked['oid']}"}}
        return asked | ({} if asked["oid"] in self._large else {"actions": actions})

    def _mode(self, asked: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if asked["path"].endswith(".ckpt") else "regular"
        return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}

    def _commit(self, name: str, repository: Repository, body: bytes) -> Answer:
        files = dict(repository.files("main")[1])  # type: ignore[index]  # main always exists
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
        commit = hashlib.sha1(repr((len(repository.commits), sorted(files.items()))).encode()).hexdigest()
        repository.commits.append((commit, files))
        return Answer({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _file(self, commit: str, files: dict[str, bytes], name: str) -> Answer:
        if name not in files:
            return refuse(404, "EntryNotFound", "Entry not found")
        etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
        return Answer(files[name], headers={"ETag": etag, "X-Repo-Commit": commit})
