"""Results for people: a self-contained page, a table for the terminal, a table in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.report.certificate import write_certificate
    from stockpot.report.community import write_community_page
    from stockpot.report.continual import markdown_tables, write_continual
    from stockpot.report.inspection import write_inspection
    from stockpot.report.markdown import markdown_table
    from stockpot.report.page import write_report
    from stockpot.report.ranking import write_ranking
    from stockpot.report.terminal import terminal_table

__all__ = [
    "markdown_table",
    "markdown_tables",
    "terminal_table",
    "write_certificate",
    "write_community_page",
    "write_continual",
    "write_inspection",
    "write_ranking",
    "write_report",
]

__getattr__ = lazily(
    __name__,
    {
        "certificate": "write_certificate",
        "community": "write_community_page",
        "continual": "markdown_tables write_continual",
        "inspection": "write_inspection",
        "markdown": "markdown_table",
        "page": "write_report",
        "ranking": "write_ranking",
        "terminal": "terminal_table",
    },
)
