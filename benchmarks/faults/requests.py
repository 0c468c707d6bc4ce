"""Requests to `tide play` that no page of ours sends: answered or closed, without a traceback, and the next one too."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks.faults.fits import Reference
from benchmarks.faults.trial import Trial
from tide_lightning.explore import open_run
from tide_lightning.explore.play.server import PlayServer
from tide_lightning.explore.play.studio import Studio

GOAL, SECONDS = 1000, 90
_FINE = {200, 202, 400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501, 505}
_HUGE = "9" * 400
_VALUES = [
    "null", "true", "-1", "0", "1", "1e400", _HUGE, "-" + _HUGE, "0.5", '""', '"a"', '"\\ud800"', '"\\u0000"',
    '"' + "x" * 3000 + '"',
    "[]", "[" * 500 + "]" * 500, "{}", '{"a": 1}', "NaN", "Infinity", '"<script>"', '"\\u202e"', "[null]",
    '[{"site": 7}]',
    '[{"site": "transformer_blocks.3", "latent": 1e9}]', '[{"site": "\\ud800", "latent": 1, "operation": "add"}]',
]  # fmt: skip
_KEYS = ["prompt", "seed", "steps", "guidance_scale", "edits", "low", "high", "half", "query", "nothing"]


class Playing(NamedTuple):
    """A page that is served, and what this process wrote to standard error."""

    server: PlayServer
    said: io.StringIO


def prepare(reference: Reference, folder: Path) -> Playing:
    """Serve the run that ships with the package."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    server = PlayServer(Studio(open_run("quickstart", device="cpu"), steps=1), 0)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    said = io.StringIO()
    sys.stderr = said
    return Playing(server, said)


def attempt(playing: Playing, draw: Random, folder: Path) -> Trial:
    """Send something, alone or several at once; then ask for what has to be there."""
    before = len(playing.said.getvalue())
    port = playing.server.server_port
    made = [_request(draw, port) for _ in range(draw.choice([1, 1, 1, 4, 30]))]
    answers: list[int | None] = []
    threads = [threading.Thread(target=lambda one=one: answers.append(_send(one, port))) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    what = f"{len(made)} at once, the first {made[0].content[:60]!r}"
    if (status := _send(_get("/api/progress", f"127.0.0.1:{port}"), port)) != 200:
        return Trial("wrong", f"{what}: afterwards it answers {status}")
    said = playing.said.getvalue()[before:]
    if "Traceback" in said or 500 in answers:
        return Trial("traceback", f"{what}: {' '.join(said.split())[-200:]}")
    if odd := [status for status in answers if status is not None and status not in _FINE]:
        return Trial("wrong", f"{what}: it answers {odd[0]}")
    return Trial("survived" if 200 in answers else "refused", what)


class _Request(NamedTuple):
    """Bytes to be sent; `resets` breaks the connection off in place of waiting for an answer."""

    content: bytes
    resets: bool


def _request(draw: Random, port: int) -> _Request:
    kind = draw.choice(["json", "json", "json", "get", "noise", "head", "length", "half"])
    resets = draw.random() < 0.15
    host = draw.choice([f"127.0.0.1:{port}"] * 5 + ["evil.example", "", "\xff"])
    if kind == "noise":
        return _Request(draw.randbytes(draw.randrange(300)) + b"\r\n\r\n", resets)
    if kind == "get":
        path = draw.choice(
            ["/", "/api/about", "/api/progress", "/../../etc/passwd", "/%00", "/" + "a" * 70_000, "//", "*"]
        )
        return _get(path, host)._replace(resets=resets)
    if kind == "head":
        more = "".join(f"X-{number}: {'y' * 50}\r\n" for number in range(draw.choice([1, 99, 300])))
        line = draw.choice(
            ["PUT / HTTP/1.1", "POST", "GET / HTTP/9.9", "GET / HTTP/1.1 x", "OPTIONS * HTTP/1.1", "\0\0"]
        )
        return _Request(f"{line}\r\n{more}\r\n".encode(), resets)
    pairs = ", ".join(f'"{draw.choice(_KEYS)}": {draw.choice(_VALUES)}' for _ in range(draw.randrange(5)))
    body = draw.choice(
        [
            f"{{{pairs}}}",
            f"{{{pairs}}}",
            f'{{"steps": 1, "prompt": "a red cube", "seed": {draw.randrange(9)}}}',
            "[" * 9000,
            "\xff",
        ]
    )
    content = body.encode("latin-1", "replace")
    length = draw.choice(["-1", "9" * 5000, "1_0", "\xb2", "", "0"]) if kind == "length" else str(len(content))
    path = draw.choice(["/api/draw", "/api/steer", "/api/steer", "/api/find?", "/api/nothing"])
    kind_of = draw.choice(["application/json"] * 4 + ["text/plain", ""])
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind_of}", f"Content-Length: {length}"]
    sent = "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + content
    return _Request(sent[: draw.randrange(1, len(sent))] if kind == "half" else sent, resets or kind == "half")


def _get(path: str, host: str) -> _Request:
    text = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    return _Request(text.encode("latin-1"), False)


def _send(request: _Request, port: int) -> int | None:
    """The status of the answer, if there is one."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=20) as talk:
        talk.sendall(request.content)
        if request.resets:
            talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return None
        talk.shutdown(socket.SHUT_WR)
        answer = talk.makefile("rb").readline().split()
        with contextlib.suppress(IndexError, ValueError):
            return int(answer[1])
    return None
