"""Key files, providers, the ring and its cache."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from importlib import import_module
from itertools import zip_longest
from threading import Thread
from traceback import TracebackException
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from cancelling import by_scope, by_task, by_timeout, cancelled_after, each_way, stray
from doubles import BatchMemory, Recording, drained, raises
from running import HUNG
from samples import ACCOUNT, AT, ELSEWHERE
from sealed import BY, KEYS, b64, jwk, jwks, sealed_over, sealer, static, write_keys

from accountstore import AccountStore, ConfigError, Encryption, Location, StorageConfig, StoreConfig, errors
from accountstore.backends.memory import MemoryBackend
from accountstore.retry import RetryPolicy
from accountstore.rotation import Rotated, reseal, rewrap
from accountstore.sealing import StaticKeys, WrappedKey, add_key, new_key, promote_key, read_keys
from accountstore.sealing.ring import KeyCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from cancelling import Way

    from accountstore.sealing.sealer import Sealer

pytestmark = pytest.mark.anyio


def test_a_key_file_is_made_and_edited(tmp_path: Path) -> None:
    """A new file has mode 0600 and a primary key; a further key opens only, until it is made the primary one."""
    path = tmp_path / "keys.jwks"
    first = add_key(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    second = add_key(path, "2027-01")
    assert list(read_keys(path)) == [first, "2027-01"]
    assert second == "2027-01"
    promote_key(path, "2027-01")
    assert list(read_keys(path)) == ["2027-01", first]
    third = add_key(path, primary=True)
    assert list(read_keys(path)) == [third, "2027-01", first]
    assert len({bytes(key) for key in read_keys(path).values()}) == 3
    assert os.listdir(tmp_path) == ["keys.jwks"]
    with raises(ConfigError, "two keys have the id '2027-01'"):
        add_key(path, "2027-01")
    with raises(ConfigError, "there is no key 'x'"):
        promote_key(path, "x")
    assert os.listdir(tmp_path) == ["keys.jwks"]


def test_a_key_file_keeps_what_other_tools_put_there(tmp_path: Path) -> None:
    """Members that this library does not know stay when a key is added; a link to the file stays a link."""
    path = tmp_path / "keys.jwks"
    path.write_text(json.dumps({"keys": [jwk() | {"x-note": "hsm 3", "key_ops": ["wrapKey"]}]}))
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    add_key(tmp_path / "link", "more")
    assert json.loads(path.read_text())["keys"][0]["x-note"] == "hsm 3"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_file_keeps_its_owner(tmp_path: Path) -> None:
    """A file that root changes stays its owner's, who can still read it."""
    path = tmp_path / "keys.jwks"
    write_keys(path, "old")
    os.chown(path, 1234, 1235)
    add_key(path)
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (1234, 1235, 0o600)


def test_in_paths_of_key_files_a_tilde_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads or changes a key file takes `~` for the user's home, as the configuration does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = add_key("~/keys.jwks"), add_key("~/keys.jwks")
    promote_key("~/keys.jwks", second)
    assert list(read_keys("~/keys.jwks")) == list(read_keys(tmp_path / "keys.jwks")) == [second, first]


def test_a_new_key_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and folder are on the disk before the key's id is known to anybody."""
    synced: list[bool] = []

    def fsync(fd: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(fd).st_mode))

    monkeypatch.setattr("os.fsync", fsync)
    add_key(tmp_path / "keys.jwks")
    assert synced == [False, True]


def test_two_at_a_time_lose_no_key(tmp_path: Path) -> None:
    """While somebody changes the file, another who wants to is refused; and one that others can read is not edited."""
    path = tmp_path / "keys.jwks"
    write_keys(path, "old")
    (tmp_path / "keys.jwks.new").touch()
    with raises(ConfigError, "somebody changes the keys"):
        add_key(path)
    (tmp_path / "keys.jwks.new").unlink()
    path.chmod(0o644)
    with raises(ConfigError, "chmod 600"):
        add_key(path)
    with raises(ConfigError, "cannot be written"):
        add_key(tmp_path / "none" / "keys.jwks")
    assert os.listdir(tmp_path) == ["keys.jwks"]


