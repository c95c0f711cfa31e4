"""The command line as tests use it: in this process, as a program of its own, and on a pseudo terminal."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from running import HUNG, PYTHON

for package in ("pty", "typer", "click", "rich", "tomlkit"):
    pytest.importorskip(package)

import pty
import termios

from typer.main import get_command
from typer.testing import CliRunner

from accountstore.cli.commands import app

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = (
    "CANARIES",
    "COMMAND",
    "CONFIG",
    "MULTI",
    "PASSWORD",
    "PROGRAM",
    "SINGLE",
    "Answer",
    "Terminal",
    "configure",
    "document_at",
    "files",
    "plain",
    "python",
    "run",
    "start",
)

SINGLE: dict[str, Any] = json.loads("""{
    "host": "smtp.example.com", "port": 465, "securityOptions": "SSLAuto", "protocolType": "SMTP",
    "credentials": {
        "login": "example@example.com", "discriminator": "EmailClientAccountOauthCredentials", "clientId": "clientId",
        "clientSecret": "CANARY-client-secret", "refreshToken": "CANARY-refresh-token",
        "accessToken": "CANARY-access-token", "expiresAt": "2026-01-02T03:04:05Z",
        "requestUrl": "CANARY-a-token-one-argument-late", "ofTomorrow": {"nested": "CANARY-unknown-credential"}
    },
    "cacheFile": {"storage": "First Storage", "folderPath": "f", "fileName": "account.cache"},
    "alsoOfTomorrow": "CANARY-unknown-field"
}""")
PASSWORD: dict[str, Any] = json.loads("""{
    "host": "imap.example.com", "port": 993, "credentials": {
        "discriminator": "EmailClientAccountPasswordCredentials", "login": "me", "password": "CANARY-password"
    }
}""")
MULTI: dict[str, Any] = {"receiveAccounts": [PASSWORD, SINGLE], "sendAccount": SINGLE}
CANARIES = re.findall(r"CANARY-[\w-]+", json.dumps(SINGLE))
CONFIG = """\
default = "First Storage"
max_bytes = 20_000

[storages."First Storage"]
url = "first"

[storages.Archive]
url = "archive"
codec = "msgpack"
"""


PROGRAM = ("-m", "accountstore.cli")


class Answer(NamedTuple):
    """What a command left; `crash` is the traceback that it would have shown, if any."""

    code: int
    raw: bytes
    err: str
    crash: str = ""

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def everything(self) -> str:
        return self.out + self.err + self.crash

    @property
    def refusal(self) -> str:
        """What a command that ended with 1 said: one line on stderr, and nothing else."""
        assert (self.code, self.out, self.crash) == (1, "", "")
        line = re.fullmatch("accountstore: (.+)\n", self.err)
        assert line, self.err
        return line[1]


def python(*arguments: str, stdin: bytes = b"", stdout: Any = subprocess.PIPE, **env: str) -> Answer:
    """Run an interpreter."""
    command = [*PYTHON, *arguments]
    done = subprocess.run(
        command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=HUNG, env=os.environ | env
    )
    return Answer(done.returncode, done.stdout or b"", done.stderr.decode())


COMMAND: Any = get_command(app)


def configure(text: str) -> None:
    Path("accountstore.toml").write_text(text, encoding="utf-8")


def run(*arguments: str, stdin: bytes | dict[str, Any] = b"") -> Answer:
    """Run a command in this process."""
    given = json.dumps(stdin).encode() if isinstance(stdin, dict) else stdin
    result = CliRunner().invoke(app, arguments, input=given, prog_name="accountstore")
    crash = ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        crash = "".join(traceback.format_exception(result.exception))
    return Answer(result.exit_code, result.stdout_bytes, result.stderr, crash)


def document_at(location: str) -> Any:
    """The whole document at a location."""
    return json.loads(run("get", "--json", "--reveal", location).out)


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file() and path.name != "accountstore.toml")


def start(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start the program, in a session of its own."""
    # A test run in the background ignores it, and the program would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*PYTHON, *PROGRAM, *arguments],
        env=os.environ | dict(env or {}),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    return process


class Terminal:
    """A program on a pseudo terminal of 100 columns."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self._terminal, inner = pty.openpty()
        termios.tcsetwinsize(inner, (50, 100))
        self.process = start(*arguments, env={"TERM": "xterm"} | env, stdin=inner, stdout=inner, stderr=inner)
        os.close(inner)
        self.shown = ""
        self._read = 0

    def expect(self, text: str) -> None:
        """Wait until the program shows `text`, after what was expected before."""
        self._take(lambda: text in self.shown[self._read :])
        assert text in self.shown[self._read :], self.shown
        self._read = self.shown.index(text, self._read) + len(text)

    def answer(self, question: str, text: str | bytes) -> None:
        """Wait for a question and type an answer."""
        self.expect(question)
        self.type((text.encode() if isinstance(text, str) else text) + b"\n")

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal, as Ctrl-C does, once; Enter ends a read that began just after the signal, and so missed it."""
        self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
            return
        self.type(b"\n")

    def end(self) -> int:
        """Wait for the program's end; its exit code."""
        self._take(lambda: False)
        os.close(self._terminal)
        return self.process.wait(HUNG)

    def _take(self, enough: Callable[[], bool]) -> None:
        until = time.monotonic() + HUNG
        while not enough() and time.monotonic() < until:
            if not select.select([self._terminal], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                return
            if not data:
                return
            self.shown += data.decode(errors="replace").replace("\r\n", "\n")


def plain(text: str) -> str:
    """The text without colours and styles."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
