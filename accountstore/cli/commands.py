"""All commands: each module here puts those of one group on the app."""

from __future__ import annotations

from accountstore.cli import checking, configuring, importing, moving, reading, shells, writing
from accountstore.cli.app import app
from accountstore.cli.migrate import app as migrate

__all__ = ("app", "checking", "configuring", "importing", "moving", "reading", "shells", "writing")

app.add_typer(migrate, name="migrate")
