"""What the tests of the object stores on the stub share: the services by both engines, and some documents."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anyio
import pytest
from cloudservers import client_options
from msgspec.structs import replace
from running import HUNG
from samples import ACCOUNT

from accountstore import Account, AccountStore, ConfigError, DeniedError, Location, StorageConfig, StoreConfig
from accountstore.codecs import JSON
from accountstore.registry import find_backend
from accountstore.validation import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from cloudstub import Stub

    from accountstore.backends.base import Backend

CANARY = "zQ7kzQ7k"
"""A secret, which no message may tell."""
BUCKET = "acct"
OLD = ACCOUNT
NEW = replace(OLD, host="new.example.org")
AT, OTHER, ABSENT = (Location(f"{name}.account", folder="f") for name in ("a", "b", "c"))
CALLS: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    "get": lambda store: store.get(AT),
    "save": lambda store: store.save(AT, NEW),
    "exists": lambda store: store.exists(AT),
}
"""A read, a write and a question, each a request of its own."""

PACKAGES = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs", "obstore": "obstore"}


def need_packages(*names: str) -> None:
    """Skip the test unless the packages of these services and engines are installed."""
    for name in names:
        if name in PACKAGES:
            pytest.importorskip(PACKAGES[name])


def hide_package_of(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """Let the fsspec package of a service be missing, also where it was imported before."""
    package = PACKAGES[service]
    for name in [*sys.modules, package]:
        if name.partition(".")[0] == package:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"accountstore.backends.{service}", raising=False)  # it holds what it imported


class Target(NamedTuple):
    """A service and the client that it is reached through."""

    service: Literal["s3", "gcs", "azure"]
    engine: Literal["fsspec", "obstore"]

    @property
    def name(self) -> str:
        """As the report shows it."""
        return f"{self.service}-{self.engine}"

    @property
    def scheme(self) -> str:
        """Of its URLs."""
        return {"s3": "s3", "gcs": "gs", "azure": "az"}[self.service]

    def options(self, endpoint: str, secret: str = "") -> dict[str, Any]:
        """What the client is told; `secret`, if not empty, is its secret where the service has one."""
        return client_options(self.scheme, endpoint, secret)

    def config(
        self, endpoint: str, bucket: str = BUCKET, *, secret: str = "", conditions: str = "trust", **policy: Any
    ) -> StoreConfig:
        """One storage named `cloud` on the prefix `p` of a bucket. Skips the test where a package is missing."""
        url, options = f"{self.scheme}://{bucket}/p", self.options(endpoint, secret)
        return self.config_of(url, options, conditions=conditions, **policy)

    def config_of(self, url: str, options: dict[str, Any], *, max_bytes: int = MAX_BYTES, **policy: Any) -> StoreConfig:
        """One storage named `cloud` at a URL with options. Skips the test where a package is missing."""
        need_packages(self.service, self.engine)
        storage = StorageConfig(url, options=options, engine=self.engine, **policy)
        return StoreConfig(storages={"cloud": storage}, max_bytes=max_bytes)

    def put(self, stub: Stub, at: Location, account: Account) -> None:
        """Store a document around every client."""
        stub.put(self.service, BUCKET, f"p/{at.path}", JSON.encode(account))

    def found(self, stub: Stub, at: Location) -> Account | None:
        """The document that the server holds."""
        data = stub.get(self.service, BUCKET, f"p/{at.path}")
        return None if data is None else JSON.decode(data, Account)


TARGETS = [Target(service, engine) for engine in ("fsspec", "obstore") for service in ("s3", "gcs", "azure")]

on_each_target = pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
by_fsspec = pytest.mark.parametrize("target", TARGETS[:3], ids=lambda target: target.service)
by_obstore = pytest.mark.parametrize("target", TARGETS[3:], ids=lambda target: target.service)
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For what does not depend on the event loop."""


def forget_credentials(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """Let no client find credentials in the environment, the user's files or a server of the cloud that it runs in."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "BOTO", "CLOUDSDK_", "GCE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG", "HOME"):
        monkeypatch.setenv(name, os.path.join(home, name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


async def refusal(config: StoreConfig) -> str:
    """Why a store does not open; no secret is told."""
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(config)
    assert CANARY not in str(caught.value)
    return str(caught.value)


async def denied(store: AccountStore, match: str) -> None:
    """Each call is denied, will not be tried again, and tells no secret."""
    for call in CALLS.values():
        with pytest.raises(DeniedError, match=match) as caught:
            await call(store)
        assert CANARY not in str(caught.value)
        assert not caught.value.temporary


async def backend_of(target: Target, stub: Stub) -> Backend:
    """The backend of a storage on the stub, as the registry gives it: for what the store does not show."""
    storage = target.config(stub.url).storages["cloud"]
    factory = await anyio.to_thread.run_sync(find_backend, storage.scheme, storage.engine)
    return await factory(storage.url, storage.options)


async def assert_closed(stub: Stub, left: int = 1) -> None:
    """No more connections are open at the server than are left: the one that asks.

    An exception that obstore raised may hold its client until it is collected as garbage.
    """
    deadline = time.monotonic() + HUNG
    while (count := stub.connections()["open"]) > left:
        assert time.monotonic() < deadline, f"{count - left} connections are still open"
        gc.collect()
        await anyio.sleep(0.005)
