"""Exit codes of the commands, and the line on stderr that says what is wrong."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from accountstore import AccountStoreError
from accountstore.cli.show import printable

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("exit_codes", "print_error")

_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13


def print_error(reason: object, /) -> None:
    """Print on stderr, in one line, what is wrong."""
    with suppress(OSError):
        typer.echo(f"accountstore: {printable(' '.join(str(reason).split()))}", err=True)


@contextmanager
def exit_codes() -> Generator[None, None, None]:
    """Turn exceptions into exit codes: 1 for an error of the store, 130 for Ctrl-C; no traceback."""
    try:
        yield
        # Here, not when the interpreter ends: a closed pipe or a full disk must still be reported.
        sys.stdout.flush()
    except AccountStoreError as error:
        print_error(error)
        code = 1
    except EOFError:
        print_error("the input ended before the document was complete")
        code = 1
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        code = _BROKEN_PIPE
    except OSError as error:
        _discard_output()
        print_error(f"cannot read the input or write the output ({error.strerror or type(error).__name__})")
        code = 1
    else:
        return
    raise typer.Exit(code)


def _discard_output() -> None:
    """Discard what is still buffered, so that the interpreter does not fail over it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
