"""Exit codes of the commands and of the program, and the line on stderr that says what is wrong."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from accountstore import AccountStoreError
from accountstore.cli.show import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ("exit_codes", "print_error", "run")

_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13
_IO = "cannot read the input or write the output"
_DID_NOT = dict.fromkeys((errno.EMFILE, errno.ENFILE), "cannot open a file, a socket or an event loop")


def print_error(reason: object, /) -> None:
    """Print on stderr, in one line, what is wrong."""
    with suppress(OSError, ValueError):
        typer.echo(f"accountstore: {printable(' '.join(str(reason).split()))}", err=True)


@contextmanager
def exit_codes(*, descriptors: int = 4) -> Generator[None, None, None]:
    """Turn exceptions into exit codes: 1 for an error of the store, 130 for Ctrl-C; no traceback.

    So many descriptors must be free: where they are too few for an event loop, asyncio's own attempt shows a traceback.
    """
    try:
        _require(descriptors)
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
        print_error(f"{_DID_NOT.get(error.errno or 0, _IO)} ({error.strerror or type(error).__name__})")
        code = 1
    except MemoryError:
        print_error("the system has no more memory")
        code = 1
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        print_error("the system has no more threads")
        code = 1
    else:
        return
    raise typer.Exit(code)


def _require(descriptors: int, /) -> None:
    opened: list[int] = []
    try:
        opened += (os.open(os.devnull, os.O_RDONLY) for _ in range(descriptors))
    finally:
        for fd in opened:
            os.close(fd)


def run(program: Callable[[], object], /) -> int:
    """The exit code of the whole program, also where its help or its errors cannot be written."""
    code: int | str | None = 0
    try:
        with exit_codes(descriptors=0):
            try:
                program()
            except SystemExit as ended:
                code = ended.code
    except typer.Exit as failed:
        code = code or failed.exit_code
    _discard_output()
    return code if isinstance(code, int) else int(code is not None)


def _discard_output() -> None:
    """Discard what is buffered and cannot be written, so that the interpreter does not fail over it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
