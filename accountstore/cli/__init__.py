"""The `accountstore` command. It needs the extra `cli`; without it, `main` says so."""

from __future__ import annotations

import errno
import io
import os
import sys

__all__ = ("main",)

_NEEDED = frozenset({"typer", "click", "rich", "tomlkit"})
_NUMBERS = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        _prepare_streams()
        for name in _NUMBERS:
            if not os.environ.get(name, "0").isdecimal():  # where typer and rich would fail over it
                del os.environ[name]
        from accountstore.cli.commands import app, shells
        from accountstore.cli.exits import run

        if shells.VARIABLE in os.environ:
            sys.exit(shells.complete())

        code = run(lambda: app(prog_name="accountstore"))
    except KeyboardInterrupt:
        sys.exit(130)
    except (ImportError, OSError) as error:
        code = _give_up(error)
    sys.exit(code)


def _prepare_streams() -> None:
    """Open closed streams on the null device; let outputs escape characters that their encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 -- open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_up(error: ImportError | OSError, /) -> int:
    """Say why the program could not begin. Another error than one of the surroundings is raised."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    short = error if isinstance(error, OSError) else _shortage()  # without descriptors, all modules are missing
    if short is not None:
        reason = short.strerror or type(short).__name__
    elif missing in _NEEDED:
        reason = "the command line needs typer, click, rich and tomlkit: pip install 'accountstore[cli]'"
    else:
        raise error
    if sys.stderr is not None:
        sys.stderr.write(f"accountstore: {reason}\n")
    return 1


def _shortage() -> OSError | None:
    """Why no more files can be opened, if none can."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error if error.errno in _SHORT else None
    return None
