"""The programs of docs/examples run, each against real servers on loopback, and print what the page says."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

import pytest
from anyio.from_thread import start_blocking_portal
from cloudtls import make_authority, tls_before
from gatewayservers import free_port
from markdown import ROOT, at_home, blocks, on_path, run
from msgspec.structs import replace
from running import HUNG, PYTHON
from samples import ACCOUNT

from accountstore import (
    Account,
    Location,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
    to_json,
)
from accountstore.blocking import BlockingAccountStore

if TYPE_CHECKING:
    from collections.abc import Generator

    import httpx
else:
    httpx = pytest.importorskip("httpx")

EXAMPLES = ROOT / "docs" / "examples"
SHOWN = dict(
    zip(
        ("celery", "trio", "poller", "refresh", "migration"),
        (block.text for block in blocks("docs/examples.md", "text")),
        strict=True,
    )
)
CONFIG = '[storages.Mail]\nurl = "accounts"\n'
BODY = to_json(ACCOUNT, reveal=True)
AT = Location("me.account", folder="tenants/a/mail")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and working directory with a configuration."""
    at_home(tmp_path, monkeypatch)
    (tmp_path / "accountstore.toml").write_text(CONFIG)
    return tmp_path


@contextmanager
def program(*arguments: str, ready: str = "", port: int = 0, **environment: str) -> Generator[subprocess.Popen[str]]:
    """A program that serves, once it has printed a text or a port answers; ended as a terminal ends it."""
    log = Path("program.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(EXAMPLES), "PYTHONUNBUFFERED": "1"} | environment,
        )
        try:
            ends = time.monotonic() + HUNG
            while not (re.search(ready, log.read_text()) if ready else _answers(port)):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < ends, log.read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):  # what it has started too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def example(name: str) -> Any:
    """The module of an example."""
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def example_provider() -> Generator[tuple[Any, str]]:
    """The provider of the example of `refresh`, which grants `access-1` first, and its endpoint."""
    module = example("refresh")
    with ThreadingHTTPServer(("127.0.0.1", 0), module.Provider) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield module.Provider, f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.once
@pytest.mark.parametrize(("name", "needs"), [("fastapi_service", "fastapi"), ("litestar_service", "litestar")])
def test_the_services_answer(name: str, needs: str, home: Path) -> None:
    """A service creates, reads with masked secrets, replaces by `If-Match`, refuses a second writer with the same ETag,
    an ETag that nobody gave, one that says no version, and a body that would lose a secret or a field; keeps tenants
    apart, and answers errors by its table, the same in both frameworks. Without a key of its ETags it does not start.
    """
    pytest.importorskip(needs)
    keyless = [*PYTHON, "-c", f"import {name}"]
    found = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(keyless, env=found, capture_output=True, text=True, timeout=HUNG, check=False)
    assert done.stderr.endswith("KeyError: 'ETAG_KEY'\n")
    port = free_port()
    command = (*PYTHON, "-m", "uvicorn", f"{name}:app", "--port", str(port))
    with program(*command, port=port, ETAG_KEY="k"), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        put = partial(http.put, "/accounts/mail/me.account", content=BODY)
        a = {"X-Tenant": "a", "Content-Type": "application/json"}
        assert http.get("/accounts/mail/me.account", headers=a).status_code == 404
        created = put(headers=a | {"If-None-Match": "*"})
        assert (created.status_code, created.content) == (201, b"")
        assert put(headers=a | {"If-None-Match": "*"}).status_code == 412
        read = http.get("/accounts/mail/me.account", headers=a)
        assert (read.status_code, read.headers["ETag"]) == (200, created.headers["ETag"])
        assert read.json()["credentials"]["password"] == "**********"
        unconditional = put(headers=a)
        assert (unconditional.status_code, list(unconditional.json())) == (428, ["detail"])
        assert http.get("/accounts/mail/me.account").status_code == 422
        never_given = httpx.Headers(a)
        for text in ('"x"', '"ä"'):
            never_given["If-Match"] = text
            assert put(headers=never_given).status_code == 412
        seen = a | {"If-Match": read.headers["ETag"]}
        changed = put(content=BODY.replace(b"993", b"1"), headers=seen)
        assert (changed.status_code, changed.content) == (204, b"")
        assert changed.headers["ETag"] != read.headers["ETag"]
        assert put(headers=seen).status_code == 412
        assert http.get("/accounts/mail/me.account", headers=a).headers["ETag"] == changed.headers["ETag"]
        assert http.get("/accounts/mail/me.account", headers=a | {"X-Tenant": "b"}).status_code == 404
        assert http.get("/accounts/mail/me.multi.account", headers=a).status_code == 404
        seen = a | {"If-Match": changed.headers["ETag"]}
        twice, misspelt = BODY.replace(b'"port"', b'"port":1,"port"'), b'{"hots":"",' + BODY[1:]
        for bad in (read.content, b'{"host": 1}', twice, misspelt):
            assert put(content=bad, headers=seen).status_code == 422
        assert http.get("/ready").json() == {"status": "ready"}
        (home / "accounts" / "tenants" / "a" / "mail" / "me.account").write_bytes(b"{")
        assert http.get("/accounts/mail/me.account", headers=a).status_code == 500


