"""Key services: the same promises with OpenBao's transit engine and AWS KMS, on real servers, as with keys at hand."""

from __future__ import annotations

import base64
import json
import socket
from collections import Counter
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import keyservers
import pytest
from cloudservers import Missing, or_skip
from cloudtargets import on_asyncio
from doubles import BatchMemory, drained, raises
from samples import ACCOUNT, AT, ELSEWHERE, MULTI, MULTI_AT
from sealed import b64, sealed_over, sealer, static, unb64, write_keys

from accountstore import (
    AccountStore,
    AccountStoreError,
    ConfigError,
    Encryption,
    Location,
    SealError,
    StorageConfig,
    StoreConfig,
    errors,
)
from accountstore.backends.memory import MemoryBackend
from accountstore.retry import RetryPolicy
from accountstore.rotation import Rotated, reseal, rewrap, verify
from accountstore.sealing.envelope import aes_gcm
from accountstore.sealing.ring import KeyCache

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from cloudservers import Server

    from accountstore.sealing import KeyProvider

pytestmark = [pytest.mark.anyio, pytest.mark.once]

PLACES = [Location(f"user{i}.account", folder=f"team/{i % 3}") for i in range(16)]
NAMES = iter(range(10_000))


@pytest.fixture(scope="session")
def bao() -> Iterator[keyservers.Bao]:
    """OpenBao, once a run."""
    with or_skip(keyservers.openbao) as server:
        yield server


class Kit:
    """A service with a key of its own for a test: how a provider is opened, how its key is rotated and taken away."""

    service: str

    async def provider(self) -> KeyProvider:
        return await opened(self, self.table())

    def table(self) -> dict[str, object]: ...  # type: ignore[empty-body]

    def rotate(self) -> None: ...

    def retire(self) -> None: ...


class Transit(Kit):
    service = "transit"

    def __init__(self, bao: keyservers.Bao) -> None:
        self.bao = bao
        self.key = f"key{next(NAMES)}"
        assert bao.ask("POST", f"transit/keys/{self.key}", {"derived": True})[0] in {200, 204}

    def table(self) -> dict[str, object]:
        return {"url": self.bao.url, "key": self.key, "token": keyservers.TOKEN}

    def rotate(self) -> None:
        assert self.bao.ask("POST", f"transit/keys/{self.key}/rotate")[0] in {200, 204}

    def retire(self) -> None:
        """Let the server refuse what the versions before have wrapped."""
        self.bao.ask("POST", f"transit/keys/{self.key}/config", {"min_decryption_version": 2})


class Kms(Kit):
    service = "aws-kms"

    def __init__(self, endpoint: str) -> None:
        from botocore.session import get_session

        self.access = {
            "region_name": "us-east-1",
            "endpoint_url": endpoint,
            "aws_access_key_id": "test",
            "aws_secret_access_key": "testtest",
        }
        session: Any = get_session()
        self.client: Any = session.create_client("kms", **self.access)
        self.keys = [self.client.create_key()["KeyMetadata"]["KeyId"]]

    def table(self) -> dict[str, object]:
        return {"key": self.keys[-1], "old": self.keys[:-1], **self.access}

    def rotate(self) -> None:
        self.keys.append(self.client.create_key()["KeyMetadata"]["KeyId"])

    def retire(self) -> None:
        """Take the old key away: this emulator opens by a disabled one, too."""
        self.client.disable_key(KeyId=self.keys[0])
        self.keys = self.keys[-1:]


@pytest.fixture(params=["transit", "aws-kms"])
def kit(request: pytest.FixtureRequest) -> Kit:
    """A key of each service."""
    if request.param == "transit":
        pytest.importorskip("httpx2")
        return Transit(request.getfixturevalue("bao"))
    pytest.importorskip("botocore")
    server: Server = request.getfixturevalue("moto")
    return Kms(str(server.options["endpoint_url"]))


@asynccontextmanager
async def store_on(
    backend: Any, *providers: KeyProvider, timeout: float = 30, **more: Any
) -> AsyncGenerator[AccountStore]:
    own = sealer(*providers, policy=RetryPolicy(timeout, 1), cache=KeyCache(0, 0), **more)
    async with sealed_over({"main": backend}, {"main": own}, timeout=timeout) as store:
        yield store


async def outcomes(results: Any) -> Counter[str]:
    found = await drained(results)
    return Counter(result.outcome if isinstance(result, Rotated) else str(result) for _, result in found)


class Kept(BatchMemory):
    """A backend that outlives the stores on it."""

    async def aclose(self) -> None:
        pass


