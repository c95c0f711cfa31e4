"""Canary secrets, driven through every success and error path into every place where values get printed: none shows.

The frames below hold no canary as plain text themselves: it is made by `canary()` where it is passed on.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import functools
import json
import logging
import os
import pickle
import pprint
import reprlib
import threading
import traceback
import warnings
from collections import Counter, deque
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import msgspec
import pytest
from doubles import result
from fsspec import AbstractFileSystem, register_implementation
from fsspec.registry import _registry  # pyright: ignore[reportPrivateUsage]  # to take out what a test put in
from msgspec.structs import asdict, astuple
from running import HUNG

pytest.importorskip("rich")

from rich.console import Console
from rich.pretty import pretty_repr
from rich.traceback import Traceback

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    BackendError,
    Capabilities,
    ConflictError,
    DecodeError,
    DeniedError,
    EncodeError,
    FullError,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    Secret,
    StorageConfig,
    StoreConfig,
    TooLargeError,
    Version,
)
from accountstore.backends.base import Blob, Stat, Write
from accountstore.backends.local.backend import LocalBackend
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.backends.memory import MemoryBackend
from accountstore.client import StorageClient
from accountstore.codecs import JSON, MSGPACK
from accountstore.retry import RetryPolicy
from accountstore.scope import Resolver
from accountstore.secrets import SecretBytes
from accountstore.storage import Storage
from accountstore.storages import Storages
from accountstore.testing import Fault, FaultyBackend
from accountstore.validation import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from accountstore import Event
    from accountstore.backends.base import WriteMode

# Short, so that a part of a value shows it too.
MARK = "zQ7k"
DIGITS = "8675309"


def canary(length: int = 32) -> str:
    """A secret."""
    return (MARK * length)[:length]


def account(**more: Any) -> Account:
    """An account with a password."""
    credentials = PasswordCredentials(login="someone", password=canary(24))
    return msgspec.structs.replace(Account(host="imap.example.org", port=993, credentials=credentials), **more)


def oauth_account(**more: Any) -> Account:
    """An account with every OAuth secret."""
    credentials = OAuthCredentials(
        login="someone",
        client_id="client",
        client_secret=canary(25),
        refresh_token=canary(26),
        access_token=canary(27),
        expires_at=datetime(2031, 5, 6, tzinfo=UTC),
    )
    return msgspec.structs.replace(Account(host="imap.example.org", port=993, credentials=credentials), **more)


def multi_account() -> MultiAccount:
    """A multi account with both."""
    return MultiAccount(receive_accounts=(account(), oauth_account()), send_account=account())


# --- where values get printed --------------------------------------------------------------------------------------


def _rich(value: object, /) -> str:
    console = Console(file=StringIO(), width=200, color_system=None)
    console.print(value)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # the StringIO above


def _pickled(value: object, /) -> str:
    return "".join(pickle.dumps(value, protocol).decode("latin-1") for protocol in range(pickle.HIGHEST_PROTOCOL + 1))


def _logged(value: object, /) -> str:
    record = logging.LogRecord("name", logging.DEBUG, "path", 1, "%s %r %-50s", (value, value, value), None)
    return logging.Formatter().format(record) + repr(vars(record))


def _deep_copied(value: object, /) -> object:
    """A deep copy that shares the event loop, of which half a copy would complain when it goes."""
    with suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        return copy.deepcopy(value, {id(loop): loop})
    return copy.deepcopy(value)


SINKS: dict[str, Callable[[Any], object]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "format with a width": lambda value: f"{value:>300}",
    "format with a precision": lambda value: f"{value:.300}",
    "format of repr": lambda value: f"{value!r:>300} {value!s} {value!a} {value=}",
    "str.format": "{0} {0!r} {0!s:>99}".format,
    "percent": lambda value: "%s %r %a %20s" % ((value,) * 4),  # noqa: UP031 -- the operator is what is tested
    "logging": _logged,
    "pprint": pprint.pformat,
    "reprlib": reprlib.repr,
    "rich": _rich,
    "rich pretty": pretty_repr,
    "rich pretty cut": lambda value: pretty_repr(value, max_string=12, max_length=50, expand_all=True),
    "vars": lambda value: repr(vars(value)),
    "asdict": lambda value: repr(asdict(value)),
    "astuple": lambda value: repr(astuple(value)),
    "json": lambda value: json.dumps(value, default=str),
    "json of repr": lambda value: json.dumps(value, default=repr),
    "msgspec": lambda value: msgspec.json.encode(value).decode(),
    "builtins": lambda value: repr(msgspec.to_builtins(value)),
    "pickle": _pickled,
    "multiprocessing": lambda value: bytes(ForkingPickler.dumps(value)).decode("latin-1"),
    "reduce": lambda value: repr([value.__reduce_ex__(protocol) for protocol in range(5)]),
    "copy": lambda value: repr(copy.copy(value)),
    "deepcopy": lambda value: repr(_deep_copied(value)),
    "partial": lambda value: repr(functools.partial(dict, value, key=value)),
    "exception": lambda value: "".join(traceback.format_exception_only(ValueError("no", value))),
    "containers": lambda value: " ".join(map(repr, leaves(value))),
}


def leaves(value: object, depth: int = 5, /) -> Iterator[object]:
    """What error reporters show of a local variable: they take containers apart and show what is in them."""
    parts: list[object] = []
    match value:
        case dict():
            parts = [*value.keys(), *value.values()]
        case list() | tuple() | set() | frozenset() | deque():
            parts = list(value)
        case functools.partial():
            parts = [*value.args, *value.keywords.values()]
        case _:
            yield value
    if depth:
        for part in parts[:100]:
            yield from leaves(part, depth - 1)


def found(text: object, /) -> bool:
    """Whether a text holds a canary."""
    return MARK in str(text) or DIGITS in str(text)


def shown(value: object, /) -> list[str]:
    """The sinks in which a value shows a canary."""
    hits: list[str] = []
    for name, sink in SINKS.items():
        with suppress(TypeError, ValueError, AttributeError, pickle.PicklingError):
            if found(sink(value)):
                hits.append(name)
    return hits


def chain(error: BaseException | None, seen: set[int] | None = None, /) -> Iterator[BaseException]:
    """An exception with all causes, contexts and members of groups, suppressed ones too."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    yield from chain(error.__cause__, seen)
    yield from chain(error.__context__, seen)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from chain(member, seen)


