"""Every code block of the documentation runs, and every link of it leads somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest
from anyio import to_thread
from doubles import Recording
from markdown import PAGES, ROOT, anchors, at_home, blocks, links, on_path, run, run_blocks
from msgspec.structs import replace
from running import HUNG, PYTHON
from samples import ACCOUNT, RICH

from accountstore import (
    AccountStore,
    AccountStoreError,
    Location,
    NotFoundError,
    OAuthCredentials,
    StorageConfig,
    StoreConfig,
    TokenGrant,
    registry,
    to_json,
)
from accountstore.backends.base import Backend
from accountstore.backends.memory import MemoryBackend
from accountstore.config_file import load_config
from accountstore.rotation import rewrap
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudservers import Server

RUN = {
    "architecture.md": {"text": 1},
    "backends.md": {"python": 2, "toml": 1},
    "command-line.md": {"sh": 1},
    "configuration.md": {"toml": 1},
    "documents.md": {"python": 2},
    "encryption.md": {"console": 2, "toml": 1},
    "errors.md": {"python": 1},
    "examples.md": {"sh": 13, "text": 5, "python": 1, "toml": 3},
    "gateway.md": {"sh": 1, "python": 1, "toml": 1},
    "migration.md": {"sh": 1, "python": 1},
    "observing.md": {"python": 2},
    "reading.md": {"python": 2},
    "refresh.md": {"text": 2, "python": 2},
    "service.md": {"python": 3},
    "storages.md": {"toml": 2},
    "store.md": {"python": 3},
    "testing.md": {"python": 3},
    "tutorial.md": {"toml": 3, "sh": 9, "python": 2, "text": 2},
}
"""The blocks that are run: Python by the first test below, those of the gateway beside it in tests/gateway, outputs and
examples in test_examples.py, all others here.
"""

NEEDS = {
    "gateway.md": ("starlette", "uvicorn"),
    "observing.md": ("opentelemetry.sdk", "structlog"),
    "refresh.md": ("httpx2",),
}
ACCOUNT_JSON = RICH.decode()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The names of a page's Python blocks, run in an empty home."""
    at_home(tmp_path, monkeypatch)
    return run_blocks


def test_each_block_is_of_a_kind_that_is_run() -> None:
    """The pages have the blocks of this table, and no others: a new one wants its test."""
    found = {page: dict(Counter(block.language for block in blocks(f"docs/{page}"))) for page in PAGES}
    assert {page: counts for page, counts in found.items() if counts} == RUN


@pytest.mark.parametrize("page", [page for page, counts in RUN.items() if "python" in counts and page != "examples.md"])
def test_python_blocks_run(page: str, names: Any) -> None:
    """The Python blocks of a page run in their order, each with the names of those before it."""
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, exc_type=ImportError)
    names(f"docs/{page}")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """A link is a file of the repository, with its heading; the documentation sends nobody out of it."""
    for link in links(f"docs/{page}"):
        path, _, anchor = link.partition("#")
        target = ROOT / "docs" / path if path else ROOT / "docs" / page
        if path == "commands.md":  # written when the site is built
            continue
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_each_page_is_in_the_index() -> None:
    """Every page of the folder is in the site's table of contents, once."""
    text = (ROOT / "docs" / "index.md").read_text()
    listed = [
        line
        for tree in re.findall(r"```\{toctree\}(.*?)```", text, re.DOTALL)
        for line in tree.splitlines()
        if line and line[0] != ":"
    ]
    assert sorted(listed) == sorted({page.removesuffix(".md") for page in PAGES} - {"index"} | {"commands"})