COMMANDS = [block.text.replace("PATH_OF_THE_CLONE", str(ROOT)) for block in blocks("docs/examples.md", "sh")]


@pytest.mark.once
@pytest.mark.parametrize(("number", "needs"), [(0, "fastapi"), (2, "litestar"), (5, "django")])
def test_the_commands_of_a_service_start_and_try_it(number: int, needs: str, home: Path) -> None:
    """What the page has a reader type installs what the program imports, starts it, and is answered: a service of ASGI
    prints no name of a document.
    """
    for package in (needs, "typer"):
        pytest.importorskip(package)
    port = free_port()
    begin, ask = (text.replace("8000", str(port)) for text in COMMANDS[number:][:2])
    install, *lines = begin.splitlines()
    assert re.fullmatch(rf"pip install '?{ROOT}(\[cli\])?'? {needs}( uvicorn)?", install)
    variable, _, command = lines.pop().partition(") ")
    started = "\n".join([*lines, f"export {variable})", f"exec {command}"])
    environment = {**on_path(home), "PYTHONPATH": "", "ACCOUNTSTORE_CONFIG": str(home / "accountstore.toml")}
    with program("bash", "-ec", started, port=port, **environment):
        answers = re.findall(r"^HTTP/1.1 (\d+)", run(["bash", "-ec", ask], home, **environment), re.MULTILINE)
    assert answers == (["200", "404"] if needs == "django" else ["201", "200"])
    if needs != "django":
        assert "me.account" not in Path("program.log").read_text()


