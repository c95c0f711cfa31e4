"""The `accountstore` command. It needs the extra `cli`; without it, `main` says so."""

from __future__ import annotations

import io
import os
import sys

__all__ = ("main",)

_NEEDED = frozenset({"typer", "click", "rich"})


def main() -> None:
    """Run the command line of this process and exit."""
    _prepare_streams()
    try:
        from accountstore.cli.commands import app

        app(prog_name="accountstore")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write(
            "accountstore: the command line needs typer, click and rich: pip install 'accountstore[cli]'\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _prepare_streams() -> None:
    """Open closed streams on the null device; let outputs escape characters that their encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 -- open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