def _frames(at: TracebackType | None, /) -> Iterator[tuple[str, dict[str, object]]]:
    while at is not None:
        yield at.tb_frame.f_code.co_qualname, dict(at.tb_frame.f_locals)
        at = at.tb_next


def _shown_link(link: BaseException, /) -> list[str]:
    attributes = list(leaves((link.args, vars(link))))
    key = type(link), str(link), repr(attributes)
    if key not in _looked_at:
        _looked_at[key] = shown(link) + ["attributes"] * found(key[-1])
    return _looked_at[key]


def _captured(captured: traceback.TracebackException, /) -> Iterator[str]:
    for summary in captured.stack:
        yield from (summary.locals or {}).values()
    for below in (captured.__cause__, captured.__context__, *(captured.exceptions or ())):
        if below is not None:
            yield from _captured(below)


# Looking takes long: an exception like one before is not looked at again, and the boxes that rich draws are drawn once
# for each function with the same variables.
_looked_at: dict[tuple[object, ...], list[str]] = {}
_drawn: set[str] = set()


def shown_by_error(error: BaseException, /) -> list[str]:
    """The sinks in which an exception, its chain or the local variables of its frames show a canary."""
    hits: list[str] = []
    captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    if found("".join(captured.format(chain=True))):
        hits.append("traceback with locals")
    if any(map(found, _captured(captured))):
        hits.append("captured locals")
    for link in chain(error):
        hits += [f"{sink} of {type(link).__name__}" for sink in _shown_link(link)]
        for place, variables in _frames(link.__traceback__):
            for name, local in variables.items():
                if any(found(repr(leaf)) for leaf in leaves(local)):
                    hits.append(f"local {name} of {place}")
    trace = Traceback.extract(type(error), error, error.__traceback__, show_locals=True, locals_max_string=99)
    frames = [frame for stack in trace.stacks for frame in stack.frames]
    if any(found(node) for frame in frames for node in (frame.locals or {}).values()):
        hits.append("rich locals")
    shapes = {f"{frame.filename}:{frame.name}:{sorted(frame.locals or ())}" for frame in frames}
    if not shapes <= _drawn:
        _drawn.update(shapes)
        for frame in frames:
            # Rich colours all of a source file for each frame, which takes long; source files hold no secret.
            frame.filename = "<none>"
        if found(_rich(Traceback(trace, show_locals=True, width=200))):
            hits.append("rich traceback")
    return hits


class LogRecords(logging.Handler):
    """Everything logged, as text: message, arguments and traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a record."""
        self.lines.append(self.format(record) + repr(record.args))


@pytest.fixture
def logs() -> Iterator[LogRecords]:
    """All loggers at DEBUG, through the root."""
    root = logging.getLogger()
    level, handler = root.level, LogRecords()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


class Leaks:
    """What was looked at, and where a canary showed."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.values = 0
        self.errors = Counter[str]()

    def value(self, name: str, value: object, /) -> None:
        """Look at a value."""
        self.values += 1
        self.hits += [f"{name}: {hit}" for hit in shown(value)]

    def error(self, name: str, error: BaseException, /) -> None:
        """Look at an exception."""
        self.errors[type(error).__name__] += 1
        self.hits += [f"{name}: {type(error).__name__}: {hit}" for hit in shown_by_error(error)]

    async def call(self, name: str, call: Awaitable[object], /) -> object:
        """Await a call, and look at what it returns or raises."""
        try:
            result = await call
        except Exception as error:
            logging.getLogger(__name__).exception("%s failed", name)
            self.error(name, error)
            return None
        self.value(name, result)
        return result

    async def all(self, name: str, results: AsyncIterator[object], /) -> None:
        """Iterate over a call's results, and look at each."""
        try:
            async for result in results:
                self.value(name, result)
                for error in leaves(result):
                    if isinstance(error, Exception):
                        self.error(name, error)
        except Exception as error:
            self.error(name, error)


# --- storages that go wrong ----------------------------------------------------------------------------------------


class HostileError(Exception):
    """An error that holds as much as it can."""

    def __init__(self, text: str) -> None:
        super().__init__(text, {"text": text})
        self.text = text
        self.add_note(text)


def _chained() -> Exception:
    try:
        try:
            raise HostileError(canary())
        except HostileError as error:
            raise RuntimeError(canary()) from error
    except RuntimeError as error:
        return error


HOSTILE: dict[str, Callable[[], Exception]] = {
    "own class": lambda: HostileError(canary()),
    "chained": _chained,
    "value": lambda: ValueError(canary()),
    "key": lambda: KeyError(canary()),
    "unicode": lambda: UnicodeDecodeError("utf-8", canary().encode(), 0, 1, canary()),
    "group": lambda: ExceptionGroup(canary(), [ValueError(canary())]),
    "os error with a text": lambda: OSError(canary()),
    "os error with number and text": lambda: OSError(errno.EIO, canary()),
    "os error with a path": lambda: FileNotFoundError(errno.ENOENT, "missing", f"https://user:{canary()}@host/x"),
    "missing, with a text": lambda: FileNotFoundError(f"https://user:{canary()}@host/x"),
    "denied": lambda: PermissionError(canary()),
    "connection": lambda: ConnectionResetError(canary()),
    "time": lambda: TimeoutError(canary()),
    "ours": lambda: ConflictError("the document has changed"),
    "ours, of a document": lambda: TooLargeError("the document is too large"),
}


