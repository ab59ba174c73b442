"""How every page is made from its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.reading import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


_LONGEST = 60  # characters of a name in a line


def isolated(name: str, most: int = _LONGEST) -> Markup:
    """A name that somebody chose: it turns no text around it, and a long one is cut; the whole
    stands in its title.
    """
    from markupsafe import Markup

    text = visible(str(name), most)
    title = Markup(' title="{}"').format(visible(str(name))) if len(name) > most else ""
    return Markup("<bdi{}>{}</bdi>").format(title, text)


def make_environment(*packages: str, **filters: Any) -> Environment:
    """Templates of the reports, and before them those of ``packages``; what they are given is
    escaped, and a name that they are not given is an error.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(package) for package in (*packages, "stockpot.report")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(isolated=isolated, **filters)
    return environment
