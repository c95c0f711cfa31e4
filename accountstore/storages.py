"""All storages of a store: opened from a configuration, found by name, closed together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from anyio import CancelScope, to_thread
from msgspec.structs import replace

from accountstore.aio.loops import asyncio_loop, running_loop
from accountstore.aio.shield import run_to_its_end
from accountstore.backends.readonly import ReadOnlyBackend
from accountstore.client import StorageClient
from accountstore.codecs import find_codec
from accountstore.config import StorageConfig, StoreConfig, key_of
from accountstore.config_file import find_config, load_config
from accountstore.errors import AccountStoreError, ClosedError, ConfigError, LocationError, UnavailableError
from accountstore.registry import find_backend
from accountstore.retry import RetryPolicy
from accountstore.storage import Storage
from accountstore.validation import sealed_limit

if TYPE_CHECKING:
    from accountstore.sealing.sealer import Sealer

S = TypeVar("S")

_LATER = ("hashlib", "hmac", "unicodedata")
"""Modules that calls need, which may run out of descriptors, and that importing this package does not wait for."""


class Storages:
    """All storages of one store, open until `aclose`."""

    def __init__(self, storages: dict[str, Storage], default: str, config: StoreConfig | None = None, /) -> None:
        """`config` is what they were opened from, as other processes have to open them."""
        self.default = default
        self.config = config
        self._storages = storages
        self._closed = False
        self._process = os.getpid()
        self._loop = running_loop()

    def find(self, name: str | None, only: str | None = None, /) -> Storage:
        """The storage of this name, or the default one; `only` is the name of the one that is within reach.

        Raises:
            ClosedError: the store is closed.
            LocationError: the storage is not configured, or out of reach.
        """
        if self._closed:
            raise ClosedError("the store is closed")
        loop = asyncio_loop()
        if loop is None or loop is not self._loop:  # asyncio itself sees to it that a fork is on none
            self._check_process_and_loop()
        if only is None:
            only = self.default
        elif name not in {None, only}:  # one error for what is not configured and what is out of reach
            raise LocationError("the storage is not configured")
        try:
            return self._storages[only if name is None else name]
        except KeyError:
            raise LocationError(f"the storage {name!r} is not configured; known: {', '.join(self._storages)}") from None

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
        """Close every backend, whatever fails in another; one error is raised. A second call does nothing.

        Raises:
            ClosedError: in another process, or on another event loop: nothing is touched.
        """
        if self._closed:
            return
        self._check_process_and_loop()
        self._closed = True
        failure = await run_to_its_end(self._close)
        if failure is not None:
            raise failure  # here, so that its context is the error that a `with` block is left for: the stack drops it

    async def _close(self) -> AccountStoreError | None:
        """Close each, and return the error of one."""
        for storage in self._storages.values():
            await storage.exchanged()
        try:
            async with AsyncExitStack() as closing:
                for storage in reversed(self._storages.values()):
                    if storage.sealer is not None:
                        closing.push_async_callback(storage.sealer.aclose)
                    closing.push_async_callback(storage.client.aclose)
        except AccountStoreError as error:
            return error
        return None


_OPEN = "`async with AccountStore.open(config) as store`, or `store = await AccountStore.open(config)`"


class Opening(Generic[S]):
    """What `AccountStore.open` returns: `async with` it, or await it and close the store yourself."""

    def __init__(
        self,
        config: StoreConfig | str | os.PathLike[str] | None,
        store_of: Callable[[Storages], S],
        /,
        *,
        read_only: bool = False,
    ) -> None:
        self._config = config
        self._read_only = read_only
        self._store_of = store_of
        self._opened: Storages | None = None

    async def _open(self) -> S:
        self._opened = await open_storages(self._config, read_only=self._read_only)
        return self._store_of(self._opened)

    def __await__(self) -> Generator[Any, None, S]:
        return self._open().__await__()

    async def __aenter__(self) -> S:
        return await self._open()

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.aclose()

    if not TYPE_CHECKING:  # checkers shall say what is not there

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(f"the store is not open yet, and has no {name!r}: {_OPEN}")

        def __enter__(self) -> NoReturn:
            raise TypeError(f"a store is opened asynchronously: {_OPEN}")

        def __exit__(self, *_: object) -> None: ...


async def open_storages(config: StoreConfig | str | os.PathLike[str] | None, /, *, read_only: bool = False) -> Storages:
    """Open all storages of a configuration; backends connect as late as they can.

    Raises:
        ConfigError: with the storage's name, and the path of the key in the file where there is one.
    """
    try:
        path, loaded, default = await to_thread.run_sync(_load, config)
    except RuntimeError as error:
        if isinstance(error, AccountStoreError) or "thread" not in str(error):
            raise
        raise UnavailableError("no thread can be started", sent=False) from None
    where = "" if path is None else f"{path}: "
    if path is None and config is None:
        folder = loaded.storages[default].url
        where = f"no configuration was found (ACCOUNTSTORE_CONFIG), and documents go to {folder} (XDG_DATA_HOME): "
    storages: dict[str, Storage] = {}
    opened = Storages(storages, default, loaded)
    try:
        for name, storage in loaded.storages.items():
            wanted = replace(storage, read_only=True) if read_only else storage
            storages[name] = await _open(name, wanted, loaded.max_bytes, where)
    except BaseException:
        with suppress(AccountStoreError):
            await opened.aclose()
        raise
    return opened


def _load(config: StoreConfig | str | os.PathLike[str] | None, /) -> tuple[str | None, StoreConfig, str]:
    """The file of the configuration, the configuration, and its default storage's name."""
    with suppress(ImportError, OSError):  # then a call imports them, if it can
        for name in _LATER:
            import_module(name)
    path = find_config(config)
    loaded = load_config(config if path is None else path)
    return path, loaded, loaded.default_name()