def test_the_key_that_is_primary_is_made_so_without_a_write(tmp_path: Path) -> None:
    """Also where nothing can be written, or somebody changes the file: it stays as it is."""
    path = write_keys(tmp_path / "keys.jwks", "old", "new")
    (tmp_path / "keys.jwks.new").touch()
    before = os.stat(path)
    promote_key(path, "old")
    assert (os.stat(path).st_ino, os.stat(path).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with raises(ConfigError, "is there: somebody changes the keys"):
        promote_key(path, "new")


@pytest.mark.parametrize(
    ("call", "failure"),
    [("fsync", errno.ENOSPC), ("replace", errno.EBUSY), ("scandir", errno.EACCES)],
)
def test_what_the_system_refuses_names_the_file(
    call: str, failure: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a file that is a mount of its own, a folder that cannot be opened: the error says that nothing was
    changed, which is so, and the next change is possible.
    """
    path = write_keys(tmp_path / "keys.jwks", "old", "new")

    def refuse(*_: object) -> None:
        raise OSError(failure, os.strerror(failure))

    for change in (lambda: add_key(path), lambda: promote_key(path, "new")):
        with monkeypatch.context() as refusing:
            refusing.setattr(f"os.{call}", refuse)
            with raises(ConfigError, rf"{path} cannot be written \({os.strerror(failure)}\): nothing was changed"):
                change()
        assert (list(read_keys(path)), os.listdir(tmp_path)) == (["old", "new"], ["keys.jwks"])
        change()
        write_keys(tmp_path / "keys.jwks", "old", "new")


def test_a_folder_that_cannot_be_synced_is_told_with_the_key_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was changed, and the error says so: whether that outlasts a crash nobody knows."""
    path = write_keys(tmp_path / "keys.jwks", "old")

    def sync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", sync)
    with raises(ConfigError, rf"{path} was changed, but its folder cannot be synced \(Input/output error\)"):
        add_key(path, "new")
    assert (list(read_keys(path)), os.listdir(tmp_path)) == (["old", "new"], ["keys.jwks"])
    for _ in range(2):  # the second has nothing to write
        with raises(ConfigError, "its folder cannot be synced"):
            promote_key(path, "new")


def test_many_at_a_time_lose_no_key(tmp_path: Path) -> None:
    """Of many who change one file at once, each has changed it or is refused: no key is lost, none is there twice."""
    path = tmp_path / "keys.jwks"
    made = [add_key(path)]

    def change() -> None:
        for turn in range(20):
            try:
                made.append(add_key(path, primary=turn % 2 == 0))
                promote_key(path, made[0])
            except ConfigError as error:
                assert "somebody changes the keys" in str(error)

    threads = [Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_keys(path)) == sorted(made)
    assert os.listdir(tmp_path) == ["keys.jwks"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o644, 0o660])
def test_a_key_file_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Any right of the group or of others is refused, and the error says how to take it away."""
    path = write_keys(tmp_path / "keys.jwks", "old")
    assert list(read_keys(path)) == ["old"]
    os.chmod(path, mode)
    with raises(ConfigError, rf"\({mode:04o}\): chmod 600"):
        read_keys(path)


SETS: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "is not a JWK Set"),
    "an array": ([], "is not a JWK Set"),
    "no keys": ({"keys": []}, "keys: there is none"),
    "keys are an object": ({"keys": {}}, "is not a JWK Set"),
    "a key is text": ({"keys": ["x"]}, "is not a JWK Set"),
    "a JWK": (jwk(), "is not a JWK Set"),
    "no id": ({"keys": [jwk() | {"kid": None}]}, r"keys\[0\]\.kid"),
    "empty id": ({"keys": [jwk() | {"kid": ""}]}, r"keys\[0\]\.kid"),
    "long id": ({"keys": [jwk() | {"kid": "k" * 257}]}, r"keys\[0\]\.kid"),
    "an id that steers a terminal": ({"keys": [jwk() | {"kid": "\x1b[2J"}]}, r"keys\[0\]\.kid"),
    "twice": ({"keys": [jwk(), jwk()]}, r"keys\[1\]\.kid: two keys have the id 'old'"),
    "RSA": ({"keys": [jwk() | {"kty": "RSA"}]}, r"keys\[0\]\.kty: must be 'oct'"),
    "another algorithm": ({"keys": [jwk() | {"alg": "A128KW"}]}, r"keys\[0\]\.alg: must be 'A256KW'"),
    "for signatures": ({"keys": [jwk() | {"use": "sig"}]}, r"keys\[0\]\.use: must be 'enc'"),
    "short": ({"keys": [jwk() | {"k": b64(bytes(16))}]}, r"keys\[0\]\.k: must be 32 bytes"),
    "padded": ({"keys": [jwk() | {"k": b64(bytes(32)) + "="}]}, r"keys\[0\]\.k: must be 32 bytes"),
    "a number": ({"keys": [jwk() | {"k": 5}]}, r"keys\[0\]\.k: must be 32 bytes"),
}


@pytest.mark.parametrize("name", SETS)
def test_a_wrong_key_set_is_refused(name: str) -> None:
    """What is no JWK Set of such keys is refused, by the place of the key, and nothing of a key is quoted."""
    tree, message = SETS[name]
    with raises(ConfigError, message) as caught:
        StaticKeys.parse((tree if isinstance(tree, str) else json.dumps(tree)).encode())
    assert jwk()["k"] not in str(caught.value)
    with raises(ConfigError):
        StaticKeys({})
    with raises(ConfigError):
        StaticKeys({"a": b"short"})


@pytest.mark.parametrize("key_id", ["", "k" * 257, "\ud800", "\x1b[2J", "a\nb", 5, None])
async def test_what_no_document_can_name_is_no_key_id(key_id: Any) -> None:
    """An id by which nothing could be opened is refused by all that seal, as by what opens: no document is written."""
    with raises(ConfigError, "printable characters"):
        StaticKeys({key_id: KEYS["old"]})
    with raises(ConfigError, r"keys\[0\]\.kid: must be text of 1 to 256 printable characters"):
        StaticKeys.parse(json.dumps({"keys": [jwk() | {"kid": key_id}]}).encode())
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(Service(key_id=key_id))})
    with raises(errors.KeyProviderError, location=AT):
        await store.save(AT, ACCOUNT)
    backend = MemoryBackend()
    await sealed_over({"main": backend}).save(AT, ACCOUNT)
    tree = json.loads((await backend.read(AT.path, limit=10**6)).data)
    tree["recipients"][0]["header"]["kid"] = key_id
    await backend.write(AT.path, json.dumps(tree).encode(), mode="overwrite")
    with raises(errors.SealError, location=AT):
        await sealed_over({"main": backend}).get(AT)


async def test_any_other_text_is_a_key_id() -> None:
    """What is sealed by keys of the longest and of odd ids opens."""
    for key_id in ("k" * 256, " ", 'é"\\日本'):
        store = sealed_over({"main": MemoryBackend()}, {"main": sealer(StaticKeys({key_id: KEYS["old"]}))})
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT


@pytest.mark.parametrize(("service", "extra"), [("transit", {"url": "https://a"}), ("aws_kms", {"region_name": "x"})])
def test_a_service_refuses_what_no_document_can_name(service: str, extra: dict[str, Any]) -> None:
    """A key service's key whose name makes no key id is refused when the provider is made."""
    module: Any = pytest.importorskip(f"accountstore.sealing.{service}")
    for key in ("k" * 257, "\ud800"):
        with raises(ConfigError, "printable characters"):
            module.open_keys({"key": key, "token": "t", **extra} if service == "transit" else {"key": key, **extra})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("url", url) for url in ("http://", "https:///x", "http://h:99999999", "http://h?x=CANARY", "h")),
        *(("key", key) for key in ("", "a b/../CANARY", "a/b", ".", "-a", "\u00e9")),
        *(("mount", mount) for mount in ("", "/transit", "transit/", "a/../CANARY", "a//b", ".", "a?b")),
        *((name, "a\nCANARY") for name in ("url", "key", "mount")),
    ],
)
def test_what_no_transit_engine_can_have_is_refused_at_opening(name: str, value: str) -> None:
    """A URL without a host or with a port that is none, a key or a mount that no engine serves: a `ConfigError` that
    names the option, where the first use said that the service cannot be reached.
    """
    module: Any = pytest.importorskip("accountstore.sealing.transit")
    good = {"url": "https://bao.invalid:8200/below", "key": "mail.2-b", "token": "t", "mount": "team/.my transit"}
    module.open_keys(good)
    with raises(ConfigError, rf"^transit: (mount and )?'?{name}\b") as caught:
        module.open_keys({**good, name: value})
    assert "CANARY" not in str(caught.value)


