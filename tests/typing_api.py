"""The public API as a type checker sees it: mypy strict and pyright strict read this file, nothing runs it."""
# ruff: noqa: F405 -- that type checkers find the public names is a part of it

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, assert_type

from msgspec.structs import replace

import accountstore
from accountstore import *  # noqa: F403 -- as above
from accountstore.blocking import BlockingAccountStore
from accountstore.errors import *  # noqa: F403 -- mypy does not follow `__all__ +=` to them

# the model: a string is as good as a Secret

plain = PasswordCredentials(login="l", password="p")
wrapped = PasswordCredentials(login="l", password=Secret("p"))
assert_type(plain.password, Secret)
assert_type(wrapped.password.reveal(), str)

plain_oauth = OAuthCredentials(login="l", client_secret="s", refresh_token="r", access_token="a")
wrapped_oauth = OAuthCredentials(
    login="l",
    client_id="c",
    client_secret=Secret("s"),
    refresh_token=Secret("r"),
    request_url="u",
    access_token=Secret("a"),
    expires_at=datetime(2031, 5, 6, tzinfo=UTC),
)


assert_type(plain_oauth.client_secret, Secret | None)
assert_type(plain_oauth.refresh_token, Secret)
assert_type(plain_oauth.access_token, Secret | None)
assert_type(wrapped_oauth.expires_at, datetime | None)
assert_type(wrapped_oauth.client_id, str | None)

account = Account(host="h", port=993, credentials=plain)
full = Account(
    host="h",
    port=993,
    security_options=SecurityOptions.SSL_AUTO,
    protocol_type=ProtocolType.IMAP,
    credentials=wrapped_oauth,
    cache_file=Location("x.cache", folder="f", storage="s"),
)
assert_type(full.credentials, PasswordCredentials | OAuthCredentials | NoCredentials)
credentials: Credentials = NoCredentials()
assert_type(replace(full, credentials=credentials), Account)
assert_type(credentials.login, str)
assert_type(full.security_options, SecurityOptions | None)
assert_type(full.cache_file, Location | None)
assert_type(replace(full, port=1), Account)
assert_type(replace(plain, password="q"), PasswordCredentials)

from_list = MultiAccount(receive_accounts=[account, full], send_account=account)
from_tuple = MultiAccount(receive_accounts=(account,))
from_generator = MultiAccount(receive_accounts=(each for each in [account]))
assert_type(from_list.receive_accounts, tuple[Account, ...])
assert_type(from_tuple.send_account, Account | None)
assert_type(replace(from_generator, receive_accounts=[account]), MultiAccount)

assert_type(from_json(b"{}"), Account)
assert_type(from_json("{}", MultiAccount, unknown="drop"), MultiAccount)
assert_type(to_json(account), bytes)
assert_type(to_json(from_list, reveal=True), bytes)
assert_type(masked(account), dict[str, Any])
assert_type(json_schema(MultiAccount), dict[str, Any])
document: Document = account
observer: Observer = print
mode: WriteMode = "create"

location = Location.parse("First Storage:mail/email.account")
assert_type(location, Location)
assert_type(location.folder, str)
assert_type(location.storage, str | None)
assert_type(location.path, str)

config = StoreConfig(default="First Storage", storages={"First Storage": StorageConfig(url="memory://")})
every_field = StorageConfig(
    url="s3://b",
    options={"key": 1},
    codec="msgpack",
    engine="obstore",
    timeout=5,
    attempts=2,
    conditions="trust",
    concurrency=8,
    read_only=True,
)
full_config = StoreConfig(default="a", storages={"a": every_field}, max_bytes=1000)


assert_type(full_config.storages["a"].timeout, float)
assert_type(full_config.storages["a"].attempts, int)


# the store


def observe(event: Event) -> None:
    assert_type(event.operation, str)
    assert_type(event.location, Location | None)
    assert_type(event.version, Version | None)
    assert_type(event.bytes, int | None)
    assert_type(event.seconds, float)


async def open_and_close() -> None:
    async with AccountStore.open() as store:
        assert_type(store, AccountStore)
    async with AccountStore.open(config, observer=observe, read_only=True):
        pass
    async with AccountStore.open("accountstore.toml"):
        pass
    kept = await AccountStore.open(config)
    assert_type(kept, AccountStore)
    assert_type(await kept.aclose(), None)


async def one_document(store: AccountStore) -> None:
    assert_type(await store.get(location), Account)
    assert_type(await store.get_multi(location), MultiAccount)
    stored = await store.read(location)
    assert_type(stored, Stored[Account])
    assert_type(stored.document, Account)
    assert_type(stored.version, Version)
    assert_type(stored.size, int)
    assert_type(stored.modified, datetime | None)
    assert_type(await store.read_multi(location), Stored[MultiAccount])

    version = await store.save(location, account)
    assert_type(version, Version)
    assert_type(await store.save(location, account, mode="overwrite"), Version)
    assert_type(await store.save(location, account, mode="create"), Version)
    assert_type(await store.save(location, account, mode=version), Version)
    assert_type(await store.save_multi(location, from_list, mode=version), Version)

    entry = await store.stat(location)
    assert_type(entry, Entry)
    assert_type(entry.version, Version | None)
    assert_type(await store.read_json(location), Stored[bytes])
    assert_type(await store.save_json(location, b"{}", mode="create"), Version)
    assert_type(await store.exists(location), bool)
    assert_type(await store.delete(location), None)
    assert_type(await store.delete(location, version=version), None)
    assert_type(await store.copy(location, location), Version)
    assert_type(await store.move(location, location, mode="create"), Version)


