"""The dashboard in a real browser: silent console, no request elsewhere, readable, by keyboard.

Needs Chromium and Playwright; ``STOCKPOT_SCREENSHOTS`` names a folder for pictures of every page.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright")

from playwright import sync_api

from stockpot.execution import Job, Serial, run_jobs
from stockpot.web import ServerSettings, make_app
from stockpot.web.app import listen
from tests.web.conftest import HELPERS, TOKEN
from tests.web.models import community

CHECKS = {
    name: f"{Path(__file__).with_name('checks.js').read_text()}.{name}()"
    for name in ("contrast", "names", "focused", "narrow")
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]


@dataclass
class Site:
    """A server that runs, and what it shows."""

    address: str
    ids: dict[str, str]
    runs: Path


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, results: dict[str, dict[str, Any]]
) -> Iterator[Site]:
    import json

    import uvicorn

    scratch = tmp_path_factory.mktemp("site")
    ids = community(scratch / "registry", scratch)
    for name, value in results.items():
        (scratch / "runs" / name).mkdir(parents=True)
        (scratch / "runs" / name / "results.json").write_text(json.dumps(value))
    settings = ServerSettings(str(scratch / "registry"), (scratch / "runs",), TOKEN)
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            make_app(settings), log_level="error", lifespan="off", ws="none", server_header=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}", ids, scratch / "runs")
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with sync_api.sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@dataclass
class Visit:
    """A page that was opened, and everything it asked for or complained about."""

    page: Any
    complaints: list[str]
    asked: list[str]

    def settled(self, site: Site) -> None:
        """No complaint, and every request went to our server."""
        assert self.complaints == []
        assert self.asked
        assert [each for each in self.asked if not each.startswith(site.address + "/")] == []


def visit(browser: Any, **options: Any) -> Visit:
    page = browser.new_context(**options).new_page()
    found = Visit(page, [], [])

    def heard(message: Any) -> None:
        if message.type in ("error", "warning"):
            found.complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.asked.append(request.url))

    def failed(request: Any) -> None:
        # A page that is left before its icon has come gives it up.
        if "ERR_ABORTED" not in (request.failure or ""):
            found.complaints.append(f"failed {request.url}: {request.failure}")

    page.on("requestfailed", failed)
    return found


def pages(site: Site) -> dict[str, str]:
    return {
        "tree": "/",
        "model": "/models/main",
        "angles": f"/models/{site.ids['round 1']}/angles",
        "line": "/lines/main",
        "compare": f"/compare?first=reviews&second=headlines&base={site.ids['base']}",
        "results": "/results",
        "jobs": "/jobs",
        "sign-in": "/sign-in",
    }


SCREENS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 900}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
    },
}


@pytest.mark.parametrize("screen", SCREENS)
def test_pages_are_quiet_readable_and_named(browser: Any, site: Site, screen: str) -> None:
    seen = visit(browser, **SCREENS[screen])
    shots = os.environ.get("STOCKPOT_SCREENSHOTS")
    addresses = pages(site)
    seen.page.goto(f"{site.address}/results")
    addresses["ranking"] = seen.page.get_by_role("link", name="runs/rank").get_attribute("href")
    for name, address in addresses.items():
        seen.page.goto(f"{site.address}{address}")
        assert seen.page.evaluate(CHECKS["contrast"]) == [], name
        assert seen.page.evaluate(CHECKS["names"]) == [], name
        if screen == "phone":
            assert seen.page.evaluate(CHECKS["narrow"]) == [], name
        if shots:
            seen.page.screenshot(path=f"{shots}/{name}-{screen}.png", full_page=True)
    seen.settled(site)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reports_run_under_their_policy(browser: Any, site: Site, scheme: str) -> None:
    seen = visit(browser, color_scheme=scheme)
    for name in ("runs/rank", "runs/recycle"):
        seen.page.goto(f"{site.address}/results")
        key = seen.page.get_by_role("link", name=name).get_attribute("href")
        seen.page.goto(f"{site.address}{key}/report")
        ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(251, 250, 247)" if scheme == "light" else "rgb(20, 23, 27)")
        assert seen.page.evaluate("document.querySelectorAll('thead button').length > 0") == (
            name == "runs/recycle"  # its own script has run
        )
    seen.settled(site)


@pytest.mark.parametrize("name", ["tree", "model", "line", "compare", "jobs", "sign-in"])
def test_the_keyboard_goes_through_in_reading_order(browser: Any, site: Site, name: str) -> None:
    seen = visit(browser, viewport={"width": 1200, "height": 900})
    seen.page.goto(f"{site.address}{pages(site)[name]}")
    places, words = [], []
    for _ in range(150):
        seen.page.keyboard.press("Tab")
        found = seen.page.evaluate(CHECKS["focused"])
        if found is None or (places and found["place"] <= places[0]):
            break
        assert found["visible"], found
        places.append(found["place"])
        words.append(found["words"])
    assert places == sorted(places)
    assert words[0].startswith("A To the content")
    assert len(places) > 8
    seen.settled(site)


def test_the_skip_link_leads_to_the_content(browser: Any, site: Site) -> None:
    seen = visit(browser)
    seen.page.goto(site.address)
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.activeElement.id") == "main"


def test_a_node_of_the_tree_is_a_link(browser: Any, site: Site) -> None:
    seen = visit(browser, viewport={"width": 1200, "height": 900})
    seen.page.goto(site.address)
    seen.page.locator(".drawing.wide").get_by_role("link", name="tweets, finetune").click()
    assert seen.page.url.endswith(site.ids["tweets"])
    seen.page.keyboard.press("Tab")
    seen.settled(site)


def test_everything_can_be_done_without_scripts(browser: Any, site: Site) -> None:
    seen = visit(browser, java_script_enabled=False, color_scheme="light")
    seen.page.goto(site.address)
    seen.page.get_by_role("button", name="Dark").click()
    assert seen.page.locator("html").get_attribute("data-theme") == "dark"
    seen.page.get_by_label("Name, note or id").fill("headlines")
    seen.page.get_by_role("button", name="Find").click()
    seen.page.locator("tbody").get_by_role("link", name="headlines").click()
    assert seen.page.get_by_role("heading", level=1).inner_text() == "headlines"
    seen.page.get_by_role("link", name="Compare with its parents").click()
    assert "same ancestor" in seen.page.get_by_role("heading", level=1).inner_text().lower()
    seen.settled(site)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_switch_overrules_the_system_and_back(browser: Any, site: Site, scheme: str) -> None:
    seen = visit(browser, color_scheme=scheme)
    seen.page.goto(f"{site.address}/jobs?x=1")
    light, dark = "rgb(251, 250, 247)", "rgb(20, 23, 27)"

    def ground() -> str:
        return str(seen.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert ground() == (light if scheme == "light" else dark)
    for label, color in (("Dark", dark), ("Light", light)):
        seen.page.get_by_role("button", name=label).click()
        assert ground() == color
        assert seen.page.url.endswith("/jobs?x=1")
        assert seen.page.evaluate(CHECKS["contrast"]) == []
    seen.page.get_by_role("button", name="Auto").click()
    assert ground() == (light if scheme == "light" else dark)
    seen.settled(site)


def test_running_jobs_move_without_reloading(browser: Any, site: Site) -> None:
    seen = visit(browser)
    jobs = [
        Job(f"{HELPERS}:count_up", {"steps": 12 + n, "pause": 0.1}, label=f"job {n}")
        for n in range(4)
    ]
    run = threading.Thread(target=run_jobs, args=(jobs, site.runs / "live" / "work", Serial()))
    run.start()
    try:
        seen.page.goto(f"{site.address}/jobs")
        seen.page.evaluate("window.same = true")
        live = seen.page.locator("section", has_text="runs/live")
        live.locator(".state", has_text="running").wait_for(timeout=10_000)
        live.get_by_text("All 4 jobs").click()
        live.locator(".state", has_text="3 of 4 jobs done").wait_for(timeout=20_000)
        assert seen.page.locator("details[open]").count() == 1  # stays open while it changes
        live.locator(".state", has_text="finished").wait_for(timeout=20_000)
        assert seen.page.evaluate("window.same")
    finally:
        run.join()
    assert seen.page.evaluate(CHECKS["contrast"]) == []
    seen.settled(site)


def test_commands_are_copied_and_a_contribution_refused(browser: Any, site: Site) -> None:
    seen = visit(browser, permissions=["clipboard-read", "clipboard-write"])
    page = seen.page
    page.goto(f"{site.address}/lines/main")
    card = page.locator(".verdict", has_text="captions@example.org")
    card.get_by_text("Commands").click()
    field = card.get_by_label("Refuse", exact=True)
    card.get_by_role("button", name="Copy the command: Refuse captions").click()
    card.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == field.input_value()
    assert copied.startswith("stockpot review captions -r ")
    assert page.evaluate(CHECKS["names"]) == []
    assert page.evaluate(CHECKS["contrast"]) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(CHECKS["narrow"]) == []
    page.goto(f"{site.address}/sign-in?back=/lines/main")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url("**/lines/main")
    card.get_by_text("Refuse it").click()
    card.get_by_label("Why").fill("off topic")
    assert page.evaluate(CHECKS["names"]) == []
    assert page.evaluate(CHECKS["contrast"]) == []
    card.get_by_role("button", name="Refuse captions").click()
    assert "captions is refused" in page.get_by_role("status").inner_text()
    assert "maintainer: off topic" in card.inner_text()
    assert page.get_by_role("checkbox", name="Accept tweets").count() == 1
    page.get_by_role("button", name="Sign out").click()
    seen.settled(site)


def test_a_maintainer_accepts_and_reverts(browser: Any, site: Site) -> None:
    seen = visit(browser, viewport={"width": 1200, "height": 900})
    page = seen.page
    page.goto(f"{site.address}/lines/main")
    assert page.get_by_role("checkbox").count() == 0
    page.locator("main").get_by_role("link", name="Sign in").click()
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url("**/lines/main")
    page.get_by_role("checkbox", name="Accept tweets").check()
    assert page.evaluate(CHECKS["names"]) == []
    assert page.evaluate(CHECKS["contrast"]) == []
    page.get_by_label("Bring them in by").select_option("linear")
    page.get_by_role("button", name="Accept the chosen ones").click()
    assert "Version 3 of main: tweets" in page.get_by_role("status").inner_text()
    assert page.evaluate(CHECKS["contrast"]) == []
    card = page.locator(".verdict", has_text="tweets@example.org")
    card.get_by_text("Take it back").click()
    card.get_by_label("Why").fill("only a test")
    card.get_by_role("button", name="Revert tweets").click()
    assert "has the bytes of one without tweets" in page.get_by_role("status").inner_text()
    assert {c["name"] for c in page.context.cookies() if not c["httpOnly"]} == set()
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{site.address}/lines/main")
    assert page.get_by_role("checkbox").count() == 0
    seen.settled(site)