def test_update_and_error_examples_do_what_they_say(names: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The update example sets port 143; the error example gives None for a missing document, and one that is there; and
    that of many documents names those that it could not create, and prints the others.
    """
    find, page = names("docs/errors.md")["find"], names("docs/store.md")
    use_starttls, save_all, hosts = page["use_starttls"], page["save_all"], page["hosts"]

    async def look() -> None:
        store = store_over({"m": MemoryBackend()})
        location = Location("x.account")
        assert await find(store, "x.account") is None
        await store.save(location, ACCOUNT)
        assert await find(store, "x.account") == ACCOUNT
        await use_starttls(store, location)
        assert (await store.get(location)).port == 143
        other = Location("y.account")
        assert await save_all(store, {location: ACCOUNT, other: ACCOUNT}) == [location]
        await hosts(store, [Location("none.account"), other])
        await store.save(Location("z.account", folder="mail/team"), ACCOUNT)
        await page["show"](store)

    anyio.run(look)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("none.account: there is no such document")
    assert second.startswith(f"y.account {ACCOUNT.host} ")
    assert re.match(r"mail/team z\.account \d+ \d{4}-.*\+00:00 \S+$", third)


def test_body_example_guards_against_a_lost_update(names: Any) -> None:
    """The example of a service refuses a second writer with the same ETag, a client's mistake and a missing account.
    The control: with an ETag that is the same for all versions, both writers win.
    """
    page = names("docs/service.md")
    account = replace(ACCOUNT, port=993)
    secret = b'"pw"'

    async def both(tag: Any) -> list[int]:
        page["etag"] = tag
        store = store_over({"m": MemoryBackend()})
        location, body = Location("x.account"), to_json(account, reveal=True)
        assert (await page["accept"](store, location, body, "x"))[0] == 404
        await store.save(location, account)
        status, seen, shown = await page["respond"](store, location)
        assert (status, secret in shown) == (200, False)
        assert (await page["accept"](store, location, shown, seen))[0] == 422
        bodies = [body.replace(b"993", port) for port in (b"1", b"2")]
        return [(await page["accept"](store, location, given, seen))[0] for given in bodies]

    assert anyio.run(both, page["etag"]) == [204, 412]
    assert anyio.run(both, repr) == [204, 204]


def test_service_example_prints_its_audit_event(names: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedding example prints the event of its one operation and the answer."""
    page = names("docs/service.md")
    capsys.readouterr()
    anyio.run(page["serve"])
    assert re.fullmatch(r"exists tenants/4711/email\.account ok \d\.\d{3} s\nFalse\n", capsys.readouterr().out)


def test_read_only_example_deletes_nothing(names: Any, tmp_path: Path) -> None:
    """The example's delete is refused, and it reads."""
    config = StoreConfig(storages={"main": StorageConfig(str(tmp_path))})

    async def host() -> object:
        async with AccountStore.open(config) as store:
            await store.save(Location("me.account"), ACCOUNT)
        return await names("docs/reading.md")["first_host"](config)

    assert anyio.run(host) == ACCOUNT.host


@pytest.mark.anyio
async def test_cache_example_keeps_what_it_is_told_and_no_longer(names: Any) -> None:
    """A second `get` asks nobody until `forget`, by whichever name; what changed while it was read, or is one too many,
    is not kept; and when the time is up, or the cache is left, nothing is left, though nobody asks.
    """
    cached = names("docs/reading.md")["cached"]
    backend = Recording()
    store, at, other = store_over({"m": backend}), Location("a.account"), Location("b.account")
    for location in (at, other):
        await store.save(location, ACCOUNT)
    changed = replace(ACCOUNT, port=1)
    async with cached(store, seconds=1000, most=1) as cache:
        assert [await cache.get(at) for _ in range(3)] == [ACCOUNT] * 3
        await store.save(at, changed)
        assert (await cache.get(at), backend.calls["read"]) == (ACCOUNT, 1)  # what a cache costs
        cache.forget(Location("a.account", storage="m"))
        assert (await cache.get(at), backend.calls["read"]) == (changed, 2)
        assert [await cache.get(other) for _ in range(2)] == [ACCOUNT] * 2
        assert backend.calls["read"] == 4
    for _ in range(2):
        assert cache._kept == {}
        await cache.get(at)
    async with cached(store, seconds=1000) as cache:

        async def change(_: str) -> None:
            cache.forget(at)

        backend.before = change
        await cache.get(at)
        backend.before = None
        assert cache._kept == {}
    async with cached(store, seconds=0.01) as cache:
        await cache.get(at)
        with anyio.fail_after(HUNG):
            while cache._kept:
                await anyio.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [NotFoundError("no"), KeyboardInterrupt(), ExceptionGroup("mine", [ValueError()])])