async def test_documents_are_sealed_by_a_service(kit: Kit) -> None:
    """Documents are saved and read, one and many at a time; `check` proves the service, and names its key."""
    async with store_on(Kept(), await kit.provider()) as store:
        await store.save(AT, ACCOUNT)
        await store.save_multi(MULTI_AT, MULTI)
        assert await store.get(AT) == ACCOUNT
        assert await store.get_multi(MULTI_AT) == MULTI
        await drained(store.save_many([(at, ACCOUNT) for at in PLACES]))
        found = await drained(store.get_many(PLACES))
        assert [getattr(result, "document", result) for _, result in found] == [ACCOUNT] * len(PLACES)
        await store.move(AT, ELSEWHERE)
        assert await store.get(ELSEWHERE) == ACCOUNT
        checked = await store.check()
        assert checked.ok, checked
        assert checked.sealing is not None
        assert len(checked.sealing.key_ids) == 1


async def test_the_service_binds_the_place(kit: Kit) -> None:
    """The service refuses a key in another context; a moved file is a `MovedError`, a swapped key a `WrongKeyError`."""
    provider = await kit.provider()
    (wrapped,) = await provider.wrap([bytes(32)], ["1:account:main:a.account"])
    assert await provider.unwrap([wrapped], ["1:account:main:a.account"]) == [bytes(32)]
    (refused,) = await provider.unwrap([wrapped], ["1:account:main:b.account"])
    assert isinstance(refused, errors.WrongKeyError)
    backend = Kept()
    async with store_on(backend, provider) as store:
        await store.save(AT, ACCOUNT)
        await store.save(ELSEWHERE, ACCOUNT)
        one, two = [await backend.read(at.path, limit=10**6) for at in (AT, ELSEWHERE)]
        await backend.write(AT.path, two.data, mode="overwrite")
        with raises(errors.MovedError, location=AT):
            await store.get(AT)
        tree = json.loads(one.data) | {"recipients": json.loads(two.data)["recipients"]}
        await backend.write(AT.path, json.dumps(tree).encode(), mode="overwrite")
        with raises(errors.WrongKeyError, location=AT):
            await store.get(AT)
        await backend.write(AT.path, one.data, mode="overwrite")
        assert await store.get(AT) == ACCOUNT


async def test_the_service_binds_the_key_id(kit: Kit) -> None:
    """A document that names another key than the one that wrapped its content key does not open, so that `verify` tells
    of each one that still needs an old key.
    """
    backend = Kept()
    async with store_on(backend, await kit.provider()) as store:
        await store.save(AT, ACCOUNT)
    kit.rotate()
    provider = await kit.provider()
    async with store_on(backend, provider) as store:
        tree = json.loads((await backend.read(AT.path, limit=10**6)).data)
        tree["recipients"][0]["header"]["kid"] = await provider.current()
        await backend.write(AT.path, json.dumps(tree).encode(), mode="overwrite")
        with raises(SealError, location=AT):
            await store.get(AT)
        assert "current" not in await outcomes(verify(store))


async def test_a_rotation_is_done_by_the_service(kit: Kit) -> None:
    """After a rotation of the key, `rewrap` moves each document on the server, which is given no content key, contents
    untouched; the old version is then refused by the server, and every document still opens.
    """
    backend = Kept()
    async with store_on(backend, await kit.provider()) as store:
        await drained(store.save_many([(at, ACCOUNT) for at in PLACES]))
    before = [json.loads((await backend.read(at.path, limit=10**6)).data)["ciphertext"] for at in PLACES]
    kit.rotate()
    provider = await kit.provider()

    async def never(*_: object) -> Any:
        raise AssertionError("it was asked to wrap")

    provider.wrap = never  # type: ignore[method-assign]
    async with store_on(backend, provider) as store:
        assert await outcomes(rewrap(store)) == {"written": len(PLACES)}
        assert await outcomes(rewrap(store)) == {"current": len(PLACES)}
        kit.retire()
        assert await outcomes(verify(store)) == {"current": len(PLACES)}
        assert await store.get(PLACES[5]) == ACCOUNT
    assert before == [json.loads((await backend.read(at.path, limit=10**6)).data)["ciphertext"] for at in PLACES]


async def test_a_retired_version_is_refused(kit: Kit) -> None:
    """The control: what was not moved before the key was retired does not open, and is told by a typed error."""
    backend = Kept()
    async with store_on(backend, await kit.provider()) as store:
        await store.save(AT, ACCOUNT)
    kit.rotate()
    kit.retire()
    async with store_on(backend, await kit.provider()) as store:
        with raises(SealError, location=AT):
            await store.get(AT)
        found = await outcomes(verify(store))
        assert "current" not in found