async def _open(name: str, config: StorageConfig, max_bytes: int, where: str, /) -> Storage:
    where += key_of("storages", name)
    key = ".codec"
    shown = ""
    try:
        codec = find_codec(config.codec)
        shown = await to_thread.run_sync(_place, config)
        key = ".url" if config.engine == "fsspec" else ".engine"
        factory = await to_thread.run_sync(find_backend, config.scheme, config.engine, config.timeout, config.read_only)
        key = ""
        backend = await factory(config.url, config.options)
        if config.read_only:
            backend = ReadOnlyBackend(backend)
    except AccountStoreError as error:
        # Backends begin with the key of the storage that is wrong, where they can.
        key = "." if re.match("(options|url): ", error.message) else f"{key}: "
        failure = ConfigError(f"{where}{key}{error.message}")
    except Exception as error:  # noqa: BLE001 -- its frames and text may hold the options
        reason = f": {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else ""
        key = ".url" if isinstance(error, (NotADirectoryError, FileNotFoundError)) else ""
        place = f" [{shown}]" if shown else ""
        failure = ConfigError(f"{where}{key}: cannot be opened ({type(error).__name__}{reason}){place}")
    else:
        able = backend.capabilities
        if config.conditions == "trust":
            able = replace(able, verify=False)
        policy = RetryPolicy(config.timeout, config.attempts, shown and f"storage {name!r}: {shown}")
        limit = max_bytes if config.encryption is None else sealed_limit(max_bytes)
        client = StorageClient(name, backend, policy, limit=limit, capabilities=able, concurrency=config.concurrency)
        sealer = await _open_sealer(name, config, client, f"{where}.encryption")
        url = await to_thread.run_sync(_canonical, name, config)
        return Storage(client, codec, max_bytes, url, config.options, sealer)
    raise failure


async def _open_sealer(name: str, config: StorageConfig, client: StorageClient, where: str, /) -> Sealer | None:
    """The sealer of a storage; without one, the client is closed again."""
    if config.encryption is None:
        return None
    from accountstore.sealing.sources import open_sealer

    try:
        return await open_sealer(config.encryption, name, client.policy, client.calls)
    except ConfigError as error:
        failure = ConfigError(f"{where}.{error.message}")
    except BaseException:
        with CancelScope(shield=True), suppress(AccountStoreError):
            await client.aclose()
        raise
    with suppress(AccountStoreError):
        await client.aclose()
    raise failure  # here, without the frames that hold keys


def _place(config: StorageConfig, /) -> str:
    """How errors name a storage: its folder; elsewhere its `display_name`."""
    return config.display_name or ("" if config.scheme == "memory" else _canonical("", config))


def _canonical(name: str, config: StorageConfig, /) -> str:
    """A URL that two storages on the same folder share."""
    if config.scheme in {"file", "local"}:
        return os.path.realpath(os.path.expanduser(config.url.partition("://")[2] or config.url))
    # Two memory storages are never one.
    return f"memory://{name}" if config.scheme == "memory" else config.url
