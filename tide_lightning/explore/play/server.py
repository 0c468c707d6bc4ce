"""A server for one person on one machine: it listens on 127.0.0.1 only, and answers only the page that it sent.

Any page that a browser has open can send requests to 127.0.0.1. So a request must name this address as its host (a
foreign name may point here: DNS rebinding) and, if it says where it comes from, come from this page; and what changes
something must be JSON, which no form of another page can send.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from tide_lightning.errors import UserError
from tide_lightning.explore.play.studio import Busy, Studio
from tide_lightning.pages import STYLESHEET

_ADDRESS = "127.0.0.1"
_MAX_BODY = 200_000
_LENGTH = re.compile(r"[0-9]{1,9}")
_CSS = "text/css; charset=utf-8"
_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/play.css": ("play.css", _CSS),
    "/play.js": ("play.js", "text/javascript; charset=utf-8"),
    "/sliders.js": ("sliders.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PlayServer(ThreadingHTTPServer):
    """Serves the page and what it asks a studio for; threads, so that progress can be asked for meanwhile."""

    daemon_threads = True
    request_queue_size = 128  # connections that may wait to be taken; the default of 5 has a browser's own reset

    def __init__(self, studio: Studio, port: int) -> None:
        self.asked: dict[str, Callable[[], Mapping[str, Any]]] = {
            "/api/about": studio.about,
            "/api/progress": studio.progress,
        }
        self.told: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "/api/draw": studio.draw,
            "/api/steer": studio.steer,
            "/api/find": studio.find,
        }
        self.pages = {
            path: (files("tide_lightning.explore.play").joinpath("page", name).read_bytes(), kind)
            for path, (name, kind) in _PAGES.items()
        } | {"/tide.css": (STYLESHEET.encode(), _CSS)}
        super().__init__((_ADDRESS, port), _Handler)

    @property
    def hosts(self) -> tuple[str, str]:
        """What requests may call this server."""
        return f"{_ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self.hosts[0]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away before it was answered is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PlayServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tide", ""
    timeout = 60

    def do_GET(self) -> None:
        """A file of the page, or what is asked without changing anything."""
        if not self._is_ours():
            return
        path = self.path.partition("?")[0]
        if path in self.server.pages:
            self._send(HTTPStatus.OK, *self.server.pages[path])
        elif path in self.server.asked:
            self._answer(self.server.asked[path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        """Something to be made."""
        body = self._body()
        if body is None or not self._is_ours():
            return
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON")
            return
        make = self.server.told.get(self.path)
        if make is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "send a JSON object")
            return
        self._answer(lambda: make(request))

    def _is_ours(self) -> bool:
        """Whether the request comes from our own page, or from no page at all."""
        origin = self.headers.get("Origin")
        ours = self.headers.get("Host") in self.server.hosts
        ours &= origin is None or origin in {f"http://{host}" for host in self.server.hosts}
        if not ours:
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers its own page only")
        return ours

    def _body(self) -> bytes | None:
        """What was sent; read before any answer, so that the connection stays in step."""
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length) or int(length) > _MAX_BODY:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {_MAX_BODY} bytes, and say how many")
            return None
        return self.rfile.read(int(length))

    def _answer(self, make: Callable[[], Mapping[str, Any]]) -> None:
        try:
            found = make()
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, " ".join(str(error).split()))
        except Busy:
            self._send_json(HTTPStatus.ACCEPTED, {"busy": True})  # the page asks again
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong; the terminal says what")
        else:
            self._send_json(HTTPStatus.OK, found)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send_json(status, {"error": why})

    def _send_json(self, status: HTTPStatus, told: Mapping[str, Any]) -> None:
        self._send(status, json.dumps(told).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said about requests: the terminal is for what goes wrong."""