class HostileBackend:
    """A storage whose every method holds the document's text in its frame and quotes it in its error."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self._make = make

    def _fail(self) -> NoReturn:
        text = canary()
        raise self._make() from ValueError(text)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create=True, update=True, atomic=True, durable=False, batch=1000)

    async def read(self, key: str, /, *, limit: int) -> Blob:
        self._fail()

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        if len(keys) > 1:
            self._fail()
        return [await result(self.read(key, limit=limit)) for key in keys]

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        text = data.decode()
        raise self._make() from HostileError(text)

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        if len(writes) > 1:
            self._fail()
        return [await result(self.write(key, data, mode=mode)) for key, data, mode in writes]

    async def stat(self, key: str, /) -> Stat:
        self._fail()

    async def delete(self, key: str, /, *, version: Version | None = None) -> None:
        self._fail()

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return self._scan()

    async def _scan(self) -> AsyncIterator[Sequence[Stat]]:
        yield ()
        self._fail()

    async def versioned(self) -> bool | None:
        self._fail()

    async def filesystem(self) -> tuple[object, str]:
        self._fail()

    async def aclose(self) -> None:
        self._fail()


class Gate:
    """Where calls wait until they are given up: says when one has come, and lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.give_up: Callable[[], object] = lambda: None

    async def watch(self) -> None:
        """Give up each call that comes, and only then let it go on."""
        while True:
            await anyio.sleep(0.001)
            go_on = self.go_on
            if self.reached.is_set() and not go_on.is_set():
                self.give_up()
                for _ in range(5):
                    await anyio.sleep(0)
                go_on.set()

    def reset(self) -> None:
        """For the next call; one that was left behind in a thread keeps what it waits for."""
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def wait(self) -> None:
        """In a thread: wait to be let go."""
        go_on = self.go_on
        self.reached.set()
        assert go_on.wait(HUNG)


class SlowBackend(MemoryBackend):
    """Memory that takes so long that every call on it is cancelled, by its caller or by the deadline."""

    def __init__(self, gate: Gate | None = None) -> None:
        super().__init__()
        self._gate = gate or Gate()

    async def read(self, key: str, /, *, limit: int) -> Blob:
        blob = await super().read(key, limit=limit)
        self._gate.reached.set()
        await anyio.sleep_forever()
        return blob

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        stat = await super().write(key, data, mode=mode)
        self._gate.reached.set()
        await anyio.sleep_forever()
        return stat


class BrokenCalls(SystemCalls):
    """System calls of which one fails."""

    def __init__(self, name: str, number: int) -> None:
        self.error = OSError(number, os.strerror(number))
        setattr(self, name, self._fail)

    def _fail(self, *arguments: object, **options: object) -> NoReturn:
        raise self.error


class SlowCalls(SystemCalls):
    """System calls that wait with a read and a write until they are let go."""

    def __init__(self, gate: Gate) -> None:
        def write(fd: int, data: bytes | memoryview, /) -> int:
            gate.wait()
            return os.write(fd, data)

        def read(fd: int, size: int, /) -> bytes:
            gate.wait()
            return os.read(fd, size)

        setattr(self, "write", write)  # noqa: B010 -- a static method of the class
        setattr(self, "read", read)  # noqa: B010


def opened(
    backend: Any, *, observer: Callable[[Event], object] | None = None, policy: RetryPolicy | None = None
) -> AccountStore:
    """A store with a backend twice: with JSON as `main`, the default, and with MessagePack as `other`."""
    storages = {
        name: Storage(StorageClient(name, backend, policy, limit=MAX_BYTES), codec, MAX_BYTES, f"test://{name}", {})
        for name, codec in (("main", JSON), ("other", MSGPACK))
    }
    return AccountStore(Resolver(Storages(storages, "main")), observer)


MAIN = Location("a.account", folder="folder")
MULTI = Location("a.multi.account", folder="folder")
OTHER = Location("b.account", storage="other")


