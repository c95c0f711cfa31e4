"""The store for synchronous code: `with BlockingAccountStore.open() as store`."""

# The functions that make its methods are the class's own.
# pyright: reportPrivateUsage=false
from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from functools import partial, wraps
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, Protocol, Self, TypeVar, cast, overload

from accountstore.aio.callers import in_caller
from accountstore.aio.portal import LoopThread
from accountstore.aio.shield import run_to_its_end
from accountstore.aio.threads import ThreadPool
from accountstore.backends.base import Capabilities, Version, WriteMode
from accountstore.config import StoreConfig
from accountstore.errors import NoAnswerError, UnavailableError
from accountstore.events import Observer
from accountstore.listing import Entry, Folder, Skipped
from accountstore.location import Location
from accountstore.secrets import SecretBytes
from accountstore.store import AccountStore

__all__ = ("BlockingAccountStore",)

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)
_END: Any = object()


class _Method(Protocol[P, R_co]):
    """What the functions below make: not every type checker takes an assigned function for a method of the class."""

    def __get__(self, store: BlockingAccountStore, kind: type[BlockingAccountStore], /) -> Callable[P, R_co]: ...


def _awaited(method: Callable[Concatenate[AccountStore, P], Coroutine[Any, Any, T]], /) -> _Method[P, T]:
    """A method that is awaited, as one that blocks."""

    @wraps(method)
    def call(self: BlockingAccountStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self._run(partial(method, self._store, *args, **kwargs))
        finally:
            del args, kwargs  # as `_run`

    return cast("_Method[P, T]", call)


def _iterated(method: Callable[Concatenate[AccountStore, P], AsyncIterator[T]], /) -> _Method[P, Iterator[T]]:
    """A method whose result is iterated over with `async for`, as one for `for`."""

    @wraps(method)
    def call(self: BlockingAccountStore, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        try:
            items = self._run(partial(_returned, partial(method, self._store, *args, **kwargs)))
        finally:
            del args, kwargs  # as `_run`
        return iter(partial(self._run, partial(_next, items)), _END)

    return cast("_Method[P, Iterator[T]]", call)


async def _returned(call: Callable[[], T], /) -> T:
    return call()


async def _next(items: AsyncIterator[T], /) -> T:
    return await anext(items, _END)


def _calling(
    method: Callable[Concatenate[AccountStore, Location, Callable[[A], Awaitable[B]], P], Coroutine[Any, Any, T]],
    run: Callable[[Callable[[Any], Any]], Callable[[Any], Awaitable[Any]]],
    /,
) -> _Method[Concatenate[Location, Callable[[A], B | Awaitable[B]], P], T]:
    """A method that is awaited and calls a function of the caller, as one that blocks; so may the function. What is no
    function is refused where it is used.
    """

    @wraps(method)
    def call(
        self: BlockingAccountStore,
        location: Location,
        function: Callable[[A], B | Awaitable[B]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        called = run(function) if callable(cast("Any", function)) else cast("Any", function)
        return self._run(partial(method, self._store, location, called, *args, **kwargs))

    return cast("_Method[Concatenate[Location, Callable[[A], B | Awaitable[B]], P], T]", call)


def _asked(function: Callable[[A], B | Awaitable[B]], /) -> Callable[[A], Awaitable[B]]:
    """A caller's function, async or not, in the caller's thread."""

    async def call(given: A) -> B:
        result = await in_caller(partial(function, given))
        return cast("B", await result if isawaitable(result) else result)

    return call


def _in_a_thread(function: Callable[[A], B | Awaitable[B]], /) -> Callable[[A], Awaitable[B]]:
    """A caller's function, async or not, in a thread of its own, to its end: what it has spent is not given back."""

    async def call(given: A) -> B:
        begun: list[bool] = []
        called = partial(_in_context, begun, copy_context(), function, given)
        try:
            result = await run_to_its_end(ThreadPool(1).run, called)
        except UnavailableError as error:
            if begun:
                raise
            failure = NoAnswerError(f"the exchange was not called: {error.message}", sent=False)
            failure.in_own_words = True
            raise failure from None
        return cast("B", await result if isawaitable(result) else result)

    return call


def _in_context(begun: list[bool], context: Context, function: Callable[[A], B], given: A, /) -> B:
    begun.append(True)
    return context.run(function, given)


class BlockingAccountStore:
    """Every call of `AccountStore`, as one that blocks: the same arguments, results, errors and guarantees.

    Threads may share it. The calls run on an event loop in one thread that the store owns. What is given to a call runs
    in the thread that makes it: an iterable, the function of `update`, `skipped`. They may block and call the store. An
    exchange of `refresh` runs in a thread of its own. On the event loop run the observer, and whatever is async (a
    coroutine function given to `update` or `refresh`): they must neither block nor call the store. Async iterators are
    iterators here, for one thread each.

    An exception in the thread that waits, such as `KeyboardInterrupt`, cancels the call and comes out when that has
    ended: a write that was given up does not land later. A second one comes out at once.

    An exchange that blocks cannot be cancelled: it is waited for, and what it brings is saved. One that takes longer
    than its lease is not given up, and others may take the lease over meanwhile and spend the same token. Give one with
    a time-out of its own.

    Used after `close`, in a process that was forked from the one that opened it, or when the interpreter is ending,
    every call is a `ClosedError`.
    """

    if not TYPE_CHECKING:  # checkers shall see the parameters

        def __new__(cls, *arguments: object, **_: object) -> Self:
            if not (arguments and isinstance(arguments[0], AccountStore)):
                raise TypeError("a store is opened, not made: `with BlockingAccountStore.open(config) as store`")
            return super().__new__(cls)

    def __init__(self, store: AccountStore, thread: LoopThread, closing: Callable[[], None] | None, /) -> None:
        self._store = store
        self._thread = thread
        self._closing = closing

    @classmethod
    def open(
        cls,
        config: StoreConfig | str | os.PathLike[str] | None = None,
        /,
        *,
        observer: Observer | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open all configured storages (`AccountStore.open`): `with` it, or `close` it yourself.

        Raises:
            TypeError, ConfigError: as `AccountStore.open`.
            UnavailableError: the system has no thread or no descriptor for the event loop.
        """
        opening = AccountStore.open(config, observer=observer, read_only=read_only)
        thread = LoopThread("accountstore blocking")
        try:
            opened = thread.run(opening.__aenter__)
            return cls(opened, thread, partial(thread.close, opened.aclose))
        except BaseException:
            thread.close(opening.__aexit__)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all storages and end the thread, when the functions of other threads' calls have ended. A second call
        does nothing, nor does one after a fork, or when the interpreter is ending; a store made by `scoped` leaves them
        open.

        Raises:
            RuntimeError: within a function that a call of the store has called: it would wait for itself.
        """
        if self._closing is not None:
            self._closing()

    def _run(self, call: Callable[[], Awaitable[T]], /) -> T:
        """The result of a call, on the event loop."""
        try:
            return self._thread.run(call)
        finally:
            del call  # else an error would hold what it was given

    get: Final = _awaited(AccountStore.get)
    get_multi: Final = _awaited(AccountStore.get_multi)
    read: Final = _awaited(AccountStore.read)
    read_multi: Final = _awaited(AccountStore.read_multi)
    save: Final = _awaited(AccountStore.save)
    save_multi: Final = _awaited(AccountStore.save_multi)
    read_json: Final = _awaited(AccountStore.read_json)
    stat: Final = _awaited(AccountStore.stat)
    exists: Final = _awaited(AccountStore.exists)
    versions: Final = _awaited(AccountStore.versions)
    delete: Final = _awaited(AccountStore.delete)
    copy: Final = _awaited(AccountStore.copy)
    move: Final = _awaited(AccountStore.move)
    check: Final = _awaited(AccountStore.check)
    usage: Final = _awaited(AccountStore.usage)
    filesystem: Final = _awaited(AccountStore.filesystem)
    get_many: Final = _iterated(AccountStore.get_many)
    save_many: Final = _iterated(AccountStore.save_many)
    copy_many: Final = _iterated(AccountStore.copy_many)
    update: Final = _calling(AccountStore.update, _asked)
    update_multi: Final = _calling(AccountStore.update_multi, _asked)
    refresh: Final = _calling(AccountStore.refresh, _in_a_thread)
    refresh_multi: Final = _calling(AccountStore.refresh_multi, _in_a_thread)
    _list: Final = _iterated(AccountStore.list)

    def save_json(self, location: Location, data: bytes, /, *, mode: WriteMode = "overwrite") -> Version:
        """As `AccountStore.save_json`."""
        if isinstance(cast("Any", data), (bytes, bytearray, memoryview)):
            data = SecretBytes(data)  # so that no traceback with locals shows it
        try:
            return self._run(partial(self._store.save_json, location, data, mode=mode))
        finally:
            del data  # as `_run`

    @overload
    def list(
        self,
        folder: str = "",
        /,
        *,
        storage: str | None = None,
        recursive: bool = False,
        folders: Literal[False] = False,
        skipped: Callable[[Skipped], object] | None = None,
    ) -> Iterator[Entry]: ...
    @overload
    def list(
        self,
        folder: str = "",
        /,
        *,
        storage: str | None = None,
        recursive: bool = False,
        folders: bool,
        skipped: Callable[[Skipped], object] | None = None,
    ) -> Iterator[Entry | Folder]: ...
    def list(self, folder: str = "", /, **options: Any) -> Iterator[Entry | Folder]:
        """As `AccountStore.list`."""
        return self._list(folder, **options)

    @property
    def storages(self) -> tuple[str, ...]:
        """The names of the storages that locations may name; the default one first."""
        return self._store.storages

    def capabilities(self, storage: str | None = None, /) -> Capabilities:
        """As `AccountStore.capabilities`."""
        return self._run(partial(_returned, partial(self._store.capabilities, storage)))

    def scoped(self, folder: str, /, *, storage: str | None = None) -> Self:
        """As `AccountStore.scoped`; the narrowed store shares this one's thread."""
        narrowed = self._run(partial(_returned, partial(self._store.scoped, folder, storage=storage)))
        return type(self)(narrowed, self._thread, None)

    def __repr__(self) -> str:
        return f"<BlockingAccountStore {', '.join(self.storages)}>"
