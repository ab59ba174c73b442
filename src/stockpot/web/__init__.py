"""The dashboard: family tree, models, rankings and running jobs in a browser."""

from stockpot.web.app import make_app, serve
from stockpot.web.shell import ServerSettings

__all__ = ["ServerSettings", "make_app", "serve"]
