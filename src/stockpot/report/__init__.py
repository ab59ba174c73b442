"""Results for people: a self-contained page, a table for the terminal, a table in Markdown."""

from stockpot.report.kept import kept_line
from stockpot.report.markdown import markdown_table
from stockpot.report.page import write_report
from stockpot.report.terminal import terminal_table

__all__ = ["kept_line", "markdown_table", "terminal_table", "write_report"]
