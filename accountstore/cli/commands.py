"""All commands: each module here puts those of one group on the app."""

from __future__ import annotations

from accountstore.cli import checking, configuring, importing, moving, reading, refresh, shells, writing
from accountstore.cli.app import app
from accountstore.cli.help import Command
from accountstore.cli.keys import keys
from accountstore.cli.migrate import app as migrate
from accountstore.cli.serve import add_commands

__all__ = ("app", "checking", "configuring", "importing", "moving", "reading", "refresh", "shells", "writing")

app.add_typer(keys, name="keys")
app.add_typer(migrate, name="migrate")
app.command(cls=Command, epilog=refresh.EXAMPLES)(refresh.refresh)
add_commands(app)
