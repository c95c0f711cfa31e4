"""What worker processes do with documents in one folder at the same time, each through a store of its own."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
from fsspec.implementations.local import LocalFileSystem
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT, AT, next_port

from accountstore import (
    Account,
    AccountStore,
    ConflictError,
    ExistsError,
    Location,
    NotFoundError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from multiprocessing.synchronize import Barrier

LARGE = 200_000
_barriers: list[Barrier] = []


def initialize(barrier: Barrier) -> None:
    """Let the commands of all workers begin together."""
    _barriers.append(barrier)


def run(command: Callable[[AccountStore, str], Awaitable[Any]], root: str, worker: int) -> Any:
    """What a command answers in a worker process; worker 0 runs alone."""

    async def main() -> Any:
        async with opened(root) as store:
            if worker:
                _barriers[0].wait(HUNG)
            return await command(store, str(worker))

    return anyio.run(main)


def opened(url: object) -> AbstractAsyncContextManager[AccountStore]:
    """A store on a folder."""
    return AccountStore.open(StoreConfig(storages={"one": StorageConfig(str(url))}))


def account(login: str, port: int = 1) -> Account:
    """An account with this login."""
    return replace(ACCOUNT, port=port, credentials=PasswordCredentials(login=login, password="p"))


def numbered(number: int) -> Account:
    """An account that shows whether it is whole. Every second one is large."""
    return account(f"{number}." * (20_000 if number % 2 else 10), number)


def login(of: Account) -> str:
    """The login of an account."""
    assert isinstance(of.credentials, PasswordCredentials)
    return of.credentials.login


async def update(store: AccountStore, me: str, *, count: int, blindly: bool = False) -> None:
    """Increment the document, without compare-and-swap if blindly."""
    for _ in range(count):
        if blindly:
            await store.save(AT, next_port(await store.get(AT)))
        else:
            await store.update(AT, next_port)


async def create(store: AccountStore, me: str, *, count: int, plain: bool = False) -> list[int]:
    """Create documents, by the store or as fsspec does; those that nobody else has created."""
    files, root = LocalFileSystem(auto_mkdir=True), (await store.filesystem())[1]
    won: list[int] = []
    for i in range(count):
        with suppress(FileExistsError):
            if plain:
                files.pipe_file(f"{root}/new/{i}.account", me.encode(), mode="create")
            else:
                await store.save(Location(f"{i}.account", folder="new"), account(me), mode="create")
            won.append(i)
    return won


async def swap(store: AccountStore, me: str, *, count: int, blindly: bool = False) -> list[tuple[str, str]]:
    """Read and replace the document; from what to what, where that has succeeded."""
    swaps: list[tuple[str, str]] = []
    for i in range(count):
        stored = await store.read(AT)
        with suppress(ConflictError):
            await store.save(AT, account(f"{me}-{i}"), mode="overwrite" if blindly else stored.version)
            swaps.append((login(stored.document), f"{me}-{i}"))
    return swaps


async def swap_delete_create(store: AccountStore, me: str, *, count: int) -> list[tuple[str, str | None, str | None]]:
    """Replace or delete the document, or create it where there is none; which, from what, to what."""
    done: list[tuple[str, str | None, str | None]] = []
    random = Random(me)
    for i in range(count):
        new = f"{me}-{i}"
        with suppress(ConflictError, ExistsError):
            try:
                stored = await store.read(AT)
                old = login(stored.document)
                if random.random() < 0.7:
                    await store.save(AT, account(new), mode=stored.version)
                    done.append(("swap", old, new))
                else:
                    await store.delete(AT, version=stored.version)
                    done.append(("delete", old, None))
            except NotFoundError:
                await store.save(AT, account(new), mode="create")
                done.append(("create", None, new))
    return done


async def rewrite(store: AccountStore, me: str, *, count: int, plain: bool = False) -> None:
    """Overwrite the document, by the store or as fsspec does."""
    files, root = LocalFileSystem(auto_mkdir=True), (await store.filesystem())[1]
    for i in range(1, count + 1):
        if plain:
            files.pipe_file(f"{root}/{AT.path}", bytes([65 + i % 26]) * LARGE)
        else:
            await store.save(AT, numbered(i))
