"""Nobody reads through another name, writes without the token, or leaves the given folders."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from stockpot.community import history
from stockpot.errors import InputError, OutputError
from stockpot.registry import Registry
from stockpot.web import ServerSettings, make_app
from stockpot.web.guard import host_name
from stockpot.web.keeper import HOURS, Keeper, read_token
from stockpot.web.shell import local
from tests.web.conftest import TOKEN
from tests.web.models import community


def seal(client: TestClient, page: str = "/sign-in") -> str:
    found = re.search(r'name="seal" value="(\w+)"', client.get(page).text)
    assert found is not None
    return found[1]


def sign_in(client: TestClient, token: str = TOKEN) -> int:
    fields = {"seal": seal(client), "token": token, "back": "/jobs"}
    return client.post("/sign-in", data=fields, follow_redirects=False).status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.1:x", "[::1", "0"]
)
def test_other_names_get_no_answer(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "stockpot_browser" not in client.cookies


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "localhost:8420", "LOCALHOST", "[::1]:8420", "[0:0::1]"]
)
def test_this_machine_s_names_do(client: TestClient, host: str) -> None:
    assert client.get("/jobs", headers={"Host": host}).status_code == 200


def test_further_names_can_be_allowed(made: tuple[Path, dict[str, str]]) -> None:
    app = make_app(ServerSettings(str(made[0]), hosts=("Pots.example",)))
    assert TestClient(app, base_url="http://pots.example:80").get("/").status_code == 200


@given(st.text(max_size=30))
def test_any_host_header_is_read_without_harm(text: str) -> None:
    found = host_name(text)
    assert found is None or found == found.lower()


@pytest.mark.parametrize("page", ["/", "/jobs", "/sign-in", "/nowhere", "/static/site.css"])
def test_every_answer_carries_the_policies(client: TestClient, page: str) -> None:
    headers = client.get(page).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers


@pytest.mark.parametrize(
    "address",
    [
        "/static/../pages.py",
        "/static/..%2f..%2fpages.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static//etc/passwd",
        "/static/site.css/../../shell.py",
        "/static/..\\pages.py",
        "/models/../../etc/passwd",
        "/models/..%2f..%2fregistry.json",
        "/models/%00",
        "/results/..%2f..%2fetc",
        "/results/%2e%2e/report",
        "/lines/..%2fmain",
        "/lines/%2e%2e",
    ],
)
def test_paths_lead_nowhere(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404
    assert "import" not in answer.text
    assert "root:" not in answer.text


def test_other_sites_may_link_and_nothing_else(client: TestClient) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert client.get("/", headers=link).status_code == 200
    for change in ({"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Dest": "iframe"}):
        assert client.get("/compare", headers={**link, **change}).status_code == 403
    sealed = {"seal": seal(client), "theme": "dark"}
    assert client.post("/theme", data=sealed, headers=link).status_code == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        answer = client.post("/theme", data=sealed, headers={"Origin": origin})
        assert answer.status_code == 403
    own = {"Origin": "http://127.0.0.1:8420", "Sec-Fetch-Site": "same-origin"}
    answer = client.post("/theme", data=sealed, headers=own, follow_redirects=False)
    assert answer.status_code == 303


FORMS = ["/theme", "/sign-in", "/sign-out", "/lines/main/accept"]
FORMS += ["/lines/main/refuse", "/lines/main/revert"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_needs_the_seal_of_its_browser(client: TestClient, form: str) -> None:
    assert sign_in(client) == 303
    other = TestClient(client.app, base_url="http://127.0.0.1:8420")
    for wrong in ("", "0" * 64, seal(other)):
        answer = client.post(form, data={"seal": wrong, "theme": "dark"}, follow_redirects=False)
        assert answer.status_code == 403, wrong
    client.cookies.delete("stockpot_browser")
    assert client.post(form, data={"seal": "0" * 64}, follow_redirects=False).status_code == 403


def test_a_seal_does_not_outlive_its_session(client: TestClient) -> None:
    before = seal(client)
    assert sign_in(client) == 303
    assert client.post("/sign-out", data={"seal": before}).status_code == 403
    assert client.post("/sign-out", data={"seal": seal(client)}).status_code == 200
    assert "Sign in" in client.get("/").text


@pytest.mark.parametrize("form", FORMS[3:])
def test_nothing_changes_without_signing_in(
    client: TestClient, made: tuple[Path, dict[str, str]], form: str
) -> None:
    fields = {"seal": seal(client), "contribution": "tweets", "method": "linear"}
    assert client.post(form, data=fields).status_code == 403
    assert "<select" not in client.get("/lines/main").text


def test_without_a_token_nobody_can_sign_in(made: tuple[Path, dict[str, str]]) -> None:
    client = TestClient(make_app(ServerSettings(str(made[0]))), base_url="http://127.0.0.1")
    for token in ("", TOKEN, "None"):
        fields = {"seal": seal(client, "/"), "token": token}
        assert client.post("/sign-in", data=fields).status_code == 403
    assert "Sign in" not in client.get("/").text
    assert "started without a token" in client.get("/lines/main").text


def test_wrong_tokens_and_broken_forms(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stockpot.web.changes._PAUSE", 0.0)
    for token in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 30, "\0"):
        assert sign_in(client, token) == 403
    assert "stockpot_session" not in client.cookies
    for body, media in (
        (b"seal=x", "text/plain"),
        (b"{}", "application/json"),
        (b"a=" + b"x" * 200_000, "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(200)), "application/x-www-form-urlencoded"),
        (b"\xff\xfe=\xff", "application/x-www-form-urlencoded"),
    ):
        answer = client.post("/theme", content=body, headers={"Content-Type": media})
        assert answer.status_code in (403, 404)


def test_cookies_are_for_this_server_alone(client: TestClient) -> None:
    first = client.get("/").headers["set-cookie"]
    answer = client.post(
        "/sign-in", data={"seal": seal(client), "token": TOKEN}, follow_redirects=False
    )
    for cookie in (first, answer.headers["set-cookie"]):
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
    assert TOKEN not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/a\nb"]
)
def test_signing_in_leads_nowhere_else(client: TestClient, back: str) -> None:
    fields = {"seal": seal(client), "token": TOKEN, "back": back}
    answer = client.post("/sign-in", data=fields, follow_redirects=False)
    assert answer.headers["location"] == "/"


@given(st.text(max_size=40))
def test_ways_back_stay_here(text: str) -> None:
    found = local("/" + text)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))
    assert "\\" not in found


def test_colours_are_remembered(client: TestClient) -> None:
    assert "data-theme" not in client.get("/").text
    for theme in ("dark", "light"):
        fields = {"seal": seal(client), "theme": theme, "back": "/jobs"}
        answer = client.post("/theme", data=fields)
        assert answer.url.path == "/jobs"
        assert f'data-theme="{theme}"' in answer.text
    fields = {"seal": seal(client), "theme": '"><script>'}
    assert client.post("/theme", data=fields).status_code == 404


def test_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    keeper = Keeper(TOKEN, clock=lambda: now)
    session = keeper.sign_in(TOKEN)
    assert session
    assert keeper.signed_in(session)
    now = HOURS * 3600 + 1.0
    assert not keeper.signed_in(session)
    assert not keeper.signed_in("")
    assert not keeper.signed_in(None)
    again = keeper.sign_in(TOKEN)
    keeper.sign_out(again)
    assert not keeper.signed_in(again)


def test_a_token_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token, made = read_token(path)
    assert made
    assert len(token) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == (token, False)
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(path)
    path.chmod(0o600)
    for short in ("", "too-short", "two words that are long enough", "\xff"):
        path.write_text(short, encoding="latin-1")
        with pytest.raises(InputError):
            read_token(path)
    with pytest.raises(OutputError):
        read_token(tmp_path / "no" / "token")
    with pytest.raises(InputError):
        read_token(tmp_path)


def test_accept_and_revert(tmp_path: Path, runs: Path) -> None:
    """The whole way of a maintainer, through forms, to the bytes of one that never saw it."""
    place = tmp_path / "registry"
    community(place, tmp_path / "scratch")
    app = make_app(ServerSettings(str(place), (runs,), TOKEN))
    client = TestClient(app, base_url="http://127.0.0.1:8420")
    assert sign_in(client) == 303
    page = client.get("/lines/main").text
    assert page.count("passed its review") == 1
    assert "times as far as the median matrix" in page  # why "broken" was refused
    offered = re.findall(r'<input type="checkbox" name="contribution" value="(\w+)"', page)
    assert len(offered) == 1

    def change(what: str, **fields: str) -> str:
        sealed = {"seal": seal(client, "/lines/main"), **fields}
        return client.post(f"/lines/main/{what}", data=sealed).text

    assert "no contribution was given" in change("accept", method="linear")
    assert "no method" in change("accept", method="magic", contribution=offered[0])
    assert "not been reviewed" in change("accept", method="linear", contribution="captions")
    assert "was refused" in change("accept", method="linear", contribution="broken")
    assert "say why" in change("refuse", contribution="captions", why=" ")
    assert "captions is refused" in change("refuse", contribution="captions", why="<i>off topic")
    assert "maintainer: &lt;i&gt;off topic" in client.get("/lines/main").text
    assert "is in the newest version" in change("refuse", contribution="reviews", why="late")
    assert "no contribution is called" in change("refuse", contribution="nobody", why="who?")
    assert "Version 3 of main: tweets" in change("accept", method="linear", contribution=offered[0])
    assert "Version 3 of main" not in client.get("/lines/main").text  # said once
    with Registry(place) as registry:
        assert len(history(registry, "main").rounds) == 2
        before = registry.line("main")[1]["model"]
    said = change("revert", contribution=offered[0], why="<b>no good</b>")
    assert "has the bytes of one without tweets" in said
    assert "<b>" not in said
    assert "without tweets (&lt;b&gt;no good&lt;/b&gt;)" in client.get("/lines/main").text
    with Registry(place) as registry:
        assert registry.line("main")[-1]["model"] == before
    assert "is not in the newest version" in change("revert", contribution=offered[0])
    reviews = re.search(r'name="contribution" value="(\w+)"', client.get("/lines/main").text)
    assert reviews is not None
    assert client.post("/lines/other/accept", data={"seal": seal(client)}).status_code == 404
