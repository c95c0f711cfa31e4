"""The demonstration: what the store promises, shown on the samples of the client-account API in a temporary folder."""

from __future__ import annotations

import json
import os
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import anyio
from msgspec.structs import replace

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ConflictError,
    ExtensionError,
    Location,
    MultiAccount,
    StorageConfig,
    StoreConfig,
)
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("Outcome", "run_demo")

_STORAGE = "First Storage"
_MEMORY = "Memory"
_FOLDER = "file/location/folder/on/storage"
_TASKS = 8
_UPDATES = 5

# The samples of the API whose documents these are (`accountstore.model`), which the files must hold.
_ACCOUNT_JSON = b"""
{"host": "smtp.example.com", "port": 465, "securityOptions": "SSLAuto", "protocolType": "SMTP",
 "credentials": {"login": "example@example.com", "discriminator": "EmailClientAccountOauthCredentials",
                 "clientId": "clientId", "clientSecret": "clientSecret", "refreshToken": "refreshToken"}}
"""
_MULTI_JSON = b"""
{"receiveAccounts": [
  {"host": "imap.gmail.com", "port": 993, "securityOptions": "SSLAuto",
   "credentials": {"login": "example@gmail.com", "discriminator": "EmailClientAccountPasswordCredentials",
                   "password": "password"}},
  {"host": "exchange@outlook.com", "port": 443, "protocolType": "EWS",
   "credentials": {"login": "example@outlook.com", "discriminator": "EmailClientAccountOauthCredentials",
                   "clientId": "clientId", "clientSecret": "clientSecret", "refreshToken": "refreshToken"}}],
 "sendAccount":
  {"host": "smtp.gmail.com", "port": 465, "securityOptions": "SSLAuto", "protocolType": "SMTP",
   "credentials": {"login": "example@gmail.com", "discriminator": "EmailClientAccountPasswordCredentials",
                   "password": "password"}}}
"""
_ACCOUNT = JSON.decode(_ACCOUNT_JSON, Account)
_MULTI = JSON.decode(_MULTI_JSON, MultiAccount)
_SINGLE_AT = Location("email.account", folder=_FOLDER, storage=_STORAGE)
_MULTI_AT = Location("email.multi.account", folder=_FOLDER, storage=_STORAGE)


class Outcome(NamedTuple):
    """One step of the demonstration: what was done, whether it went as promised, and what was seen."""

    what: str
    held: bool
    seen: str


class _BrokenPromiseError(Exception):
    """What a step saw is not what the store promises."""


class _Scene(NamedTuple):
    """The open store and the folder that its first storage is."""

    store: AccountStore
    root: str

    def racing(self) -> Location:
        """A document on a storage that compares and swaps; on some systems a folder cannot."""
        name = _STORAGE if self.store.capabilities(_STORAGE).update else _MEMORY
        return Location("race.account", folder=_FOLDER, storage=name)

    def files(self) -> list[str]:
        """The names in the samples' folder, listed without the store."""
        return os.listdir(os.path.join(self.root, _FOLDER))

    def holds(self, location: Location, expected: bytes, /) -> bool:
        """Whether a document's file holds this JSON, read without the store."""
        with open(os.path.join(self.root, location.path), "rb") as file:
            return bool(json.load(file) == json.loads(expected))


_Step: TypeAlias = "Callable[[_Scene], Awaitable[str]]"


def run_demo() -> list[Outcome]:
    """Run all steps in a temporary folder, which is removed."""
    with TemporaryDirectory(prefix="accountstore-demo-") as root:
        outcomes = anyio.run(_play, root)
    gone = not os.path.exists(root)
    return [*outcomes, Outcome("Clean up", gone, "the temporary folder is removed" if gone else "it is still there")]


async def _play(root: str, /) -> list[Outcome]:
    config = StoreConfig(
        default=_STORAGE, storages={_STORAGE: StorageConfig(f"file://{root}"), _MEMORY: StorageConfig("memory://")}
    )
    async with AccountStore.open(config) as store:
        scene = _Scene(store, root)
        return [await _outcome(what, step, scene) for what, step in _STEPS.items()]


