"""Sealed storages against plain ones, sealing against the cryptography that it needs, rotation against copying."""

from __future__ import annotations

import json
import os
import shutil
from base64 import urlsafe_b64decode, urlsafe_b64encode
from time import perf_counter
from typing import TYPE_CHECKING, Any

from accountstore import AccountStore, AccountStoreError, Encryption, Location, StorageConfig, StoreConfig, Version
from accountstore.aio.shield import InFlight
from accountstore.backends.base import Blob, Stat
from accountstore.retry import RetryPolicy
from accountstore.rotation import rewrap
from accountstore.sealing import StaticKeys, add_key, read_keys
from accountstore.sealing.ring import KeyCache, KeyRing
from accountstore.sealing.sealer import Sealer
from benchmarks.harness import Comparison, Goal, Round, in_flight, timed
from benchmarks.samples import ACCOUNT, ONE
from benchmarks.servers import BUCKET, s3_options, serving
from benchmarks.sides import KEYS, Side, contenders, fill, our_side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from benchmarks.harness import Run, Workspace

_SEALED, _PLAIN = "sealed", "plain"
_CALLS = "cryptography's calls"
_BY_HAND = "the same format by hand: cryptography, base64, json"
_FERNET = "py-key-value-aio's Fernet wrapper"
_COPYING = "copying through get and save"
_MANY = 10_000
_LATER = 1e12


def _store(url: str, encryption: Encryption | None, **more: Any) -> AbstractAsyncContextManager[AccountStore]:
    return AccountStore.open(StoreConfig(storages={"main": StorageConfig(url, encryption=encryption, **more)}))


def _get_and_save(side: Side, /) -> Callable[[int], Any]:
    async def both(i: int) -> None:
        await side.save(i)
        await side.get(i)

    return both


def _encryption(work: Workspace, name: str, /) -> Encryption:
    path = f"{work.folder}/{name}.jwks"
    add_key(path)
    return Encryption(keys=path, required=True)


async def stores(work: Workspace, /) -> AsyncGenerator[Round]:
    encryption = _encryption(work, "stores")
    comparison = [Comparison(_PLAIN, Goal("at most", 1.05))]
    root = f"{work.folder}/stores"
    async with _store(f"{root}/sealed", encryption) as sealed, _store(f"{root}/plain", None) as plain:
        sides = {_SEALED: our_side(sealed), _PLAIN: our_side(plain)}
        await fill(*sides.values())
        runs = {name: timed(_get_and_save(side)) for name, side in sides.items()}
        yield Round("local, save and get", runs, comparison, work.effort(6, 10))
    with serving() as server:
        for engine in ("fsspec", "obstore"):
            how: dict[str, Any] = {"engine": engine, "options": s3_options(server.url), "conditions": "trust"}
            url = f"s3://{BUCKET}/"
            async with _store(f"{url}s", encryption, **how) as sealed, _store(f"{url}p", None, **how) as plain:
                sides = {_SEALED: our_side(sealed), _PLAIN: our_side(plain)}
                await fill(*sides.values())
                runs = {name: in_flight(_get_and_save(side)) for name, side in sides.items()}
                yield Round(f"S3, {engine} engine, save and get", runs, comparison, work.effort(2, 300))


def _text(data: bytes, /) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


