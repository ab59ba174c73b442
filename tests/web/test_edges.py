"""Odd references, slow browsers, many comparisons at once, names that turn text around."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from stockpot.report.environment import isolated
from stockpot.web import ServerSettings, data, make_app
from stockpot.web import requests as patience
from stockpot.web.angles import Angles, BusyError

ODD = (
    *("main~-1", "main~999999999999999999999", "main~", "~", "~1", "main~1~1", "main~x", "."),
    *("..", "../registry", "a/b", "%00", "\0", "%", "%zz", "\ud800", "é", "א", "\u202ex", "\n"),
    *("x" * 10_000, "0" * 64, "0" * 65, "f" * 6, "*", "?", "[a-z]", "' OR 1=1 --", "-1", "1e9"),
    *("main*", "{{7*7}}", "<b>", "\\", "CON", " ", "\t", "𝟙𝟚𝟛", "Ⅷ"),
)
PAGES = ("/models/{}", "/models/{}/angles", "/lines/{}", "/results/{}", "/results/{}/report")
QUERIES = (
    *("/?q={}", "/?page={}", "/compare?first={}&second=main", "/compare?first=main&second={}"),
    *("/compare?first=main&second=main&base={}", "/sign-in?back={}", "/static/{}"),
)


@pytest.mark.parametrize("page", [*PAGES, *QUERIES])
@pytest.mark.parametrize("odd", ODD)
def test_odd_references_are_the_asker_s_fault(client: TestClient, page: str, odd: str) -> None:
    text = quote(odd.encode("utf-8", "surrogatepass"), safe="")
    found = client.get(page.format(text), follow_redirects=False)
    assert found.status_code in (200, 303, 307, 400, 404), found.text
    assert "server's terminal" not in found.text


def test_of_many_comparisons_at_once_a_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """45 at once: the others are told to come back, and the threads of the pages stay free."""
    ran: list[object] = []
    gate = threading.Event()

    def slow(place: str, models: tuple[str, ...], base: str | None) -> object:
        ran.append(models)
        gate.wait(20)
        return models

    monkeypatch.setattr(data, "inspect", slow)
    angles = Angles()

    def ask(number: int) -> object:
        try:
            return angles.inspect("r", (str(number), "x"), None)
        except BusyError as error:
            return error

    with ThreadPoolExecutor(45) as pool:
        asked = [pool.submit(ask, number) for number in range(45)]
        deadline = time.monotonic() + 20
        while sum(each.done() for each in asked) < 39 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(ran) == 1
        gate.set()
        found = [each.result() for each in asked]
    assert sum(isinstance(each, BusyError) for each in found) == 39
    assert len(ran) == 6
    assert angles.inspect("r", ran[0], None) == ran[0]  # type: ignore[arg-type]
    assert len(ran) == 6


@pytest.fixture
def server(
    made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, int]]:
    import uvicorn

    from stockpot.web.app import listen

    monkeypatch.setattr(patience, "SECONDS", 1.0)
    app = make_app(ServerSettings(str(made[0])))
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, http=patience.patient(), lifespan="off", log_level="critical")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    running.should_exit = True
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        b"POST /theme HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nab",
    ],
)
def test_a_request_that_does_not_arrive_is_not_waited_for(
    server: tuple[str, int], begun: bytes
) -> None:
    with socket.create_connection(server, timeout=20) as slow:
        slow.sendall(begun)
        started = time.monotonic()
        while slow.recv(10_000):
            pass
        assert time.monotonic() - started < 15
    # Others are served meanwhile and afterwards, more than once on one connection.
    quick = HTTPConnection(*server, timeout=20)
    for _ in range(2):
        quick.request("GET", "/favicon.ico")
        answer = quick.getresponse()
        assert (answer.status, answer.read()[:4]) == (200, b"<svg")
    quick.close()


def test_names_turn_nothing_and_have_an_end() -> None:
    assert isolated("bert") == "<bdi>bert</bdi>"
    assert isolated("<b>&") == "<bdi>&lt;b&gt;&amp;</bdi>"
    assert "\u202e" not in isolated("a\u202eb")
    long = "שלום" * 50
    shown = isolated(long)
    assert shown.startswith(f'<bdi title="{long}">')
    assert shown.endswith("…</bdi>")
    assert shown.count("ש") == 50 + 15
