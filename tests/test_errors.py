"""The errors: their tree, what raises each, what they carry and what they leave behind."""

from __future__ import annotations

import builtins
import copy
import errno
import inspect
import json
import os
import pickle
import re
import traceback
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
import pytest
import samples
import sealed
from calls import EITHER, EVERY, SINGLE, ends
from doubles import BatchMemory, Recording
from msgspec.structs import replace

import accountstore
from accountstore import (
    AccountStore,
    Location,
    OAuthCredentials,
    PasswordCredentials,
    Secret,
    StoreConfig,
    TokenGrant,
    Version,
    errors,
    from_json,
)
from accountstore.backends.base import classify_error
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.errors import AccountStoreError, BackendError, DocumentError, NotFoundError, UnavailableError
from accountstore.lease import FIELD, key_of
from accountstore.migration import migrate
from accountstore.sealing import StaticKeys
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from accountstore.backends.base import Backend

CANARY = "canary-77aa"
ACCOUNT = replace(samples.ACCOUNT, credentials=PasswordCredentials(login="me", password=CANARY))
AT = replace(samples.AT, storage="main")
MISSING = Location("missing.account")
BROKEN = Location("broken.account")

CLASSES: tuple[type[AccountStoreError], ...] = tuple(getattr(errors, name) for name in errors.__all__)
CALLS = [*SINGLE, *EITHER]


class Raising(Recording):
    """Raises an error, if it has one, from a frame that holds a document."""

    def __init__(self, error: BaseException | None = None, /) -> None:
        super().__init__(BatchMemory())
        self.error = error
        self.before = self.fail

    async def fail(self, _: object = None) -> None:
        secret = CANARY
        if self.error is not None:
            try:
                raise KeyError(secret)
            except KeyError:
                raise self.error from ValueError(secret)

    async def filesystem(self) -> tuple[object, str]:
        await self.fail()
        return await super().filesystem()


def over(backend: Backend, /) -> AccountStore:
    return store_over({"main": backend})


async def prepared() -> tuple[Raising, AccountStore]:
    """A backend and a store on it, with a document at AT and one that is none at BROKEN."""
    backend = Raising()
    store = over(backend)
    await store.save(AT, ACCOUNT)
    await backend.write(BROKEN.path, f'{{"host":"{CANARY}"}}'.encode(), mode="overwrite")
    return backend, store


def drawn() -> dict[str, tuple[type, ...]]:
    """Each class of the tree in the module's docstring, with the bases that it is drawn with."""
    tree: dict[str, tuple[type, ...]] = {}
    above: list[type] = [Exception]
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        if match := re.match(
            r" {4}(?P<branches>(?:[│├└ ][─ ]{2} )*)(?P<name>\w+Error)\b *(?:\((?P<twin>\w+)\))?", line
        ):
            level = len(match["branches"]) // 4
            twin = (getattr(builtins, match["twin"]),) if match["twin"] else ()
            tree[match["name"]] = (above[level], *twin)
            above[level + 1 :] = [getattr(errors, match["name"])]
    return tree


def test_the_tree_is_as_drawn() -> None:
    """The classes, their parents and their twins in Python are those that the docstring draws; all are public."""
    assert drawn() == {cls.__name__: cls.__bases__ for cls in CLASSES}
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined == set(errors.__all__)
    assert defined == {name for name in accountstore.__all__ if name.endswith("Error")}


def test_what_may_work_later_is_temporary() -> None:
    """`temporary` is true of `UnavailableError` and its kinds, of a wait for a lease, of an answer that a provider did
    not give and of a key service's failure, false of all others; on the class and on the object.
    """
    later = (UnavailableError, errors.LeaseError, errors.NoAnswerError, errors.KeyProviderError)
    for cls in CLASSES:
        assert cls.temporary is cls("x").temporary is issubclass(cls, later)


def system_error(number: int, /) -> OSError:
    return OSError(number, os.strerror(number))


def from_storage(error: BaseException, /) -> Awaitable[object]:
    return over(Raising(error)).get(AT)


async def after_closing(store: AccountStore, /) -> object:
    await store.aclose()
    return await store.get(AT)


