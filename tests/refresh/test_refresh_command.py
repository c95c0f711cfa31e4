"""The command `accountstore refresh`: one document or a folder's, as cron calls it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs

import anyio
import commandline
import msgspec
import pytest
from msgspec.structs import replace
from running import HUNG, PYTHON
from samples import ACCOUNT, FULL

from accountstore import Account, AccountStore, Location, MultiAccount, OAuthCredentials, StorageConfig, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("httpx2")

pytestmark = pytest.mark.once

CANARY = "zQ7kzQ7k"


class Provider(BaseHTTPRequestHandler):
    """Grants another token for each, unless it is `bad...`."""

    signalled: ClassVar[tuple[int, int] | None] = None
    """The process that is sent a signal in the midst of an exchange, which then takes a while."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self.server.asked.append(form)  # type: ignore[attr-defined]  # which the fixture gives it
        if Provider.signalled is not None:
            os.kill(*Provider.signalled)
            time.sleep(0.3)
        is_bad = form["refresh_token"].startswith("bad")
        answer = {"error": "invalid_grant"} if is_bad else {"access_token": CANARY, "expires_in": 3600}
        self.send_response(400 if is_bad else 200)
        self.end_headers()
        self.wfile.write(msgspec.json.encode(answer))

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 -- the name that it has above
        pass


@pytest.fixture
def asked() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A provider's endpoint, and the forms that it is sent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        server.asked = []  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token", server.asked  # type: ignore[attr-defined]
        server.shutdown()


def oauth(token: str, /, **more: Any) -> Account:
    return replace(ACCOUNT, credentials=OAuthCredentials(login="me", client_id="c", refresh_token=token, **more))


@pytest.fixture
def folder(tmp_path: Path, asked: tuple[str, object]) -> Path:
    """A store's folder with documents, and its configuration beside it."""

    async def fill() -> None:
        async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(str(tmp_path / "mail"))})) as store:
            url = asked[0]
            await store.save(Location("old.account", folder="a"), oauth("old", request_url=url))
            valid = oauth(
                "valid", request_url=url, access_token=CANARY, expires_at=datetime.now(UTC) + timedelta(minutes=30)
            )
            await store.save(Location("valid.account", folder="a"), valid)
            await store.save(Location("password.account", folder="a"), FULL)
            several = MultiAccount(
                receive_accounts=[oauth("one", request_url=url), FULL, oauth("two", request_url=url)]
            )
            await store.save_multi(Location("several.multi.account", folder="a/b"), several)
            await store.save(Location("bad.account", folder="c"), oauth("bad", request_url=url))

    anyio.run(fill)
    (tmp_path / "accountstore.toml").write_text(
        'default = "main"\n[storages.main]\nurl = "mail"\n[storages.far]\nurl = "ftp://127.0.0.1:9/"\nattempts = 1\n'
    )
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """The exit code and the outputs of the command."""
    answer = commandline.run("--config", str(folder / "accountstore.toml"), "refresh", *arguments)
    assert CANARY not in answer.everything
    assert answer.crash == ""
    return answer.code, answer.out, answer.err


def tokens(asked: tuple[str, list[dict[str, str]]]) -> list[str]:
    return sorted(form["refresh_token"] for form in asked[1])


def test_one_document(folder: Path, asked: tuple[str, list[dict[str, str]]]) -> None:
    """A token that has ended is renewed, one that has not is left; nothing is printed, as cron mails what is."""
    for at in ("a/old.account", "a/valid.account", "a/old.account"):
        assert run(folder, "--insecure-http", at) == (0, "", "")
    assert tokens(asked) == ["old"]
    assert run(folder, "--insecure-http", "--within", "31m", "a/valid.account") == (0, "", "")
    assert tokens(asked) == ["old", "valid"]


def test_all_documents_of_a_folder(folder: Path, asked: tuple[str, list[dict[str, str]]]) -> None:
    """Those below it too, of either kind; documents without OAuth credentials are passed over."""
    assert run(folder, "--insecure-http", "--all", "a", "--within", "10m") == (0, "", "")
    assert tokens(asked) == ["old", "one", "two"]


