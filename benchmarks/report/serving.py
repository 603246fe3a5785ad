"""A page served to this machine alone, and shown in its browser."""

from __future__ import annotations

import contextlib
import functools
import urllib.parse
import webbrowser
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"


class _Quiet(SimpleHTTPRequestHandler):
    """Files of one folder, links out of it left out; nothing is logged or listed."""

    def log_message(self, format: str, *args: Any) -> None:
        return

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path)).resolve()
        # Another site's page may have its own name lead to this address: it is told nothing.
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in (LOOPBACK, "localhost") or not path.is_relative_to(Path(self.directory).resolve()):
            self.send_error(404)
            return None
        return super().send_head()


def server(page: Path, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """A server of a page's folder on the loopback interface, not yet running, and the page's address.

    port: 0 for any that is free.
    """
    handler = functools.partial(_Quiet, directory=str(page.resolve().parent))
    made = ThreadingHTTPServer((LOOPBACK, port), handler)
    return made, f"http://{LOOPBACK}:{made.server_address[1]}/{urllib.parse.quote(page.name)}"


def serve(page: Path, *, open_page: bool, say: Callable[[str], None]) -> None:
    """Serve until interrupted."""
    made, address = server(page)
    with made:
        say(f"{address} (this machine alone; Ctrl-C ends it)")
        if open_page:
            show(address)
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it, and no failure
            made.serve_forever()


def show(address: str) -> None:
    webbrowser.open(address)