async def test_cache_example_leaves_an_error_in_its_block_as_it_is(names: Any, error: BaseException) -> None:
    """What is raised in the block comes out of it, alone, also where documents are kept; nothing is left of these."""
    cached, store = names("docs/reading.md")["cached"], store_over({"m": MemoryBackend()})
    await store.save(Location("a.account"), ACCOUNT)
    caches: list[Any] = []
    with pytest.raises(type(error)) as caught:
        async with cached(store, seconds=1000) as cache:
            caches.append(cache)
            await cache.get(Location("a.account"))
            raise error
    assert caught.value is error
    assert caches[0]._kept == {}


def test_migration_example_moves_what_it_includes(names: Any, tmp_path: Path) -> None:
    """The example of a run copies the team's documents and no others."""
    move_accounts = names("docs/migration.md")["move_accounts"]

    async def moved() -> bool:
        storages = {name: StorageConfig(str(tmp_path / name)) for name in ("Old", "New")}
        async with AccountStore.open(StoreConfig(default="Old", storages=storages)) as store:
            for folder in ("team-a", "team-b"):
                await store.save(Location("x.account", folder=f"mail/{folder}"), ACCOUNT)
            assert await move_accounts(store)
            return [entry.location.folder async for entry in store.list("mail", storage="New", recursive=True)] == [
                "mail/team-a"
            ]

    assert anyio.run(moved)


@pytest.mark.once
def test_backend_example_passes_the_suite(tmp_path: Path) -> None:
    """The page's backend passes the conformance suite as the page applies it, and needs no more of the library. The
    control: without a method that is seldom called it does not.
    """
    shelf, suite = (block.text for block in blocks("docs/backends.md", "python"))
    imported = re.findall(r"^(?:from|import) (accountstore\S*)", shelf + suite, re.MULTILINE)
    assert imported == ["accountstore.backends.base", "accountstore.testing"]
    (tmp_path / "test_shelf.py").write_text(f"{shelf}\n\n{suite}")
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_shelf.py"]
    assert re.search(r"[3-9]\d+ passed", run(command, tmp_path))
    (tmp_path / "test_shelf.py").write_text(f"{shelf}\n\n{suite}".replace("def versioned", "def other"))
    with pytest.raises(AssertionError, match="AttributeError: 'ShelfBackend' object has no attribute 'versioned'"):
        run([*command, "-k", "usage"], tmp_path)


def test_a_backend_has_as_many_methods_as_the_pages_say() -> None:
    """README and page count the methods of the protocol."""
    methods = [name for name, value in vars(Backend).items() if callable(value) and not name.startswith("_")]
    assert len(methods) == 10
    for page in ("README.md", "docs/backends.md"):
        assert "ten methods" in (ROOT / page).read_text()


def test_entry_point_example_is_in_the_group_that_the_registry_reads() -> None:
    """The entry point example names the group of the registry's own text."""
    (block,) = blocks("docs/backends.md", "toml")
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert groups == {"accountstore.backends": {"shelf": "accountstore_shelf:open_backend"}}
    assert "accountstore.backends" in str(registry.__doc__)


