"""Serve a page on this machine alone, for browsers that do not run it from a file."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for a request."""


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder on 127.0.0.1; ``serve_forever`` runs it.

    Args:
        folder: whose files are served.
        port: 0: any that is free.

    Raises:
        OSError: the port is in use.
    """
    return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
