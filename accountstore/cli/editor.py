"""An editor on a private file, which is gone when the program ends, also when it is told to end."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from accountstore import AccountStoreError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("Room", "private_room")

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))
_PATIENCE = 5.0
"""Seconds that an editor has to end when the program is told to."""


class Room:
    """A folder that only this user can enter, with one file in it."""

    def __init__(self) -> None:
        self._folder = ""
        self._on_signal: Literal["wait", "end", "leave to the editor"] = "wait"
        self._waiting: int | None = None

    @property
    def path(self) -> str:
        """The file's path."""
        return os.path.join(self._folder, "account.json")

    def write(self, data: bytes, /) -> None:
        """Make the file."""
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)

    def edit(self) -> None:
        """Wait until the user has edited the file.

        As in other programs, Ctrl-C is the editor's while it runs.

        Raises:
            UnsupportedError: there is no such editor.
            AccountStoreError: the editor failed.
        """
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        self._on_signal = "leave to the editor"
        try:
            code = _run([*shlex.split(editor), self.path])
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a command"
            raise UnsupportedError(f"the editor {editor!r} cannot be started ({reason}): set EDITOR") from None
        finally:
            self._on_signal = "end"
        if code:
            raise AccountStoreError(f"the editor ended with {code}: nothing was written")

    def enter(self) -> None:
        """Make the folder, on a file system in memory where the user has one."""
        place = os.environ.get("XDG_RUNTIME_DIR", "")
        self._folder = tempfile.mkdtemp(prefix="accountstore-", dir=place if os.access(place, os.W_OK) else None)
        self._on_signal = "end"
        if self._waiting is not None:
            self.signalled(self._waiting)

    def leave(self) -> None:
        """Remove the folder; no signal comes between."""
        self._on_signal = "wait"
        shutil.rmtree(self._folder, ignore_errors=True)

    def signalled(self, number: int, _: object = None, /) -> None:
        """End the program so that `leave` is called, or wait with that."""
        if self._on_signal == "wait":
            self._waiting = number
        elif number != signal.SIGINT:
            raise SystemExit(128 + number)
        elif self._on_signal == "end":
            raise KeyboardInterrupt


@contextmanager
def private_room() -> Generator[Room, None, None]:
    """A room to edit in, gone at the end, also by SIGINT, SIGTERM, SIGHUP and SIGQUIT."""
    room = Room()
    before = {number: signal.signal(number, room.signalled) for number in _SIGNALS}
    try:
        room.enter()
        yield room
    finally:
        room.leave()
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(command: list[str], /) -> int:
    with subprocess.Popen(command) as editor:  # noqa: S603 -- the user's own
        try:
            return editor.wait()
        except BaseException:
            editor.terminate()
            with suppress(subprocess.TimeoutExpired):
                editor.wait(_PATIENCE)
            editor.kill()
            raise
