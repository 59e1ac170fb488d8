"""Uploads to and downloads from a repository of the Hugging Face hub, with one message for each failure."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from darkroom import __version__
from darkroom.errors import HubError, UsageError
from darkroom.paths import DISTRIBUTION, install_command

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOGIN = "log in by `hf auth login`, or set HF_TOKEN to a token of https://huggingface.co/settings/tokens"
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NETWORK = ("httpx", "httpx2", "requests", "urllib3")  # libraries whose errors mean that no answer arrived


class HubRepository:
    """Model repository of the hub; ``HF_ENDPOINT`` names another server.

    Args:
        repo_id: ``OWNER/NAME``.

    Raises:
        UsageError: the name is invalid, or huggingface-hub is not installed.
    """

    def __init__(self, repo_id: str) -> None:
        if not _REPO_ID.fullmatch(repo_id):
            raise UsageError(f"REPO_ID must be OWNER/NAME of a repository of the hub, got {repo_id!r}")
        self.repo_id = repo_id
        self._api = _connect()

    @property
    def address(self) -> str:
        """Page of the repository."""
        return f"{self._api.endpoint}/{self.repo_id}"

    def push(self, files: Mapping[str, Path | bytes], private: bool, message: str) -> str:
        """Upload files in one commit, and create the repository if it does not exist; return the address of the commit.

        Args:
            files: file or content by path in the repository.
            private: create a private repository; refuse one that is public.
            message: of the commit.

        Raises:
            UsageError: the repository is public, but must be private; or the hub refuses the metadata of the card.
            HubError: no token or permission, or the hub cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, get_token

        if get_token() is None:
            raise HubError(f"darkroom push needs a token with write access; {_LOGIN}")
        with self._one_message():
            self._require_repository(private)
            operations = [CommitOperationAdd(path, content) for path, content in files.items()]
            return str(self._api.create_commit(self.repo_id, operations, commit_message=message).commit_url)

    def _require_repository(self, private: bool) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._api.model_info(self.repo_id)
        except RepositoryNotFoundError:  # also one that the token may not see: then creating it fails
            self._api.create_repo(self.repo_id, private=private or None)
            return
        if private and not info.private:
            raise UsageError(
                f"--private: {self.address} exists and is public; make it private in its settings first, or leave out "
                "--private"
            )

    def list_files(self, revision: str | None) -> tuple[str, list[str]]:
        """Return the commit of a revision, and the paths of its files.

        Args:
            revision: branch, tag or commit; None: main.

        Raises:
            HubError: the repository or the revision does not exist, or the hub cannot be reached.
        """
        with self._one_message(revision):
            info = self._api.model_info(self.repo_id, revision=revision)
        names = [file.rfilename for file in info.siblings or []]
        return str(info.sha), sorted(filter(_stays_inside, names))

    def download(self, commit: str, names: Sequence[str], folder: Path) -> None:
        """Download files into a folder; those of an earlier download that have not changed are not downloaded again.

        Args:
            commit: hash.
            names: paths in the repository.
            folder: target.

        Raises:
            HubError: the hub cannot be reached.
        """
        with self._one_message(commit):
            patterns = [escape(name) for name in names]
            self._api.snapshot_download(self.repo_id, revision=commit, local_dir=folder, allow_patterns=patterns)

    @contextmanager
    def _one_message(self, revision: str | None = None) -> Iterator[None]:
        """Replace the errors of huggingface-hub by one message."""
        try:
            yield
        except UsageError:
            raise
        except Exception as error:
            message = next(filter(None, (self._explain(cause, revision) for cause in _causes(error))), None)
            if message is None and isinstance(error, RuntimeError | ConnectionError | TimeoutError):
                message = f"the transfer failed ({' '.join(str(error).split())}); run the command again"  # of hf-xet
            if message is None:
                raise
            raise (UsageError if "metadata of the card" in message else HubError)(message) from error

    def _explain(self, error: BaseException, revision: str | None) -> str | None:
        """Return the message for an error; None if it is not one of the hub or the network."""
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            return f"{self.repo_id} needs the consent of its owner; ask for access on {self.address}, and {_LOGIN}"
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"{self.repo_id} does not exist on {self._api.endpoint}, or it is private and the token has no access; "
                f"check the name, or {_LOGIN}"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"--revision {revision} must be a branch, a tag or a commit of {self.repo_id}; it does not exist"
        if isinstance(error, errors.HfHubHTTPError):
            status, server = error.response.status_code, " ".join(str(error.server_message or "").split())
            if status in (401, 403):
                return (
                    f"the token has no permission for {self.repo_id}"
                    f"{f' ({server})' if server else ''}; it must have write access to it, and be valid: {_LOGIN}"
                )
            return (
                f"{self._api.endpoint} answered with status {status}{f' ({server})' if server else ''}; try again later"
            )
        if isinstance(error, ValueError) and str(error).startswith("Invalid metadata"):
            reason = " ".join(str(error).splitlines()[-1].split())[:200]
            return (
                f"the hub refuses the metadata of the card ({reason}); --license must be an identifier of "
                "https://huggingface.co/docs/hub/repositories-licenses"
            )
        network = type(error).__module__.partition(".")[0] in _NETWORK
        if network or isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
            reason = " ".join(str(error).split()) or type(error).__name__
            return (
                f"{self._api.endpoint} cannot be reached ({reason}); check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
            )
        return None


def _connect() -> "HfApi":
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UsageError(
            f"darkroom push and pull need the package huggingface-hub; install it: {install_command('hub')}"
        ) from None
    endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
    return HfApi(endpoint=endpoint, library_name=DISTRIBUTION, library_version=__version__)


def _stays_inside(name: str) -> bool:
    """Return True if a path of a repository is inside of the folder it is downloaded to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