async def every_call(leaks: Leaks, store: AccountStore, name: str) -> None:
    """Make every call of the facade on documents with secrets."""
    saved = await leaks.call(f"{name} save", store.save(MAIN, account()))
    await leaks.call(f"{name} save oauth", store.save(MAIN, oauth_account()))
    await leaks.call(f"{name} save_multi", store.save_multi(MULTI, multi_account()))
    await leaks.call(f"{name} create", store.save(MAIN, account(), mode="create"))
    stale = saved if isinstance(saved, Version) else Version("stale")
    await leaks.call(f"{name} swap", store.save(MAIN, account(), mode=stale))
    await leaks.call(f"{name} swap of none", store.save(Location("none.account"), account(), mode=stale))
    await leaks.call(f"{name} get", store.get(MAIN))
    await leaks.call(f"{name} get_multi", store.get_multi(MULTI))
    await leaks.call(f"{name} read", store.read(MAIN))
    await leaks.call(f"{name} read_multi", store.read_multi(MULTI))
    await leaks.call(f"{name} get of none", store.get(Location("none.account")))
    await leaks.call(f"{name} get of another kind", store.get(MULTI))
    await leaks.call(f"{name} get of no kind", store.get(Location("a.txt")))
    await leaks.call(f"{name} save of another kind", store.save(MULTI, account()))
    await leaks.call(f"{name} save of a wrong class", store.save(MAIN, multi_account()))  # type: ignore[arg-type]  # a mistake
    await leaks.call(f"{name} save to no storage", store.save(Location("a.account", storage="none"), account()))
    await leaks.call(f"{name} save of too much", store.save(MAIN, account(host="h" * MAX_BYTES)))
    await leaks.call(f"{name} stat", store.stat(MAIN))
    await leaks.call(f"{name} exists", store.exists(MAIN))
    await leaks.call(f"{name} update", store.update(MAIN, _renew))
    await leaks.call(f"{name} update_multi", store.update_multi(MULTI, _grow))
    await leaks.call(f"{name} update that raises", store.update(MAIN, _refuse))
    await leaks.call(f"{name} async update that raises", store.update(MAIN, _refuse_later))
    await leaks.call(f"{name} update to a wrong class", store.update(MAIN, _mistake))
    await leaks.call(f"{name} update to what cannot be saved", store.update(MAIN, _spoil))
    await leaks.call(f"{name} copy", store.copy(MAIN, Location("copy.account", storage="other")))
    await leaks.call(f"{name} copy of another kind", store.copy(MAIN, MULTI))
    await leaks.call(f"{name} copy onto itself", store.copy(MAIN, MAIN))
    await leaks.call(f"{name} copy with create", store.copy(MAIN, MAIN, mode="create"))
    await leaks.call(f"{name} move", store.move(Location("copy.account", storage="other"), OTHER))
    await leaks.call(f"{name} delete of a version", store.delete(MAIN, version=stale))
    await leaks.all(f"{name} list", store.list(recursive=True))
    await leaks.all(
        f"{name} get_many", store.get_many([MAIN, MULTI, OTHER, Location("a.txt"), Location("none.account")])
    )
    await leaks.all(
        f"{name} save_many",
        store.save_many([(MAIN, account()), (MULTI, multi_account()), (OTHER, oauth_account()), (MULTI, account())]),
    )
    await leaks.all(f"{name} create many", store.save_many([(MAIN, account()), (MAIN, account())], mode="create"))
    for number, spoilt in enumerate(SPOILT):
        await leaks.call(f"{name} save of spoilt {number}", store.save(MAIN, spoilt()))
    await leaks.call(f"{name} check", store.check())
    await leaks.call(f"{name} filesystem", _reach(store))
    leaks.value(name, store)
    coroutine = store.save(MAIN, account())
    leaks.value(name, coroutine)
    await leaks.call(name, coroutine)
    leaks.value(name, store.scoped("folder"))
    await leaks.call(f"{name} scoped", store.scoped("folder").get(Location("a.account")))
    await leaks.call(f"{name} delete", store.delete(MAIN))
    await leaks.call(f"{name} close", store.aclose())
    await leaks.call(f"{name} closed", store.save(MAIN, account()))


async def _reach(store: AccountStore) -> None:
    # What it returns is the escape hatch: fsspec shows of it what it likes.
    await store.filesystem()


def _renew(old: Account) -> Account:
    return msgspec.structs.replace(oauth_account(), port=old.port + 1)


def _grow(old: MultiAccount) -> MultiAccount:
    return msgspec.structs.replace(old, receive_accounts=[*old.receive_accounts, account()])


def _refuse(old: Account) -> Account:
    raise LookupError(f"no change for {old} of {old.credentials!r}")


async def _refuse_later(old: Account) -> Account:
    await anyio.sleep(0)
    raise LookupError(f"no change for {old}")


def _mistake(old: Account) -> Any:
    return MultiAccount(receive_accounts=[old])


def _spoil(old: Account) -> Account:
    return msgspec.structs.replace(old, port=0, credentials=PasswordCredentials(login="", password=canary()))


SPOILT: tuple[Callable[[], Any], ...] = (
    lambda: account(port=0),
    lambda: account(host=""),
    lambda: account(host=None),
    lambda: account(host=Secret(canary())),
    lambda: account(security_options=Secret(canary())),
    lambda: account(protocol_type=Secret(canary())),
    lambda: account(cache_file=Secret(canary())),
    lambda: account(credentials=PasswordCredentials(login="", password=canary())),
    lambda: account(credentials=PasswordCredentials(login="someone", password=canary() + "\ud800")),
    lambda: account(credentials=PasswordCredentials(login="\ud800", password=canary())),
    lambda: account(credentials=OAuthCredentials(login="someone", client_secret=canary(), refresh_token="")),
    lambda: msgspec.structs.replace(
        oauth_account(),
        credentials=msgspec.structs.replace(oauth_account().credentials, expires_at=datetime(2031, 5, 6)),  # noqa: DTZ001 -- the fault
    ),
    lambda: account(credentials=PasswordCredentials(login="someone", password=canary(2 * MAX_BYTES))),
    lambda: account(credentials=None),
    lambda: Secret(canary()),
)


def planted() -> Iterator[tuple[str, bytes]]:
    """Files that are no account documents, with a secret in the wrong type or place; by their suffix."""
    secret = canary()
    credentials = {"discriminator": "EmailClientAccountPasswordCredentials", "login": "someone", "password": secret}
    good = {"host": "imap.example.org", "port": 993, "credentials": credentials}
    broken: list[Any] = [
        secret,
        [secret],
        {secret: secret},
        int(DIGITS * 2),
        good | {"host": [secret]},
        good | {"port": secret},
        good | {"port": int(DIGITS * 2)},
        good | {"securityOptions": secret},
        good | {"protocolType": secret},
        good | {"cacheFile": secret},
        good | {"cacheFile": {"fileName": f"{secret}/{secret}"}},
        good | {"cacheFile": {"fileName": secret, "storage": f"{secret}*"}},
        good | {"credentials": secret},
        good | {"credentials": [secret]},
        good | {"credentials": credentials | {"discriminator": secret}},
        good | {"credentials": credentials | {"password": [secret]}},
        good | {"credentials": credentials | {"password": {secret: secret}}},
        good | {"credentials": credentials | {"password": int(DIGITS)}},
        good | {"credentials": {**credentials, "login": ""}},
        good | {"credentials": {secret: secret}},
        good
        | {
            "credentials": {
                "discriminator": "EmailClientAccountOauthCredentials",
                "login": "someone",
                "clientSecret": secret,
                "refreshToken": secret,
                "expiresAt": secret,
            }
        },
        {"receiveAccounts": [good, secret]},
        {"receiveAccounts": [good], "sendAccount": secret},
    ]
    for tree in broken:
        yield "", json.dumps(tree).encode()
        yield "other", msgspec.msgpack.encode(tree)
    text, packed = json.dumps(good).encode(), msgspec.msgpack.encode(good)
    yield "", secret.encode()
    yield "", text[:-3]
    yield "", text[: text.index(secret.encode()) + 20]
    yield "", text.replace(b"password", b"\xffpassword")
    yield "", text + secret.encode()
    yield "", text.replace(b'"port"', f'"{secret}": 1, "{secret}": 2, "port"'.encode())
    yield "", text.replace(b'"host"', b'"x": ' + b"[" * 40 + f'"{secret}"'.encode() + b"]" * 40 + b', "host"')
    yield "", text.replace(b'"host"', f'"{secret}": 1e999, "host"'.encode())
    yield "", text.replace(secret.encode(), (secret * MAX_BYTES).encode()[: 2 * MAX_BYTES])
    yield "other", secret.encode()
    yield "other", packed[:-3]
    yield "other", packed + secret.encode()
    yield "other", packed.replace(secret.encode(), secret.encode()[:-1] + b"\xff")
    yield "other", packed.replace(b"\x83", b"\x84", 1)