_KEY = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_session_token": "c"}


@pytest.mark.parametrize(
    ("service", "extra", "reason"),
    [
        ("transit", {"token": "CANARY\n"}, "transit: token: has a line break"),
        ("transit", {"token": "CANARY\u00e9"}, "transit: token: has"),
        ("transit", {"token": "t", "namespace": "CANARY\r"}, "transit: namespace: has"),
        ("transit", {"token_file": "token"}, "transit: token_file: has"),
        ("aws_kms", {"aws_session_token": "CANARY"}, "aws_access_key_id and aws_secret_access_key: missing"),
        ("aws_kms", {"aws_access_key_id": "CANARY"}, "aws_secret_access_key: missing, but aws_access_key_id is given"),
        ("aws_kms", {"aws_secret_access_key": "CANARY", "aws_access_key_id": ""}, "aws_access_key_id: missing"),
        *(("aws_kms", {**_KEY, name: "CANARY\n"}, f"aws-kms: {name}: has a line break") for name in _KEY),
    ],
)
def test_credentials_that_no_request_can_have_are_refused_at_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str, extra: dict[str, Any], reason: str
) -> None:
    """A service's credentials with a line break, or by half, are a `ConfigError` that names the field: no request could
    be made with them, and the service would be told as one that cannot be reached.
    """
    module: Any = pytest.importorskip(f"accountstore.sealing.{service}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("CANARY\nCANARY\n")
    where = {"url": "https://a"} if service == "transit" else {"region_name": "x"}
    with raises(ConfigError, reason) as caught:
        module.open_keys({"key": "x", **where, **extra})
    assert "CANARY" not in str(caught.value) + held_in_frames(caught.value)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ('{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}', "cannot be reached"),
        ("CANARY", "AWS's tools find no credentials for the key service .JSONDecodeError"),
    ],
)
def test_the_credentials_of_aws_are_looked_for_by_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, reason: str
) -> None:
    """Opening runs no `credential_process`, for `config show` opens, too; the first request does, once for all."""
    module: Any = pytest.importorskip("accountstore.sealing.aws_kms")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "answer").write_text(printed)
    process = f"sh -c 'echo >> {tmp_path}/runs; cat {tmp_path}/answer'"
    (tmp_path / "config").write_text(f"[default]\nregion = x\ncredential_process = {process}\n")
    provider = module.open_keys({"key": "x", "endpoint_url": "http://127.0.0.1:1"})
    assert not (tmp_path / "runs").exists()
    with raises(errors.KeyProviderError, reason) as caught:
        anyio.run(provider.wrap, [KEYS["new"]] * 4, ["x"] * 4)
    assert (tmp_path / "runs").read_text() == "\n" * (1 if "reached" in reason else 4)
    assert "CANARY" not in held_in_frames(caught.value)


