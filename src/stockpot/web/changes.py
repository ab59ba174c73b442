"""Forms: signing in and out, colours; accept, refuse, revert. Each carries the seal of its page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from stockpot.errors import InputError, StockpotError
from stockpot.web.proposals import Maintainer
from stockpot.web.shell import SESSION, THEMES, Shells, local, remember
from stockpot.web.views import Views

_PAUSE = 0.5  # seconds after a wrong token


class Changes:
    """What a form may do. Every method answers one POST."""

    def __init__(self, views: Views, shells: Shells, maintainer: Maintainer) -> None:
        self.views = views
        self.shells = shells
        self.maintainer = maintainer

    async def theme(self, request: Request) -> Response:
        """Light, dark, or as the system has it."""
        fields = await self.shells.form(request, signed_in=False)
        chosen = fields.one("theme")
        if chosen not in THEMES:
            raise InputError(f"there are no colours '{chosen}'")
        answer = RedirectResponse(local(fields.one("back", "/")), 303)
        remember(answer, chosen)
        return answer

    async def sign_in_page(self, request: Request) -> Response:
        """Asks for the token."""
        back = local(request.query_params.get("back", "/"))
        return self.shells.page(request, "sign_in.html.j2", back=back, failed=False)

    async def sign_in(self, request: Request) -> Response:
        """Opens a session for who knows the token."""
        fields = await self.shells.form(request, signed_in=False)
        back = local(fields.one("back", "/"))
        session = self.shells.keeper.sign_in(fields.one("token").strip())
        if session is None:
            await asyncio.sleep(_PAUSE)
            return self.shells.page(request, "sign_in.html.j2", status=403, back=back, failed=True)
        answer = RedirectResponse(back, 303)
        answer.set_cookie(SESSION, session, httponly=True, samesite="strict")
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Ends the session."""
        await self.shells.form(request, signed_in=False)
        self.shells.keeper.sign_out(request.cookies.get(SESSION))
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(SESSION, httponly=True, samesite="strict")
        return answer

    async def accept(self, request: Request) -> Response:
        """Brings contributions into a line."""
        fields = await self.shells.form(request, signed_in=True)
        line = request.path_params["line"]
        chosen = list(fields.fields.get("contribution", ()))
        method = fields.one("method")
        return await self._change(
            request, line, lambda place: self.maintainer.accept(place, line, chosen, method)
        )

    async def refuse(self, request: Request) -> Response:
        """Refuses a contribution that waits."""
        fields = await self.shells.form(request, signed_in=True)
        line = request.path_params["line"]
        chosen, why = fields.one("contribution"), fields.one("why").strip()
        return await self._change(
            request, line, lambda place: self.maintainer.refuse(place, line, chosen, why)
        )

    async def revert(self, request: Request) -> Response:
        """Takes a contribution back."""
        fields = await self.shells.form(request, signed_in=True)
        line = request.path_params["line"]
        chosen, why = fields.one("contribution"), fields.one("why").strip()
        return await self._change(
            request, line, lambda place: self.maintainer.revert(place, line, chosen, why)
        )

    async def _change(self, request: Request, line: str, do: Callable[[str], str]) -> Response:
        """Do something to a line, and say on its page what came of it."""
        place = self.views.place
        try:
            self.shells.notice(request, await run_in_threadpool(do, place))
        except StockpotError as error:
            self.shells.notice(request, str(error), "bad")
        return RedirectResponse(f"/lines/{quote(line, safe='')}", 303)