def test_configuration_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration example is one, with its option from the environment."""
    monkeypatch.setenv("SFTP_PASSWORD", "hidden")
    path = tmp_path / "accountstore.toml"
    path.write_text(blocks("docs/configuration.md", "toml")[0].text)
    config = load_config(path)
    options = {"username": "mail", "password": "hidden"}
    archive = StorageConfig("sftp://backup.example.org/srv/accounts", options, "msgpack")
    storages = {"First Storage": StorageConfig("file:///srv/accounts"), "Archive": archive}
    assert config == StoreConfig(default="First Storage", max_bytes=262144, storages=storages)
    assert "hidden" not in repr(config)


@pytest.mark.once
@pytest.mark.anyio
async def test_object_store_example_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of an object store opens, with all its options known to either engine."""
    pytest.importorskip("obstore")
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_KEY", "canary")
    monkeypatch.setenv("AWS_SECRET", "canary")
    for engine in ("obstore", "fsspec"):
        path = tmp_path / f"{engine}.toml"
        path.write_text(blocks("docs/storages.md", "toml")[0].text.replace('"obstore"', f'"{engine}"'))
        async with AccountStore.open(path) as store:
            assert store.storages == ("Cloud",)
            assert store.capabilities().update


@pytest.mark.once
@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["fsspec", "obstore"])
async def test_the_example_of_a_server_of_ones_own_reaches_it(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: Server
) -> None:
    """With its endpoint the configuration reaches a real server by either engine, once the bucket is there."""
    for package in ("httpx2", "obstore", "s3fs"):
        pytest.importorskip(package)
    import httpx2

    monkeypatch.setenv("AWS_KEY", "canary")
    monkeypatch.setenv("AWS_SECRET", "canary")
    address, bucket = moto.options["endpoint_url"], f"own-{token_hex(4)}"
    text = blocks("docs/storages.md", "toml")[1].text.replace("http://127.0.0.1:9000", address)
    path = tmp_path / "accountstore.toml"
    path.write_text(f'{text}engine = "{engine}"\n'.replace("bucket", bucket))
    async with AccountStore.open(path) as store, httpx2.AsyncClient() as http:
        with pytest.raises(AccountStoreError):
            await store.exists(Location("me.account"))
        assert (await http.put(f"{address}/{bucket}")).is_success
        assert (await store.check()).ok


def _expiring() -> OAuthCredentials:
    ends = datetime.now(UTC) + timedelta(hours=1)
    return OAuthCredentials(login="me", refresh_token="r", access_token="a", expires_at=ends)


def test_the_line_of_the_crontab_runs(tmp_path: Path) -> None:
    """It asks nobody for a token that is valid for long enough."""
    for package in ("typer", "httpx2"):
        pytest.importorskip(package)
    (line,) = [block.text for block in blocks("docs/refresh.md", "text") if "* * * *" in block.text]
    command = line.removeprefix("*/5 * * * * ")
    (tmp_path / "accountstore.toml").write_text('[storages.Mail]\nurl = "accounts"\n')
    (tmp_path / "accounts" / "mail").mkdir(parents=True)
    document = to_json(replace(ACCOUNT, credentials=_expiring()), reveal=True)
    (tmp_path / "accounts" / "mail" / "me.account").write_bytes(document)
    assert run(["bash", "-ec", command], tmp_path, **on_path(tmp_path)) == ""


def test_open_telemetry_example_shows_a_span(tmp_path: Path) -> None:
    """What it does is on the terminal as a span."""
    pytest.importorskip("opentelemetry.sdk", exc_type=ImportError)
    (example, _) = (block.text for block in blocks("docs/observing.md", "python"))
    started = "import anyio\nfrom accountstore.config_file import load_config\nanyio.run(serve, load_config(None))"
    output = run([*PYTHON, "-c", f"{example}\n{started}"], tmp_path, **on_path(tmp_path))
    assert '"name": "accountstore.exists"' in output


async def _refreshed(access_token: Any) -> str:
    store = store_over({"m": MemoryBackend()})
    await store.save(Location("x.account"), replace(ACCOUNT, credentials=_expiring()))
    return str(await access_token(store, Location("x.account")))