async def test_one_id_of_two_keys_is_refused(tmp_path: Path) -> None:
    """A ring is not opened in which one id names two keys, for a document names its key by the id alone; the same key
    in two files is one.
    """
    one, two = (write_keys(tmp_path / name, "old", "new") for name in ("one", "two"))

    async def opened(*keys: Any) -> None:
        storage = StorageConfig("memory://", encryption=Encryption(keys=[*keys], required=True))
        async with AccountStore.open(StoreConfig(storages={"main": storage})) as store:
            await store.save(AT, ACCOUNT)

    await opened(one, two)
    for other in (StaticKeys({"x": KEYS["old"], "new": KEYS["old"]}), static("old")):
        if other.holds("x"):
            with raises(ConfigError, "encryption.keys: two sources have a key with the id 'new', and not the same"):
                await opened(one, other)
        else:
            await opened(one, other)
    with raises(ConfigError, "the id 'k'"):
        await opened(Service(), Service())
    service = Service()
    await opened(service, service, Service(key_id="l"))


def test_a_member_that_stands_twice_is_refused() -> None:
    """A key set with a member twice is none: tools would not agree on the key."""
    text = jwks("old")
    assert list(StaticKeys.parse(text.encode()).key_ids()) == ["old"]
    with raises(ConfigError, "is not a JWK Set"):
        StaticKeys.parse(text.replace('"kid"', '"kid": "x", "kid"').encode())


def test_new_keys_differ() -> None:
    """A new key has 32 random bytes and an id with the date."""
    made = [new_key() for _ in range(50)]
    assert len({key_id for key_id, _ in made}) == len({bytes(key) for _, key in made}) == 50
    assert all(len(key) == 32 for _, key in made)


# --- a key service ----------------------------------------------------------------------------------------------------


class Service:
    """A key service: wraps by exclusive or, counts its calls, and does what a test wants instead."""

    algorithm = "test"
    __hash__ = None  # type: ignore[assignment]  # as a dataclass has none

    def __init__(self, *, binds: bool = True, key_id: str = "k", remote: bool = True) -> None:
        self.binds_context = binds
        self.remote = remote
        self.key_id = key_id
        self.calls: list[tuple[str, int]] = []
        self.instead: Callable[[str], Awaitable[Any]] | None = None
        self.swaps = False
        self.closed = False
        self.at_close: Callable[[], Awaitable[Any]] = anyio.lowlevel.checkpoint

    def key_ids(self) -> Sequence[str]:
        return (self.key_id,)

    def holds(self, key_id: str, /) -> bool:
        return key_id in {"k", self.key_id}

    async def current(self) -> str:
        return self.key_id

    async def _do(self, name: str, count: int, answer: Any) -> Any:
        self.calls.append((name, count))
        await anyio.lowlevel.checkpoint()
        found = None if self.instead is None else await self.instead(name)
        return answer if found is None else found

    def _in_order(self, answer: list[Any]) -> list[Any]:
        return answer[::-1] if self.swaps else answer

    async def wrap(self, keys: Sequence[bytes], contexts: Sequence[str], /) -> Any:
        made = [WrappedKey("test", self.key_id, self._xor(k) + c.encode()) for k, c in zip(keys, contexts, strict=True)]
        return await self._do("wrap", len(keys), self._in_order(made))

    async def unwrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Any:
        found = [
            errors.WrongKeyError("no", key_id=each.key_id)
            if self.binds_context and each.data[32:] != context.encode()
            else self._xor(each.data[:32])
            for each, context in zip(wrapped, contexts, strict=True)
        ]
        return await self._do("unwrap", len(wrapped), found)

    def _xor(self, key: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(key, b"0123456789abcdef" * 2, strict=True))

    async def aclose(self) -> None:
        self.closed = True
        await self.at_close()


