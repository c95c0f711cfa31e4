"""Canary secrets, driven through every success and error path into every place where values get printed: none shows.

The frames below hold no canary as plain text themselves: it is made by `canary()` where it is passed on.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import errno
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
from functools import partial
from io import StringIO
from itertools import cycle
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint
from cancelling import LOOPS
from doubles import BatchMemory, drained, result
from fsspec import AbstractFileSystem
from fsspec.registry import _registry  # pyright: ignore[reportPrivateUsage]
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
    ConflictError,
    DecodeError,
    EncodeError,
    Encryption,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    RefusedError,
    Secret,
    StorageConfig,
    StoreConfig,
    TokenGrant,
    Version,
)
from accountstore.aio.shield import InFlight
from accountstore.backends.base import BackendError, Blob, DeniedError, FullError, Stat, TooLargeError, Write
from accountstore.backends.local.backend import LocalBackend
from accountstore.backends.local.files import Files
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.backends.memory import MemoryBackend
from accountstore.blocking import BlockingAccountStore
from accountstore.client import StorageClient
from accountstore.codecs import JSON, MSGPACK
from accountstore.lease import FIELD, key_of
from accountstore.retry import RetryPolicy
from accountstore.rotation import reseal, rewrap, verify
from accountstore.scope import Resolver
from accountstore.sealing import StaticKeys, WrappedKey
from accountstore.sealing.ring import KeyCache, KeyRing
from accountstore.sealing.sealer import Sealer
from accountstore.secrets import SecretBytes
from accountstore.storage import Storage
from accountstore.storages import Storages
from accountstore.testing import Fault, FaultyBackend
from accountstore.validation import MAX_BYTES, sealed_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cancelling import Begin, Call

    from accountstore import Event
    from accountstore.model import Document
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

T = TypeVar("T")
P = ParamSpec("P")
# Short, so that a part of a value shows it too.
MARK = "zQ7k"
DIGITS = "8675309"


def canary(length: int = 32) -> str:
    """A secret."""
    return (MARK * length)[:length]


def account(**more: Any) -> Account:
    """An account, with a password unless it has other credentials."""
    fields: dict[str, Any] = {"host": "imap.example.org", "port": 993}
    fields["credentials"] = PasswordCredentials(login="someone", password=canary(24))
    return Account(**fields | more)


def oauth(**more: Any) -> OAuthCredentials:
    """Credentials with every OAuth secret."""
    fields: dict[str, Any] = {"login": "someone", "client_id": "client", "expires_at": datetime(2031, 5, 6, tzinfo=UTC)}
    fields |= {"client_secret": canary(25), "refresh_token": canary(26), "access_token": canary(27)}
    return OAuthCredentials(**fields | more)


def multi_account() -> MultiAccount:
    """A multi account with both."""
    return MultiAccount(receive_accounts=(account(), account(credentials=oauth())), send_account=account())


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
    "partial": lambda value: repr(partial(dict, value, key=value)),
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
        case partial():
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


def chain(error: BaseException | None, seen: set[int], /) -> Iterator[BaseException]:
    """An exception with all causes, contexts and members of groups, suppressed ones too."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for other in (error.__cause__, error.__context__, *members):
        yield from chain(other, seen)


def _shown_link(link: BaseException, /) -> list[str]:
    attributes = list(leaves((link.args, vars(link))))
    # With its chain, which is a part of its pickle where a package such as tblib has seen to that.
    key = type(link), repr([*chain(link, set())]), repr(attributes)
    if key not in _looked_at:
        _looked_at[key] = shown(link) + ["attributes"] * found(key[-1])
    return _looked_at[key]


# Looking takes long: an exception like one before is not looked at again, and the boxes that rich draws are drawn once
# for each function with the same variables.
_looked_at: dict[tuple[object, ...], list[str]] = {}
_drawn: set[str] = set()