def test_access_token_example_returns_a_valid_one(names: Any) -> None:
    """The example asks nobody for a token that is valid."""
    pytest.importorskip("httpx2")
    assert anyio.run(_refreshed, names("docs/refresh.md")["access_token"]) == "a"


@pytest.mark.parametrize(
    "odd", [{}, {"expires_in": "3600"}, {"expires_in": 0}, {"expires_in": "0"}, {"expires_in": None}, {"scope": ["x"]}]
)
@pytest.mark.parametrize("new", ["R1", "", None])
def test_exchange_example_takes_what_was_granted(odd: dict[str, Any], new: str | None, names: Any) -> None:
    """An answer without a lifetime, or with one as text, or without a refresh token, loses no token."""
    httpx2 = pytest.importorskip("httpx2")
    page = names("docs/refresh.md")
    answer = httpx2.Response(200, json={"access_token": "A1", "refresh_token": new} | odd)
    transport = httpx2.MockTransport(Mock(return_value=answer))
    page["httpx2"] = SimpleNamespace(AsyncClient=partial(httpx2.AsyncClient, transport=transport))
    grant = anyio.run(page["exchange"], OAuthCredentials(login="me", refresh_token="R0"))
    assert grant == TokenGrant(access_token="A1", expires_in=3600, refresh_token=new or None)


@pytest.mark.anyio
async def test_encryption_example_seals_and_opens_without_this_library(tmp_path: Path) -> None:
    """The command makes a key file, the configuration seals by it, and the two commands of another tool open the
    document and say where it belongs (where `jose` is installed). With `seal = false` in place of `required` it can be
    made plain.
    """
    pytest.importorskip("typer")
    console = blocks("docs/encryption.md", "console")
    make, opens = ([line.removeprefix("$ ") for line in block.text.splitlines()] for block in console)
    await to_thread.run_sync(partial(run, ["bash", "-ec", "\n".join(make)], tmp_path, **on_path(tmp_path)))
    config = tmp_path / "accountstore.toml"
    config.write_text(blocks("docs/encryption.md", "toml")[0].text.replace("s3://bucket/mail", str(tmp_path)))
    async with AccountStore.open(config) as store:
        await store.save_json(Location("email.account"), RICH)
        sealed = (tmp_path / "email.account").read_bytes()
        assert b"discriminator" not in sealed
        assert (await store.read_json(Location("email.account"))).document == RICH
    config.write_text(config.read_text().replace("required = true", "seal = false"))
    async with AccountStore.open(config) as store:
        assert len([done async for done in rewrap(store)]) == 1
    assert (tmp_path / "email.account").read_bytes() == RICH
    (tmp_path / "email.account").write_bytes(sealed)
    if shutil.which("jose") is None:
        pytest.skip("no command jose: install the package of your distribution")
    contents, place = [await to_thread.run_sync(partial(run, ["bash", "-ec", line], tmp_path)) for line in opens]
    assert json.loads(contents) == json.loads(RICH)
    assert json.loads(place) == {"enc": "A256GCM", "acs": "1:account:mail:email.account"}


def test_command_line_example_runs(tmp_path: Path) -> None:
    """The command line example runs to its end, shows no password, and leaves what the tutorial has left as it was."""
    pytest.importorskip("typer")
    pytest.importorskip("rich")
    (block,) = blocks("docs/command-line.md", "sh")
    mine = tmp_path / "accounts" / "team-a" / "me.account"
    mine.parent.mkdir(parents=True)
    for path in (mine, tmp_path / "accountstore.toml"):
        path.write_text("mine")
    output = run(["bash", "-ec", block.text], tmp_path, **on_path(tmp_path))
    assert "Archive:2026/team-a/me.account" in output
    assert "correct horse" not in output
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.account"))
    assert left == ["accounts/team-a/me.account", "command-line/accounts/team-a/other.account"]
    assert {path.read_text() for path in (mine, tmp_path / "accountstore.toml")} == {"mine"}