class Rewrapping(Service):
    """One that wraps anew on its side; `answers` are what it returns instead the next time, each for a key."""

    def __init__(self, *, binds: bool = True) -> None:
        super().__init__(binds=binds)
        self.answers: list[Exception | None] = []

    async def _do(self, name: str, count: int, answer: Any) -> Any:
        answers = [new or old for new, old in zip_longest(self.answers, answer)]
        self.answers = []
        return await super()._do(name, count, answers)

    async def rewrap(self, wrapped: Sequence[WrappedKey], contexts: Sequence[str], /) -> Any:
        made = [WrappedKey("test", self.key_id, each.data) for each in wrapped]
        return await self._do("rewrap", len(made), self._in_order(made))


def with_service(service: Any, cache: KeyCache | None = None, attempts: int = 1) -> Sealer:
    return sealer(service, policy=RetryPolicy(attempts=attempts), cache=cache)


async def test_many_documents_are_one_call_of_the_service() -> None:
    """`save_many` wraps, and `get_many` unwraps, a window at once, also where each document is a request."""
    places = [Location(f"{i}.account") for i in range(50)]
    for backend in (Recording(), BatchMemory()):
        service = Service()
        store = sealed_over({"main": backend}, {"main": with_service(service)})
        await drained(store.save_many([(at, ACCOUNT) for at in places], concurrency=8))
        found = await drained(store.get_many(places, concurrency=8))
        assert [getattr(result, "document", result) for _, result in found] == [ACCOUNT] * 50
        assert service.calls == [("wrap", 50), ("unwrap", 50)]


async def test_unwrapped_keys_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service has wrapped or unwrapped is not asked again, for so long and for so many keys; where either is
    0, it is. Closing forgets all.
    """
    now = 1000.0
    monkeypatch.setattr("accountstore.sealing.ring.monotonic", lambda: now)
    service = Service()
    own = with_service(service, KeyCache(2, 60))
    store = sealed_over({"main": MemoryBackend()}, {"main": own})
    await store.save(AT, ACCOUNT)
    for _ in range(3):
        await store.get(AT)
    assert service.calls == [("wrap", 1)]
    now += 61
    await store.get(AT)
    await store.get(AT)
    assert service.calls == [("wrap", 1), ("unwrap", 1)]
    await store.save(ELSEWHERE, ACCOUNT)
    await store.save(Location("third.account"), ACCOUNT)
    await store.get(AT)
    assert service.calls[1:] == [("unwrap", 1), ("wrap", 1), ("wrap", 1), ("unwrap", 1)]
    await store.aclose()
    assert service.closed
    cache: Any = vars(own.ring)["_cache"]
    assert not cache._keys
    for nothing in (KeyCache(0, 60), KeyCache(9, 0)):
        service = Service()
        store = sealed_over({"main": MemoryBackend()}, {"main": with_service(service, nothing)})
        await store.save(AT, ACCOUNT)
        await store.get(AT)
        await store.get(AT)
        assert service.calls == [("wrap", 1), ("unwrap", 1), ("unwrap", 1)]


async def test_keys_that_were_kept_for_long_enough_are_in_memory_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older than it may be is dropped by the next call for any document, and not by one for its own alone."""
    now = 1000.0
    monkeypatch.setattr("accountstore.sealing.ring.monotonic", lambda: now)
    cache = KeyCache(9, 60)
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(Service(), cache)})
    await store.save(AT, ACCOUNT)
    now += 40
    await store.save(ELSEWHERE, ACCOUNT)
    now += 40
    await store.get(ELSEWHERE)
    assert len(cast("Any", cache)._keys) == 1


@pytest.mark.parametrize("binds", [True, False])
async def test_a_moved_document_is_told_with_any_service(binds: bool) -> None:
    """Whether the service binds keys to their context or the header alone does, a moved file is a `MovedError`."""
    backend = MemoryBackend()
    store = sealed_over({"main": backend}, {"main": with_service(Service(binds=binds))})
    await store.save(AT, ACCOUNT)
    await backend.write(ELSEWHERE.path, (await backend.read(AT.path, limit=10**6)).data, mode="overwrite")
    with raises(errors.MovedError, location=ELSEWHERE):
        await store.get(ELSEWHERE)
    assert await store.get(AT) == ACCOUNT


async def _reset(_: str) -> Any:
    raise ConnectionResetError


async def _deny(_: str) -> Any:
    raise errors.KeyDeniedError("no")


NONSENSE: dict[str, Callable[[str], Awaitable[Any]]] = {
    "nothing": lambda _: _answer([]),
    "two for one": lambda name: _answer(
        [WrappedKey("test", "k", bytes(40))] * 2 if name == "wrap" else [bytes(32)] * 2
    ),
    "no list": lambda _: _answer(5),
    "text": lambda _: _answer("x"),
    "an id that is none": lambda _: _answer([WrappedKey("test", "\ud800", bytes(40))]),
    "wrong things": lambda _: _answer([5]),
    "another algorithm": lambda _: _answer([WrappedKey("A256KW", "old", bytes(40))]),
    "an empty key": lambda _: _answer([WrappedKey("test", "k", b"")]),
    "a broken connection": _reset,
    "a cancellation that nobody has asked for": lambda _: stray(),
}


