"""Results for people: a self-contained page, a table for the terminal, a table in Markdown."""

from stockpot.report.markdown import markdown_table
from stockpot.report.page import write_report
from stockpot.report.terminal import terminal_table

__all__ = ["markdown_table", "terminal_table", "write_report"]