async def unasked(_: OAuthCredentials, /) -> TokenGrant:
    raise AssertionError


def refresh_by(error: Exception, /) -> Callable[[AccountStore], Awaitable[object]]:
    """A refresh whose exchange raises this."""

    async def exchange(_: OAuthCredentials) -> TokenGrant:
        raise error

    async def refresh(store: AccountStore) -> object:
        await store.save(AT, samples.OAUTH)
        return await store.refresh(AT, exchange, lease=0.1)

    return refresh


async def wait_for_a_lease(store: AccountStore, /) -> object:
    lease = {key_of(Secret("rt")): {"holder": "another", "seconds": 60}}
    tree = msgspec.json.decode(JSON.encode(samples.OAUTH)) | {FIELD: lease}
    await store.save_json(AT, msgspec.json.encode(tree))
    return await store.refresh(AT, unasked, timeout=0)


class KeyService:
    """A key service that only fails."""

    algorithm, binds_context, remote = "test", True, True

    def __init__(self, error: Exception) -> None:
        self.error = error

    def key_ids(self) -> tuple[str, ...]:
        return ("key",)

    async def wrap(self, keys: object, contexts: object) -> NoReturn:
        raise self.error


def without_service(error: Exception, /) -> Awaitable[object]:
    """A save whose key service fails."""
    own = sealed.sealer(cast("Any", KeyService(error)))
    return sealed.sealed_over({"main": MemoryBackend()}, {"main": own}).save(AT, ACCOUNT)


async def changed(key: str = "old", **members: object) -> object:
    """A get of a sealed document with these members, by a key of this id."""
    backend = MemoryBackend()
    await sealed.sealed_over({"main": backend}).save(AT, ACCOUNT)
    tree = json.loads((await backend.read(AT.path, limit=10**6)).data)
    await backend.write(AT.path, json.dumps(tree | members).encode(), mode="overwrite")
    own = sealed.sealer(StaticKeys({key: sealed.KEYS["old"]}))
    return await sealed.sealed_over({"main": backend}, {"main": own}).get(AT)


async def moved(target: Location) -> object:
    """A get of a sealed document whose file was moved."""
    backend = MemoryBackend()
    store = sealed.sealed_over({"main": backend})
    await store.save(AT, ACCOUNT)
    await backend.write(target.path, (await backend.read(AT.path, limit=10**6)).data, mode="overwrite")
    return await store.get(target)


def recipient(alg: str = "A256KW", key: bytes = bytes(40)) -> list[Any]:
    return [{"header": {"alg": alg, "kid": "old"}, "encrypted_key": sealed.b64(key)}]


async def planted() -> object:
    """A get of a plain document where a sealed one is required."""
    backend = MemoryBackend()
    await over(backend).save(AT, ACCOUNT)
    return await sealed.sealed_over({"main": backend}).get(AT)