def renew(old: Account) -> Account:
    return replace(old, port=old.port + 1)


async def renew_later(old: Account) -> Account:
    return replace(old, credentials=PasswordCredentials(login="l", password="q"))


def grow(old: MultiAccount) -> MultiAccount:
    return replace(old, receive_accounts=[*old.receive_accounts, account])


async def grow_later(old: MultiAccount) -> MultiAccount:
    return grow(old)


async def updates(store: AccountStore) -> None:
    assert_type(await store.update(location, renew), Stored[Account])
    assert_type(await store.update(location, renew_later), Stored[Account])
    assert_type(await store.update(location, lambda old: replace(old, port=1)), Stored[Account])
    assert_type(await store.update_multi(location, grow), Stored[MultiAccount])
    assert_type(await store.update_multi(location, grow_later), Stored[MultiAccount])


async def many_documents(store: AccountStore) -> None:
    async for entry in store.list("mail", storage="s", recursive=True):
        assert_type(entry, Entry)
        assert_type(entry.location, Location)
    left_out: list[Skipped] = []
    async for item in store.list(folders=True, skipped=left_out.append):
        assert_type(item, Entry | Folder)
        if isinstance(item, Folder):
            assert_type(store.scoped(item.path, storage=item.storage), AccountStore)
    got = store.get_many([location], concurrency=4)
    assert_type(got, AsyncIterator[tuple[Location, Stored[Account | MultiAccount] | AccountStoreError]])
    async for at, result in got:
        assert_type(at, Location)
        if isinstance(result, AccountStoreError):
            assert_type(result.location, Location | None)
            assert_type(result.temporary, bool)
            continue
        assert_type(result.document, Account | MultiAccount)
    async for at, written in store.save_many([(location, account), (location, from_list)], mode="create"):
        assert_type(at, Location)
        assert_type(written, Version | AccountStoreError)


async def storages(store: AccountStore) -> None:
    assert_type(store.storages, tuple[str, ...])
    assert_type(store.capabilities(), Capabilities)
    assert_type(store.capabilities("s").create, bool)
    assert_type(store.capabilities("s").verify, bool)
    check = await store.check("s")
    assert_type(check, Check)
    assert_type(check.ok, bool)
    assert_type(store.scoped("tenant", storage="s"), AccountStore)


async def errors(store: AccountStore) -> None:
    try:
        await store.get(location)
    except NotFoundError as error:
        assert_type(error.location, Location | None)
        twin: FileNotFoundError = error
        assert_type(twin.errno, int | None)
    except DecodeError as error:
        assert_type(error.field, str)
        value_error: ValueError = error
        assert_type(str(value_error), str)
    except ConflictError as error:
        assert_type(error.message, str)
    except UncertainError as error:
        unavailable: UnavailableError = error
        assert_type(unavailable.sent, bool)
        broken: ConnectionError = error
        assert_type(broken.errno, int | None)


# synchronous code


def blocking() -> None:
    with BlockingAccountStore.open(config, observer=observe, read_only=True) as store:
        assert_type(store, BlockingAccountStore)
        assert_type(store.save(location, account, mode="create"), Version)
        assert_type(store.get(location), Account)
        assert_type(store.update(location, lambda found: replace(found, port=1)), Stored[Account])
        assert_type(store.read_multi(location), Stored[MultiAccount])
        assert_type(store.list("folder", recursive=True), Iterator[Entry])
        assert_type(store.list(folders=True), Iterator[Entry | Folder])
        assert_type(store.get_many([location]), Iterator[tuple[Location, Stored[Document] | AccountStoreError]])
        assert_type(store.scoped("folder"), BlockingAccountStore)
        store.save(location, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no account


# mistakes that a type checker finds: each suppression below is an error when it suppresses nothing


async def mistakes(store: AccountStore) -> None:
    await store.save(location, from_list)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a multi account
    await store.save_multi(location, account)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an account
    await store.save(location, account, mode="creat")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no mode
    await store.save_json(location, "{}")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # text
    await store.get("x.account")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # text for a location
    await store.update(location, grow)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # of the other kind
    PasswordCredentials(login="l", password=b"p")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # bytes
    accountstore.AccuntStore  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018 -- misspelt
    AccountStore(config)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not opened
    AccountStore.open(config).get  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018 -- not awaited
    await store.list()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # not iterated over
    StorageConfig("x", engine="obstor")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no engine
    StorageConfig("x", codec="xml")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no codec
    Account(host="h", port=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # forgotten credentials
    PasswordCredentials("l", "p")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # by position
    account.port = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # documents are frozen
    location.folder = "x"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # locations too
    password: str = plain.password  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # not revealed
    assert_type(password, str)