async def _outcome(what: str, step: _Step, scene: _Scene, /) -> Outcome:
    try:
        return Outcome(what, True, await step(scene))
    except (AccountStoreError, _BrokenPromiseError) as error:
        return Outcome(what, False, f"{type(error).__name__}: {error}")
    except ExceptionGroup as group:
        return Outcome(what, False, ", ".join(f"{type(error).__name__}: {error}" for error in group.exceptions))


def _expect(held: bool, otherwise: str, /) -> None:
    if not held:
        raise _BrokenPromiseError(otherwise)


async def _save_single(scene: _Scene) -> str:
    await scene.store.save(_SINGLE_AT, _ACCOUNT)
    _expect(scene.holds(_SINGLE_AT, _ACCOUNT_JSON), "the file holds something else")
    return f"{_SINGLE_AT.file_name} in {_STORAGE}: the file holds the account's JSON and nothing else"


async def _save_multi(scene: _Scene) -> str:
    await scene.store.save_multi(_MULTI_AT, _MULTI)
    _expect(scene.holds(_MULTI_AT, _MULTI_JSON), "the file holds something else")
    return f"{_MULTI_AT.file_name}: two receiving accounts and a sending one, as JSON"


async def _list(scene: _Scene) -> str:
    found = [entry async for entry in scene.store.list("file", storage=_STORAGE, recursive=True)]
    _expect({entry.location for entry in found} == {_SINGLE_AT, _MULTI_AT}, "the listing has other documents")
    return ", ".join(sorted(f"{entry.location.file_name} ({entry.size} bytes)" for entry in found))


async def _get_single(scene: _Scene) -> str:
    account = await scene.store.get(_SINGLE_AT)
    _expect(account == _ACCOUNT, "it is not the account that was saved")
    _expect("clientSecret'" not in repr(account), "its secrets show in repr()")
    return "equal to what was saved; repr() shows its secrets as asterisks"


async def _get_multi(scene: _Scene) -> str:
    multi = await scene.store.get_multi(_MULTI_AT)
    _expect(multi == _MULTI, "it is not the multi account that was saved")
    return "equal to what was saved, each field of each account"


async def _update_at_once(scene: _Scene) -> str:
    where = scene.racing()
    await scene.store.save(where, _ACCOUNT)

    async def updater() -> None:
        for _ in range(_UPDATES):
            await scene.store.update(where, lambda account: replace(account, port=account.port + 1))

    async with anyio.create_task_group() as tasks:
        for _ in range(_TASKS):
            tasks.start_soon(updater)
    port = (await scene.store.get(where)).port
    total = _TASKS * _UPDATES
    _expect(port == _ACCOUNT.port + total, f"{_ACCOUNT.port + total - port} of {total} updates are lost")
    return f"{_TASKS} tasks x {_UPDATES} updates: port {_ACCOUNT.port} became {port}, none lost"


async def _refuse_extension(scene: _Scene) -> str:
    where = Location("email.txt", folder=_FOLDER, storage=_STORAGE)
    try:
        await scene.store.save(where, _ACCOUNT)
    except ExtensionError as error:
        _expect(where.file_name not in scene.files(), "a file was written")
        return f"{type(error).__name__}: {where.file_name}: {error.message}"
    raise _BrokenPromiseError("it was saved")


async def _lose_race(scene: _Scene) -> str:
    where = scene.racing()
    ours = await scene.store.read(where)
    await scene.store.save(where, replace(ours.document, host="theirs.example.com"))
    try:
        await scene.store.save(where, replace(ours.document, host="ours.example.com"), mode=ours.version)
    except ConflictError as error:
        _expect((await scene.store.get(where)).host == "theirs.example.com", "the winner's document is overwritten")
        return f"{type(error).__name__}: {where.file_name}: {error.message}; the winner's is intact"
    raise _BrokenPromiseError("the winner's document is overwritten")


_STEPS: dict[str, _Step] = {
    "Save an account": _save_single,
    "Save a multi account": _save_multi,
    "List the folder": _list,
    "Read the account": _get_single,
    "Read the multi account": _get_multi,
    "Update from many tasks at once": _update_at_once,
    "Refuse a wrong extension": _refuse_extension,
    "Refuse the loser of a race": _lose_race,
}