RAISED: Mapping[type[AccountStoreError], Callable[[AccountStore], Awaitable[object]]] = {
    errors.ConfigError: lambda _: AccountStore.open(StoreConfig(storages={})),
    errors.LocationError: lambda store: store.get(Location("x.account", storage="other")),
    errors.ExtensionError: lambda store: store.get(Location("x")),
    errors.EncodeError: lambda store: store.save(AT, cast("Any", None)),
    errors.UnknownFieldError: lambda _: cast("Any", from_json(samples.RICH)),
    errors.DecodeError: lambda store: store.get(BROKEN),
    errors.TooLargeError: lambda _: store_over({"main": MemoryBackend()}, max_bytes=10).save(AT, ACCOUNT),
    errors.UnsupportedError: lambda store: store.scoped("x").filesystem(),
    errors.ClosedError: after_closing,
    errors.JournalError: lambda store: migrate(store, "main:a", "main:b", journal=os.devnull),
    errors.NoOAuthError: lambda store: store.refresh(AT, unasked),
    errors.LeaseError: wait_for_a_lease,
    errors.ExchangeError: refresh_by(KeyError()),
    errors.RefusedError: refresh_by(errors.RefusedError("no", code="invalid_grant")),
    errors.NoAnswerError: refresh_by(errors.NoAnswerError("lost")),
    errors.BackendError: lambda _: from_storage(RuntimeError()),
    errors.NotFoundError: lambda store: store.get(MISSING),
    errors.ExistsError: lambda store: store.save(AT, ACCOUNT, mode="create"),
    errors.ConflictError: lambda store: store.save(AT, ACCOUNT, mode=Version("old")),
    errors.DeniedError: lambda _: from_storage(PermissionError()),
    errors.NotRegularError: lambda _: from_storage(system_error(errno.EISDIR)),
    errors.FullError: lambda _: from_storage(system_error(errno.ENOSPC)),
    errors.UnavailableError: lambda _: from_storage(ConnectionResetError()),
    errors.UncertainError: lambda _: over(Raising(ConnectionResetError())).save(AT, ACCOUNT),
    errors.MissingKeyError: lambda _: changed("other"),
    errors.WrongKeyError: lambda _: changed(recipients=recipient()),
    errors.TamperedError: lambda _: changed(tag=sealed.b64(bytes(16))),
    errors.MovedError: lambda _: moved(Location("b.account")),
    errors.NotSealedError: lambda _: planted(),
    errors.AlgorithmError: lambda _: changed(recipients=recipient("dir")),
    errors.EnvelopeError: lambda _: changed(zip="DEF"),
    errors.KeyDeniedError: lambda _: without_service(errors.KeyDeniedError("no")),
    errors.KeyProviderError: lambda _: without_service(ConnectionResetError()),
}


@pytest.mark.anyio
@pytest.mark.parametrize("cls", RAISED)
async def test_each_class_is_raised(cls: type[AccountStoreError]) -> None:
    """A public call raises just this class; Python's own twin catches it; and it can be pickled."""
    _, store = await prepared()
    with pytest.raises(drawn()[cls.__name__][-1]) as caught:
        await RAISED[cls](store)
    error = caught.value
    assert type(error) is cls
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), other.location) == (cls, str(error), error.location)


def test_every_class_that_is_no_base_is_raised() -> None:
    """Each class is in the table above, but for those that only group others."""
    assert set(CLASSES) - set(RAISED) == {AccountStoreError, DocumentError, errors.RefreshError, errors.SealError}


def made(cls: type[AccountStoreError], /) -> AccountStoreError:
    if issubclass(cls, DocumentError):
        return cls("is odd", field="$.credentials.login", location=AT)
    return cls("is odd", location=AT)


@pytest.mark.parametrize("cls", CLASSES)
def test_text_names_location_and_field(cls: type[AccountStoreError]) -> None:
    """`str` has location, field and message, without errno noise; `repr` has the class, too."""
    error = made(cls)
    field = "$.credentials.login: " if issubclass(cls, DocumentError) else ""
    assert str(error) == f"main:mail/team-a/email.account: {field}is odd"
    assert (error.message, error.location, error.args) == ("is odd", AT, (str(error),))
    assert repr(error) == f"{cls.__name__}({str(error)!r})"
    assert str(cls("is odd")) == "is odd"
    assert cls("x").location is None
    assert getattr(cls("x"), "field", "$") == "$"


@pytest.mark.parametrize("cls", CLASSES)
def test_pickling_and_copying_keep_everything(cls: type[AccountStoreError]) -> None:
    """An error that crosses processes keeps class, message, location and field, by every protocol; and its text where
    it is made anew from class and `args`, as Celery does with a result in JSON.
    """
    error = made(cls)
    error.add_note("a note")
    copies = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    copies += [copy.copy(error), copy.deepcopy(error)]
    anew = cls(*json.loads(json.dumps(error.args)))
    for other in (*copies, anew):
        assert type(other) is cls
        assert (str(other), repr(other), other.args) == (str(error), repr(error), error.args)
    for other in copies:
        assert (other.message, other.location) == ("is odd", AT)
        assert getattr(other, "field", None) == getattr(error, "field", None)
        assert other.temporary == error.temporary
        with pytest.raises(cls):
            raise other