def test_no_block_writes_over_a_configuration_or_a_document() -> None:
    """What a page has a reader write in the shell is in a folder made for it, or a new document."""
    for page in PAGES:
        for block in blocks(f"docs/{page}", "sh"):
            if found := re.search(r"> accountstore\.toml|accountstore save (?!--create)", block.text):
                assert re.search(r"^mkdir (\S+) && cd \1$", block.text[: found.start()], re.MULTILINE), page


@pytest.mark.once
def test_the_cut_over_runs(tmp_path: Path) -> None:
    """The recipe of a cut-over, line by line, with a service that writes to the old place until it uses the new one:
    the last update is at the new place, and nothing is left at the old one.
    """
    pytest.importorskip("typer")
    (tmp_path / "accountstore.toml").write_text(
        'default = "Old"\n[storages.Old]\nurl = "old"\n[storages.New]\nurl = "new"\n'
    )
    (tmp_path / "old" / "mail").mkdir(parents=True)
    (block,) = blocks("docs/migration.md", "sh")
    lines = [line for line in block.text.splitlines() if line]
    last = next(number for number, line in enumerate(lines) if line.startswith("#"))
    port = str(json.loads(RICH)["port"])
    for number, line in enumerate(lines):
        written = tmp_path / ("old/mail/me.account" if number <= last else "new/mail/mine.account")
        written.write_text(ACCOUNT_JSON.replace(port, str(number + 1)))
        if number <= last:
            (tmp_path / "old" / "mail" / f"{number}.account").write_text(ACCOUNT_JSON)
        run(["bash", "-ec", line], tmp_path, **on_path(tmp_path))
    there = tmp_path / "new" / "mail"
    assert json.loads((there / "me.account").read_text())["port"] == last + 1
    assert json.loads((there / "mine.account").read_text())["port"] == len(lines)
    assert not [*(tmp_path / "old").rglob("*.account")]
    copied = {f"{number}.account" for number in range(last + 1)}
    assert {file.name for file in there.iterdir()} == {"me.account", "mine.account"} | copied


@pytest.mark.once
def test_the_way_back_from_a_migration(tmp_path: Path) -> None:
    """What the page says of going back, with its command and its options: what is new at New is copied, what has
    changed there is a conflict until it may be overwritten, and what was deleted there stays at Old.
    """
    pytest.importorskip("typer")
    (tmp_path / "accountstore.toml").write_text(
        'default = "Old"\n[storages.Old]\nurl = "old"\n[storages.New]\nurl = "new"\n'
    )
    text = (ROOT / "docs" / "migration.md").read_text().partition("*Going back.*")[2].partition("\n\n")[0]
    back, again = re.findall(r"`(accountstore migrate [^`]+|--resume [^`]+)`", text)
    old, new = tmp_path / "old" / "mail", tmp_path / "new" / "mail"
    old.mkdir(parents=True)
    for name in ("same", "changed", "deleted"):
        (old / f"{name}.account").write_text(ACCOUNT_JSON)

    def migrated(command: str) -> dict[str, int]:
        done = run(["bash", "-c", f"{command}; echo code: $?"], tmp_path, **on_path(tmp_path))
        return {word: int(number) for word, number in re.findall(r"^ *([a-z]+):? +(\d+)", done, re.MULTILINE)}

    assert migrated("accountstore migrate Old:mail New:mail") == {"copied": 3, "code": 0}
    changed = ACCOUNT_JSON.replace('"port":1', '"port":2')
    (new / "changed.account").write_text(changed)
    (new / "new.account").write_text(ACCOUNT_JSON)
    (new / "deleted.account").unlink()
    assert migrated(back) == {"copied": 1, "same": 1, "conflict": 1, "foreign": 1, "code": 3}
    assert migrated(f"{back} {again}") == {"changed": 1, "same": 2, "foreign": 1, "code": 0}
    assert {file.name: file.read_text() == changed for file in old.iterdir()} == {
        "same.account": False,
        "changed.account": True,
        "deleted.account": False,
        "new.account": False,
    }


