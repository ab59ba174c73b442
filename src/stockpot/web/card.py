"""Model cards: Markdown of unknown origin as harmless HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def split_card(text: str) -> tuple[str, str]:
    """The YAML on top of a model card, and the rest."""
    found = _FRONT.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def card_html(text: str) -> str:
    """Markdown as HTML: no HTML of its own passes, no picture is fetched, headings start at h3.

    Links to other places are kept; a browser follows them only when they are clicked.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("image", _alternative)
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
        for inner in token.children or ():
            if inner.type == "link_open":
                inner.attrSet("rel", "noreferrer nofollow")
        # The alignment of a table's column comes as a style, which our policy forbids.
        if "right" in str(token.attrs.pop("style", "")):
            token.attrSet("class", "number")
    return str(reader.renderer.render(tokens, reader.options, {}))


def _alternative(
    renderer: Any, tokens: Sequence[Any], index: int, options: Any, environment: Any
) -> str:
    """The words that stand for a picture."""
    return html.escape(tokens[index].content)
