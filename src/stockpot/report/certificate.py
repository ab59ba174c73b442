"""The page of a forgetting certificate, for people who have to sign or file it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stockpot.files import write_text
from stockpot.report.environment import make_environment

if TYPE_CHECKING:
    from stockpot.tangent.forgetting.schema import Auc, Certificate


def write_certificate(made: Certificate, path: Path) -> Path:
    """Write the page; returns its path. Raises ``OutputError`` where it cannot be written."""
    write_text(path, render_certificate(made, path.with_suffix(".json").name))
    return path


def render_certificate(made: Certificate, file: str) -> str:
    """The page as HTML, one sheet: no script, no request. ``file``: the certificate's name."""
    environment = make_environment(share=lambda value: f"{value:.1%}", area=_area)
    erased: dict[tuple[str, str], list[str]] = {}
    for one in made.erased:
        erased.setdefault((one.kind, one.action), []).append(one.path)
    template = environment.get_template("certificate.html.j2")
    return template.render(made=made, file=file, erased=erased, earlier=_earlier(made))


def _area(value: Auc) -> str:
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def _earlier(made: Certificate) -> str:
    """What the attack of somebody who kept the earlier model means."""
    if made.membership is None or made.membership.kept_earlier is None:
        return ""
    if made.membership.kept_earlier.low > 0.5:
        return (
            "Whoever kept the earlier model can tell, by comparing both, whose data was removed. "
            "Nothing done to the new model changes that: delete copies of the earlier one."
        )
    return "Comparing the earlier model with the new one did not show whose data was removed."
