"""Check a built site: ``python tools/check_site.py FOLDER``.

No page loads anything from another server, every local link and picture is there, and so is every
anchor. Exit code 1 and a line for each fault.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
_LINKS_LOADED = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag in LOADED and values.get(LOADED[tag]):
            self.loads.append(values[LOADED[tag]])
        if tag == "link" and _LINKS_LOADED & set(values.get("rel", "").split()):
            self.loads.append(values.get("href", ""))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    faults = [
        f"{path.relative_to(site)}: {fault}"
        for path, page in pages.items()
        for fault in check(path, page, pages, site)
    ]
    print("\n".join(faults) or f"{len(pages)} pages: links hold, nothing is loaded from elsewhere")
    return int(bool(faults) or not pages)


def check(path: Path, page: Page, pages: dict[Path, Page], site: Path) -> Iterator[str]:
    """Faults of one page."""
    for address in page.loads:
        if urlsplit(address).netloc:
            yield f"loads {address}"
    for address in page.loads + page.links:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or path.name == "404.html":
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file() or site not in target.parents:
            yield f"links to {address}, which is not there"
        elif (
            parts.fragment
            and target in pages
            and address in page.links
            and unquote(parts.fragment) not in pages[target].anchors
        ):
            yield f"links to {address}, which has no such anchor"


if __name__ == "__main__":
    sys.exit(main())