@pytest.mark.once
def test_the_pages_of_tests_are_tests(tmp_path: Path) -> None:
    """The files that the page on testing shows are collected, and pass, on asyncio and trio."""
    for block in blocks("docs/testing.md", "python"):
        assert block.file is not None
        (tmp_path / block.file).write_text(block.text)
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    assert "8 passed" in run(command, tmp_path)


SESSION = ROOT / "docs" / "session.txt"
LOCAL = "http://127.0.0.1:5000"


def typed() -> Iterator[str]:
    """What a new user types, from the README and the tutorial; files are written on the way."""
    yield "accountstore demo"
    Path("ten_lines.py").write_text(blocks("README.md", "python")[0].text)
    yield "python ten_lines.py"
    for block in blocks("docs/tutorial.md"):
        if block.file is not None:
            Path(block.file).write_text(block.text)
        elif block.language == "sh":
            yield from block.text.splitlines()


def alike(session: str) -> list[str]:
    """The lines of a session, without what is another each time: times, sizes, a key's name, the width of columns."""
    for pattern, text in {
        r"\b[\d.,]+ (ms|s|min)\b": "TIME",
        r"\b[\d,]+ bytes\b": "SIZE",
        r"\d{4}-\d\d-\d\d-[0-9a-f]{6}": "KEY",
        r"[ ─]+$": "",
        r" {2,}|─+": " ",
    }.items():
        session = re.sub(pattern, text, session, flags=re.MULTILINE)
    return session.splitlines()


@pytest.mark.once
def test_the_session_goes_as_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: Server) -> None:
    """What a new user types prints what `docs/session.txt` has, and the tutorial's outputs are those. With
    `ACCOUNTSTORE_RECORD` in the environment it is recorded anew.
    """
    for package in ("typer", "s3fs", "httpx2"):
        pytest.importorskip(package)
    at_home(tmp_path, monkeypatch)
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = on_path(tmp_path)
    real = {LOCAL: moto.options["endpoint_url"], "PATH_OF_THE_CLONE": str(ROOT)}
    session = ""
    for command in typed():
        if (config := Path("accountstore.toml")).exists():
            config.write_text(_replaced(config.read_text(), real))
        in_order = f"exec 2>&1; export PYTHONUNBUFFERED=1\n{_replaced(command, real)}"  # as on a terminal
        output = run(["bash", "-ec", in_order], tmp_path, **environment)
        session += f"$ {command}\n" + re.sub(rf"{tmp_path}(\S*)", _at_home, output)
    if "ACCOUNTSTORE_RECORD" in os.environ:
        SESSION.write_text(re.sub(" +$", "", session, flags=re.MULTILINE))
    assert alike(session) == alike(SESSION.read_text())
    shown = [block.text for block in blocks("docs/tutorial.md", "text")]
    assert len(shown) == 2
    assert all(text in session for text in shown)
    assert "correct horse" not in session
    assert b"discriminator" not in (tmp_path / "accounts" / "team-a" / "me.account").read_bytes()


def _at_home(found: re.Match[str]) -> str:
    return f"/home/me{found[1]}".ljust(len(found[0]))


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def test_a_session_that_goes_otherwise_is_seen() -> None:
    """The control: another password, another outcome, a line more are told; another time and key are not."""
    recorded = SESSION.read_text()
    assert alike(re.sub(r"\d+\.\d+ ms", "1.25 s", recorded)) == alike(recorded)
    for wrong in (recorded.replace("proven", "ignored", 1), recorded + "warning\n", recorded.replace("**", "p", 1)):
        assert alike(wrong) != alike(recorded)