async def _answer(answer: Any) -> Any:
    return answer


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("name", NONSENSE)
async def test_a_service_that_fails_is_a_typed_error(name: str, remote: bool) -> None:
    """A provider that fails or answers nonsense is a `SealError`, be it a service or in the process; nothing is
    written, and what is there stays.
    """
    service = Service(remote=remote)
    backend = MemoryBackend()
    store = sealed_over({"main": backend}, {"main": with_service(service)})
    await store.save(AT, ACCOUNT)
    before = (await backend.read(AT.path, limit=10**6)).data
    service.instead = NONSENSE[name]
    with raises(errors.KeyProviderError, location=ELSEWHERE, temporary=True):
        await store.save(ELSEWHERE, ACCOUNT)
    with raises(errors.SealError, location=AT):
        await store.get(AT)
    for results in (store.get_many([AT]), store.save_many([(AT, ACCOUNT)])):
        ((_, result),) = await drained(results)
        assert isinstance(result, errors.SealError)
    assert (await backend.read(AT.path, limit=10**6)).data == before
    assert not await store.exists(ELSEWHERE)


async def test_what_a_provider_looks_up_is_typed() -> None:
    """What `holds` and `key_ids` raise is a `SealError` of the document; a `ConfigError`, where a ring is opened."""

    def fail(*_: object) -> Any:
        raise ValueError("CANARY")

    service: Any = Service(remote=False)
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(service)})
    await store.save(AT, ACCOUNT)
    service.holds = service.key_ids = fail
    with raises(errors.KeyProviderError, location=AT) as caught:
        await store.get(AT)
    assert "CANARY" not in str(caught.value)
    with raises(errors.KeyProviderError):
        await store.check()
    with raises(ConfigError, "does not say which keys it has"):
        with_service(service)


async def test_a_provider_in_the_process_is_asked_once_and_can_be_cancelled(pauses: list[float]) -> None:
    """A provider that does not leave the process is not asked again, and what it unwraps is not kept; a cancellation
    ends it, and is none of its errors.
    """
    service = Service(remote=False)
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(service, KeyCache(9, 60), attempts=3)})
    await store.save(AT, ACCOUNT)
    await store.get(AT)
    assert service.calls == [("wrap", 1), ("unwrap", 1)]
    service.instead = _reset
    with raises(errors.KeyProviderError):
        await store.get(AT)
    assert (service.calls[2:], pauses) == ([("unwrap", 1)], [])

    async def hang(_: str) -> Any:
        scope.cancel()
        await anyio.sleep_forever()

    service.instead = hang
    with anyio.CancelScope() as scope:
        await store.get(AT)
    assert scope.cancelled_caught


@each_way(by_scope, by_task, by_timeout)
async def test_a_cancellation_of_the_caller_is_no_failure_of_a_provider(by: Way) -> None:
    """Whoever is cancelled while a provider works is cancelled, and nothing is asked again."""
    service, begun = Service(), anyio.Event()
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(service, attempts=3)})

    async def hang(_: str) -> Any:
        begun.set()
        await anyio.sleep_forever()

    service.instead = hang
    assert await cancelled_after(by, lambda: store.save(AT, ACCOUNT), begun.wait)
    assert service.calls == [("wrap", 1)]


async def test_a_denial_is_not_repeated_and_a_failure_is(pauses: list[float]) -> None:
    """A refused access is a `KeyDeniedError` at once; a failing service is asked as often as the policy says."""
    service = Service()
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(service, attempts=3)})
    service.instead = _deny
    with raises(errors.KeyDeniedError, location=AT):
        await store.save(AT, ACCOUNT)
    assert service.calls == [("wrap", 1)]
    service.instead = _reset
    with raises(errors.KeyProviderError):
        await store.save(AT, ACCOUNT)
    assert service.calls == [("wrap", 1)] * 4

    async def once(_: str) -> Any:
        service.instead = None
        raise ConnectionResetError

    service.instead = once
    await store.save(AT, ACCOUNT)
    assert len(pauses) == 3


async def test_of_many_keys_those_alone_are_asked_for_again_that_failed_for_a_while(pauses: list[float]) -> None:
    """Such as a request that a service throttles: of a `get` and of a rotation; what is refused is not asked again."""
    service = Rewrapping()
    own = with_service(service, KeyCache(0, 0), attempts=3)
    store = sealed_over({"main": MemoryBackend()}, {"main": own})
    places = [Location(f"{i}.account") for i in range(4)]
    await drained(store.save_many([(at, ACCOUNT) for at in places]))
    busy = errors.KeyProviderError("busy")
    service.answers = [busy, errors.WrongKeyError("no"), None, busy]
    found = [result for _, result in await drained(store.get_many(places))]
    assert [isinstance(result, errors.WrongKeyError) for result in found] == [False, True, False, False]
    assert service.calls[1:] == [("unwrap", 4), ("unwrap", 2)]
    service.key_id, service.calls = "k2", []
    service.answers = [busy]
    assert [cast("Rotated", result).outcome for _, result in await drained(rewrap(store))] == ["written"] * 4
    assert service.calls == [("rewrap", 4), ("rewrap", 1), ("unwrap", 4)]