class _Crypto:
    """What is done to one document of 1 KB, by the library and by others."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

        self.gcm, self.wrap, self.unwrap = AESGCM, aes_key_wrap, aes_key_unwrap
        self.key = os.urandom(32)
        self.data = ONE.json.ljust(1024)
        ring = KeyRing([StaticKeys({"k": self.key})], RetryPolicy(), InFlight(1), KeyCache(0, 0))
        self.sealer = Sealer(ring, "main", "required")
        self.header = _text(b'{"enc":"A256GCM","acs":"1:account:main:mail/team-a/user0.account"}')

    def seal_bare(self) -> tuple[bytes, bytes, bytes]:
        content_key, iv = os.urandom(32), os.urandom(12)
        content = self.gcm(content_key).encrypt(iv, self.data, self.header.encode())
        return self.wrap(self.key, content_key), iv, content

    def open_bare(self, sealed: tuple[bytes, bytes, bytes], /) -> bytes:
        return self.gcm(self.unwrap(self.key, sealed[0])).decrypt(sealed[1], sealed[2], self.header.encode())

    def seal_by_hand(self) -> bytes:
        wrapped, iv, content = self.seal_bare()
        recipients = [{"header": {"alg": "A256KW", "kid": "k"}, "encrypted_key": _text(wrapped)}]
        parts = {"iv": _text(iv), "ciphertext": _text(content[:-16]), "tag": _text(content[-16:])}
        return json.dumps({"protected": self.header, "recipients": recipients, **parts}).encode()

    def open_by_hand(self, sealed: bytes, /) -> bytes:
        tree = json.loads(sealed)
        wrapped = urlsafe_b64decode(tree["recipients"][0]["encrypted_key"] + "==")
        content = urlsafe_b64decode(tree["ciphertext"] + "==") + urlsafe_b64decode(tree["tag"] + "==")
        return self.open_bare((wrapped, urlsafe_b64decode(tree["iv"] + "=="), content))


def _direct(call: Callable[[], object], /) -> Run:
    async def run(times: int) -> float:
        started = perf_counter()
        for _ in range(times):
            call()
        return perf_counter() - started

    return run


async def envelope(work: Workspace, /) -> AsyncGenerator[Round]:
    crypto = _Crypto()
    at = KEYS[0]
    made = await crypto.sealer.seal(at, crypto.data, _LATER)
    blob = Blob(made, Stat(at, len(made), Version("1"), None))
    bare, by_hand = crypto.seal_bare(), crypto.seal_by_hand()
    goals = [Comparison(_CALLS, Goal("at most", 2)), Comparison(_BY_HAND)]
    ours = timed(lambda _: crypto.sealer.seal(at, crypto.data, _LATER))
    runs = {"accountstore": ours, _CALLS: _direct(crypto.seal_bare), _BY_HAND: _direct(crypto.seal_by_hand)}
    yield Round("seal 1 KB", runs, goals, work.effort(10, 500))
    ours = timed(lambda _: crypto.sealer.open(at, blob, _LATER))
    calls = _direct(lambda: crypto.open_bare(bare))
    runs = {"accountstore": ours, _CALLS: calls, _BY_HAND: _direct(lambda: crypto.open_by_hand(by_hand))}
    yield Round("open 1 KB", runs, goals, work.effort(10, 500))


async def fernet(work: Workspace, /) -> AsyncGenerator[Round]:
    from cryptography.fernet import Fernet
    from key_value.aio.stores.memory import MemoryStore
    from key_value.aio.wrappers.encryption.fernet import FernetEncryptionWrapper

    wrapper: Any = FernetEncryptionWrapper
    theirs = wrapper(key_value=MemoryStore(), fernet=Fernet(Fernet.generate_key()))
    value = json.loads(ONE.json)
    async with _store("memory://", _encryption(work, "fernet")) as store:
        await theirs.put("user0", value, collection="mail")
        side = our_side(store)
        await fill(side)
        sides = {
            "accountstore": side,
            _FERNET: Side(
                lambda _: theirs.get("user0", collection="mail"),
                lambda _: theirs.put("user0", value, collection="mail"),
            ),
        }
        for name in ("save", "get"):
            runs = contenders(sides, name, timed)
            yield Round(f"memory, sealed {name}", runs, [Comparison(_FERNET, Goal("at most", 1))], work.effort(10, 200))


async def rotation(work: Workspace, /) -> AsyncGenerator[Round]:
    effort = work.effort(1, _MANY)
    path = f"{work.folder}/rotation.jwks"
    add_key(path)
    add_key(path)
    first, second = read_keys(path).items()
    root = f"{work.folder}/rotation"
    places = [Location(f"user{i}.account", folder=f"mail/{i % 100}") for i in range(effort.operations)]
    rings = [Encryption(keys=StaticKeys(dict(order)), required=True) for order in ((first, second), (second, first))]
    async with _store(root, rings[0]) as one, _store(root, rings[1]) as two:
        async for _, result in one.save_many([(at, ACCOUNT) for at in places]):
            if isinstance(result, AccountStoreError):
                raise result
        turns = [two, one]

        async def rewrapping(times: int) -> float:
            """To the other key than before."""
            store = turns.pop(0)
            turns.append(store)
            written = 0
            started = perf_counter()
            async for _, result in rewrap(store):
                if isinstance(result, AccountStoreError):
                    raise result
                written += result.outcome == "written"
            seconds = perf_counter() - started
            if written != len(places):
                raise AssertionError(f"{written} of {len(places)} documents")
            return seconds * times / len(places)

        async def copying(times: int) -> float:
            """To another folder, one after another."""
            started = perf_counter()
            for at in places[:times]:
                copy = Location(at.file_name, folder=f"copy/{at.folder}")
                await one.save(copy, await one.get(at))
            seconds = perf_counter() - started
            shutil.rmtree(f"{root}/copy")
            return seconds

        runs = {"rewrap": rewrapping, _COPYING: copying}
        yield Round(f"local, {len(places):,} documents", runs, [Comparison(_COPYING, Goal("at most", 0.8))], effort)
