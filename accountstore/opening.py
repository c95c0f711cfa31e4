"""From a configuration to opened storages, and back."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from anyio import CancelScope, fail_after, to_thread

from accountstore.attempts import Policy
from accountstore.backends.loops import asyncio_loop, running_loop
from accountstore.codecs import CODECS
from accountstore.config import load_config
from accountstore.errors import AccountStoreError, ClosedError, ConfigError, LocationError
from accountstore.registry import find_backend
from accountstore.storage import Storage

if TYPE_CHECKING:
    from accountstore.config import StorageConfig, StoreConfig

__all__ = ("Storages", "open_storages")


class Storages:
    """All storages of one store, open until `aclose`."""

    def __init__(self, storages: dict[str, Storage], default: str, /) -> None:
        self.default = default
        self._storages = storages
        self._closed = False
        self._process = os.getpid()
        self._loop = running_loop()

    def find(self, name: str, /) -> Storage:
        """The storage of this name. Raises `ClosedError`; `LocationError` where there is none."""
        if self._closed:
            raise ClosedError("the store is closed")
        loop = asyncio_loop()
        if loop is None or loop is not self._loop:  # asyncio itself sees to it that a fork is on none
            self._check_process_and_loop()
        try:
            return self._storages[name]
        except KeyError:
            raise LocationError("the storage is not configured") from None

    def _check_process_and_loop(self) -> None:
        if os.getpid() != self._process:
            raise ClosedError("the store was opened in another process: open one in each, after the fork")
        loop = running_loop()
        if self._loop is None:
            self._loop = loop  # made outside of any
        elif loop is not None and loop is not self._loop:
            raise ClosedError("the store was opened on another event loop: open one on each")

    def names(self) -> tuple[str, ...]:
        """The names, in the configuration's order."""
        return tuple(self._storages)

    async def aclose(self) -> None:
        """Close every backend, whatever fails in another. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with CancelScope(shield=True):
            await _close(*self._storages.values())


async def _close(*storages: Storage) -> None:
    """Close one after another, whatever happens to those before; the first error is raised."""
    if storages:
        try:
            await _close_one(storages[0])
        except BaseException:
            with suppress(AccountStoreError):
                await _close(*storages[1:])
            raise
        await _close(*storages[1:])


async def _close_one(storage: Storage, /) -> None:
    try:
        with fail_after(storage.policy.timeout, shield=True):
            return await storage.backend.aclose()
    except Exception as error:  # noqa: BLE001 -- named here, raised outside its frames
        failure = storage.named(error, None)
    raise failure


async def open_storages(config: StoreConfig | str | os.PathLike[str] | None, /) -> Storages:
    """Open all storages of a configuration; backends connect as late as they can.

    Raises:
        ConfigError: with the storage's name, and the line in the file where there is one.
    """
    loaded = await to_thread.run_sync(load_config, config)
    storages: dict[str, Storage] = {}
    opened = Storages(storages, loaded.default_name())
    try:
        for name, storage in loaded.storages.items():
            storages[name] = await _open(name, storage, loaded.max_bytes)
    except BaseException:
        with suppress(AccountStoreError):
            await opened.aclose()
        raise
    return opened


async def _open(name: str, config: StorageConfig, limit: int, /) -> Storage:
    try:
        factory = await to_thread.run_sync(find_backend, config.scheme, config.engine)
        backend = await factory(config.url, config.options)
    except AccountStoreError as error:
        failure = ConfigError(f"storage {name!r}: {error.message}")
    except Exception as error:  # noqa: BLE001 -- its frames and text may hold the options
        reason = f": {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else ""
        failure = ConfigError(f"storage {name!r}: cannot be opened ({type(error).__name__}{reason})")
    else:
        where = await to_thread.run_sync(_canonical, name, config)
        return Storage(
            name,
            backend,
            CODECS[config.codec],
            limit,
            url=where,
            options=config.options,
            where=config.shown_place,
            policy=Policy(config.timeout, config.attempts),
            trusted=config.conditions == "trust",
        )
    raise failure


def _canonical(name: str, config: StorageConfig, /) -> str:
    """A URL that two storages on the same folder share."""
    if config.scheme in {"file", "local"}:
        return os.path.realpath(os.path.expanduser(config.url.partition("://")[2] or config.url))
    # Two memory storages are never one.
    return f"memory://{name}" if config.scheme == "memory" else config.url
