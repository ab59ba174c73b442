"""Pictures of a running dashboard: ``python docs/make_screenshots.py ADDRESS FOLDER TOKEN``.

Needs Playwright and Chromium. Every page once in light and once in dark, the size of a screen.
TOKEN is the one that the server was started with.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

# Address of each page, and what to bring to the top of the screen.
PAGES = {
    "tree": ("/", ""),
    "model": ("/models/main", ""),
    "angles": ("/models/main/angles", "h2 >> text=Angles between"),
    "line": ("/lines/main", "#waiting"),
    "compare": ("/compare?first=ada-2&second=cleo-2&base=main-1", ""),
    "jobs": ("/jobs", ""),
}


def main(address: str, folder: Path, token: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    home = address.rstrip("/")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 860})
            page.goto(f"{home}/sign-in")
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            page.wait_for_url(f"{home}/")
            for name, (path, top) in PAGES.items():
                page.goto(home + path)
                if top:
                    page.locator(top).evaluate("e => window.scrollTo(0, e.offsetTop - 30)")
                save(page, folder / f"dashboard-{name}-{scheme}.png")
            page.goto(f"{home}/results")
            page.locator("tr", has_text="rank:").get_by_role("link").click()
            save(page, folder / f"dashboard-ranking-{scheme}.png")
            page.close()
        phone = browser.new_page(
            viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True
        )
        phone.goto(home)
        save(phone, folder / "dashboard-phone.png")
        browser.close()


def save(page: Page, path: Path) -> None:
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