def test_every_errno_has_a_class() -> None:
    """Each error number of the system is classified, those that Python names by Python's own meaning."""
    python: dict[type[BackendError], Any] = {
        errors.NotFoundError: FileNotFoundError,
        errors.ExistsError: FileExistsError,
        errors.DeniedError: PermissionError,
        errors.NotRegularError: (IsADirectoryError, NotADirectoryError),
        errors.UnavailableError: (ConnectionError, TimeoutError, BlockingIOError),
    }
    for number, name in errno.errorcode.items():
        error = system_error(number)
        kind = classify_error(error)
        assert issubclass(kind, BackendError)
        assert [wanted for wanted, twins in python.items() if isinstance(error, twins)] in ([], [kind]), name


MEANINGS: Mapping[type[BackendError], str] = {
    errors.FullError: "ENOSPC EDQUOT EFBIG",
    errors.DeniedError: "EROFS EACCES EPERM",
    errors.NotRegularError: "ELOOP EISDIR ENOTDIR ENOTEMPTY ENXIO",
    errors.UnavailableError: "ESTALE EAGAIN EMFILE ENFILE EBUSY ETIMEDOUT EPIPE ECONNREFUSED EHOSTUNREACH EHOSTDOWN "
    "ENETUNREACH ENETDOWN ENOTCONN",
    errors.BackendError: "EIO EINVAL",
}


@pytest.mark.parametrize("kind", MEANINGS)
def test_error_numbers_mean_what_an_operator_expects(kind: type[BackendError]) -> None:
    """Full, forbidden, misplaced and unreachable are told apart, and only what may pass is temporary."""
    kinds = {name: classify_error(system_error(getattr(errno, name))) for name in MEANINGS[kind].split()}
    assert kinds == dict.fromkeys(MEANINGS[kind].split(), kind)


ODD: tuple[Exception, ...] = (
    *(OSError(*arguments) for arguments in ((), ("text",), ("text", "other"), (["text"], "other"), (None, None))),
    *(OSError(number, "none") for number in (0, -1, 2**31, 2**70, True)),
    *(FileNotFoundError(), EOFError(), RecursionError(), MemoryError(), NotImplementedError(), AttributeError()),
    *(LookupError(), ArithmeticError(object()), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "text")),
    ExceptionGroup("text", [OSError(errno.ENOSPC, "text"), ValueError()]),
)


@pytest.mark.anyio
@pytest.mark.parametrize("error", ODD, ids=[f"{i} {type(error).__name__}" for i, error in enumerate(ODD)])
async def test_whatever_a_storage_raises_is_typed(error: Exception) -> None:
    """No exception of a storage, however odd its arguments, comes out of a call but as a `BackendError`."""
    kind = classify_error(error)
    assert issubclass(kind, BackendError)
    backend, store = await prepared()
    backend.error = error
    for name in CALLS:
        if name == "exists" and kind is NotFoundError:
            assert not await store.exists(AT)
            continue
        with pytest.raises(BackendError) as caught:
            await EVERY[name](store, AT)
        assert caught.value.location == ends(name, AT)[0]
    for call in (store.filesystem, lambda: anext(store.list()), store.aclose):
        with pytest.raises(BackendError):
            await call()


class ForeignError(Exception):
    """An error of a library, with a text that quotes what it was given."""


class ForeignOSError(OSError):
    """The same as an operating system error."""


def chain(error: BaseException, /) -> list[BaseException]:
    """What a traceback would show beside the error."""
    found: list[BaseException] = []
    for other in (error.__cause__, error.__context__):
        if other is not None and other not in found:
            found += [other, *chain(other)]
    return found


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "path"), errno.ENOSPC),
        (system_error(errno.EACCES), errno.EACCES),
        (OSError(errno.EIO, CANARY), errno.EIO),
        (ForeignOSError(errno.EIO, CANARY), errno.EIO),
        (OSError(CANARY), None),
        (FileNotFoundError(f"https://me:{CANARY}@example.org/"), None),
        (PermissionError(CANARY), None),
        (ForeignError(CANARY), None),
        (ForeignOSError(CANARY), None),
        (KeyError(CANARY), None),
        (ExceptionGroup(CANARY, [ValueError(CANARY)]), None),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_cause_is_kept_where_it_cannot_hold_a_secret(error: Exception, number: int | None) -> None:
    """The cause is the system's number and text, where there is one; foreign texts and classes are dropped."""
    error.add_note(CANARY)
    cast("Any", error).request = CANARY
    with pytest.raises(BackendError) as caught:
        await from_storage(error)
    assert CANARY not in f"{caught.value} {caught.value!r}"
    for other in chain(caught.value):
        assert type(other).__module__ == "builtins"
        assert CANARY not in repr((other, vars(other), other.args))
        assert other.__traceback__ is None
    cause = caught.value.__cause__
    assert (cause is None, getattr(cause, "errno", None)) == (number is None, number)


