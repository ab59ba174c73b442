"""``stockpot serve``: what is printed, how it ends, what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import InputError, OutputError
from stockpot.web import ServerSettings, serve
from stockpot.web.app import listen


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_when_told(
    made: tuple[Path, dict[str, str]], tmp_path: Path, stop: signal.Signals
) -> None:
    command = [sys.executable, "-m", "stockpot", "serve", str(made[0]), "--port", "0", "--json"]
    command += ["--token-file", str(tmp_path / "token")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["address"]
            assert address.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"Family tree" in answer.read()
        finally:
            server.send_signal(stop)
        out, words = server.communicate(timeout=60)
    assert server.returncode == (0 if stop is signal.SIGINT else -stop)
    assert out == b""
    assert words.decode() == f"a token was made: {tmp_path / 'token'}\n"


def test_names_of_the_server_follow_its_address(
    made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    seen = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: seen.append(self.config.app.hosts)
    )
    said: list[str] = []
    loopback = {"localhost", "127.0.0.1", "::1"}
    serve(ServerSettings(str(made[0])), host="127.0.0.2", port=0, on_ready=said.append)
    serve(
        ServerSettings(str(made[0]), hosts=("pots",)), host="0.0.0.0", port=0, on_ready=said.append
    )
    assert seen == [loopback | {"127.0.0.2"}, loopback | {"pots"}]
    assert said[0].startswith("http://127.0.0.2:")


def test_a_port_that_is_taken_is_named(made: tuple[Path, dict[str, str]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match="no address"):
        listen("no such host", 0)


def test_wrong_arguments_exit_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STOCKPOT_REGISTRY", raising=False)
    (tmp_path / "token").write_text("short")
    (tmp_path / "token").chmod(0o600)
    for arguments in (
        [],
        ["nowhere"],
        ["--runs", "nowhere"],
        [".", "--token-file", "token"],
        ["--port", "70000"],
    ):
        assert CliRunner().invoke(app, ["serve", *arguments]).exit_code == 2


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stockpot.extras.installed", lambda name: False)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 2
    assert "stockpot[web]" in done.output


def test_others_who_can_reach_it_are_mentioned(
    made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.chdir(made[0].parent)
    done = CliRunner().invoke(
        app, ["serve", str(made[0]), "--host", "0.0.0.0", "--port", "0", "--allow-host", "pots"]
    )
    assert done.exit_code == 0
    assert "can read everything" in done.output
