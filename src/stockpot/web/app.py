"""The server: routes, what goes wrong, and how it is run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stockpot.errors import InputError, OutputError, StockpotError
from stockpot.web.angles import BusyError
from stockpot.web.changes import Changes
from stockpot.web.guard import LOOPBACK, Guard
from stockpot.web.keeper import Keeper
from stockpot.web.proposals import Maintainer
from stockpot.web.requests import patient
from stockpot.web.shell import ServerSettings, Shells
from stockpot.web.views import Views

_MOST = 200  # connections at a time
_WORDS = {
    403: "Not allowed",
    404: "There is no such page",
    405: "That cannot be done here",
}


def make_app(settings: ServerSettings) -> Guard:
    """The dashboard as an ASGI application.

    Raises ``InputError`` where there is no registry at ``settings.registry``, or a folder of
    ``settings.runs`` is missing, or the file of tasks is wrong.
    """
    _check(settings)
    keeper = Keeper(settings.token)
    shells = Shells(settings, keeper)
    views = Views(settings, shells)
    changes = Changes(views, shells, Maintainer(settings.tasks))

    def failed(request: Request, error: Exception) -> Response:
        title, words, hint, status = _explain(error)
        return shells.page(
            request, "error.html.j2", status=status, title=title, words=words, hint=hint
        )

    pages = Starlette(
        routes=[
            Route("/", views.tree),
            Route("/models/{model}", views.model),
            Route("/models/{model}/angles", views.model_angles),
            Route("/lines/{line}", views.line),
            Route("/lines/{line}/accept", changes.accept, methods=["POST"]),
            Route("/lines/{line}/refuse", changes.refuse, methods=["POST"]),
            Route("/lines/{line}/revert", changes.revert, methods=["POST"]),
            Route("/compare", views.compare),
            Route("/results", views.results),
            Route("/results/{run}", views.result),
            Route("/results/{run}/report", views.report),
            Route("/jobs", views.jobs),
            Route("/jobs/now", views.jobs_now),
            Route("/static/{name}", views.static),
            Route("/favicon.ico", views.favicon),
            Route("/theme", changes.theme, methods=["POST"]),
            Route("/sign-in", changes.sign_in_page),
            Route("/sign-in", changes.sign_in, methods=["POST"]),
            Route("/sign-out", changes.sign_out, methods=["POST"]),
        ],
        exception_handlers={
            StockpotError: failed,
            HTTPException: failed,
            Exception: failed,
        },
    )
    # Around everything, so that answers to what goes wrong are guarded too.
    return Guard(pages, hosts=(*LOOPBACK, *settings.hosts))


def serve(
    settings: ServerSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8420,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Run the dashboard until it is interrupted. ``port`` 0 takes a free one.

    ``on_ready`` is called with the address when requests are answered.
    Raises ``InputError`` for wrong settings and ``OutputError`` for a port that is taken.
    """
    import uvicorn

    hosts = settings.hosts if host in ("0.0.0.0", "::", "") else (*settings.hosts, host)
    app = make_app(replace(settings, hosts=tuple(dict.fromkeys(hosts))))
    listener = listen(host, port)
    with listener:
        config = uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http=patient(),
            limit_concurrency=_MOST,
            timeout_graceful_shutdown=2,
        )
        shown = f"[{host}]" if ":" in host else host
        on_ready(f"http://{shown}:{listener.getsockname()[1]}/")
        with suppress(KeyboardInterrupt):  # how a server is meant to end
            uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ``InputError`` for an unknown host, ``OutputError`` else."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InputError(f"'{host}' is no address of this machine: {error}") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OutputError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="choose another --port, or 0 for any",
        ) from error
    return listener


def _check(settings: ServerSettings) -> None:
    from stockpot.registry import Registry

    if settings.registry is not None:
        Registry(settings.registry).close()
    for folder in settings.runs:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder")
    if settings.registry is None and not settings.runs:
        raise InputError("there is nothing to show", hint="give a registry, or --runs FOLDER")


def _explain(error: Exception) -> tuple[str, str, str | None, int]:
    if isinstance(error, HTTPException):
        title = _WORDS.get(error.status_code, "That did not work")
        words = "" if error.status_code in (404, 405) else error.detail
        return title, words, None, error.status_code
    if isinstance(error, BusyError):
        return "Please wait", error.message, error.hint, 503
    if isinstance(error, StockpotError):
        status = 404 if isinstance(error, InputError) else 409
        return "That did not work", error.message, error.hint, status
    return "Something went wrong", "The server's terminal says what.", None, 500