async def test_from_a_key_file_to_a_service_and_back(kit: Kit) -> None:
    """With both in the ring, `rewrap` moves documents from keys at hand to the service, and back; `reseal` too."""
    backend = Kept()
    async with store_on(backend) as store:
        await drained(store.save_many([(at, ACCOUNT) for at in PLACES]))
    async with store_on(backend, await kit.provider(), static("old")) as store:
        assert await outcomes(rewrap(store)) == {"written": len(PLACES)}
    async with store_on(backend, await kit.provider()) as store:
        assert await outcomes(verify(store)) == {"current": len(PLACES)}
        assert await outcomes(reseal(store)) == {"written": len(PLACES)}
    async with store_on(backend, static("new"), await kit.provider()) as store:
        assert await outcomes(rewrap(store)) == {"written": len(PLACES)}
    async with store_on(backend, static("new")) as store:
        assert await outcomes(verify(store)) == {"current": len(PLACES)}


async def test_a_service_in_the_configuration(kit: Kit, tmp_path: Path) -> None:
    """A table of the configuration opens the provider; a key of it that is not known is named."""
    keys = {"provider": kit.service, **kit.table()}
    storage = StorageConfig(str(tmp_path), encryption=Encryption(keys=[keys], required=True))
    async with AccountStore.open(StoreConfig(storages={"main": storage})) as store:
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT
    wrong = Encryption(keys={**keys, "regoin": "x"})
    with raises(ConfigError, f"encryption.keys: {kit.service}: unknown key 'regoin'"):
        await AccountStore.open(StoreConfig(storages={"main": StorageConfig("memory://", encryption=wrong)}))


async def test_a_provider_serves_several_stores(kit: Kit) -> None:
    """A provider that two storages were given, and a store that is opened after them, serves on when one closes."""
    backend, provider = Kept(), await kit.provider()
    async with store_on(backend, provider) as one:
        async with store_on(backend, provider) as other:
            await other.save(AT, ACCOUNT)
        assert await one.get(AT) == ACCOUNT
    async with store_on(backend, provider) as again:
        assert await again.get(AT) == ACCOUNT


async def test_a_service_that_is_down_is_told(kit: Kit) -> None:
    """A service that cannot be reached is a `KeyProviderError`, which may work later; nothing is written."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    table = {key: f"http://127.0.0.1:{port}" if key in {"url", "endpoint_url"} else v for key, v in kit.table().items()}
    backend = Kept()
    async with store_on(backend, await opened(kit, table)) as store:
        with raises(errors.KeyProviderError, location=AT, temporary=True):
            await store.save(AT, ACCOUNT)
        assert not await store.exists(AT)


async def opened(kit: Kit, table: dict[str, object]) -> KeyProvider:
    """A provider as the configuration opens it: in a thread."""
    module: Any = await anyio.to_thread.run_sync(import_module, f"accountstore.sealing.{kit.service.replace('-', '_')}")
    provider: KeyProvider = await anyio.to_thread.run_sync(module.open_keys, table)
    return provider


ANSWERS = {
    "no HTTP": b"hello\r\n\r\n",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "another JSON": b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\r\n{}",
    "null": b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"data":null}',
    "no keys": b"HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n"
    b'{"data":{"derived":true,"batch_results":[{"ciphertext":"vault"}]}}',
    "redirect": b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "error": b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


@on_asyncio
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_service_that_answers_nonsense_is_told(kit: Kit, name: str) -> None:
    """Whatever answers in the place of the service, it is a typed error, and nothing is written."""

    async def answer(stream: Any) -> None:
        async with stream:
            with anyio.move_on_after(5):
                await stream.receive()
                await stream.send(ANSWERS[name])

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    table = {key: f"http://127.0.0.1:{port}" if key in {"url", "endpoint_url"} else v for key, v in kit.table().items()}
    backend = Kept()
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        async with store_on(backend, await opened(kit, table)) as store:
            with raises(SealError, location=AT):
                await store.save(AT, ACCOUNT)
            assert not await store.exists(AT)
        tasks.cancel_scope.cancel()


async def test_a_slow_service_is_ended_by_the_deadline(kit: Kit) -> None:
    """A service that accepts and never answers ends with the operation's time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        table = {key: address if key in {"url", "endpoint_url"} else value for key, value in kit.table().items()}
        async with store_on(Kept(), await opened(kit, table), timeout=0.3) as store:
            with raises(errors.KeyProviderError, "in time", location=AT):
                await store.save(AT, ACCOUNT)


