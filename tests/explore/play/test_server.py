"""The server answers its own page, and nobody else; whatever is sent, it goes on."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.explore.conftest import D_SAE, SITES, write_run
from tide_lightning.diffusion.counters import normals
from tide_lightning.explore import Run, open_run
from tide_lightning.explore.finder import STEPS_TO_FIND, STEPS_TO_MEASURE
from tide_lightning.explore.play.server import PlayServer
from tide_lightning.explore.play.studio import Studio
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.recording import walk_prompts, watch

DRAW: dict[str, Any] = {"prompt": "a red cube", "seed": 1, "steps": 2}
JSON = {"Content-Type": "application/json"}


def ask(
    server: PlayServer, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    given = (JSON if body is not None else {}) | (headers or {})
    connection.request("GET" if body is None else "POST", path, content, given)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_listens_on_this_machine_only_and_lets_no_other_page_in(server: PlayServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, headers, content = ask(server, "/")
    assert status == 200
    assert b"<title>tide play</title>" in content
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/", None), ("/api/about", None), ("/api/draw", DRAW)])
def test_other_hosts_and_origins_are_refused(
    server: PlayServer, headers: dict[str, str], path: str, body: dict[str, Any] | None
) -> None:
    assert ask(server, path, body, headers)[0] == 403


def test_its_own_page_is_answered(server: PlayServer) -> None:
    origin = server.url.rstrip("/")
    assert ask(server, "/api/progress", None, {"Origin": origin})[0] == 200
    assert ask(server, "/api/progress", None, {"Host": f"localhost:{server.server_port}"})[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/nowhere", None, None, 404),
        ("/../studio.py", None, None, 404),
        ("/page/../../../../../etc/passwd", None, None, 404),
        ("/api/nowhere", {}, None, 404),
        ("/api/draw", b"prompt=a+cube", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("/api/draw", b"{", None, 400),
        ("/api/draw", b"[" * 100_000, None, 400),
        ("/api/draw", b"[1]", None, 400),
        ("/api/draw", b"\xff\xfe", None, 400),
        ("/api/draw", b"x" * 300_000, None, 413),
        ("/api/draw", {"prompt": 3}, None, 400),
        ("/api/draw", {"prompt": "x" * 20_001}, None, 400),
        ("/api/draw", {"prompt": "", "seed": -1}, None, 400),
        ("/api/draw", {"prompt": "", "seed": 1.5}, None, 400),
        ("/api/draw", {"prompt": "", "steps": True}, None, 400),
        ("/api/draw", b'{"prompt": "", "guidance_scale": NaN}', None, 400),
        ("/api/draw", {"prompt": "", "steps": 10**6}, None, 400),
        ("/api/draw", {"prompt": "", "seed": 10**400}, None, 400),
        ("/api/draw", b'{"prompt": "", "seed": 1e999}', None, 400),
        ("/api/draw", b'{"prompt": "", "seed": ' + b"9" * 5000 + b"}", None, 400),
        ("/api/draw", b'{"prompt": "a \\ud800 cube"}', None, 400),
        ("/api/find", b'{"query": "\\udfff"}', None, 400),
        ("/api/steer", {"edits": [1]}, None, 400),
        ("/api/steer", {"edits": [{"site": "nowhere", "latent": 1}]}, None, 400),
        ("/api/steer", {"edits": [{"site": SITES[0], "latent": D_SAE}]}, None, 400),
        ("/api/steer", {"edits": [{"site": SITES[0], "latent": 1, "operation": "explode"}]}, None, 400),
        ("/api/steer", {"edits": [{"site": SITES[0], "latent": 1}], "low": 0.6, "high": 0.7}, None, 400),
        ("/api/find", {"query": "x" * 201}, None, 400),
        ("/api/find", {"query": " "}, None, 400),
    ],
)
def test_nonsense_is_answered_in_a_line(
    server: PlayServer, path: str, body: Any, headers: dict[str, str] | None, status: int
) -> None:
    found, _, content = ask(server, path, body, headers)
    assert found == status
    told = json.loads(content)["error"]
    assert told
    assert "\n" not in told


@pytest.mark.parametrize("length", ["\xb2", "-5", "+5", "0x10", "1_0", "9" * 30, "9" * 5000, "5, 5", "", "five"])
def test_a_length_that_is_none_is_refused(server: PlayServer, length: str) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as talk:
        head = f"POST /api/draw HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: {length}\r\n\r\n"
        talk.sendall(head.encode("latin-1"))
        assert talk.recv(100).startswith(b"HTTP/1.1 413 ")


def test_clients_that_go_away_are_not_missed(server: PlayServer, capfd: pytest.CaptureFixture[str]) -> None:
    request = (
        b"POST /api/draw HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n"
    )
    for body in (b"", b"{", b'{"prompt": "", "steps": 1}    '):
        for _ in range(5):
            talk = socket.create_connection(("127.0.0.1", server.server_port), timeout=30)
            talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a goodbye
            talk.sendall(request % server.server_port + body)
            talk.close()
    while json.loads(ask(server, "/api/progress")[2])["busy"]:
        time.sleep(0.05)
    assert ask(server, "/api/about")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_many_at_once_are_all_answered(server: PlayServer) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ask(server, "/api/progress")[0])) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 100


def test_one_thing_is_made_at_a_time(server: PlayServer) -> None:
    found: list[int] = []
    request = {**DRAW, "seed": 77, "steps": 12}
    threads = [threading.Thread(target=lambda: found.append(ask(server, "/api/draw", request)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found)[0] == 200
    assert set(found) <= {200, 202}
    assert ask(server, "/api/draw", DRAW)[0] == 200
    assert json.loads(ask(server, "/api/progress")[2])["busy"] is False


def test_whatever_takes_long_is_told_step_by_step(run: Run) -> None:
    studio, is_over = Studio(run, steps=2), threading.Event()
    told: dict[str, int] = {}

    def look() -> None:
        while not is_over.wait(0.002):
            now = studio.progress()
            told[now["doing"]] = now["of"]

    looking = threading.Thread(target=look)
    looking.start()
    first = studio.find({"query": "red"})["found"][0]
    run.rises.clear()  # as of a word that was not searched for
    studio.steer(DRAW | {"edits": [{"site": first["site"], "latent": first["latent"], "times": 1}]})
    is_over.set()
    looking.join()
    assert told["Drawing images with and without “red”"] == STEPS_TO_FIND
    assert told["Measuring, once for a word, how far “red” moves it"] == STEPS_TO_MEASURE
    assert studio.progress()["busy"] is False


def test_a_run_whose_data_is_gone_has_no_examples(server: PlayServer, tmp_path: Path) -> None:
    gone = write_run(tmp_path / "gone" / "1", SITES, prompts=str(tmp_path / "nowhere.txt"))
    about = Studio(open_run(gone, device="cpu"), steps=2).about()
    assert about["examples"] == []
    assert json.loads(ask(server, "/api/about")[2])["examples"]


def test_a_list_tells_how_far_latents_move_tokens(server: PlayServer, run: Run) -> None:
    active = json.loads(ask(server, "/api/draw", DRAW)[2])["active"]
    noise = normals(1, "sample", numbers=[0], shape=run.denoiser.latent_shape)
    walk = walk_prompts(["a red cube"], noise, num_inference_steps=2, guidance_scale=run.guidance_scale)
    heights = watch(run.denoiser, run.saes, walk).peak
    full = {site: full_amounts(sae).cpu() for site, sae in run.saes.items()}
    assert len(active) > 10
    for one in active:
        share = heights[one["site"]][0, :, one["latent"]].mean() / full[one["site"]][one["latent"]]
        assert one["reach"] == pytest.approx(float(share))
    reach = [one["reach"] for one in active]
    assert reach == sorted(reach, reverse=True)  # none has a name


def test_no_amount_gives_the_same_image(server: PlayServer) -> None:
    edit = {"site": SITES[0], "latent": 3, "operation": "add", "amount": 0}
    same = json.loads(ask(server, "/api/steer", {**DRAW, "edits": [edit]})[2])
    assert same["before"] == same["after"]
    assert same["changed"][-1].startswith("pixels moved by 0.0% of the range")
    other = json.loads(ask(server, "/api/steer", {**DRAW, "edits": [{**edit, "amount": 20}]})[2])
    assert other["before"] == same["before"] != other["after"]
    assert other["changed"] != same["changed"]


def test_amounts_in_times_are_of_what_the_latent_does_and_reach_where_it_fires(server: PlayServer) -> None:
    edit = {"site": SITES[0], "latent": 3, "operation": "add", "times": 2}
    twice = json.loads(ask(server, "/api/steer", {**DRAW, "edits": [edit]})[2])["edits"][0]
    assert twice["amount"] == pytest.approx(2 * twice["unit"])
    assert twice["means"] in (
        "as high as it fires by itself",
        "a push that can be seen, for it hardly fires in this image",
    )
    raw = {**edit, "amount": 5000}
    del raw["times"]
    answers = [
        json.loads(ask(server, "/api/steer", {**DRAW, "edits": [raw], "where": where})[2])
        for where in ("firing", "all")
    ]
    assert [one["edits"][0]["amount"] for one in answers] == [5000, 5000]
    assert answers[1]["edits"][0]["everywhere"]
