"""How a command ends: its exit code, and one line on stderr where something is wrong."""

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

__all__ = ("complain", "ending")

_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13


def complain(reason: object, /) -> None:
    """Say on stderr what is wrong, in one line."""
    with suppress(OSError):
        typer.echo(f"accountstore: {printable(' '.join(str(reason).split()))}", err=True)


@contextmanager
def ending() -> Generator[None, None, None]:
    """Turn what ends a command into its exit code: 1 for an error of the store, 130 for Ctrl-C, no traceback."""
    try:
        yield
        # Here, not when the interpreter ends: a closed pipe or a full disk must still be told.
        sys.stdout.flush()
    except AccountStoreError as error:
        complain(error)
        code = 1
    except EOFError:
        complain("the input ended before the document was complete")
        code = 1
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        code = _BROKEN_PIPE
    except OSError as error:
        _drop_output()
        complain(f"cannot read the input or write the output ({error.strerror or type(error).__name__})")
        code = 1
    else:
        return
    raise typer.Exit(code)


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail over it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
