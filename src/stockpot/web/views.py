"""One function a page: from a request to HTML. Reading only; see ``changes`` for the rest."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from stockpot.errors import InputError
from stockpot.report.inspection import parts
from stockpot.web import data
from stockpot.web.angles import Angles
from stockpot.web.card import card_html, split_card
from stockpot.web.jobs import watch
from stockpot.web.pages import assets, drawings, version
from stockpot.web.proposals import METHODS, proposals, scores
from stockpot.web.results import answer, report_page, safe_ranking
from stockpot.web.runs import find_run, find_runs, kind, read_results
from stockpot.web.shell import ServerSettings, Shells

_RANKED = 40
_JOBS = 400
_RECIPE = 20_000
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")
_FIELDS = ("first", "second", "base")


class Views:
    """The pages. Every method answers one route; Starlette calls them in threads."""

    def __init__(self, settings: ServerSettings, shells: Shells) -> None:
        self.settings = settings
        self.shells = shells
        self.angles = Angles()

    @property
    def place(self) -> str:
        """Where the registry is. Raises ``InputError`` where none was given."""
        if self.settings.registry is None:
            raise InputError(
                "this server shows no registry",
                hint="start it with one: stockpot serve REGISTRY",
            )
        return self.settings.registry

    def tree(self, request: Request) -> Response:
        """The family tree and a searchable table of all models."""
        if self.settings.registry is None:
            return RedirectResponse("/results" if self.settings.runs else "/jobs", 303)
        search = request.query_params.get("q", "")[:100]
        page = _number(request.query_params.get("page"))
        found = data.overview(self.place, search, page)
        return self.shells.page(
            request,
            "tree.html.j2",
            found=found,
            drawing=drawings(found.lineage),
            search=search,
            page=page,
            pages=max(1, -(-found.matches // data.PAGE)),
        )

    def model(self, request: Request) -> Response:
        """Everything about one model, under its id; other names for it lead there."""
        asked = request.path_params["model"]
        (ident,) = data.resolve(self.place, [asked])
        if ident != asked:
            return RedirectResponse(data.address(ident), 303)
        found = data.model(self.place, ident)
        compared, base = data.relatives(self.place, ident)
        known = self.angles.known(tuple(compared), base)
        front, text = split_card(found.card)
        return self.shells.page(
            request,
            "model.html.j2",
            found=found,
            drawing=drawings(found.lineage) if len(found.lineage["nodes"]) > 1 else None,
            comparable=base is not None or len(compared) > 1,
            inspected=known,
            tone=parts(known)["tone"] if known else "",
            recipe=_yaml(found.manifest.recipe),
            front=front,
            card=Markup(card_html(text)),
            place=self.place,
        )

    def model_angles(self, request: Request) -> Response:
        """A model against its parents, layer by layer."""
        (ident,) = data.resolve(self.place, [request.path_params["model"]])
        compared, base = data.relatives(self.place, ident)
        if base is None and len(compared) == 1:
            raise InputError("none of its parents is in this registry")
        entry = data.model(self.place, ident).entry
        found = self.angles.inspect(self.place, tuple(compared), base)
        return self.shells.page(
            request,
            "inspected.html.j2",
            title=f"Angles of {entry.row.name}",
            subject=entry.row,
            **parts(found),
        )

    def compare(self, request: Request) -> Response:
        """Two models, and the base they came from if one is named."""
        asked = {name: request.query_params.get(name, "")[:200].strip() for name in _FIELDS}
        offered = data.offered(self.place)
        if not (asked["first"] and asked["second"]):
            return self.shells.page(request, "compare.html.j2", asked=asked, offered=offered)
        models = data.resolve(self.place, [asked["first"], asked["second"]])
        base = data.resolve(self.place, [asked["base"]])[0] if asked["base"] else None
        if len(set(models)) == 1 or base in models:
            raise InputError("that is the same model twice", hint="choose another one")
        found = self.angles.inspect(self.place, tuple(models), base)
        return self.shells.page(
            request,
            "inspected.html.j2",
            title="Compare",
            subject=None,
            asked=asked,
            offered=offered,
            **parts(found),
        )

    def line(self, request: Request) -> Response:
        """The versions of a line, what is in the newest one, and what waits."""
        name = request.path_params["line"]
        line, names = data.line(self.place, name)
        found = proposals(self.place, name)
        numbers = [version["number"] for version in line.versions]
        numbered = list(zip(numbers, line.versions, names, strict=True))
        return self.shells.page(
            request,
            "line.html.j2",
            line=line,
            versions=numbered[::-1],
            inside=[each for each in found if each.state == "in"],
            waiting=[each for each in found if each.state != "in"],
            scores=scores(line),
            methods=METHODS,
            place=self.place,
        )

    def results(self, request: Request) -> Response:
        """What finished runs found."""
        rows = []
        for run in sorted(find_runs(self.settings.runs), key=lambda run: -run.changed):
            if run.results is not None:
                rows.append({"run": run, **answer(run)})
        return self.shells.page(request, "rankings.html.j2", rows=rows, roots=self._roots())

    def result(self, request: Request) -> Response:
        """A ranking with its posterior; results of other commands as their whole report."""
        run = find_run(self.settings.runs, request.path_params["run"])
        found = read_results(run)
        if kind(found) != "rank":
            return RedirectResponse(f"/results/{quote(run.key)}/report", 303)
        shown = safe_ranking(found, _RANKED)
        return self.shells.page(request, "ranking.html.j2", run=run, **shown)

    def report(self, request: Request) -> Response:
        """The report of a run, as the command would write it."""
        run = find_run(self.settings.runs, request.path_params["run"])
        page, policy = report_page(read_results(run))
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    def jobs(self, request: Request) -> Response:
        """How far all runs are."""
        found = watch(find_runs(self.settings.runs))
        return self.shells.page(
            request,
            "jobs.html.j2",
            found=found,
            active=any(each.active for each in found),
            roots=self._roots(),
            most=_JOBS,
        )

    def jobs_now(self, request: Request) -> Response:
        """The part of the page of jobs that changes."""
        found = watch(find_runs(self.settings.runs))
        return self.shells.part("jobs_now.html.j2", found=found, most=_JOBS)

    def static(self, request: Request) -> Response:
        """Style sheet, script and icon: from a fixed list, never from a path."""
        name = request.path_params["name"]
        if name not in assets():
            raise InputError(f"there is no file {name}")
        media, content = assets()[name]
        tag = f'"{version(name)}"'
        headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    def favicon(self, request: Request) -> Response:
        """Where browsers look for an icon on their own."""
        media, content = assets()["favicon.svg"]
        return Response(content, media_type=media, headers={"Cache-Control": "max-age=86400"})

    def _roots(self) -> list[str]:
        return [str(root) for root in self.settings.runs]


def _number(text: str | None) -> int:
    return int(text) if text and _NUMBER.fullmatch(text) else 1


def _yaml(value: Any) -> str:
    if value is None:
        return ""
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text if len(text) <= _RECIPE else f"{text[:_RECIPE]}\n… ({len(text)} characters)"
