"""A store whose storages are sealed: every call does what it promises, and only sealed bytes reach a backend."""

from __future__ import annotations

import json
import sys
from base64 import b64encode, encodebytes, urlsafe_b64encode
from itertools import permutations
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import BatchMemory, Recording, drained, raises
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, FULL, MULTI, MULTI_AT, RICH, next_port
from sealed import KEYS, jwk, jwks, sealed_over, sealer, static, write_keys

from accountstore import (
    AccountStore,
    AccountStoreError,
    ConfigError,
    Encryption,
    Location,
    LocationError,
    SealError,
    StorageConfig,
    StoreConfig,
    errors,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON, is_sealed
from accountstore.config_file import load_config
from accountstore.rotation import Rotated, verify
from accountstore.sealing import StaticKeys
from accountstore.sealing.sources import promote
from accountstore.testing import FaultyBackend, store_machine, store_over

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accountstore.backends.base import Stat, WriteMode

pytestmark = pytest.mark.anyio

LIMIT = 10**6


class OnlySealed(BatchMemory):
    """A backend that refuses whatever is not sealed."""

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        assert is_sealed(data), key
        assert b"imap." not in data  # which has a character that no base64 has
        return await super().write(key, data, mode=mode)


@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize("call", CALLS)
async def test_every_call_keeps_its_promise_on_sealed_documents(call: str, batch: int) -> None:
    """Every call does on a sealed storage what it does on a plain one, and writes sealed documents alone."""
    results: list[object] = []
    for store in (store_over({"main": MemoryBackend()}), sealed_over({"main": OnlySealed(batch)})):
        async with store:
            await store.save(AT, ACCOUNT)
            await store.save_multi(MULTI_AT, MULTI)
            if call.startswith(("swap", "delete of")):
                version = (await store.stat(AT)).version
                assert version is not None
                if call.startswith("delete"):
                    await store.delete(AT, version=version)
                else:
                    await store.save(AT, FULL, mode=version)
            else:
                await CALLS[call](store)
            found = [entry.location async for entry in store.list(recursive=True)]
            results.append([(at, (await store.read_json(at)).document) for at in sorted(found, key=str)])
    assert results[0] == results[1]


@pytest.mark.parametrize("codecs", [("json", "json"), ("json", "msgpack"), ("msgpack", "json")])
async def test_copies_are_sealed_for_their_new_place(codecs: tuple[str, str]) -> None:
    """`copy` and `move`, within a storage and between two, seal anew; unknown fields come along."""
    backends = {"one": MemoryBackend(), "two": MemoryBackend()}
    sealers = {"one": sealer(storage_id="one"), "two": sealer(static("new"), storage_id="2")}
    async with sealed_over(backends, sealers, codecs=codecs) as store:
        await store.save_json(AT, RICH)
        for target in (ELSEWHERE, Location("x.account", storage="two")):
            await store.copy(AT, target)
            assert json.loads((await store.read_json(target)).document) == json.loads(RICH)
        await store.move(Location("x.account", storage="two"), Location("y.account", folder="f", storage="two"))
        await store.move(Location("y.account", folder="f", storage="two"), Location("z.account"))
        assert json.loads((await store.read_json(Location("z.account"))).document) == json.loads(RICH)
        headers = json.loads((await backends["one"].read("z.account", limit=LIMIT)).data)["recipients"][0]["header"]
        assert headers["kid"] == "old"


@pytest.mark.parametrize("swap", ["file", "folder", "storage", "kind", "scope"])
async def test_swapped_files_do_not_open(swap: str) -> None:
    """Two documents whose files change places, in whatever their places differ, both fail with `MovedError`."""
    backends: dict[str, MemoryBackend] = {"one": MemoryBackend(), "two": MemoryBackend()}
    first = Location("a.account", folder="t/1", storage="one")
    second = {
        "file": Location("b.account", folder="t/1", storage="one"),
        "folder": Location("a.account", folder="t/2", storage="one"),
        "storage": Location("a.account", folder="t/1", storage="two"),
        "kind": Location("a.multi.account", folder="t/1", storage="one"),
        "scope": Location("1/a.account".rpartition("/")[2], folder="t/1/t/1", storage="one"),
    }[swap]
    async with sealed_over(backends) as store:
        places = (first, second)
        for at in places:
            await (store.save_multi(at, MULTI) if "multi" in at.file_name else store.save(at, ACCOUNT))
        data = [(await backends[str(at.storage)].read(at.path, limit=LIMIT)).data for at in places]
        for at, other in zip(places, reversed(data), strict=True):
            await backends[str(at.storage)].write(at.path, other, mode="overwrite")
        for at in places:
            for call in (store.read_json, store.get_multi if "multi" in at.file_name else store.get):
                with raises(errors.MovedError, location=at):
                    await call(at)
        results = await drained(store.get_many(places))
        assert [type(result) for _, result in results] == [errors.MovedError] * 2


async def test_a_scoped_store_reads_what_the_whole_one_wrote() -> None:
    """The place is that in the whole storage: a narrowed store and the whole one read each other's documents."""
    async with sealed_over({"main": MemoryBackend()}) as store:
        tenant = store.scoped("tenants/1")
        await tenant.save(Location("a.account"), ACCOUNT)
        assert await store.get(Location("a.account", folder="tenants/1")) == ACCOUNT
        await store.save(Location("b.account", folder="tenants/1"), FULL)
        assert await tenant.get(Location("b.account")) == FULL


async def test_a_storage_has_the_same_documents_under_another_name() -> None:
    """With the same `id`, two services that name a storage differently share it; with other ids they do not."""
    backend = MemoryBackend()
    mine = sealed_over({"mail": backend}, {"mail": sealer(storage_id="shared")})
    theirs = sealed_over({"accounts": backend}, {"accounts": sealer(storage_id="shared")})
    await mine.save(AT, ACCOUNT)
    assert await theirs.get(AT) == ACCOUNT
    with raises(errors.MovedError, location=AT):
        await sealed_over({"accounts": backend}).get(AT)


async def test_move_between_two_names_of_one_file_destroys_nothing() -> None:
    """Two storages on one backend, with ids of their own: `move` between them fails, and the document still opens."""

    class NoTokens(BatchMemory):
        pass

    for backend in (MemoryBackend(), NoTokens()):
        store = sealed_over({"one": backend, "two": backend})
        at = Location("a.account", storage="one")
        await store.save(at, ACCOUNT)
        with raises(LocationError):
            await store.move(at, Location("a.account", storage="two"))
        assert await store.get(at) == ACCOUNT


async def test_the_limit_is_that_of_the_document() -> None:
    """`max_bytes` bounds the document, not its file: what fits is saved and read, a byte more is a `TooLargeError`."""
    size = len(JSON.encode(ACCOUNT))
    backend = MemoryBackend()
    fits, short = sealed_over({"main": backend}, max_bytes=size), sealed_over({"main": backend}, max_bytes=size - 1)
    await fits.save(AT, ACCOUNT)
    assert (await backend.stat(AT.path)).size > size
    assert (await fits.read(AT)).size == (await backend.stat(AT.path)).size
    assert await fits.get(AT) == ACCOUNT
    for call in (short.save(AT, ACCOUNT), short.get(AT)):
        with raises(errors.TooLargeError, location=AT):
            await call
    plain = store_over({"main": backend})
    await plain.save(AT, ACCOUNT)
    optional = sealed_over({"main": backend}, {"main": sealer(mode="optional")}, max_bytes=size - 1)
    with raises(errors.TooLargeError, location=AT):
        await optional.get(AT)


async def test_plaintext_is_read_where_it_may_be_and_sealed_by_the_next_write() -> None:
    """An optional storage reads plaintext, and an update seals it; a required one then reads it, and a storage on the
    way back reads it and leaves the next write plain.
    """
    backend = MemoryBackend()
    await store_over({"main": backend}).save_json(AT, RICH)
    optional = sealed_over({"main": backend}, {"main": sealer(mode="optional")})
    back = sealed_over({"main": backend}, {"main": sealer(mode="unsealing")})
    required = sealed_over({"main": backend})
    with raises(errors.NotSealedError, location=AT):
        await required.get(AT)
    await optional.update(AT, next_port)
    assert is_sealed((await backend.read(AT.path, limit=LIMIT)).data)
    assert (await required.get(AT)).port == 2
    assert b"deep" in (await required.read_json(AT)).document
    await back.update(AT, next_port)
    assert (await store_over({"main": backend}).get(AT)).port == 3


async def test_a_planted_document_stays_as_it_is() -> None:
    """Plaintext in a required storage is refused by every call that reads it, and its file is untouched."""
    backend = MemoryBackend()
    await store_over({"main": backend}).save(AT, ACCOUNT)
    before = await backend.read(AT.path, limit=LIMIT)
    store = sealed_over({"main": backend})
    for call in (
        store.get(AT),
        store.read(AT),
        store.read_json(AT),
        store.update(AT, next_port),
        store.copy(AT, ELSEWHERE),
        store.move(AT, ELSEWHERE),
    ):
        with raises(errors.NotSealedError, location=AT):
            await call
    assert (await backend.read(AT.path, limit=LIMIT)).data == before.data


@pytest.mark.parametrize("what", ["lost key", "wrong key", "cut off", "damaged"])
async def test_what_does_not_open_is_told_and_left_alone(what: str) -> None:
    """A lost key, a wrong one, a file that is cut off or damaged: a typed error, and the file is left alone."""
    backend = MemoryBackend()
    await sealed_over({"main": backend}).save(AT, ACCOUNT)
    data = (await backend.read(AT.path, limit=LIMIT)).data
    kind: type[SealError] = errors.TamperedError
    keys = {"old": KEYS["old"]}
    match what:
        case "lost key":
            keys, kind = {"new": KEYS["new"]}, errors.MissingKeyError
        case "wrong key":
            keys, kind = {"old": KEYS["new"]}, errors.WrongKeyError
        case "cut off":
            data, kind = data[:-10], errors.EnvelopeError
        case _:
            data = data.replace(b'"ciphertext":"', b'"ciphertext":"AAAA')
    await backend.write(AT.path, data, mode="overwrite")
    store = sealed_over({"main": backend}, {"main": sealer(StaticKeys(keys))})
    for call in (store.get(AT), store.update(AT, next_port), store.copy(AT, ELSEWHERE)):
        with raises(kind, location=AT, temporary=False):
            await call
    assert (await backend.read(AT.path, limit=LIMIT)).data == data
    assert not await store.exists(ELSEWHERE)


async def test_requests_are_those_of_a_plain_storage() -> None:
    """Sealing with keys at hand sends no request more: `get` 1, `save` 1, `update` 2, and so on."""
    calls: list[Any] = []
    for store_of in (store_over, sealed_over):
        backend = Recording()
        store = store_of({"main": backend})
        await store.save(AT, ACCOUNT)
        await store.get(AT)
        await store.update(AT, next_port)
        await store.copy(AT, ELSEWHERE)
        await drained(store.get_many([AT, ELSEWHERE]))
        await drained(store.save_many([(AT, ACCOUNT)]))
        calls.append(backend.log)
    assert calls[0] == calls[1]


async def test_no_update_is_lost_on_a_sealed_storage() -> None:
    """Tasks that update one sealed document at once lose nothing."""
    store = sealed_over({"main": MemoryBackend()})
    await store.save(AT, replace(ACCOUNT, port=1))

    async def worker() -> None:
        for _ in range(10):
            await store.update(AT, next_port)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(worker)
    assert (await store.get(AT)).port == 81


@pytest.mark.parametrize("installed", [True, False])
async def test_a_sealed_document_in_an_unsealed_storage_says_what_to_do(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage without `encryption` that meets a sealed document says what to configure, and what to install where it
    is missing.
    """
    backend = MemoryBackend()
    await sealed_over({"main": backend}).save(AT, ACCOUNT)
    store = store_over({"main": backend})
    if not installed:
        monkeypatch.setitem(sys.modules, "cryptography", None)
    hint = "" if installed else r"; that needs a package: pip install 'accountstore\[crypto\]'"
    for call in (store.get(AT), store.read_json(AT), store.update(AT, next_port)):
        with raises(errors.MissingKeyError, f"give its storage `encryption` with the keys{hint}$", location=AT):
            await call
    results = await drained(store.get_many([AT]))
    assert isinstance(results[0][1], errors.MissingKeyError)
    with raises(errors.DecodeError, location=ELSEWHERE):  # the control: what is neither is no document
        await backend.write(ELSEWHERE.path, b"{}", mode="overwrite")
        await store.get(ELSEWHERE)


async def test_a_save_without_encryption_leaves_plaintext_which_is_found() -> None:
    """A program without `encryption` replaces a sealed document by a plain `save`, and by no `create`; where sealed is
    required it is refused then, and `verify` names it.
    """
    backend = MemoryBackend()
    sealed = sealed_over({"main": backend})
    await sealed.save(AT, ACCOUNT)
    store = store_over({"main": backend})
    with raises(errors.ExistsError, location=AT):
        await store.save(AT, ACCOUNT, mode="create")
    assert await sealed.get(AT) == ACCOUNT
    await store.save(AT, ACCOUNT)
    with raises(errors.NotSealedError, location=AT):
        await sealed.get(AT)
    optional = sealed_over({"main": backend}, {"main": sealer(mode="optional")})
    assert await optional.get(AT) == ACCOUNT
    assert await drained(verify(optional)) == [(AT, Rotated("stale", ()))]
    ((at, refused),) = await drained(verify(sealed))
    assert (at, isinstance(refused, errors.NotSealedError)) == (AT, True)


# --- opened from a configuration --------------------------------------------------------------------------------------


def config(folder: Path, /, **encryption: Any) -> StoreConfig:
    storage = StorageConfig(str(folder / "data"), encryption=Encryption(**encryption))
    return StoreConfig(storages={"main": storage})


async def test_a_configured_storage_is_sealed(tmp_path: Path) -> None:
    """A storage with `encryption` in the configuration writes sealed files, of mode 0600, and reads them."""
    keys = write_keys(tmp_path / "keys.jwks", "old")
    async with AccountStore.open(config(tmp_path, keys=keys, required=True)) as store:
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT
        checked = await store.check()
        assert checked.ok
        assert checked.sealing is not None
        assert (checked.sealing.mode, checked.sealing.id, checked.sealing.key_ids) == ("required", "main", ("old",))
    data = (tmp_path / "data" / AT.path).read_bytes()
    assert is_sealed(data)
    assert b"imap." not in data  # which has a character that no base64 has


async def test_a_check_says_that_it_cannot_seal() -> None:
    """A check of a storage whose key service fails tells it as a step, and writes nothing."""

    class Down:
        algorithm, binds_context, remote = "test", True, True

        def key_ids(self) -> tuple[str]:
            return ("k",)

        async def wrap(self, keys: object, contexts: object) -> None:
            raise ConnectionResetError

    backend = FaultyBackend(MemoryBackend())
    down: Any = Down()
    checked = await sealed_over({"main": backend}, {"main": sealer(down)}).check()
    assert not checked.ok
    assert "KeyProviderError" in checked.steps[0].problem
    assert not backend.calls


async def test_optional_encryption_warns_at_opening(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A storage that takes plaintext, too, warns at opening, once; a required one does not."""
    keys = write_keys(tmp_path / "keys.jwks", "old")
    async with AccountStore.open(config(tmp_path, keys=keys, required=True)):
        assert not caplog.records
    async with AccountStore.open(config(tmp_path, keys=keys)):
        (record,) = caplog.records
        assert "'main'" in record.getMessage()
        assert record.levelname == "WARNING"


TOML = """
[storages.main]
url = "data"
encryption = {{ keys = {keys}, required = true, id = "shared" }}
"""


async def test_toml_takes_files_variables_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file, keys are a path beside the file, a variable, or a list of which the first seals."""
    write_keys(tmp_path / "keys.jwks", "old")
    monkeypatch.setenv("MAIL_KEYS", (tmp_path / "keys.jwks").read_text())
    write_keys(tmp_path / "new.jwks", "new")
    path = tmp_path / "accountstore.toml"
    for keys, ids in (
        ('"keys.jwks"', ("old",)),
        ('"env:MAIL_KEYS"', ("old",)),
        ('["new.jwks", "env:MAIL_KEYS"]', ("new", "old")),
    ):
        path.write_text(TOML.format(keys=keys))
        async with AccountStore.open(path) as store:
            sealing = (await store.check()).sealing
            assert sealing is not None
            assert (sealing.id, sealing.key_ids) == ("shared", ids)
            if await store.exists(AT):
                assert await store.get(AT) == ACCOUNT
            await store.save(AT, ACCOUNT)


def test_the_files_of_a_key_service_lie_beside_the_configuration(tmp_path: Path) -> None:
    """Its token and its authorities are named as key files are; an absolute path stays, and what names no file."""
    path = tmp_path / "accountstore.toml"
    for trusted, found in (('"ca.pem"', str(tmp_path / "ca.pem")), ('"/etc/ca.pem"', "/etc/ca.pem"), ("false", False)):
        service = f'{{ provider = "transit", url = "https://x.invalid", token_file = "token", verify = {trusted} }}'
        path.write_text(TOML.format(keys=service))
        encryption = load_config(path).storages["main"].encryption
        assert encryption is not None
        [source] = encryption.sources()
        assert (source["token_file"], source["verify"], source["provider"]) == (
            str(tmp_path / "token"),
            found,
            "transit",
        )


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"keys": "none.jwks"}, r"encryption\.keys: none.jwks: does not exist: `accountstore keys new FILE`"),
    "readable by others": ({"keys": "open.jwks"}, r"keys: open.jwks: others may read or write it \(0640\): chmod 600"),
    "no keys": ({"keys": []}, r"encryption\.keys: there is none"),
    "empty": ({"keys": ""}, r"encryption\.keys: must be a file"),
    "number": ({"keys": 5}, r"encryption\.keys: must be a file"),
    "no variable": ({"keys": "env:NO_SUCH_VARIABLE"}, r"the variable is not set"),
    "no set": ({"keys": "no.jwks"}, r"is not a JWK Set"),
    "unknown provider": ({"keys": {"provider": "transt"}}, r"unknown provider 'transt'; did you mean 'transit'"),
    "an id": ({"keys": "keys.jwks", "id": "a:b"}, r"encryption\.id: "),
    "contradiction": ({"keys": "keys.jwks", "required": True, "seal": False}, r"encryption\.seal: "),
    "cache": ({"keys": "keys.jwks", "cache_seconds": -1}, r"encryption\.cache_seconds: "),
    "cache without end": ({"keys": "keys.jwks", "cache_seconds": inf}, r"encryption\.cache_seconds: .* finite"),
    "a type": ({"keys": "keys.jwks", "required": "yes"}, r"encryption\.required: "),
}


@pytest.mark.parametrize("prefix", ["", "env:", "/etc/"])
@pytest.mark.parametrize("text", [jwks("old"), jwk("old")["k"]], ids=["set", "key"])
async def test_keys_in_the_place_of_their_name_are_not_shown(prefix: str, text: str, tmp_path: Path) -> None:
    """Such as of `${MAIL_KEYS}` where `env:MAIL_KEYS` is meant: neither a set of keys nor a key is in the error."""
    secret = jwk("old")["k"]
    with raises(ConfigError, r"encryption\.keys: looks like keys, .* env:NAME") as caught:
        await AccountStore.open(config(tmp_path, keys=prefix + text))
    assert secret not in f"{caught.value!r} {vars(caught.value)} {caught.value.__context__!r}"


ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "base64": lambda key: b64encode(key).decode(),
    "base64, with line breaks": lambda key: encodebytes(key).decode(),
    "base64, of a shell that kept the quotes": lambda key: f"'{b64encode(key).decode()}'",
    "base64, without padding": lambda key: b64encode(key).rstrip(b"=").decode(),
    "base64url": lambda key: urlsafe_b64encode(key).decode(),
    "base64url, without padding": lambda key: urlsafe_b64encode(key).rstrip(b"=").decode(),
    "hexadecimal": lambda key: key.hex(),
    "hexadecimal, upper case": lambda key: key.hex().upper(),
    "hexadecimal, with colons": lambda key: key.hex(":"),
}


def shown_of(keys: str, /) -> str:
    """What is said of an encryption that cannot be opened."""
    with raises(ConfigError) as caught:
        promote(Encryption(keys=keys), "any")
    return str(caught.value)


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_key_of_any_encoding_is_not_shown(
    encoding: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a slash falls in it: alone, beside the configuration, below a folder that is there or not, as a name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    random = Random(size)
    for _ in range(100):
        key = ENCODINGS[encoding](random.randbytes(size))
        for path in (key, str(tmp_path / key), f"{tmp_path}/no.d/{key}", f"~/{key}", f"env:{key}"):
            assert "looks like keys" in shown_of(path)
            assert key.strip("\n") not in shown_of(path)


@pytest.mark.parametrize("folder", ["f" * 64, "0123456789abcdef" * 4, "a/b/c/d/e/f/g/h/i/j/k/l/m"])
@pytest.mark.parametrize("name", ["keys", "k" * 64, "keys-8f14e45f-ceea-467f-a0e6-1d5c0a4f1c1e.jwks"])
def test_of_a_path_that_is_there_the_reason_is_shown(folder: str, name: str, tmp_path: Path) -> None:
    """However long its parts are; and so is the name of a file that is not there, and of a variable."""
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True)
    path.touch(0o644)
    assert shown_of(str(path)) == f"keys: {path}: others may read or write it (0644): chmod 600"
    assert shown_of(str(path.parent)).startswith(f"keys: {path.parent}: cannot be read")
    missing = path.with_name("keys-8f14e45f-ceea-467f-a0e6-1d5c0a4f1c1f.jwks")
    assert shown_of(str(missing)).startswith(f"keys: {missing}: ")
    variable = "env:ACCOUNTSTORE_KEYS_OF_ALL_STORAGES_IN_PRODUCTION"
    assert shown_of(variable) == f"keys: {variable}: the variable is not set"


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_configuration_names_the_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with the keys is a `ConfigError` at opening, with the path of the key, and nothing is opened."""
    monkeypatch.chdir(tmp_path)
    write_keys(tmp_path / "keys.jwks", "old")
    write_keys(tmp_path / "open.jwks", "old")
    (tmp_path / "open.jwks").chmod(0o640)
    (tmp_path / "no.jwks").write_text('{"kty": "oct"}')
    (tmp_path / "no.jwks").chmod(0o600)
    settings, message = FAULTS[name]
    with raises(ConfigError, r"storages\.main\.encryption.*"):
        await AccountStore.open(config(tmp_path, **settings))
    with raises(ConfigError, message):
        await AccountStore.open(config(tmp_path, **settings))


async def test_without_the_package_a_sealed_storage_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `cryptography`, opening a sealed storage names the package; a plain storage opens."""

    for name in [*sys.modules]:
        if name.partition(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    keys = write_keys(tmp_path / "keys.jwks", "old")
    for given, extra in ((keys, "crypto"), ({"provider": "transit"}, "transit"), ({"provider": "aws-kms"}, "aws-kms")):
        with raises(ConfigError, rf"encryption\.keys: encryption needs .* pip install 'accountstore\[{extra}\]'"):
            await AccountStore.open(config(tmp_path, keys=given))
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://")})) as store:
        await store.save(AT, ACCOUNT)


# --- the state machine ------------------------------------------------------------------------------------------------


async def _sealed_memory(folder: Path) -> AccountStore:
    return sealed_over({"First Storage": MemoryBackend(), "Second": BatchMemory()}, codecs=("json", "msgpack"))


async def _sealed_folder(folder: Path) -> AccountStore:
    keys = write_keys(folder / "keys.jwks", "old")
    sealing = Encryption(keys=keys, required=True)
    storages = {
        "First Storage": StorageConfig(str(folder / "one"), encryption=sealing),
        "Second": StorageConfig("memory://", codec="msgpack", encryption=sealing),
    }
    return await AccountStore.open(StoreConfig(default="First Storage", storages=storages))


@pytest.mark.parametrize(
    "opened",
    [pytest.param(_sealed_memory, marks=pytest.mark.once, id="memory"), pytest.param(_sealed_folder, id="folder")],
)
def test_a_sealed_store_does_what_the_model_does(
    anyio_backend: Any, opened: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is done to a store of sealed storages, it answers as a dict would."""
    machine: Any = store_machine
    run_state_machine_as_test(
        machine(
            lambda: opened(tmp_path_factory.mktemp("storage")), loop=anyio_backend[0], loop_options=anyio_backend[1]
        ),
        settings=settings(max_examples=12, stateful_step_count=30),
    )


async def test_errors_of_sealing_are_results_of_many(tmp_path: Path) -> None:
    """In `get_many`, a document that does not open has its own error, and the others are read."""
    backend = BatchMemory()
    store = sealed_over({"main": backend})
    places = [Location(f"{i}.account") for i in range(20)]
    async for _, result in store.save_many([(at, ACCOUNT) for at in places]):
        assert not isinstance(result, AccountStoreError)
    for at in places[::3]:
        data = (await backend.read(at.path, limit=LIMIT)).data
        await backend.write(places[1].path if at is places[0] else at.path, bytes(data)[:-9], mode="overwrite")
    found = {at: result async for at, result in store.get_many(places)}
    broken = {at for at, result in found.items() if isinstance(result, errors.EnvelopeError)}
    assert broken == {places[1], *places[3::3]}
    assert all(result.location == at for at, result in found.items() if isinstance(result, AccountStoreError))


def test_places_are_told_apart() -> None:
    """No two places have one text, whatever is in their names."""
    from accountstore.sealing.envelope import place_of

    places = [("a", "b/c.account"), ("a", "b.account"), ("ab", "c.account"), ("a", "b/c.multi.account")]
    for one, two in permutations(places, 2):
        assert place_of(*one) != place_of(*two)