@pytest.mark.parametrize("call", [rewrap, reseal])
@pytest.mark.parametrize("service_wraps", [True, False], ids=["wrap", "rewrap"])
async def test_what_does_not_open_replaces_nothing(call: Any, service_wraps: bool) -> None:
    """A service that answers well-formed nonsense, such as each key in another's place, is told by a rotation, and
    every document stays as it was and opens.
    """
    service = Service(binds=False) if service_wraps else Rewrapping(binds=False)
    backend = MemoryBackend()
    store = sealed_over({"main": backend}, {"main": with_service(service, KeyCache(9, 60))})
    places = [Location(f"{i}.account") for i in range(4)]
    await drained(store.save_many([(at, ACCOUNT) for at in places]))
    before = [(await backend.read(at.path, limit=10**6)).data for at in places]
    service.key_id = "k2"
    service.swaps = True
    found = [result for _, result in await drained(call(store))]
    assert [str(result).partition(": ")[2][:19] for result in found] == ["what the key provid"] * 4
    service.swaps = False
    assert [(await backend.read(at.path, limit=10**6)).data for at in places] == before
    assert [cast("Rotated", result).outcome for _, result in await drained(call(store))] == ["written"] * 4


@pytest.mark.parametrize("wraps_by", ["k", "k3"])
@pytest.mark.parametrize("call", [rewrap, reseal])
@pytest.mark.parametrize("kind", [Service, Rewrapping])
async def test_what_another_key_wraps_than_was_said_replaces_nothing(
    kind: type[Service], call: Any, wraps_by: str
) -> None:
    """A service that wraps by another version than the one that it calls current is told by a rotation, which reports
    no document as written by that; the next one goes on.
    """
    service = kind()
    backend = MemoryBackend()
    store = sealed_over({"main": backend}, {"main": with_service(service)})
    await store.save(AT, ACCOUNT)
    before = (await backend.read(AT.path, limit=10**6)).data

    async def current() -> str:
        return "k2"

    service.key_id = wraps_by
    with pytest.MonkeyPatch.context() as saying:
        saying.setattr(service, "current", current)
        [(_, found)] = await drained(call(store))
    assert isinstance(found, errors.KeyProviderError)
    assert (found.location, found.key_id) == (AT, wraps_by)
    assert "by another key than 'k2', which seals" in str(found)
    assert (await backend.read(AT.path, limit=10**6)).data == before
    service.key_id = "k2"
    assert await drained(call(store)) == [(AT, Rotated("written", ("k2",)))]


async def test_a_slow_service_ends_with_the_deadline() -> None:
    """A service that does not answer is a `KeyProviderError` when the operation's time is up."""
    service = Service()

    async def hang(_: str) -> Any:
        await anyio.sleep_forever()

    service.instead = hang
    store = sealed_over({"main": MemoryBackend()}, {"main": with_service(service)}, timeout=0.05)
    with raises(errors.KeyProviderError, "in time", location=AT):
        await store.save(AT, ACCOUNT)


@pytest.mark.parametrize("at_close", [anyio.sleep_forever, stray, lambda: _reset("")], ids=["hangs", "stray", "fails"])
async def test_a_provider_that_does_not_close_holds_up_nobody(at_close: Callable[[], Awaitable[Any]]) -> None:
    """Closing a storage waits for a provider as long as a call may take, whatever it raises, and closes the others."""
    services = [Service(key_id=key_id) for key_id in "ab"]
    services[0].at_close = at_close
    own = sealer(*services, policy=RetryPolicy(timeout=0.05))
    with anyio.fail_after(HUNG):
        await own.aclose()
    assert [service.closed for service in services] == [True, True]


async def test_a_ring_reads_by_every_provider() -> None:
    """Of several providers the first seals, and all open: one leaves a key file for a service without a pause."""
    backend = MemoryBackend()
    service = Service()
    await sealed_over({"main": backend}).save(AT, ACCOUNT)
    store = sealed_over({"main": backend}, {"main": sealer(service, static("old"))})
    assert await store.get(AT) == ACCOUNT
    await store.save(ELSEWHERE, ACCOUNT)
    ((_, one), (_, two)) = await drained(store.get_many([AT, ELSEWHERE]))
    assert one.document == two.document == ACCOUNT  # type: ignore[union-attr]  # no error
    with raises(errors.AlgorithmError):  # of no provider that this one has
        await sealed_over({"main": backend}).get(ELSEWHERE)


async def test_a_provider_is_given_its_own_keys_only() -> None:
    """A key id that two providers have goes to the one whose algorithm the document names."""
    backend = MemoryBackend()
    service = Service(key_id="old")
    await sealed_over({"main": backend}).save(AT, ACCOUNT)
    store = sealed_over({"main": backend}, {"main": sealer(service, static("old"))})
    assert await store.get(AT) == ACCOUNT
    assert service.calls == []


