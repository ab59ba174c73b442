"""What is around every page: navigation, colours, signing in, and the seal of forms."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from stockpot.errors import InputError
from stockpot.version import VERSION
from stockpot.web.keeper import Keeper
from stockpot.web.pages import templates, version

THEMES = ("auto", "light", "dark")
BROWSER, SESSION, THEME = "stockpot_browser", "stockpot_session", "stockpot_theme"
_FORM = 100_000  # bytes
_YEAR = 365 * 86400
_NOTICES = 100


@dataclass(frozen=True)
class ServerSettings:
    """What a server shows.

    ``registry``: folder or address; None: none. ``runs``: folders to look for runs in. ``token``:
    who knows it may accept and revert; None: nobody. ``hosts``: names under which the server may be
    asked, beside those of this machine. ``tasks``: a file of tasks on which what is accepted must
    hold.
    """

    registry: str | None = None
    runs: tuple[Path, ...] = ()
    token: str | None = None
    hosts: tuple[str, ...] = ()
    tasks: Path | None = None


@dataclass(frozen=True)
class Notice:
    """One sentence about what has just been done. ``tone``: "good" or "bad"."""

    words: str
    tone: str = "good"


@dataclass(frozen=True)
class Form:
    """What was filled in: fields by name, which may have several values."""

    fields: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str = "") -> str:
        """The last value of a field."""
        return self.fields.get(name, (default,))[-1]


@dataclass(frozen=True)
class Shell:
    """The same for all parts of one page."""

    pages: tuple[tuple[str, str], ...]
    here: str
    back: str
    theme: str
    seal: str
    can_sign_in: bool
    signed_in: bool
    notice: Notice | None
    stockpot: str = VERSION

    def sealed(self) -> Markup:
        """The hidden field that every form that changes something carries."""
        return Markup('<input type="hidden" name="seal" value="{}">').format(self.seal)

    @staticmethod
    def version(name: str) -> str:
        """See ``pages.version``."""
        return version(name)


class Shells:
    """Makes pages for browsers, and tells whether a form came from one of them."""

    def __init__(self, settings: ServerSettings, keeper: Keeper) -> None:
        self.keeper = keeper
        pages = [("Family tree", "/"), ("Compare", "/compare")] if settings.registry else []
        self._pages = (*pages, ("Results", "/results"), ("Jobs", "/jobs"))
        self._notices: dict[str, Notice] = {}

    def page(
        self, request: Request, template: str, *, status: int = 200, **context: Any
    ) -> HTMLResponse:
        """A whole page."""
        browser = request.cookies.get(BROWSER, "")
        fresh = not _is_ours(browser)
        if fresh:
            browser = secrets.token_urlsafe(24)
        session = request.cookies.get(SESSION)
        theme = request.cookies.get(THEME, "auto")
        shell = Shell(
            pages=self._pages,
            here=f"/{request.url.path.split('/')[1]}",
            back=_here(request),
            theme=theme if theme in THEMES else "auto",
            seal=self.keeper.seal(browser, session),
            can_sign_in=self.keeper.open,
            signed_in=self.keeper.signed_in(session),
            notice=self._notices.pop(browser, None),
        )
        text = templates().get_template(template).render(shell=shell, **context)
        answer = HTMLResponse(text, status)
        if fresh:
            answer.set_cookie(BROWSER, browser, httponly=True, samesite="strict")
        return answer

    def part(self, template: str, **context: Any) -> HTMLResponse:
        """A piece of a page, without forms."""
        return HTMLResponse(templates().get_template(template).render(**context))

    def notice(self, request: Request, words: str, tone: str = "good") -> None:
        """Say something on the next page that this browser sees."""
        while len(self._notices) >= _NOTICES:
            self._notices.pop(next(iter(self._notices)))
        self._notices[request.cookies.get(BROWSER, "")] = Notice(words, tone)

    async def form(self, request: Request, *, signed_in: bool) -> Form:
        """A form that we made for this browser.

        Raises ``HTTPException`` (403) for one that carries no seal of ours, or where ``signed_in``
        is needed and is not so; ``InputError`` for one that is no form.
        """
        fields = await _fields(request)
        session = request.cookies.get(SESSION)
        if not self.keeper.is_sealed(fields.one("seal"), request.cookies.get(BROWSER), session):
            raise HTTPException(403, "This form is too old. Load its page anew and try again.")
        if signed_in and not self.keeper.signed_in(session):
            raise HTTPException(403, "Sign in to change something.")
        return fields


def remember(answer: Response, theme: str) -> None:
    """Keep the choice of colours in the browser."""
    answer.set_cookie(THEME, theme, max_age=_YEAR, httponly=True, samesite="strict")


def local(path: str) -> str:
    """A path on this server to go back to; the first page for anything else."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\"))
    return path if plain and all(32 < ord(c) < 127 and c != "\\" for c in path) else "/"


def _here(request: Request) -> str:
    if request.method != "GET":
        return "/"
    query = request.url.query
    return local(request.url.path + (f"?{query}" if query else ""))


def _is_ours(browser: str) -> bool:
    return len(browser) == 32 and browser.replace("-", "").replace("_", "").isalnum()


async def _fields(request: Request) -> Form:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/x-www-form-urlencoded":
        raise InputError("expected a form")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _FORM:
            raise InputError("the form is too large")
    try:
        found = parse_qs(body.decode("ascii"), max_num_fields=100, keep_blank_values=True)
    except ValueError as error:
        raise InputError("expected a form") from error
    return Form(found)