def frames_below(error: BaseException, /) -> list[str]:
    """The functions of backends and codecs, which hold documents, that the error has passed."""
    below = re.compile(r"backends|faults\.py|codecs\.py|strict\.py|validation\.py")
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [code.co_name for code in codes if below.search(code.co_filename) or code.co_name == "fail"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [ForeignError(CANARY), system_error(errno.EIO), errors.ConflictError("x"), NotFoundError("x", location=MISSING)],
)
async def test_no_frame_from_below_is_kept(error: Exception) -> None:
    """The traceback begins in the store: frames of backends and codecs, which hold documents, are not in it."""
    backend, store = await prepared()
    caught: list[AccountStoreError] = []

    async def collect(call: Awaitable[object], /) -> None:
        with pytest.raises(AccountStoreError) as raised:
            await call
        caught.append(raised.value)

    await collect(store.get(BROKEN))
    await collect(store.read_json(BROKEN))
    await collect(store.update(BROKEN, samples.next_port))
    await collect(store.copy(BROKEN, MISSING))
    await collect(store.save(AT, replace(ACCOUNT, host="")))
    await collect(store.save_json(AT, f'{{"host":"{CANARY}"}}'.encode()))
    backend.error = error
    for name in CALLS:
        if name != "exists" or not isinstance(error, NotFoundError):
            await collect(EVERY[name](store, AT))
    for call in (store.filesystem(), anext(store.list()), store.aclose()):
        await collect(call)
    for failure in caught:
        assert frames_below(failure) == []
        assert failure.__context__ is None
        shown = traceback.TracebackException.from_exception(failure, capture_locals=True)
        library = [frame for frame in shown.stack if "accountstore" in frame.filename and "tests" not in frame.filename]
        assert CANARY not in repr([frame.locals for frame in library])


def test_frames_are_found() -> None:
    """The control: the search above finds the frames that an error of a backend has passed."""
    with pytest.raises(ForeignError) as caught:
        Raising(ForeignError(CANARY)).fail().send(None)
    assert frames_below(caught.value) == ["fail"]
    assert [type(error) for error in chain(caught.value)] == [ValueError, KeyError]


class ThrottledError(UnavailableError):
    """An error of another package's backend, which says more than ours."""

    def __init__(self, status: int, wait: float, /) -> None:
        super().__init__(f"status {status}")
        self.wait = wait


@pytest.mark.anyio
async def test_an_error_of_a_backends_own_comes_out_whole() -> None:
    """The library's errors, or a backend's own kinds of them, come out whole, about the caller's location."""
    own = [cls("own words", location=MISSING) for cls in CLASSES if issubclass(cls, BackendError)]
    for error in (*own, ThrottledError(503, 2.5)):
        store = over(Raising(error))
        with pytest.raises(type(error)) as caught:
            await store.get(AT)
        results = [result async for _, result in store.get_many([AT, MISSING])]
        for raised, location in ((caught.value, AT), (results[0], AT), (results[1], MISSING)):
            assert type(raised) is type(error)
            assert isinstance(raised, BackendError)
            assert (raised.message, raised.location, raised.temporary) == (error.message, location, error.temporary)
            assert getattr(raised, "wait", None) == getattr(error, "wait", None)


@pytest.mark.anyio
async def test_cancellation_and_exits_are_not_caught() -> None:
    """What is no `Exception` passes through as it is."""
    for error in (KeyboardInterrupt(), SystemExit(3), GeneratorExit()):
        with pytest.raises(type(error)) as caught:
            await over(Raising(error)).get(AT)
        assert caught.value is error