def shown_by_error(error: BaseException, /) -> list[str]:
    """The sinks in which an exception, its chain or the local variables of its frames show a canary."""
    hits: list[str] = []
    if found("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())):
        hits.append("traceback with locals")
    for link in chain(error, set()):
        hits += [f"{sink} of {type(link).__name__}" for sink in _shown_link(link)]
        for at, _ in traceback.walk_tb(link.__traceback__):
            for name, local in at.f_locals.items():
                if any(found(repr(leaf)) for leaf in leaves(local)):
                    hits.append(f"local {name} of {at.f_code.co_qualname}")
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


def shown_by_logs(caplog: pytest.LogCaptureFixture, /) -> bool:
    """Whether anything logged shows a canary: message, arguments or traceback."""
    return found(caplog.text) or any(found(repr(record.args)) for record in caplog.records)


class Leaks:
    """What was looked at, and where a canary showed."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self.caplog = caplog
        self.hits: list[str] = []
        self.values = 0
        self.errors = Counter[str]()

    def check(self) -> None:
        """No value, error or log line has shown a canary."""
        assert self.hits == []
        assert not shown_by_logs(self.caplog)

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
        for part in result if isinstance(result, list) else [result]:
            self.value(name, part)
            for leaf in leaves(part):
                if isinstance(leaf, Exception):
                    self.error(name, leaf)
        return result


@pytest.fixture
def leaks(caplog: pytest.LogCaptureFixture) -> Leaks:
    """Nothing yet. All loggers are at DEBUG."""
    return Leaks(caplog)


# --- storages that go wrong ----------------------------------------------------------------------------------------


class HostileError(Exception):
    """An error that holds as much as it can."""

    def __init__(self, text: str) -> None:
        super().__init__(text, {"text": text})
        self.text = text
        self.add_note(text)


def _chained() -> Exception:
    error = RuntimeError(canary())
    error.__context__ = HostileError(canary())
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


class HostileBackend(FaultyBackend):
    """A storage whose every method holds the document's text in its frame and quotes it in its error."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        super().__init__(BatchMemory())
        self._make = make

    async def _call(
        self, operation: Operation, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        text = bytes(cast("Any", args[1])).decode() if operation == "write" else canary()
        raise self._make() from HostileError(text)

    async def read_many(self, keys: Sequence[str], /, *, limit: int) -> Sequence[Blob | Exception]:
        if len(keys) > 1:
            return await super().read_many(keys, limit=limit)
        return [await result(self.read(key, limit=limit)) for key in keys]

    async def write_many(self, writes: Sequence[Write], /) -> Sequence[Stat | Exception]:
        if len(writes) > 1:
            return await super().write_many(writes)
        return [await result(self.write(key, data, mode=mode)) for key, data, mode in writes]

    async def versioned(self) -> bool | None:
        return await self._call("stat", super().versioned)

    async def filesystem(self) -> tuple[object, str]:
        return await self._call("stat", super().filesystem)


class Gate:
    """Where a call waits until it is given up."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    async def give_up(self, cancel: Callable[[], object]) -> None:
        """Give up the call when it has come, and only then let it go on."""
        while not self.reached.is_set():
            await anyio.sleep(0.001)
        cancel()
        for _ in range(5):
            await anyio.sleep(0)
        self.go_on.set()


class SlowBackend(FaultyBackend):
    """Memory that takes so long that every call on it is cancelled, by its caller or by the deadline."""

    gate = Gate()

    def __init__(self) -> None:
        super().__init__(MemoryBackend())

    async def _call(
        self, operation: Operation, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        found = await super()._call(operation, call, *args, **kwargs)
        if operation in {"read", "write"}:
            self.gate.reached.set()
            await anyio.sleep_forever()
        return found


def broken_calls(name: str, number: int) -> SystemCalls:
    """System calls of which one fails."""

    def fail(*arguments: object, **options: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    calls = SystemCalls()
    setattr(calls, name, fail)
    return calls


class SlowCalls(SystemCalls):
    """System calls that wait with a read and a write until they are let go."""

    gate = Gate()

    def __init__(self) -> None:
        for name in ("read", "write"):
            setattr(self, name, partial(self._wait, getattr(os, name)))

    def _wait(self, call: Callable[..., Any], *arguments: Any) -> Any:
        gate = self.gate
        gate.reached.set()
        assert gate.go_on.wait(HUNG)
        return call(*arguments)


def opened(
    backend: Any,
    *,
    observer: Callable[[Event], object] | None = None,
    policy: RetryPolicy | None = None,
    sealer: Sealer | None = None,
) -> AccountStore:
    """A store with a backend twice: with JSON as `main`, the default, and with MessagePack as `other`."""
    limit = MAX_BYTES if sealer is None else sealed_limit(MAX_BYTES)
    storages = {
        name: Storage(StorageClient(name, backend, policy, limit=limit), codec, MAX_BYTES, f"test://{name}", {}, sealer)
        for name, codec in (("main", JSON), ("other", MSGPACK))
    }
    return AccountStore(Resolver(Storages(storages, "main")), observer)


MAIN = Location("a.account", folder="folder")
MULTI = Location("a.multi.account", folder="folder")
OTHER = Location("b.account", storage="other")


async def every_call(leaks: Leaks, store: AccountStore, name: str) -> None:
    """Make every call of the facade on documents with secrets."""
    none = Location("none.account")
    copied = Location("copy.account", storage="other")
    saved = await leaks.call(f"{name} save", store.save(MAIN, account()))
    await leaks.call(f"{name} save oauth", store.save(MAIN, account(credentials=oauth())))
    await leaks.call(f"{name} save_multi", store.save_multi(MULTI, multi_account()))
    await leaks.call(f"{name} create", store.save(MAIN, account(), mode="create"))
    stale = saved if isinstance(saved, Version) else Version("stale")
    await leaks.call(f"{name} swap", store.save(MAIN, account(), mode=stale))
    await leaks.call(f"{name} swap of none", store.save(none, account(), mode=stale))
    await leaks.call(f"{name} get", store.get(MAIN))
    await leaks.call(f"{name} get_multi", store.get_multi(MULTI))
    await leaks.call(f"{name} read", store.read(MAIN))
    await leaks.call(f"{name} read_multi", store.read_multi(MULTI))
    await leaks.call(f"{name} get of none", store.get(none))
    await leaks.call(f"{name} get of another kind", store.get(MULTI))
    await leaks.call(f"{name} get of no kind", store.get(Location("a.txt")))
    await leaks.call(f"{name} save of another kind", store.save(MULTI, account()))
    await leaks.call(f"{name} save of a wrong class", store.save(MAIN, multi_account()))  # type: ignore[arg-type]  # a mistake
    await leaks.call(f"{name} save to no storage", store.save(Location("a.account", storage="none"), account()))
    await leaks.call(f"{name} save of too much", store.save(MAIN, account(host="h" * MAX_BYTES)))
    await leaks.call(f"{name} stat", store.stat(MAIN))
    await leaks.call(f"{name} exists", store.exists(MAIN))
    await leaks.call(f"{name} update", store.update(MAIN, _renew))
    await leaks.call(
        f"{name} update_multi", store.update_multi(MULTI, lambda old: msgspec.structs.replace(old, send_account=None))
    )
    await leaks.call(f"{name} update that raises", store.update(MAIN, _refuse))
    await leaks.call(f"{name} async update that raises", store.update(MAIN, _refuse_later))
    await leaks.call(f"{name} update to a wrong class", store.update(MAIN, _mistake))
    await leaks.call(f"{name} update to what cannot be saved", store.update(MAIN, lambda _: SPOILT[7]()))
    await leaks.call(f"{name} copy", store.copy(MAIN, copied))
    await leaks.call(f"{name} copy of another kind", store.copy(MAIN, MULTI))
    await leaks.call(f"{name} copy onto itself", store.copy(MAIN, MAIN))
    await leaks.call(f"{name} copy with create", store.copy(MAIN, MAIN, mode="create"))
    await leaks.call(f"{name} move", store.move(copied, OTHER))
    await leaks.call(f"{name} delete of a version", store.delete(MAIN, version=stale))
    await leaks.call(f"{name} list", drained(store.list(recursive=True)))
    await leaks.call(f"{name} get_many", drained(store.get_many([MAIN, MULTI, OTHER, Location("a.txt"), none])))
    many: list[tuple[Location, Document]]
    many = [(MAIN, account()), (MULTI, multi_account()), (OTHER, account(credentials=oauth())), (MULTI, account())]
    await leaks.call(f"{name} save_many", drained(store.save_many(many)))
    await leaks.call(
        f"{name} create many", drained(store.save_many([(MAIN, account()), (MAIN, account())], mode="create"))
    )
    for number, spoilt in enumerate(SPOILT):
        await leaks.call(f"{name} save of spoilt {number}", store.save(MAIN, spoilt()))
    await leaks.call(f"{name} check", store.check())
    await leaks.call(f"{name} versions", store.versions(MAIN))
    await leaks.call(f"{name} usage", store.usage())
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
    return account(credentials=oauth(), port=old.port + 1)


def _mistake(old: Account) -> Any:
    return MultiAccount(receive_accounts=[old])


def _refuse(old: Account) -> Account:
    raise LookupError(f"no change for {old} of {old.credentials!r}")


async def _refuse_later(old: Account) -> Account:
    await anyio.sleep(0)
    raise LookupError(f"no change for {old}")


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
    lambda: account(credentials=oauth(expires_at=datetime(2031, 5, 6))),  # noqa: DTZ001 -- the fault
    lambda: account(credentials=PasswordCredentials(login="someone", password=canary(2 * MAX_BYTES))),
    lambda: account(credentials=None),
    lambda: Secret(canary()),
)


def planted() -> Iterator[tuple[str, bytes]]:
    """Files that are no account documents, with a secret in the wrong type or place; by their suffix."""
    secret = canary()
    credentials = {"discriminator": "EmailClientAccountPasswordCredentials", "login": "someone", "password": secret}
    good = {"host": "imap.example.org", "port": 993, "credentials": credentials}
    oauth_tree = {"discriminator": "EmailClientAccountOauthCredentials", "login": "someone"}
    oauth_tree |= {"clientSecret": secret, "refreshToken": secret, "expiresAt": secret}
    fields: list[dict[str, Any]] = [
        *({"host": [secret]}, {"port": secret}, {"port": int(DIGITS * 2)}),
        *({"securityOptions": secret}, {"protocolType": secret}, {"cacheFile": secret}),
        {"cacheFile": {"fileName": f"{secret}/{secret}"}},
        {"cacheFile": {"fileName": secret, "storage": f"{secret}*"}},
        *({"credentials": value} for value in (secret, [secret], {secret: secret}, oauth_tree)),
        *({"credentials": credentials | {"password": value}} for value in ([secret], {secret: secret}, int(DIGITS))),
        *({"credentials": credentials | {"discriminator": secret}}, {"credentials": credentials | {"login": ""}}),
    ]
    broken: list[Any] = [
        *(secret, [secret], {secret: secret}, int(DIGITS * 2), *(good | field for field in fields)),
        *({"receiveAccounts": [good, secret]}, {"receiveAccounts": [good], "sendAccount": secret}),
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


def in_turn(*cases: tuple[Any, ...]) -> list[Any]:
    """Parameters for a test: each case with one event loop, each loop with every third case."""
    return [
        pytest.param(LOOPS[loop], *case, id="-".join([loop, *map(str, case[:2])]))
        for loop, case in zip(cycle(LOOPS), cases)
    ]


def on(kind: str, path: Path, /) -> Any:
    """A backend in memory or in a folder."""
    return MemoryBackend() if kind == "memory" else LocalBackend(Files(str(path)))


# --- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_calls_on_a_good_storage_show_nothing(kind: str, tmp_path: Path, leaks: Leaks) -> None:
    """No result, error or log line of any call on a working storage shows a secret."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with opened(on(kind, tmp_path)) as store:
            await every_call(leaks, store, kind)
    leaks.check()
    assert not any(found(f"{warning.message} {warning.source!r}") for warning in warned)
    assert leaks.values > 30
    assert leaks.errors.keys() >= {
        *("EncodeError", "TooLargeError", "ConflictError", "ExistsError", "NotFoundError", "ExtensionError"),
        *("LocationError", "ClosedError", "LookupError"),
    }
    assert "save" in leaks.caplog.text


@pytest.mark.parametrize(("anyio_backend", "error"), in_turn(*((name,) for name in HOSTILE)))
async def test_a_hostile_backend_shows_nothing(error: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error of a backend that quotes documents in its errors shows a secret through the store, neither at the first
    attempt nor after the last.
    """
    pauses = Counter[int]()

    async def pause(attempt: int, /) -> None:
        pauses[attempt] += 1
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("accountstore.retry.backoff", pause)
    async with opened(HostileBackend(HOSTILE[error])) as store:
        await every_call(leaks, store, error)
    leaks.check()
    assert sum(leaks.errors.values()) > 30
    if error in {"connection", "time"}:
        assert leaks.errors["UnavailableError"] > 5
        assert leaks.errors["UncertainError"] > 5
        assert pauses.keys() == {1, 2, 3}
    else:
        assert not pauses


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
    call: str, number: int, raised: type[AccountStoreError], tmp_path: Path, leaks: Leaks
) -> None:
    """No error of a local storage whose system calls fail shows a secret."""
    async with opened(LocalBackend(Files(str(tmp_path)))) as store:
        await store.save(MAIN, account())
        await store.save_multi(MULTI, multi_account())
    async with opened(LocalBackend(Files(str(tmp_path), calls=broken_calls(call, number)))) as store:
        await every_call(leaks, store, call)
    leaks.check()
    assert leaks.errors[raised.__name__] > 1


@pytest.mark.parametrize(("anyio_backend", "kind"), in_turn(("memory",), ("local",), ("memory",)))
async def test_bad_documents_show_nothing(kind: str, tmp_path: Path, leaks: Leaks) -> None:
    """No error about a file that is not an account document shows what is in the file."""
    async with opened(on(kind, tmp_path)) as store:
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
                await leaks.call("get_many", drained(store.get_many([location])))
        await leaks.call("list", drained(store.list()))
    leaks.check()
    assert leaks.errors["DecodeError"] > 100
    assert leaks.errors["TooLargeError"] > 2


@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_a_cancelled_call_shows_nothing(kind: str, anyio_backend_name: str, tmp_path: Path, leaks: Leaks) -> None:
    """Neither a time-out in the midst of a call nor the cancellation behind it shows a secret; nor where the write that
    is awaited meanwhile ends at its own deadline.
    """
    slow = SlowBackend() if kind == "memory" else SlowCalls()
    backend = LocalBackend(Files(str(tmp_path), calls=slow)) if isinstance(slow, SlowCalls) else slow
    ways = (_with_anyio, _with_asyncio, _with_task) if anyio_backend_name == "asyncio" else (_with_anyio,)
    async with (
        opened(backend, policy=RetryPolicy(timeout=0.2) if kind == "memory" else None) as store,
        anyio.create_task_group() as group,
    ):
        fs, root = await store.filesystem()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "save": lambda: store.save(MAIN, account()),
            "save_multi": lambda: store.save_multi(MULTI, multi_account()),
            "get": lambda: store.get(MAIN),
            "get_multi": lambda: store.get_multi(MULTI),
            "update": lambda: store.update(MAIN, _renew),
            "copy": lambda: store.copy(MAIN, OTHER),
            "move": lambda: store.move(MAIN, OTHER),
            "get_many": lambda: anext(aiter(store.get_many([MAIN, MULTI]))),
            "save_many": lambda: anext(aiter(store.save_many([(MAIN, account()), (MULTI, multi_account())]))),
        }
        for name, call in calls.items():
            fs.pipe_file(f"{root.rstrip('/')}/{MAIN.path}", SecretBytes(JSON.encode(account())))
            for limited in ways:
                gate = slow.gate = Gate()
                try:
                    await limited(call, partial(cast("Any", group.start_soon), gate.give_up))
                except (TimeoutError, asyncio.CancelledError) as error:
                    leaks.error(f"{name} {limited.__name__}", error)
        names = ("TimeoutError", "TimeoutError", "CancelledError")[: len(ways)]
        assert leaks.errors == Counter(names * len(calls))
    leaks.check()


async def _with_anyio(call: Call, begin: Begin) -> None:
    with anyio.fail_after(HUNG) as scope:
        begin(lambda: setattr(scope, "deadline", anyio.current_time()))
        await call()


async def _with_asyncio(call: Call, begin: Begin) -> None:
    async with asyncio.timeout(HUNG) as timeout:
        begin(lambda: timeout.reschedule(asyncio.get_running_loop().time()))
        await call()


async def _with_task(call: Call, begin: Begin) -> None:
    task = asyncio.ensure_future(call())
    begin(task.cancel)
    await task


async def test_a_call_whose_time_is_up_shows_nothing(leaks: Leaks) -> None:
    """No error of a read or a write that the storage does not answer in time shows a secret."""
    async with opened(SlowBackend(), policy=RetryPolicy(timeout=0.02)) as store:
        await leaks.call("save", store.save(MAIN, account()))
        await leaks.call("create", store.save(Location("new.account"), account(), mode="create"))
        await leaks.call("get", store.get(MAIN))
        await leaks.call("update", store.update(MAIN, _renew))
        await leaks.call("save_many", drained(store.save_many([(MAIN, account()), (OTHER, account())])))
        await leaks.call("get_many", drained(store.get_many([MAIN, OTHER])))
    leaks.check()
    assert leaks.errors == {"UncertainError": 4, "UnavailableError": 4}


async def test_a_task_group_of_failures_shows_nothing(leaks: Leaks) -> None:
    """An exception group of failed and cancelled calls shows no secret."""
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
    leaks.check()
    assert leaks.errors["ExceptionGroup"] == 1


async def test_events_and_observers_show_nothing(leaks: Leaks) -> None:
    """No event shows a secret, and an observer that raises one brings it into no log."""
    events: list[object] = []

    def observe(event: Event) -> None:
        events.append(event)
        raise HostileError(canary())

    async with opened(MemoryBackend(), observer=observe) as store:
        await every_call(leaks, store, "observed")
    for event in events:
        leaks.value("event", event)
    assert len(events) > 40
    leaks.check()
    assert "the observer raised HostileError" in leaks.caplog.text


def test_asyncio_debug_mode_shows_nothing(tmp_path: Path, leaks: Leaks) -> None:
    """The log lines of asyncio's debug mode, which show tasks and callbacks, show no secret."""

    async def slow_calls() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        async with opened(LocalBackend(Files(str(tmp_path)))) as store:
            await store.save(MAIN, account())
            await store.get(MAIN)

    anyio.run(slow_calls, backend="asyncio", backend_options={"debug": True})
    assert "Executing" in leaks.caplog.text
    leaks.check()


def test_values_show_nothing(leaks: Leaks) -> None:
    """No sink shows a secret of a document, of its parts, or of what the library makes of it."""
    data = SecretBytes(JSON.encode(multi_account()))
    stat = Stat("key", len(data), Version("token"), None)
    values: tuple[object, ...] = (
        Secret(canary()),
        SecretBytes(canary().encode()),
        data[3:200],
        account(),
        account().credentials,
        account(credentials=oauth()),
        account(credentials=oauth()).credentials,
        multi_account(),
        [account(), {"key": multi_account()}],
        Blob(data, stat),
        Write("key", data, "overwrite"),
        partial(isinstance, data, bytes),
        partial(pprint.pprint, account()),
        EncodeError("is wrong", field="$.host", location=MAIN),
    )
    for value in values:
        leaks.value(type(value).__name__, value)
    leaks.check()


PRINTING = (
    *("repr", "str", "format of repr", "percent", "logging", "pprint", "reprlib", "rich", "rich pretty"),
    "json of repr",
)


def test_prints_show_nothing() -> None:
    """No print shows a version's token: where it is a digest, guesses of a password could be tested against it. Nor
    does one of a configuration show its options, or the user part and query of its URLs.
    """
    stat, config = Stat("key", 1, Version(canary()), None), configuration()
    for value in (stat.version, stat, Blob(b"", stat), [stat.version], config, config.storages["main"], [config]):
        for name in PRINTING:
            assert not found(SINKS[name](value)), name


@pytest.mark.parametrize("make", [account, oauth, multi_account, lambda: SecretBytes(canary().encode())])
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
def _hostile_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry, "hostile", HostileFileSystem)


def configuration() -> StoreConfig:
    """A configuration with secrets in the options and in the user part of the URL."""
    storage = StorageConfig(
        url=f"hostile://someone:{canary(16)}@example.org/folder?key={canary(16)}",
        options={"password": canary(), "nested": {"token": [canary()]}},
    )
    return StoreConfig(storages={"main": storage})


ENDPOINTS: Mapping[str, Callable[[str], dict[str, object]]] = {
    "s3": lambda endpoint: {"endpoint_url": endpoint},
    "s3 below": lambda endpoint: {"client_kwargs": {"endpoint_url": endpoint}},
    "azure": lambda endpoint: {"account_host": endpoint},
    "azure connection": lambda endpoint: {
        "connection_string": f"AccountName=a;AccountKey={canary()};BlobEndpoint={endpoint};SharedKey={canary()}"
    },
}


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_an_error_names_the_place_of_its_storage_and_shows_nothing(name: str) -> None:
    """An error of a storage elsewhere names its URL and endpoint, without their user parts, queries and fragments."""
    endpoint = f"https://someone:{canary()}@endpoint.example.org:9000/path?key={canary()}#{canary()}"
    url = f"s3://someone:{canary()}@bucket/prefix?key={canary()}"
    config = StorageConfig(url, ENDPOINTS[name](endpoint))
    del endpoint, url
    where = "s3://bucket/prefix at https://endpoint.example.org:9000/path"
    policy = RetryPolicy(attempts=1, storage=f"storage 'main': {config.display_name}")
    for raw in (OSError(errno.EIO, canary()), ConnectionResetError(canary()), BackendError("no")):
        backend = FaultyBackend(MemoryBackend(), [Fault("stat", error=raw)])
        with pytest.raises(BackendError) as caught:
            client = StorageClient("main", backend, policy, limit=1)
            await client.stat("a.account", client.deadline())
        assert str(caught.value).endswith(f" [storage 'main': {where}]")
        del raw
        assert shown_by_error(caught.value) == []


@pytest.mark.usefixtures("_hostile_protocol")
async def test_a_storage_with_options_shows_nothing(leaks: Leaks) -> None:
    """No call on a storage that quotes its URL and options in errors shows them."""
    async with await AccountStore.open(configuration()) as store:
        await every_call(leaks, store, "options")
        denied = Location("a.account", folder="denied")
        await leaks.call("denied", store.get(denied))
        await leaks.call("denied", store.delete(denied))
    leaks.check()
    assert leaks.errors["NotFoundError"] > 3


@pytest.mark.usefixtures("_hostile_protocol")
async def test_a_storage_that_cannot_be_opened_shows_nothing(leaks: Leaks) -> None:
    """No error of opening shows options or the user part of a URL."""
    secret = {"password": canary()}
    for url, options in (
        (f"nothing://someone:{canary()}@example.org/x", secret),
        (f"memory://someone:{canary()}@example.org", secret),
        ("file:///dev/null/folder", {}),
        ("file:///", secret),
        (f"simplecache::hostile://someone:{canary()}@example.org", secret),
        (f"hostile://someone:{canary()}@example.org/x", secret | {"fail": True}),
    ):
        await leaks.call("open", _use(StoreConfig(storages={"main": StorageConfig(url, options)})))
    leaks.check()
    assert leaks.errors["ConfigError"] >= 4


# --- key material --------------------------------------------------------------------------------------------------


def canary_keys() -> dict[str, bytes]:
    """Keys whose bytes, and whose text in base64url, hold a canary."""
    return {"raw": canary().encode(), "text": base64.urlsafe_b64decode(canary(42) + "A=")}


class KeyService:
    """A key service that keeps what it is given in its frames, and quotes it in its errors."""

    algorithm, binds_context, remote = "test", True, True

    def __init__(self, make: Callable[[], Exception] | None) -> None:
        self.make = make

    def key_ids(self) -> Sequence[str]:
        return ("k",)

    def holds(self, key_id: str, /) -> bool:
        return key_id == "k"

    async def current(self) -> str:
        return "k"

    async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Sequence[WrappedKey]:
        texts = [bytes(key).decode("latin-1") for key in keys]
        if self.make is not None:
            raise self.make() from HostileError("".join(texts))
        return [WrappedKey("test", "k", text.encode("latin-1")[::-1]) for text in texts]

    async def unwrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Sequence[bytes | Exception]:
        if self.make is not None:
            raise self.make() from HostileError(canary())
        return [each.data[::-1] for each in wrapped]

    async def aclose(self) -> None:
        if self.make is not None:
            raise self.make()


@pytest.fixture
def _canary_content_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each content key hold a canary."""
    monkeypatch.setattr("accountstore.sealing.sealer.new_content_key", lambda: SecretBytes(canary().encode()))


def sealed_by(*providers: Any, attempts: int = 1) -> Sealer:
    ring = KeyRing(providers, RetryPolicy(5.0, attempts), InFlight(1), KeyCache(100, 60))
    return Sealer(ring, "main", "required")


@pytest.mark.usefixtures("_canary_content_keys")
@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.parametrize("keys", ["at hand", "service"])
async def test_calls_on_a_sealed_storage_show_neither_documents_nor_keys(
    keys: str, kind: str, tmp_path: Path, leaks: Leaks
) -> None:
    """No result, error, log line, file or temporary file of a sealed storage shows a secret or a key; nor do the keys,
    the ring and its cache, which is empty after closing.
    """
    written: list[bytes] = []

    def write(fd: int, data: Any, /) -> int:
        written.append(bytes(data))
        return os.write(fd, data)

    calls = SystemCalls()
    setattr(calls, "write", write)  # noqa: B010 -- as `broken_calls` does
    own = sealed_by(StaticKeys(canary_keys()) if keys == "at hand" else KeyService(None))
    backend = MemoryBackend() if kind == "memory" else LocalBackend(Files(str(tmp_path), calls=calls))
    store = opened(backend, sealer=own)
    await every_call(leaks, store, keys)
    leaks.check()
    assert kind == "memory" or written
    assert not any(MARK.encode() in data for data in written)
    assert not any(MARK.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for name, value in {"sealer": own, "ring": own.ring, "providers": own.ring.providers}.items():
        leaks.value(name, value)
        leaks.hits += [f"{name} {key}" for key, part in vars_of(value).items() if found(repr(part))]
    leaks.check()
    assert not vars_of(own.ring)["_cache"]._keys


def vars_of(value: Any, /) -> dict[str, Any]:
    """The attributes of an object, those in slots too."""
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    return {name: getattr(value, name) for name in [*slots, *getattr(value, "__dict__", {})]}


@pytest.mark.usefixtures("_canary_content_keys")
@pytest.mark.parametrize(("anyio_backend", "error"), in_turn(*((name,) for name in HOSTILE)))
async def test_a_hostile_key_service_shows_nothing(error: str, leaks: Leaks, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error of a key service that quotes keys in its errors shows one, nor does a rotation that meets it."""

    async def pause(*_: object) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr("accountstore.sealing.ring.backoff", pause)
    backend = BatchMemory()
    service = KeyService(None)
    store = opened(backend, sealer=sealed_by(service, attempts=2))
    await store.save(MAIN, account())
    service.make = HOSTILE[error]
    store = opened(backend, sealer=sealed_by(service, attempts=2))
    await every_call(leaks, store, error)
    store = opened(backend, sealer=sealed_by(StaticKeys(canary_keys()), service))
    for rotation in (rewrap, reseal, verify):
        await leaks.call(rotation.__name__, drained(rotation(store)))
    leaks.check()
    assert leaks.errors["KeyProviderError"] + leaks.errors["SealError"] > 5


@pytest.mark.usefixtures("_canary_content_keys")
async def test_a_cancelled_key_service_shows_nothing(leaks: Leaks) -> None:
    """Neither a deadline nor a cancellation in a key service shows the keys that it was given."""

    class Slow(KeyService):
        async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Sequence[WrappedKey]:
            texts = [bytes(key).decode() for key in keys]
            await anyio.sleep_forever()
            raise AssertionError(texts)

    store = opened(MemoryBackend(), policy=RetryPolicy(0.05), sealer=sealed_by(Slow(None)))
    await leaks.call("deadline", store.save(MAIN, account()))
    assert leaks.errors["KeyProviderError"] == 1
    store = opened(MemoryBackend(), sealer=sealed_by(Slow(None)))
    seen: list[BaseException] = []

    async def save() -> None:
        try:
            await store.save(MAIN, account())
        except BaseException as ended:
            seen.append(ended)
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    (ended,) = seen
    leaks.error("cancelled", ended)
    leaks.check()


async def test_a_wrong_key_file_shows_nothing(tmp_path: Path, leaks: Leaks, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error of opening shows a key of a file, a variable or a table that is wrong; nor does the configuration."""
    jwk = {"kty": "oct", "kid": "k", "k": canary(43)}
    texts = [
        json.dumps({"keys": [jwk | change]})
        for change in ({"kty": "RSA"}, {"alg": "x"}, {"k": canary(40)}, {"k": canary(43) + "="}, {"kid": 5})
    ]
    texts += [json.dumps({"keys": [jwk, jwk]}), json.dumps(jwk), canary(), json.dumps({"keys": canary()})]
    for number, text in enumerate(texts):
        path = tmp_path / str(number)
        path.write_text(text)
        path.chmod(0o600)
        monkeypatch.setenv("KEYS_OF_MINE", text)
        for keys in (str(path), "env:KEYS_OF_MINE"):
            config = StoreConfig(storages={"main": StorageConfig("memory://", encryption=Encryption(keys=keys))})
            await leaks.call("open", _use(config))
    for table in (
        {"provider": canary()},
        {"provider": "transit", "url": "nowhere", "key": "k", "token": canary()},
        {"provider": "transit", "url": "http://x", "key": 5, "token": canary()},
        {"provider": "aws-kms", "key": "alias/x", "aws_secret_access_key": canary()},
    ):
        encryption = Encryption(keys=table)
        if table["provider"] != canary():
            config = StoreConfig(storages={"main": StorageConfig("memory://", encryption=encryption)})
            await leaks.call("open", _use(config))
        leaks.hits += ["repr of Encryption"] * found(repr(encryption))
        leaks.hits += ["rich of Encryption"] * found(_rich(encryption))
        leaks.hits += ["repr of StorageConfig"] * found(repr(StorageConfig("x", encryption=encryption)))
    leaks.check()
    assert leaks.errors["ConfigError"] >= 2 * len(texts)


def test_control_keys_would_show() -> None:
    """The control: keys as plain bytes or text are found."""
    raw, text = canary_keys().values()
    assert found(repr(raw))
    assert found(base64.urlsafe_b64encode(text).decode())
    assert shown({"key": raw})


async def _use(config: StoreConfig | str) -> None:
    async with AccountStore.open(config) as store:
        await store.get(MAIN)
    raise AssertionError("the storage works")


async def test_a_wrong_configuration_file_shows_nothing(
    tmp_path: Path, leaks: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error about a TOML file shows a secret in it, or one that its variables bring in."""
    monkeypatch.setenv("CANARY_PASSWORD", canary())
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
    for text in texts:
        (tmp_path / "store.toml").write_text(text)
        await leaks.call("open", _use(str(tmp_path / "store.toml")))
    leaks.check()
    assert leaks.errors["ConfigError"] == len(texts)


async def test_a_cancelled_opening_shows_nothing(leaks: Leaks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out while a storage is opened shows neither options nor the user part of the URL."""

    async def stuck(url: str, options: Mapping[str, object], /) -> None:
        del url, options  # a backend's own frames are its own concern
        await anyio.sleep_forever()

    def find(scheme: str, engine: str, timeout: float, read_only: bool, /) -> object:
        return stuck

    monkeypatch.setattr("accountstore.storages.find_backend", find)
    with pytest.raises(TimeoutError) as raised, anyio.fail_after(0.05):
        await AccountStore.open(configuration())
    leaks.error("open", raised.value)
    leaks.check()


# --- refreshes -----------------------------------------------------------------------------------------------------


def raising(make: Callable[[], Exception], /) -> Callable[[OAuthCredentials], Awaitable[TokenGrant]]:
    """An exchange that raises what is made, from a frame that holds a token as text."""

    async def exchange(credentials: OAuthCredentials) -> TokenGrant:
        await checkpoint()
        spent = credentials.refresh_token.reveal()
        raise make() from HostileError(spent)

    return exchange


async def granting(_: OAuthCredentials, /) -> TokenGrant:
    return TokenGrant(access_token=canary(28), refresh_token=canary(29), expires_in=60, scope="mail")


async def granting_nonsense(_: OAuthCredentials, /) -> TokenGrant:
    return cast("TokenGrant", {"access_token": canary()})


async def granting_none(_: OAuthCredentials, /) -> TokenGrant:
    return TokenGrant(access_token=cast("Any", canary().encode()), expires_in=60)


async def hanging(_: OAuthCredentials, /) -> TokenGrant:
    await anyio.sleep_forever()
    raise AssertionError


EXCHANGES: dict[str, Callable[[OAuthCredentials], Awaitable[TokenGrant]]] = {
    "grants": granting,
    "grants nonsense": granting_nonsense,
    "grants none": granting_none,
    "hangs": hanging,
    "refuses": raising(lambda: RefusedError(canary(), code=canary())),
    "is refused the grant": raising(lambda: RefusedError(canary(), code="invalid_grant")),
    "loses the answer": raising(lambda: ConnectionResetError(canary())),
    **{f"raises {name}": raising(make) for name, make in HOSTILE.items()},
}


@pytest.mark.parametrize("storage", ["main", "other"])
async def test_a_refresh_shows_nothing(leaks: Leaks, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an exchange grants or raises, no result, error, event or log line shows a token: of the document, of the
    grant, or the one before, which the document keeps.
    """
    monkeypatch.setattr("accountstore.refresh._RETRY", 0.01)
    events: list[Event] = []
    at, both = Location("r.account", storage=storage), Location("r.multi.account", storage=storage)
    single = account(credentials=oauth(expires_at=None))
    multi = MultiAccount(receive_accounts=(single, account()), send_account=single)
    previous = {key_of(Secret(canary(26))): {"previous": canary(30)}}
    for name, exchange in EXCHANGES.items():
        async with opened(MemoryBackend(), observer=events.append) as store:
            for where, document in ((at, single), (both, multi)):
                tree = msgspec.json.decode(JSON.encode(document)) | {FIELD: previous}
                await store.save_json(where, msgspec.json.encode(tree))
            del tree
            for _ in range(2):  # also where the previous token is of the first one's making
                await leaks.call(name, store.refresh(at, exchange, lease=0.1))
                await leaks.call(name, store.refresh_multi(both, exchange, lease=0.1))
            await leaks.call("copy", store.copy(at, Location("c.account"), lease=5))
            await leaks.call("read_json", store.read_json(at))
    leaks.value("events", events)
    leaks.check()
    assert leaks.errors.keys() == {"ExchangeError", "NoAnswerError", "RefusedError"}


@pytest.mark.parametrize("operation", ["read", "write"])
async def test_a_refresh_on_a_faulty_storage_shows_nothing(
    leaks: Leaks, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does an error of the storage at any step of a refresh, or a cancellation there."""
    monkeypatch.setattr("accountstore.refresh._RETRY", 0.01)
    for nth in (1, 2, 3):
        for make in HOSTILE.values():
            backend = FaultyBackend(MemoryBackend(), [Fault(operation, nth, error=make())])
            async with opened(backend) as store:
                with suppress(AccountStoreError):
                    await store.save(MAIN, account(credentials=oauth(expires_at=None)))
                for exchange in (granting, EXCHANGES["refuses"]):
                    await leaks.call("refresh", store.refresh(MAIN, exchange, lease=0.1))
    with pytest.raises(TimeoutError) as raised, anyio.fail_after(0.02):
        async with opened(MemoryBackend()) as store:
            await store.save(MAIN, account(credentials=oauth(expires_at=None)))
            await store.refresh(MAIN, hanging, lease=0.1)
    leaks.error("cancelled", raised.value)
    leaks.check()


# --- controls ------------------------------------------------------------------------------------------------------


class _PlainAccount(msgspec.Struct):
    host: str
    password: str


async def _naive_save(path: str, plain: _PlainAccount) -> None:
    data = msgspec.json.encode(plain)
    await anyio.Path(path).write_bytes(data)


def test_control_plain_values_leak() -> None:
    """Each sink shows the secret of a plain Struct, a plain object, a plain string or plain bytes: none is blind."""
    plain = (
        _PlainAccount("imap.example.org", canary()),
        SimpleNamespace(password=canary()),
        canary(),
        canary().encode(),
    )
    assert {hit for value in plain for hit in shown(value)} == SINKS.keys()


async def test_control_a_naive_save_leaks(tmp_path: Path, leaks: Leaks) -> None:
    """A save that holds plain bytes shows them in every sink for errors, though its message is harmless."""
    with pytest.raises(FileNotFoundError) as raised:
        await _naive_save(str(tmp_path / "none" / "x.account"), _PlainAccount("imap.example.org", canary()))
    _drawn.clear()
    hits = shown_by_error(raised.value)
    assert not found(str(raised.value))
    wanted = {"traceback with locals", "rich locals", "rich traceback", "local data of _naive_save"}
    assert wanted <= set(hits)
    logging.getLogger(__name__).debug("saving %s", _PlainAccount("imap.example.org", canary()))
    with pytest.raises(AssertionError):
        leaks.check()


WRONG: Mapping[str, Callable[[], object]] = {
    "a secret of bytes": lambda: Secret(cast("Any", canary().encode())),
    "a secret that is a list": lambda: Secret(cast("Any", [canary()])),
    "a password of bytes": lambda: PasswordCredentials(login="l", password=cast("Any", canary().encode())),
    "OAuth without a refresh token": lambda: oauth(refresh_token=None),
    "OAuth with a client secret of bytes": lambda: oauth(client_secret=canary().encode()),
    "OAuth with a list of tokens": lambda: oauth(access_token=[canary()]),
    "credentials that are a dictionary": lambda: account(credentials={"password": canary()}),
}
"""What is given with a wrong type where secrets are."""


def _to_none(_: Account, /) -> object:
    return {"password": canary()}


GIVEN: Mapping[str, Callable[[Any], Any]] = {
    "save": lambda store: store.save(Location("x.account"), {"password": canary()}),
    "save of text": lambda store: store.save(Location("x.account"), canary()),
    "save elsewhere": lambda store: store.save(Location("x.account", storage="none"), {"password": canary()}),
    "save in a mode": lambda store: store.save(Location("x.account"), {"password": canary()}, mode=Version("1")),
    "save_multi": lambda store: store.save_multi(Location("x.multi.account"), {"password": canary()}),
    "update": lambda store: store.update(Location("a.account"), _to_none),
    "save_json": lambda store: store.save_json(Location("x.account"), canary()),
    "save_json of a list": lambda store: store.save_json(Location("x.account"), [canary()]),
    "save_many": lambda store: store.save_many([{"password": canary()}]),
    "save_many of three": lambda store: store.save_many([(Location("x.account"), canary(), 5)]),
    "save_many nowhere": lambda store: store.save_many([("x.account", {"password": canary()})]),
}
"""What is given with a wrong type to a store."""


def below(error: BaseException, /) -> BaseException:
    """An error with the frames below those of this module and of the event loop."""
    at = error.__traceback__
    while at is not None and "accountstore" not in at.tb_frame.f_globals["__name__"]:
        at = at.tb_next
    return error.with_traceback(at)


@pytest.mark.parametrize("name", WRONG)
def test_a_secret_of_a_wrong_type_shows_in_no_frame(name: str) -> None:
    """What refuses it holds neither it nor the secrets beside it."""
    with pytest.raises(TypeError) as raised:
        WRONG[name]()
    assert shown_by_error(below(raised.value)) == []


@pytest.mark.parametrize("name", GIVEN)
async def test_what_is_no_document_shows_in_no_frame(name: str) -> None:
    """A store refuses it without a frame that holds it; so does a blocking one."""
    async with opened(MemoryBackend()) as store:
        await store.save(Location("a.account"), account())
        with pytest.raises((TypeError, AccountStoreError)) as raised:
            call = GIVEN[name](store)
            await (drained(call) if name.startswith("save_many") else call)
        assert shown_by_error(below(raised.value)) == []


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_no_document_shows_in_no_frame_of_a_blocking_store(name: str) -> None:
    """As above."""
    with BlockingAccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as store:
        store.save(Location("a.account"), account())
        with pytest.raises((TypeError, AccountStoreError)) as raised:
            next(iter(GIVEN[name](store)))
        assert shown_by_error(below(raised.value)) == []


async def test_control_errors_of_the_codec_leak_where_the_store_does_not() -> None:
    """The codec's own error holds the document in its frames; the store's, for the same document, does not."""
    with pytest.raises(DecodeError) as raised:
        JSON.decode(f'{{"host": "{canary()}"}}'.encode(), Account)
    assert "traceback with locals" in shown_by_error(raised.value)
    async with opened(MemoryBackend()) as store:
        fs, _ = await store.filesystem()
        fs.pipe_file("/x.account", f'{{"host": "{canary()}"}}'.encode())
        with pytest.raises(DecodeError) as raised:
            await store.get(Location("x.account"))
    assert shown_by_error(raised.value) == []


def test_control_chains_and_groups_are_searched() -> None:
    """A secret in a suppressed context, in a cause, in a note or in a group's member is found."""
    inner = HostileError(canary())
    suppressed, caused, noted = (ValueError("harmless") for _ in range(3))
    suppressed.__context__, suppressed.__suppress_context__ = inner, True
    caused.__cause__ = inner
    noted.add_note(canary())
    for error in (suppressed, caused, noted, ExceptionGroup("harmless", [inner])):
        assert shown_by_error(error) != []
    assert shown_by_error(ValueError("harmless")) == []
