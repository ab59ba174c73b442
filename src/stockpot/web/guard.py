"""What every request must fulfil, and what every answer says to the browser.

A page of another site can make a browser send requests to a server on this machine. So requests are
refused that were addressed to a name which is not ours (a name of the attacker's that leads to
127.0.0.1), and requests that another site's page makes, except for following a link.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """ASGI middleware: answers 421 to foreign names and 403 to foreign pages, adds headers.

    ``hosts``: names and addresses under which the server may be asked, without ports.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    own[name] = value
                own.setdefault("Content-Security-Policy", CONTENT_POLICY)
                own.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], headers)
        await (refusal or self.app)(scope, receive, answer)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        named = headers.getlist("host")
        if len(named) != 1 or host_name(named[0]) not in self.hosts:
            return PlainTextResponse(
                "This server does not answer to that name.\n"
                "Start it with --allow-host NAME to reach it under another one.\n",
                421,
            )
        if not _from_here(method, headers):
            return PlainTextResponse("Another site's page may not ask this.\n", 403)
        return None


def host_name(header: str) -> str | None:
    """Name or address in a ``Host`` header, in lower case; None for what is none."""
    text = header.strip().lower()
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or not (port == "" or (port[0] == ":" and port[1:].isdigit())):
            return None
        try:
            return str(ipaddress.IPv6Address(address))
        except ValueError:
            return None
    name, _, port = text.partition(":")
    return name if name and (port == "" or port.isdigit()) else None


def _from_here(method: str, headers: Headers) -> bool:
    """Whether a request comes from our own pages, the address bar, or is a link to us."""
    site = headers.get("sec-fetch-site")
    if method in ("GET", "HEAD"):
        return site in (None, "same-origin", "none") or (
            headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
    origin = headers.get("origin")
    if origin is not None:
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and rest.lower() == headers.get("host", "").lower()
    return site in (None, "same-origin")