async def test_wrong_credentials_are_a_denial(bao: keyservers.Bao, tmp_path: Path) -> None:
    """A token that is refused, or has no right to the key, is a `KeyDeniedError`; a token file that is renewed is read
    again.
    """
    pytest.importorskip("httpx2")
    kit = Transit(bao)
    async with store_on(Kept(), await opened(kit, kit.table() | {"token": "wrong"})) as store:
        with raises(errors.KeyDeniedError, location=AT, temporary=False):
            await store.save(AT, ACCOUNT)
    file = tmp_path / "token"
    file.write_text("wrong\n")
    table = {key: value for key, value in kit.table().items() if key != "token"} | {"token_file": str(file)}
    async with store_on(Kept(), await opened(kit, table)) as store:
        file.write_text(f"{keyservers.TOKEN}\n")
        await store.save(AT, ACCOUNT)
        assert await store.get(AT) == ACCOUNT


async def test_a_key_that_binds_nothing_is_refused(bao: keyservers.Bao) -> None:
    """A transit key that is not a derived one, or is not there, is a `KeyDeniedError` before anything is written."""
    pytest.importorskip("httpx2")
    kit = Transit(bao)
    bao.ask("POST", "transit/keys/plain", {})
    for key, reason in (("plain", "derived"), ("none", "404")):
        backend = Kept()
        async with store_on(backend, await opened(kit, kit.table() | {"key": key})) as store:
            with raises(errors.KeyDeniedError, reason, location=AT):
                await store.save(AT, ACCOUNT)
            assert not await store.exists(AT)


async def test_an_alias_is_refused() -> None:
    """A KMS key that is named by an alias, or by nothing, is a `ConfigError`."""
    pytest.importorskip("botocore")
    from accountstore.sealing.aws_kms import open_keys

    for key in ("alias/mail", "arn:aws:kms:eu-central-1:1:alias/mail", ""):
        with raises(ConfigError, "give its ARN or id"):
            open_keys({"key": key, "region_name": "eu-central-1"})


def test_a_region_that_is_named_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """KMS without a region is a `ConfigError` with the key that names one, which AWS's variables may do too."""
    pytest.importorskip("botocore")
    from accountstore.sealing.aws_kms import open_keys

    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with raises(ConfigError, "aws-kms: region_name is missing"):
        open_keys({"key": "x"})
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    open_keys({"key": "x"})


async def test_a_document_is_opened_without_this_library(kit: Kit) -> None:
    """As the README says: the service's own call unwraps the content key, with the place as context, and any tool opens
    the document with it.
    """
    backend = Kept()
    async with store_on(backend, await kit.provider()) as store:
        await store.save(AT, ACCOUNT)
        plain = (await store.read_json(AT)).document
    tree = json.loads((await backend.read(AT.path, limit=10**6)).data)
    place = json.loads(unb64(tree["protected"]))["acs"]
    wrapped = unb64(tree["recipients"][0]["encrypted_key"])
    if isinstance(kit, Transit):
        context = base64.b64encode(place.encode()).decode()
        body = {"ciphertext": wrapped.decode(), "context": context}
        key = base64.b64decode(kit.bao.ask("POST", f"transit/decrypt/{kit.key}", body)[1]["data"]["plaintext"])
    else:
        assert isinstance(kit, Kms)
        key = kit.client.decrypt(CiphertextBlob=wrapped, EncryptionContext={"acs": place})["Plaintext"]
    content = unb64(tree["ciphertext"]) + unb64(tree["tag"])
    assert aes_gcm(key).decrypt(unb64(tree["iv"]), content, tree["protected"].encode()) == plain
    jwe = pytest.importorskip("joserfc.jwe")
    from joserfc.jwk import OctKey

    tree["recipients"] = [{"header": {"alg": "dir"}}]
    registry = jwe.JWERegistry(algorithms=["dir", "A256GCM"], strict_check_header=False)
    own = OctKey.import_key({"kty": "oct", "k": b64(key)})
    assert jwe.decrypt_json(tree, own, registry=registry).plaintext == plain


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the package of a service, its provider is a `ConfigError` that names the extra."""
    import sys

    write_keys(tmp_path / "keys.jwks", "old")
    for service, package in (("transit", "httpx2"), ("aws-kms", "botocore")):
        for name in [*sys.modules]:
            if name.partition(".")[0] == package:
                monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"accountstore.sealing.{service.replace('-', '_')}", raising=False)
        keys = {"provider": service, "key": "x"}
        config = StoreConfig(storages={"main": StorageConfig("memory://", encryption=Encryption(keys=keys))})
        with raises(ConfigError, rf"needs the package {package}.*accountstore\[{service}\]"):
            anyio.run(_open, config)


async def _open(config: StoreConfig) -> None:
    await AccountStore.open(config)


def test_what_is_missing_is_said() -> None:
    """A server that is not installed is a reason to skip, not a failure."""
    assert issubclass(Missing, Exception)
    assert not issubclass(Missing, AccountStoreError)
    assert MemoryBackend().capabilities.update