def test_one_that_fails_does_not_keep_the_others(folder: Path, asked: tuple[str, list[dict[str, str]]]) -> None:
    """The exit code tells, and a line for each on stderr."""
    code, out, err = run(folder, "--insecure-http", "--all", "main:")
    assert (code, out) == (1, "")
    refused = "the provider refused the exchange (invalid_grant): the user must sign in again"
    assert err == f"accountstore: main:c/bad.account: {refused}\n"
    assert tokens(asked) == ["bad", "old", "one", "two"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give either a LOCATION or --all FOLDER"),
        (["--all", "a", "a/old.account"], "give either a LOCATION or --all FOLDER"),
        (["--within", "soon", "a/old.account"], "90s, 10m, 1h or 1d; a number alone is seconds"),
        (["--endpoint", "gogle", "a/old.account"], "--endpoint takes google, microsoft or an https URL"),
        (["--endpoint", "http://x/", "a/old.account"], "--endpoint takes google, microsoft or an https URL"),
    ],
)
def test_wrong_usage(folder: Path, asked: tuple[str, list[dict[str, str]]], arguments: list[str], reason: str) -> None:
    """Exit code 2, with the usage; nobody is asked."""
    code, out, err = run(folder, *arguments)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())
    assert asked[1] == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a/old.account"], "a/old.account: $.credentials.requestUrl: must be an https URL, without user or fragment"),
        (["a/b/several.multi.account"], "account: $.receiveAccounts[0].credentials.requestUrl: must be an https URL"),
        (["a/password.account"], "a/password.account: the document has no OAuth credentials"),
        (["a/none.account"], "a/none.account: there is no such document"),
        (["--all", "nowhere"], "no documents in 'nowhere/'"),
        (["../x.account"], "'../x.account': folder: "),
        (["--all", "Nope:"], "the storage 'Nope' is not configured; known: main, far"),
        (["--all", "far:"], "the storage cannot be reached"),
    ],
)
def test_what_cannot_be_done(
    folder: Path, asked: tuple[str, list[dict[str, str]]], arguments: list[str], reason: str
) -> None:
    """A line on stderr and exit code 1; nobody is asked."""
    code, out, err = run(folder, *arguments)
    assert (code, out) == (1, "")
    assert reason in err
    assert err.count("\n") == 1
    assert asked[1] == []


def test_the_client_shows_its_secret_as_told(folder: Path, asked: tuple[str, list[dict[str, str]]]) -> None:
    """With `--post` the client's id is in the body, as for a public client; an endpoint that is given is asked."""
    assert run(folder, "--insecure-http", "--post", "--endpoint", asked[0], "a/old.account") == (0, "", "")
    assert asked[1][0]["client_id"] == "c"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_loses_no_token(number: int, folder: Path, asked: tuple[str, list[dict[str, str]]]) -> None:
    """Told to end while the provider is at it, which has spent the refresh token, the command saves the new one. So it
    does as a shell's job in the background, which begins with Ctrl-C ignored.
    """
    options = ("--config", str(folder / "accountstore.toml"), "refresh", "--insecure-http", "a/old.account")
    # Those of the test run itself may be others: nohup has one ignored.
    inherited = {number: signal.SIG_DFL, signal.SIGINT: signal.SIG_IGN}
    before = {each: signal.signal(each, handler) for each, handler in inherited.items()}
    process = subprocess.Popen([*PYTHON, "-m", "accountstore", *options], stderr=subprocess.PIPE)
    for each, handler in before.items():
        signal.signal(each, handler)
    with process:
        Provider.signalled = process.pid, number
        try:
            _, shown = process.communicate(timeout=HUNG)
        finally:
            Provider.signalled = None
    assert (process.returncode, shown) == (130, b"")
    stored = msgspec.json.decode((folder / "mail/a/old.account").read_bytes())
    assert stored["credentials"]["accessToken"] == CANARY


def test_without_the_extra(folder: Path) -> None:
    """Without httpx2 the command says what to install."""
    program = (
        "import sys; sys.modules['httpx2'] = None; sys.argv[1:] = ['refresh', 'x.account'];"
        "from accountstore.cli import main; main()"
    )
    done = subprocess.run(
        [*PYTHON, "-c", program], capture_output=True, text=True, timeout=HUNG, check=False, cwd=folder
    )
    assert (done.returncode, done.stdout) == (1, "")
    hint = "accountstore.oauth needs the package httpx2: pip install 'accountstore[oauth]'"
    assert done.stderr == f"accountstore: {hint}\n"