def _get_both(store: AccountStore, /) -> AsyncIterator[tuple[Location, object]]:
    return store.get_many([AT, ELSEWHERE])


@pytest.mark.parametrize("call", [_get_both, rewrap])
async def test_each_call_of_a_provider_has_its_own_time(
    call: Callable[[AccountStore], AsyncIterator[tuple[Location, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two providers, the second is asked also where the first took all the time that a call has."""
    later = 0.0
    monkeypatch.setattr("accountstore.sealing.ring.monotonic", lambda: time.monotonic() + later)
    backend, services = MemoryBackend(), [Service(key_id="a"), Service(key_id="b")]
    for service, at in zip(services, (AT, ELSEWHERE), strict=True):
        await sealed_over({"main": backend}, {"main": with_service(service)}).save(at, ACCOUNT)

    async def take_long(_: str) -> None:
        nonlocal later
        later += 40.0

    for service in services:
        service.instead = take_long
    store = sealed_over({"main": backend}, {"main": sealer(static("new"), *services)}, timeout=30.0)
    found = await drained(call(store))
    assert later == 80.0
    assert [service.calls[-1] for service in services] == [("unwrap", 1)] * 2
    assert not [result for _, result in found if isinstance(result, Exception)]


async def test_keys_at_hand_show_in_no_repr() -> None:
    """No provider, ring or sealer shows a key."""
    own = sealer()
    shown = f"{own!r} {own.ring!r} {own.ring.providers!r} {vars(own)!r} {vars(own.ring)!r}"
    assert b64(KEYS["old"]) not in shown
    assert repr(KEYS["old"]) not in shown
    (wrapped,) = await own.ring.wrap([KEYS["new"]], ["x"], BY)  # type: ignore[list-item]  # bytes will do
    assert repr(KEYS["new"]) not in repr(await own.ring.unwrap(own.ring.providers[0], [wrapped], ["x"], BY))


CANARY = "CANARY-" + "0" * 20
MADE: dict[str, tuple[str, Callable[[Any], object]]] = {
    "keys, too short": ("providers", lambda m: m.StaticKeys({"a": CANARY.encode()})),
    "keys, as text": ("providers", lambda m: m.StaticKeys({"a": CANARY})),
    "no dict of keys": ("providers", lambda m: m.StaticKeys([CANARY])),
    "a key set": ("providers", lambda m: m.StaticKeys.parse(json.dumps({"keys": [jwk() | {"k": CANARY}]}).encode())),
    "a key set, as text": ("keys", lambda m: m.parse_keys(CANARY)),
    "transit": ("transit", lambda m: m.TransitKeys("bao.invalid", "mail", token=CANARY)),
    "transit, of a table": ("transit", lambda m: m.open_keys({"url": 5, "key": "mail", "token": CANARY})),
    "a token that is none": ("transit", lambda m: m.TransitKeys("https://bao.invalid", "mail", token=CANARY.encode())),
    "AWS": ("aws_kms", lambda m: m.AwsKmsKeys("alias/x", region_name="x", aws_secret_access_key=CANARY)),
    "AWS, no such option": ("aws_kms", lambda m: m.AwsKmsKeys("x", region_name="x", aws_secret=CANARY)),
    "AWS, of a table": ("aws_kms", lambda m: m.open_keys({"key": "x", "timeout": "x", "aws_session_token": CANARY})),
}


def held_in_frames(error: BaseException) -> str:
    """What the frames of an error hold, but for those of this module, which gave it."""
    frames = TracebackException.from_exception(error, capture_locals=True).stack
    return str([frame.locals for frame in frames if frame.filename != __file__])


@pytest.mark.parametrize("name", MADE)
def test_no_frame_holds_what_a_provider_was_given(name: str) -> None:
    """A traceback with locals, of a provider that was given something wrong, shows neither key nor token."""
    module, make = MADE[name]
    pytest.importorskip({"transit": "httpx2", "aws_kms": "botocore"}.get(module, "cryptography"))
    with raises(Exception) as caught:
        make(import_module(f"accountstore.sealing.{module}"))
    assert CANARY not in held_in_frames(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None


def test_no_frame_holds_a_key_of_a_file(tmp_path: Path) -> None:
    """Nor does one of a key file that is read or changed."""
    path = write_keys(tmp_path / "keys.jwks", "old")
    for call in (lambda: promote_key(path, "x"), lambda: add_key(path, "old"), lambda: add_key(path, "\x1b")):
        with raises(ConfigError) as caught:
            call()
        assert b64(KEYS["old"]) not in held_in_frames(caught.value)


def test_control_a_plain_function_shows_what_it_was_given() -> None:
    """The control: what these tests look at does show an argument."""

    def parse(data: str) -> None:
        raise ValueError

    try:
        parse(CANARY)
    except ValueError as error:
        frames = TracebackException.from_exception(error, capture_locals=True).stack
        assert CANARY in str([frame.locals for frame in frames])