# The cases of a long list take turns on the event loops.
LOOPS: tuple[tuple[str, dict[str, bool]], ...] = (("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {}))
TURNS = ["asyncio", "uvloop", "trio"]


def in_turn(*cases: tuple[Any, ...]) -> list[Any]:
    """Parameters for a test: each case with one event loop, each loop with every third case."""
    return [
        pytest.param(LOOPS[number % 3], *case, id="-".join([TURNS[number % 3], *map(str, case[:2])]))
        for number, case in enumerate(cases)
    ]


# --- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_calls_on_a_good_storage_show_nothing(kind: str, tmp_path: Path, logs: LogRecords) -> None:
    """No result, error or log line of any call on a working storage shows a secret."""
    leaks = Leaks()
    backend = MemoryBackend() if kind == "memory" else LocalBackend(Files(str(tmp_path)))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with opened(backend) as store:
            await every_call(leaks, store, kind)
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert not any(found(f"{warning.message} {warning.source!r}") for warning in warned)
    assert leaks.values > 30
    assert leaks.errors.keys() >= {
        *("EncodeError", "TooLargeError", "ConflictError", "ExistsError", "NotFoundError", "ExtensionError"),
        *("LocationError", "ClosedError", "LookupError"),
    }
    assert any("save" in line for line in logs.lines)


@pytest.mark.anyio
@pytest.mark.parametrize(("anyio_backend", "error"), in_turn(*((name,) for name in HOSTILE)))
async def test_a_hostile_backend_shows_nothing(error: str, logs: LogRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error of a backend that quotes documents in its errors shows a secret through the store, neither at the first
    attempt nor after the last.
    """
    pauses = Counter[int]()

    async def pause(attempt: int, /) -> None:
        pauses[attempt] += 1
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("accountstore.retry.backoff", pause)
    leaks = Leaks()
    async with opened(HostileBackend(HOSTILE[error])) as store:
        await every_call(leaks, store, error)
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert sum(leaks.errors.values()) > 30
    if error in {"connection", "time"}:
        assert leaks.errors["UnavailableError"] > 5
        assert leaks.errors["UncertainError"] > 5
        assert pauses.keys() == {1, 2, 3}
    else:
        assert not pauses


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "call", "number", "raised"),
    in_turn(
        ("write", errno.ENOSPC, FullError),
        ("fsync", errno.EIO, BackendError),
        ("fstat", errno.EPERM, DeniedError),
        ("rename", errno.EROFS, DeniedError),
        ("open", errno.EACCES, DeniedError),
        ("read", errno.EIO, BackendError),
        ("flock", errno.ENOLCK, BackendError),
    ),
)
async def test_a_broken_disk_shows_nothing(
    call: str, number: int, raised: type[AccountStoreError], tmp_path: Path, logs: LogRecords
) -> None:
    """No error of a local storage whose system calls fail shows a secret."""
    async with opened(LocalBackend(Files(str(tmp_path)))) as store:
        await store.save(MAIN, account())
        await store.save_multi(MULTI, multi_account())
    leaks = Leaks()
    async with opened(LocalBackend(Files(str(tmp_path), calls=BrokenCalls(call, number)))) as store:
        await every_call(leaks, store, call)
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert leaks.errors[raised.__name__] > 1


@pytest.mark.anyio
@pytest.mark.parametrize(("anyio_backend", "kind"), in_turn(("memory",), ("local",), ("memory",)))
async def test_bad_documents_show_nothing(kind: str, tmp_path: Path, logs: LogRecords) -> None:
    """No error about a file that is not an account document shows what is in the file."""
    leaks = Leaks()
    backend = MemoryBackend() if kind == "memory" else LocalBackend(Files(str(tmp_path)))
    async with opened(backend) as store:
        fs, root = await store.filesystem()
        for number, (storage, data) in enumerate(planted()):
            for extension in ("account", "multi.account"):
                location = Location(f"{number}.{extension}", storage=storage or None)
                fs.pipe_file(f"{root.rstrip('/')}/{location.file_name}", data)
                if extension == "account":
                    await leaks.call("get", store.get(location))
                    await leaks.call("update", store.update(location, _renew))
                else:
                    await leaks.call("read_multi", store.read_multi(location))
                target = Location(f"{number}.{extension}", folder="copies", storage="main" if storage else "other")
                await leaks.call("copy", store.copy(location, target))
                await leaks.all("get_many", store.get_many([location]))
        await leaks.all("list", store.list())
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert leaks.errors["DecodeError"] > 100
    assert leaks.errors["TooLargeError"] > 2


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_a_cancelled_call_shows_nothing(
    kind: str, anyio_backend_name: str, tmp_path: Path, logs: LogRecords
) -> None:
    """Neither a time-out in the midst of a call nor the cancellation behind it shows a secret; nor where the write that
    is awaited meanwhile ends at its own deadline.
    """
    leaks, gate = Leaks(), Gate()
    backend = SlowBackend(gate) if kind == "memory" else LocalBackend(Files(str(tmp_path), calls=SlowCalls(gate)))
    async with (
        opened(backend, policy=RetryPolicy(timeout=0.2) if kind == "memory" else None) as store,
        anyio.create_task_group() as group,
    ):
        group.start_soon(gate.watch)
        fs, root = await store.filesystem()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "save": lambda: store.save(MAIN, account()),
            "save_multi": lambda: store.save_multi(MULTI, multi_account()),
            "get": lambda: store.get(MAIN),
            "update": lambda: store.update(MAIN, _renew),
            "update, later": lambda: store.update(MAIN, _stall),
            "copy": lambda: store.copy(MAIN, OTHER),
            "move": lambda: store.move(MAIN, OTHER),
            "get_many": lambda: anext(aiter(store.get_many([MAIN, MULTI]))),
            "save_many": lambda: anext(aiter(store.save_many([(MAIN, account()), (MULTI, multi_account())]))),
        }
        for name, call in calls.items():
            data = JSON.encode(account()).decode()
            fs.pipe_file(f"{root.rstrip('/')}/{MAIN.path}", SecretBytes(data.encode()))
            del data
            for limited in (_with_anyio, _with_asyncio, _with_task):
                if limited is _with_anyio or anyio_backend_name == "asyncio":
                    gate.reset()
                    try:
                        await limited(call, gate)
                    except (TimeoutError, asyncio.CancelledError) as error:
                        leaks.error(f"{name} {limited.__name__}", error)
        group.cancel_scope.cancel()
        asyncio_too = {"TimeoutError": 2 * len(calls), "CancelledError": len(calls)}
        assert leaks.errors == (asyncio_too if anyio_backend_name == "asyncio" else {"TimeoutError": len(calls)})
    assert leaks.hits == []
    assert not any(map(found, logs.lines))


@pytest.mark.anyio
async def test_a_call_whose_time_is_up_shows_nothing(logs: LogRecords) -> None:
    """No error of a read or a write that the storage does not answer in time shows a secret."""
    leaks = Leaks()
    async with opened(SlowBackend(), policy=RetryPolicy(timeout=0.02)) as store:
        await leaks.call("save", store.save(MAIN, account()))
        await leaks.call("create", store.save(Location("new.account"), account(), mode="create"))
        await leaks.call("get", store.get(MAIN))
        await leaks.call("update", store.update(MAIN, _renew))
        await leaks.all("save_many", store.save_many([(MAIN, account()), (OTHER, account())]))
        await leaks.all("get_many", store.get_many([MAIN, OTHER]))
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert leaks.errors == {"UncertainError": 4, "UnavailableError": 4}


async def _with_anyio(call: Callable[[], Awaitable[object]], gate: Gate) -> None:
    with anyio.fail_after(HUNG) as scope:
        gate.give_up = lambda: setattr(scope, "deadline", anyio.current_time())
        await call()


async def _with_asyncio(call: Callable[[], Awaitable[object]], gate: Gate) -> None:
    async with asyncio.timeout(HUNG) as timeout:
        gate.give_up = lambda: timeout.reschedule(asyncio.get_running_loop().time())
        await call()


async def _with_task(call: Callable[[], Awaitable[object]], gate: Gate) -> None:
    task = asyncio.ensure_future(call())
    gate.give_up = task.cancel
    await task


async def _stall(old: Account) -> Account:
    await anyio.sleep(60)
    return old


@pytest.mark.anyio
async def test_a_task_group_of_failures_shows_nothing() -> None:
    """An exception group of failed and cancelled calls shows no secret."""
    leaks = Leaks()
    # Not closed: the hostile one would raise there too.
    hostile = opened(HostileBackend(HOSTILE["chained"]))
    slow = opened(SlowBackend(), policy=RetryPolicy(timeout=0.05))
    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow.save, MAIN, account())
            tasks.start_soon(slow.save_multi, MULTI, multi_account())
            await anyio.sleep(0.01)
            tasks.start_soon(hostile.save, MAIN, account())
            tasks.start_soon(hostile.get, MAIN)
    leaks.error("group", raised.value)
    assert leaks.hits == []
    assert leaks.errors["ExceptionGroup"] == 1


@pytest.mark.anyio
async def test_events_and_observers_show_nothing(logs: LogRecords) -> None:
    """No event shows a secret, and an observer that raises one brings it into no log."""
    leaks, events = Leaks(), list[object]()

    def observe(event: Event) -> None:
        events.append(event)
        raise HostileError(canary())

    async with opened(MemoryBackend(), observer=observe) as store:
        await every_call(leaks, store, "observed")
    for event in events:
        leaks.value("event", event)
    assert len(events) > 40
    assert leaks.hits == []
    assert any("the observer raised HostileError" in line for line in logs.lines)
    assert not any(map(found, logs.lines))


def test_asyncio_debug_mode_shows_nothing(tmp_path: Path, logs: LogRecords) -> None:
    """The log lines of asyncio's debug mode, which show tasks and callbacks, show no secret."""

    async def slow_calls() -> None:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.0
        async with opened(LocalBackend(Files(str(tmp_path)))) as store:
            await store.save(MAIN, account())
            await store.get(MAIN)

    anyio.run(slow_calls, backend="asyncio", backend_options={"debug": True})
    assert any("Executing" in line for line in logs.lines)
    assert not any(map(found, logs.lines))


def test_values_show_nothing() -> None:
    """No sink shows a secret of a document, of its parts, or of what the library makes of it."""
    leaks = Leaks()
    data = SecretBytes(JSON.encode(multi_account()))
    stat = Stat("key", len(data), Version("token"), None)
    values: tuple[object, ...] = (
        Secret(canary()),
        SecretBytes(canary().encode()),
        data[3:200],
        account(),
        account().credentials,
        oauth_account(),
        oauth_account().credentials,
        multi_account(),
        [account(), {"key": multi_account()}],
        Blob(data, stat),
        Write("key", data, "overwrite"),
        functools.partial(isinstance, data, bytes),
        functools.partial(pprint.pprint, account()),
        EncodeError("is wrong", field="$.host", location=MAIN),
    )
    for value in values:
        leaks.value(type(value).__name__, value)
    assert leaks.hits == []


PRINTING = (
    "repr",
    "str",
    "format of repr",
    "percent",
    "logging",
    "pprint",
    "reprlib",
    "rich",
    "rich pretty",
    "json of repr",
)


def test_versions_show_nothing() -> None:
    """No print shows a version's token: where it is a digest, guesses of a password could be tested against it."""
    stat = Stat("key", 1, Version(canary()), None)
    for value in (Version(canary()), stat, Blob(b"", stat), [Version(canary())]):
        for name in PRINTING:
            assert not found(SINKS[name](value)), name


@pytest.mark.parametrize("make", [account, oauth_account, multi_account, lambda: SecretBytes(canary().encode())])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_secrets_cannot_be_pickled(make: Callable[[], object], protocol: int) -> None:
    """Pickling a document, or anything that holds one, is a TypeError at every protocol."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(make(), protocol)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps({"key": [make()]}, protocol)


# --- configurations ------------------------------------------------------------------------------------------------


class HostileFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A filesystem that, as fsspec's own for HTTP, keeps the user part in its paths and names it in its errors."""

    protocol = "hostile"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.options = options
        if options.get("fail"):
            raise ValueError(f"cannot connect with {options}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def _refuse(self, *arguments: object, **options: object) -> NoReturn:
        raise FileNotFoundError(f"{arguments} {self.options}")

    cat_file = pipe_file = ls = info = rm_file = makedirs = _refuse

    def exists(self, path: str, **options: Any) -> bool:
        return "denied" in path


@pytest.fixture
def _hostile_protocol() -> Iterator[None]:
    register_implementation("hostile", HostileFileSystem, clobber=True)
    yield
    _registry.pop("hostile", None)


def configuration(**more: Any) -> StoreConfig:
    """A configuration with secrets in the options and in the user part of the URL."""
    storage = StorageConfig(
        url=f"hostile://someone:{canary(16)}@example.org/folder?key={canary(16)}",
        options={"password": canary(), "nested": {"token": [canary()]}},
    )
    return StoreConfig(default="main", storages={"main": storage}, **more)


def test_configurations_show_nothing() -> None:
    """A configuration shows neither its options nor the user part and query of its URLs."""
    for value in (configuration(), configuration().storages["main"], [configuration()]):
        for name in PRINTING:
            assert not found(SINKS[name](value)), name


ENDPOINTS: Mapping[str, Callable[[str], dict[str, object]]] = {
    "s3": lambda endpoint: {"endpoint_url": endpoint},
    "s3 below": lambda endpoint: {"client_kwargs": {"endpoint_url": endpoint}},
    "azure": lambda endpoint: {"account_host": endpoint},
    "azure connection": lambda endpoint: {
        "connection_string": f"AccountName=a;AccountKey={canary()};BlobEndpoint={endpoint};SharedKey={canary()}"
    },
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", ENDPOINTS)
async def test_an_error_names_the_place_of_its_storage_and_shows_nothing(name: str) -> None:
    """An error of a storage elsewhere names its URL and endpoint, without their user parts, queries and fragments."""
    endpoint = f"https://someone:{canary()}@endpoint.example.org:9000/path?key={canary()}#{canary()}"
    url = f"s3://someone:{canary()}@bucket/prefix?key={canary()}"
    config = StorageConfig(url, ENDPOINTS[name](endpoint))
    del endpoint, url
    where = "s3://bucket/prefix at https://endpoint.example.org:9000/path"
    policy = RetryPolicy(attempts=1, storage=f"storage 'main': {config.display_name}")
    clients = [
        StorageClient("main", FaultyBackend(MemoryBackend(), [Fault("stat", error=raw)]), policy, limit=1)
        for raw in (OSError(errno.EIO, canary()), ConnectionResetError(canary()), BackendError("no"))
    ]
    for client in clients:
        with pytest.raises(BackendError) as caught:
            await client.stat("a.account")
        assert str(caught.value).endswith(f" [storage 'main': {where}]")
        assert shown_by_error(caught.value) == []


@pytest.mark.anyio
@pytest.mark.usefixtures("_hostile_protocol")
async def test_a_storage_with_options_shows_nothing(logs: LogRecords) -> None:
    """No call on a storage that quotes its URL and options in errors shows them."""
    leaks = Leaks()
    async with await AccountStore.open(configuration()) as store:
        await every_call(leaks, store, "options")
        denied = Location("a.account", folder="denied")
        await leaks.call("denied", store.get(denied))
        await leaks.call("denied", store.delete(denied))
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert leaks.errors["NotFoundError"] > 3


@pytest.mark.anyio
@pytest.mark.usefixtures("_hostile_protocol")
async def test_a_storage_that_cannot_be_opened_shows_nothing(logs: LogRecords) -> None:
    """No error of opening shows options or the user part of a URL."""
    leaks = Leaks()
    secret = {"password": canary()}
    for url, options in (
        (f"nothing://someone:{canary()}@example.org/x", secret),
        (f"memory://someone:{canary()}@example.org", secret),
        ("file:///dev/null/folder", {}),
        ("file:///", secret),
        (f"simplecache::hostile://someone:{canary()}@example.org", secret),
        (f"hostile://someone:{canary()}@example.org/x", secret | {"fail": True}),
    ):
        config = StoreConfig(storages={"main": StorageConfig(url, options)})
        del url, options
        await leaks.call("open", _use(config))
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert leaks.errors["ConfigError"] >= 4


async def _use(config: StoreConfig | str) -> None:
    async with AccountStore.open(config) as store:
        await store.get(MAIN)
    raise AssertionError("the storage works")


@pytest.mark.anyio
async def test_a_wrong_configuration_file_shows_nothing(
    tmp_path: Path, logs: LogRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error about a TOML file shows a secret in it, or one that its variables bring in."""
    monkeypatch.setenv("CANARY_PASSWORD", canary())
    leaks = Leaks()
    options = f'options = {{ password = "{canary()}", token = "${{CANARY_PASSWORD}}" }}\n'
    good = f'[storages.main]\nurl = "file://someone:{canary()}@localhost/x"\n{options}'
    texts = (
        good,
        good + "urk = 1\n",
        good + 'codec = "jsn"\n',
        good + "codec = 5\n",
        good + 'engine = "obstor"\n',
        good + "timeout = 0\n",
        good + f'attempts = "{canary()}"\n',
        good + f'conditions = ["{canary()}"]\n',
        good + "codec = \n",
        good + "[storages.main]\n",
        good.replace('token = "', 'token = "${NO_SUCH_VARIABLE}'),
        good.replace("url =", "uri ="),
        good.replace("options = {", "options = ["),
        f'default = "none"\n{good}',
        f"max_bytes = '{canary()}'\n{good}",
        f'[storages]\nmain = "{canary()}"\n',
        f'storages = "{canary()}"\n',
    )
    count = len(texts)
    for number in range(count):
        (tmp_path / f"{number}.toml").write_text(texts[number])
    del texts, good, options
    for number in range(count):
        await leaks.call("open", _use(str(tmp_path / f"{number}.toml")))
    assert leaks.hits == []
    assert not any(map(found, logs.lines))
    assert leaks.errors["ConfigError"] == count


@pytest.mark.anyio
async def test_a_cancelled_opening_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out while a storage is opened shows neither options nor the user part of the URL."""
    leaks = Leaks()

    async def stuck(url: str, options: Mapping[str, object], /) -> NoReturn:
        del url, options  # a backend's own frames are its own concern
        await anyio.sleep(60)
        raise AssertionError("not cancelled")

    def find(scheme: str, engine: str, /) -> object:
        return stuck

    monkeypatch.setattr("accountstore.storages.find_backend", find)
    with pytest.raises(TimeoutError) as raised, anyio.fail_after(0.05):
        await AccountStore.open(configuration())
    leaks.error("open", raised.value)
    assert leaks.hits == []


# --- controls ------------------------------------------------------------------------------------------------------


class _PlainAccount(msgspec.Struct):
    host: str
    password: str


async def _naive_save(path: str, plain: _PlainAccount) -> None:
    data = msgspec.json.encode(plain)
    await anyio.to_thread.run_sync(functools.partial(_naive_write, path, data))


def _naive_write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


class _PlainObject:
    def __init__(self, password: str) -> None:
        self.password = password


def test_control_plain_values_leak() -> None:
    """Each sink shows the secret of a plain Struct, a plain object, a plain string or plain bytes: none is blind."""
    plain = (_PlainAccount("imap.example.org", canary()), _PlainObject(canary()), canary(), canary().encode())
    assert {hit for value in plain for hit in shown(value)} == SINKS.keys()


@pytest.mark.anyio
async def test_control_a_naive_save_leaks(tmp_path: Path, logs: LogRecords) -> None:
    """A save that holds plain bytes shows them in every sink for errors, though its message is harmless."""
    with pytest.raises(FileNotFoundError) as raised:
        await _naive_save(str(tmp_path / "none" / "x.account"), _PlainAccount("imap.example.org", canary()))
    _drawn.clear()
    hits = shown_by_error(raised.value)
    assert not found(str(raised.value))
    assert {
        "traceback with locals",
        "captured locals",
        "rich locals",
        "rich traceback",
        "local data of _naive_save",
    } <= set(hits)
    plain = _PlainAccount("imap.example.org", canary())
    logging.getLogger(__name__).debug("saving %s", plain)
    assert any(map(found, logs.lines))


@pytest.mark.anyio
async def test_control_errors_of_the_codec_leak_where_the_store_does_not() -> None:
    """The codec's own error holds the document in its frames; the store's, for the same document, does not."""
    with pytest.raises(DecodeError) as raised:
        JSON.decode(f'{{"host": "{canary()}"}}'.encode(), Account)
    assert "captured locals" in shown_by_error(raised.value)
    async with opened(MemoryBackend()) as store:
        fs, _ = await store.filesystem()
        fs.pipe_file("/x.account", f'{{"host": "{canary()}"}}'.encode())
        with pytest.raises(DecodeError) as raised:
            await store.get(Location("x.account"))
    assert shown_by_error(raised.value) == []


def test_control_chains_and_groups_are_searched() -> None:
    """A secret in a suppressed context, in a cause, in a note or in a group's member is found."""
    for number in range(4):
        inner = HostileError(canary())
        outer: BaseException = ValueError("harmless")
        match number:
            case 0:
                outer.__context__, outer.__suppress_context__ = inner, True
            case 1:
                outer.__cause__ = inner
            case 2:
                outer.add_note(canary())
            case _:
                outer = ExceptionGroup("harmless", [inner])
        assert shown_by_error(outer) != []
    assert shown_by_error(ValueError("harmless")) == []
