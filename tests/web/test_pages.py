"""Every page answers, says what the registry says, and needs neither scripts nor other places."""

from __future__ import annotations

import html
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from stockpot.errors import InputError
from stockpot.registry import Registry, init_registry
from stockpot.web import ServerSettings, make_app
from tests.web.models import community

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Reader(HTMLParser):
    """Checks that elements close in order; collects ids, links, headings and fields."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.landmarks: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if known.get("id"):
            self.ids.append(known["id"] or "")
        self.links += [known[name] or "" for name in ("href", "src", "action") if known.get(name)]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in ("main", "nav", "header", "footer"):
            self.landmarks.append(tag)
        self.inline += [name for name in known if name.startswith("on") or name == "style"]
        if tag == "script" and "src" not in known:
            self.inline.append("script")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


PAGES = [
    "/",
    "/?q=round",
    "/?q=nothing-like-that",
    "/?page=99",
    "/models/{base}",
    "/models/{round 1}",
    "/models/{round 1}/angles",
    "/models/{broken}",
    "/lines/main",
    "/compare",
    "/compare?first={reviews}&second={headlines}&base={base}",
    "/compare?first=main&second=main~1",
    "/results",
    "/jobs",
    "/sign-in",
]


@pytest.mark.parametrize("address", PAGES)
def test_pages_are_whole_and_stay_here(
    client: TestClient, made: tuple[Path, dict[str, str]], address: str
) -> None:
    answer = client.get(address.format(**made[1]))
    assert answer.status_code == 200
    found = read(answer.text)
    assert len(found.ids) == len(set(found.ids))
    assert not found.inline  # the policy would stop it
    assert found.headings.count(1) == 1
    for before, after in zip(found.headings, found.headings[1:], strict=False):
        assert after <= before + 1
    assert {"main", "nav", "header", "footer"} <= set(found.landmarks)
    outside = {link for link in found.links if not link.startswith(("/", "#"))}
    assert outside <= {"http://example.org"}  # a link in a card, which only a click follows
    for link in sorted({link.partition("#")[0] for link in found.links} - outside - {""}):
        if "/angles" not in link and link not in ("/theme", "/sign-out"):
            assert client.get(link).status_code in (200, 405), link


def test_the_tree_is_drawn_with_links_and_listed(
    client: TestClient, made: tuple[Path, dict[str, str]]
) -> None:
    text = client.get("/").text
    for name, ident in made[1].items():
        assert text.count(f'href="/models/{ident}"') >= 3, name  # wide, narrow and the table
    assert 'role="group"' in text
    assert "main 2" in text


def test_search_finds_names_notes_and_ids(
    client: TestClient, made: tuple[Path, dict[str, str]]
) -> None:
    assert "1 of 8 models match" in client.get("/?q=headl").text
    assert "1 of 8 models match" in client.get(f"/?q={made[1]['broken'][:9]}").text
    assert "6 of 8 models match" in client.get("/?q=a+note").text
    for wild in ("%", "_", "\\", "'", '"><b>'):
        found = client.get("/", params={"q": wild})
        assert "No model matches" in found.text
        assert "<b>" not in found.text


def test_many_models_come_in_pages(
    client: TestClient, made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stockpot.web.data.PAGE", 3)
    seen: list[str] = []
    for page in (1, 2, 3):
        text = client.get(f"/?page={page}").text
        table = text[text.index('id="listed"') :]
        seen += re.findall(r'<th scope="row" class="left"><a href="/models/(\w+)"', table)
        assert f"page {page} of 3" in text
    assert sorted(seen) == sorted(made[1].values())
    for wrong in ("0", "-1", "x", "1e9", "٣", ""):
        assert "page 1 of 3" in client.get("/", params={"page": wrong}).text


def test_a_model_tells_its_parents_metrics_recipe_and_card(
    client: TestClient, made: tuple[Path, dict[str, str]]
) -> None:
    text = client.get(f"/models/{made[1]['headlines']}").text
    assert "0.75" in text  # its accuracy
    assert "+0.038" in text  # against its base
    assert "steps: 100" in text
    assert "recorded" in text
    assert "sha256:0123" in text
    assert "registry checkout" in text


def test_cards_are_harmless(client: TestClient, made: tuple[Path, dict[str, str]]) -> None:
    text = client.get(f"/models/{made[1]['base']}").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert "<img" not in text
    assert "a chart" in text
    assert '<a href="http://example.org" rel="noreferrer nofollow">site</a>' in text


def test_other_names_of_a_model_lead_to_its_id(
    client: TestClient, made: tuple[Path, dict[str, str]]
) -> None:
    for name in ("base", made[1]["base"][:8], "main~1"):
        answer = client.get(f"/models/{name}", follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/models/{made[1]['base']}"


def test_angles_are_computed_once_and_then_shown(
    made: tuple[Path, dict[str, str]], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TestClient(make_app(ServerSettings(str(made[0]))), base_url="http://localhost")
    page, calls = f"/models/{made[1]['round 1']}", []
    from stockpot.web import data

    real = data.inspect

    def counted(*asked: object) -> object:
        calls.append(asked)
        return real(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "inspect", counted)
    assert "Compare with its parents" in client.get(page).text
    for _ in range(2):
        text = client.get(f"{page}/angles").text
        assert "Same ancestor" in text or "same ancestor" in text
        assert "blocks.3.fc.weight · Kinship" in text
    assert len(calls) == 1
    assert "same ancestor" in client.get(page).text
    assert client.get(f"/models/{made[1]['base']}/angles").status_code == 404


def test_comparing_refuses_what_makes_no_sense(client: TestClient) -> None:
    for query in ("first=main&second=main", "first=main&second=nobody", "first=a&second=b&base=a"):
        answer = client.get(f"/compare?{query}")
        assert answer.status_code == 404
        read(answer.text)


def test_ranking_shows_the_posterior(client: TestClient) -> None:
    listed = client.get("/results").text
    key = re.search(r'/results/(\w{16})"><bdi>runs/rank<', listed)
    assert key is not None
    text = client.get(f"/results/{key[1]}").text
    found = read(text)
    assert "Start from &lt;lite&gt;" in text
    assert "posterior-wide" in text
    assert not found.inline
    report = client.get(f"/results/{key[1]}/report")
    assert "What is believed of each model" in report.text


def test_reports_run_their_own_style_and_script_and_no_other(client: TestClient) -> None:
    listed = client.get("/results").text
    for key in re.findall(r'/results/(\w{16})">', listed):
        answer = client.get(f"/results/{key}/report")
        policy = answer.headers["content-security-policy"]
        assert "unsafe-inline" not in policy
        assert "default-src 'none'" in policy
        assert policy.count("'sha256-") == len(re.findall(r"<(?:style|script)>", answer.text))
        assert ' style="' not in answer.text


def test_results_of_others_are_named_not_raised(client: TestClient, runs: Path) -> None:
    for name, content in {
        "broken": "{",
        "list": "[]",
        "unknown": "{}",
        "half": '{"models": [], "budget": {}}',
        "kinds": '{"kind": "continual"}',
    }.items():
        (runs / name).mkdir()
        (runs / name / "results.json").write_text(content)
    (runs / "large").mkdir()
    (runs / "large" / "results.json").symlink_to("/etc/passwd")
    text = client.get("/results").text
    assert text.count("cannot be read") == 1
    assert "lack something" in text
    for key in re.findall(r'/results/(\w{16})">', text):
        assert client.get(f"/results/{key}").status_code in (200, 404)
    assert "large" not in text


def test_files_are_kept_by_browsers_until_they_change(client: TestClient) -> None:
    text = client.get("/").text
    for name in ("site.css", "site.js", "favicon.svg"):
        link = re.search(rf'"(/static/{re.escape(name)}\?v=\w{{12}})"', text)
        assert link is not None
        answer = client.get(link[1])
        assert "immutable" in answer.headers["cache-control"]
        again = client.get(link[1], headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


def test_a_server_without_registry_shows_runs(runs: Path) -> None:
    client = TestClient(make_app(ServerSettings(None, (runs,))), base_url="http://[::1]:80")
    assert client.get("/", follow_redirects=False).headers["location"] == "/results"
    assert client.get("/results").status_code == 200
    for address in ("/models/x", "/compare", "/lines/main"):
        assert "shows no registry" in client.get(address).text


def test_an_empty_registry_says_what_to_do(tmp_path: Path) -> None:
    init_registry(tmp_path / "empty").close()
    client = TestClient(
        make_app(ServerSettings(str(tmp_path / "empty"))), base_url="http://localhost"
    )
    assert "stockpot registry add" in client.get("/").text
    assert client.get("/compare").status_code == 200
    assert "no folder" in client.get("/results").text
    assert "No folder is watched" in client.get("/jobs").text


def test_wrong_settings_are_refused_before_anything_is_served(tmp_path: Path) -> None:
    for settings in (
        ServerSettings(str(tmp_path / "nothing")),
        ServerSettings(None, (tmp_path / "nothing",)),
        ServerSettings(),
        ServerSettings(None, (tmp_path,), tasks=tmp_path / "no.yaml"),
    ):
        with pytest.raises(InputError):
            make_app(settings)


def test_what_breaks_inside_shows_no_details(
    made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("stockpot.web.data.overview", fail)
    app = make_app(ServerSettings(str(made[0])))
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/nowhere").status_code == 404


def test_a_damaged_blob_hides_the_card_alone(tmp_path: Path) -> None:
    ids = community(tmp_path / "registry", tmp_path)
    with Registry(tmp_path / "registry") as registry:
        card = next(f for f in registry.manifest("base").files if f.path == "README.md")
        assert card.blob is not None
        place = tmp_path / "registry" / "blobs" / card.blob[:2] / card.blob
    place.chmod(0o644)
    place.write_bytes(b"not what it was")
    client = TestClient(
        make_app(ServerSettings(str(tmp_path / "registry"))), base_url="http://localhost"
    )
    text = client.get(f"/models/{ids['base']}").text
    assert 'id="card"' not in text
    assert "steps: 100" in text


def test_a_page_without_a_session_names_the_commands_and_they_run(tmp_path: Path) -> None:
    """Each command that the page of a line shows is taken from it and run."""
    from typer.testing import CliRunner

    from stockpot.cli.main import app

    place = tmp_path / "a registry"
    community(place, tmp_path / "scratch")
    client = TestClient(make_app(ServerSettings(str(place))), base_url="http://localhost")

    def command(name: str, what: str) -> str:
        text = html.unescape(client.get("/lines/main").text)
        found = re.search(rf'readonly value="(stockpot {what} {name} .*?)">', text)
        assert found is not None, (name, what)
        return found[1]

    def run(command: str) -> str:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "main is at version 3" in run(command("tweets", "accept"))
    assert "without tweets" in run(command("tweets", "revert"))
    assert "REASON" in client.get("/lines/main").text
    reviewing = command("captions", "review")
    assert reviewing.endswith(" --tasks tasks.yaml")
    refusing = reviewing.replace("--tasks tasks.yaml", "--refuse 'REASON'")
    assert f'readonly value="{refusing}"' in html.unescape(client.get("/lines/main").text)
    assert "captions: refused" in run(refusing)
    assert "maintainer: REASON" in client.get("/lines/main").text