@pytest.mark.once
@pytest.mark.parametrize(
    ("number", "installs", "needs", "printed"),
    [
        (4, "'{}[cli]' 'celery[sqlalchemy]'", ("celery", "sqlalchemy", "typer"), SHOWN["celery"]),
        (7, "{} trio", ("trio",), SHOWN["trio"]),
        (8, "{} jupyterlab", ("nbclient", "ipykernel"), ""),
        (9, "'{}[cli,oauth]' pymap", ("pymap", "httpx2", "typer"), SHOWN["poller"]),
        (10, "'{}[oauth]'", ("httpx2",), SHOWN["refresh"]),
        (11, "'{}[cli]'", ("typer",), SHOWN["migration"]),
        (12, "'{}[cli]' .", ("typer", "rich"), "update loses nothing: proven\n"),
    ],
)
def test_the_commands_of_an_example_print_what_the_page_says(
    number: int, installs: str, needs: tuple[str, ...], printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page has a reader type in an empty folder, after what it has written to files there, installs what the
    program needs, starts it, and prints what the page shows.
    """
    for package in needs:
        pytest.importorskip(package)
    at_home(tmp_path, monkeypatch)
    for block in blocks("docs/examples.md", "toml")[{11: slice(1), 12: slice(1, 3)}.get(number, slice(0))]:
        Path(str(block.file)).write_text(block.text)
    metadata = Path("sqlite-1.dist-info")  # instead of an installation
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: sqlite\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[accountstore.backends]\nsqlite = sqlite_backend:open_backend\n")
    # pymap refers to the tasks of its connections weakly, so that the collector of garbage may take one.
    Path("sitecustomize.py").write_text("import gc\n\ngc.disable()\n")
    text = re.sub("^(jupyter lab .*)$", "", COMMANDS[number].replace("1143", str(free_port())), flags=re.MULTILINE)
    install = f"pip install {installs.format(ROOT)}\n"
    assert install in text
    environment = {**on_path(tmp_path), "PYTHONPATH": str(tmp_path)}
    always = "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n"
    output = run(["bash", "-ec", always + text.replace(install, "")], tmp_path, **environment)
    for line in printed.splitlines():
        assert line in output.replace(": 21", ": 20").splitlines()


@pytest.mark.once
def test_the_workers_lose_no_change(home: Path) -> None:
    """Two prefork workers with a store each change one document twenty times, and all changes are there."""
    pytest.importorskip("celery")
    for folder in ("broker", "results"):
        (home / folder).mkdir()
    with BlockingAccountStore.open() as store:
        store.save(AT, replace(ACCOUNT, port=1000))
    ask = (
        "import celery_worker as w; from celery import group; from kombu import Connection\n"
        f"print(sorted(group(w.change_port.s({str(AT)!r}) for _ in range(20)).apply_async().get(timeout=120)))"
    )
    # A broker and results in folders: no server, and processes of their own all the same.
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), "broker")
    settings = f"from celery_worker import app\napp.conf.broker_transport_options = {folders}\n"
    (home / "settings.py").write_text(settings)
    environment: dict[str, Any] = {
        "CELERY_BROKER_URL": "filesystem://",
        "CELERY_RESULT_BACKEND": f"file://{home / 'results'}",
        "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{home}",
    }
    worker = [*PYTHON, "-m", "celery", "-A", "settings", "worker", "--loglevel", "INFO", "--concurrency", "2"]
    worker += ["--pool", "prefork", "--without-mingle", "--without-gossip", "--without-heartbeat"]
    with program(*worker, ready=r"ready\.", **environment):
        ports = run([*PYTHON, "-c", f"import settings\n{ask}"], home, **environment)
    assert ports.strip().splitlines()[-1] == str([*range(1001, 1021)])
    with BlockingAccountStore.open() as store:
        assert store.get(AT).port == 1020


CHANGES = """
import celery_worker as worker
from accountstore import UnavailableError, UncertainError

class Store:
    def __init__(self, error):
        self.error, self.calls = error, 0

    def update(self, *_):
        self.calls += 1
        raise self.error("lost")

for error in (UnavailableError, UncertainError):
    worker._stores[:] = [Store(error)]
    print(error.__name__, worker.change_port.apply(["me.account"]).state, worker._stores[0].calls)
"""


@pytest.mark.once
def test_a_worker_repeats_no_change_that_it_may_have_made(home: Path) -> None:
    """A task whose storage is out of reach is tried six times in all, and one whose outcome is unknown once."""
    pytest.importorskip("celery")
    output = run([*PYTHON, "-c", CHANGES], home, PYTHONPATH=str(EXAMPLES))
    assert output == "UnavailableError FAILURE 6\nUncertainError FAILURE 1\n"


FIRST_REQUESTS = """
import threading, time, types
import django_view as view

opened = []

def slow():
    time.sleep(0.2)
    opened.append("store")

view.BlockingAccountStore = types.SimpleNamespace(open=slow)
threads = [threading.Thread(target=view.store) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(opened)
"""


def test_first_requests_at_once_open_one_store(home: Path) -> None:
    """Threads of Django's that all come first share what one of them has opened."""
    pytest.importorskip("django")
    assert run([*PYTHON, "-c", FIRST_REQUESTS], home, PYTHONPATH=str(EXAMPLES), DJANGO_SECRET_KEY="k") == "['store']\n"


@pytest.mark.once
def test_the_view_answers(home: Path) -> None:
    """Django's own server answers with masked secrets, and 404 for what is not there; its threads share a store."""
    pytest.importorskip("django")
    with BlockingAccountStore.open() as store:
        store.save(AT, ACCOUNT)
    port = free_port()
    command = (*PYTHON, str(EXAMPLES / "django_view.py"), "runserver", "--noreload", f"127.0.0.1:{port}")
    with program(*command, port=port, DJANGO_SECRET_KEY="k"), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        found = http.get(f"/accounts/{AT.path}")
        assert (found.status_code, found.json()["credentials"]["password"]) == (200, "**********")
        assert [http.get(f"/accounts/{name}").status_code for name in ("no.account", "no")] == [404, 404]
        Path("accounts", AT.path).write_bytes(b"{")
        assert http.get(f"/accounts/{AT.path}").status_code == 500


def test_the_trio_program_prints_what_the_page_says(home: Path) -> None:
    """Twenty tasks of a nursery lose no change, and a cancelled one leaves the document whole."""
    output = run([*PYTHON, str(EXAMPLES / "trio_app.py")], home)
    assert output in {SHOWN["trio"], SHOWN["trio"].replace("20", "21")}


def test_the_refresh_program_prints_what_the_page_says(home: Path) -> None:
    """Three processes and a provider on loopback: one exchange, and a token for each."""
    pytest.importorskip("httpx2")
    assert run([*PYTHON, str(EXAMPLES / "refresh.py")], home) == SHOWN["refresh"]


def test_the_migration_program_prints_what_the_page_says(home: Path) -> None:
    """It copies what its policy takes, and compares; a second run finds all the same. A configuration that lacks its
    `default` is told in one line.
    """
    (home / "accountstore.toml").write_text(
        'default = "Old"\n[storages.Old]\nurl = "old"\n[storages.New]\nurl = "new"\n'
    )
    with BlockingAccountStore.open() as store:
        for name in ("a", "b", "test-c"):
            store.save(Location(f"{name}.account", folder="mail"), ACCOUNT)
        command = [*PYTHON, str(EXAMPLES / "migrate_script.py"), "Old", "New"]
        assert run(command, home) == SHOWN["migration"]
        assert run(command, home) == SHOWN["migration"].replace("copied", "same")
        assert sorted(entry.location.file_name for entry in store.list("mail", storage="New")) == [
            "a.account",
            "b.account",
        ]
        (home / "accountstore.toml").write_text('[storages.Old]\nurl = "old"\n[storages.New]\nurl = "new"\n')
        done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG, check=False)
        assert (done.returncode, done.stderr.count("\n"), "default" in done.stderr) == (1, 1, True)


@pytest.mark.parametrize(("name", "needs"), [("migrate_script", "anyio"), ("django_view", "django")])
def test_a_program_without_arguments_says_how_it_is_called(name: str, needs: str, home: Path) -> None:
    """A usage line, no traceback; its variables are in it, and the command is in the program's own description."""
    pytest.importorskip(needs)
    program = EXAMPLES / f"{name}.py"
    done = subprocess.run([*PYTHON, str(program)], capture_output=True, text=True, timeout=HUNG, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    usage = re.fullmatch(rf"usage: .*(DJANGO_SECRET_KEY|ACCOUNTSTORE_CONFIG)=.* python {name}\.py .+\n", done.stderr)
    assert usage, done.stderr
    assert re.search(rf"    {usage[1]}=.* python {name}\.py ", program.read_text())


@pytest.mark.once
def test_the_notebook_runs(home: Path) -> None:
    """A kernel of Jupyter's runs all cells on its own event loop, and shows no password."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    text = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "**********" in text
    assert "mail/me.account" in text
    assert "correct horse" not in text


@pytest.mark.once
def test_the_poller_prints_what_the_page_says(home: Path) -> None:
    """Against a real IMAP server, behind TLS, the poller logs in by password and by a token that it has exchanged for
    an expired one; tells of a wrong password, with an umlaut, without showing it, and of a server without the TLS that
    the document wants; passes over what is not IMAP; and a name that no server can have stops no other.
    """
    for package in ("pymap", "httpx2"):
        pytest.importorskip(package)
    authority, pair = make_authority(home)
    port = free_port()
    server = (*PYTHON, str(ROOT / "tests" / "servers" / "imap_server.py"), "--host", "127.0.0.1", "--port", str(port))
    demo = ("dict", "--demo-data", "--demo-user", "me", "--demo-password", "access-1")
    with (
        example_provider() as (provider, endpoint),
        program(*server, "--no-tls", "--no-service", "admin", *demo, port=port),
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(tls_before(port, pair)) as url,
    ):
        implicit = Account(
            host="127.0.0.1",
            port=int(url.rpartition(":")[2]),
            protocol_type=ProtocolType.IMAP,
            security_options=SecurityOptions.SSL_IMPLICIT,
            credentials=PasswordCredentials(login="me", password="access-1"),
        )
        token = OAuthCredentials(login="me", client_id="c", refresh_token="refresh-0", request_url=endpoint)
        wrong = PasswordCredentials(login="me", password="cänary")
        with BlockingAccountStore.open() as store:
            for name, account in {
                "me": implicit,
                "by-token": replace(implicit, credentials=token),
                "no-tls": replace(implicit, port=port, security_options=SecurityOptions.SSL_EXPLICIT),
                "other": replace(implicit, protocol_type=ProtocolType.POP3),
                "wrong": replace(implicit, port=port, security_options=SecurityOptions.NONE, credentials=wrong),
            }.items():
                store.save(Location(f"{name}.account", folder="mail"), account)
        expected = sorted([*SHOWN["poller"].splitlines(), "mail/by-token.account: 2 unseen"])
        for _ in range(2):
            output = run([*PYTHON, str(EXAMPLES / "imap_poller.py"), endpoint], home, SSL_CERT_FILE=authority)
            assert sorted(output.splitlines()) == expected
            assert "nary" not in output
        with BlockingAccountStore.open() as store:
            store.save(Location("odd.account", folder="mail"), replace(implicit, host="imap..example.com"))
        output = run([*PYTHON, str(EXAMPLES / "imap_poller.py"), endpoint], home, SSL_CERT_FILE=authority)
        odd = re.search(r"^mail/odd\.account: Unicode\w*Error\n", output, re.MULTILINE)
        assert odd is not None
        assert sorted(output.replace(odd[0], "").splitlines()) == expected
        assert provider.exchanges == 1


class Silent:
    """A connection to a server that does not answer a search which finds nothing."""

    capabilities = ()

    def __init__(self, _: Account) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def login(self, *_: object) -> None: ...

    def select(self, *_: object, readonly: bool) -> None: ...

    def search(self, *_: object) -> tuple[str, list[None]]:
        return "OK", [None]


def test_a_search_that_is_not_answered_has_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers do not say that no message is unseen."""
    pytest.importorskip("httpx2")
    poller = example("imap_poller")
    monkeypatch.setattr(poller, "connect", Silent)
    assert poller.unseen(ACCOUNT) == 0


def test_each_example_is_run() -> None:
    """Every program of the folder is named in a test, and included by the page."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tests += "".join(block.text for block in blocks("docs/gateway.md", "sh"))  # run by the gateway's tests
    page = (ROOT / "docs" / "examples.md").read_text()
    names = [path.name for path in EXAMPLES.iterdir() if path.is_file()]
    assert len(names) >= 11
    for name in names:
        assert name.removesuffix(".py") in tests, name
        assert f"examples/{name}" in page, name
