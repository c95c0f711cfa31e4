"""The registry: backends of other packages, found by their entry points and loaded on first use."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from running import PYTHON

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ConfigError,
    ConflictError,
    ExistsError,
    Location,
    NotFoundError,
    PasswordCredentials,
    StorageConfig,
    StoreConfig,
    UncertainError,
)
from accountstore.backends import fsspec as fsspec_backend
from accountstore.backends import local, memory
from accountstore.registry import find_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
AT = Location("email.account", folder="mail")

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For what does not depend on the event loop."""

BACKEND = '''
"""A backend over a dict, as another package would have it."""

from accountstore.backends.base import Blob, Capabilities, Pages, Stat, Version, each
from accountstore.errors import BackendError, ConfigError, ConflictError, ExistsError, NotFoundError, UnavailableError


class Full(Exception):
    """An error of the package's own."""


class Shelf:
    capabilities = Capabilities(create=True, update=True, atomic=True, durable=False)

    def __init__(self, url, options):
        self.url, self.options, self.documents, self.writes, self.closed = url, options, {}, 0, 0

    def _blob(self, key):
        if key not in self.documents:
            raise FileNotFoundError(key)
        number, data = self.documents[key]
        return Blob(data, Stat(key, len(data), Version(str(number)), None))

    async def read(self, key, /, *, limit):
        return self._blob(key)

    async def read_many(self, keys, /, *, limit):
        return await each(self.read(key, limit=limit) for key in keys)

    async def write(self, key, data, /, *, mode, mark=""):
        if data.find(b"too much") >= 0:
            raise Full("too much")
        if mode == "create" and key in self.documents:
            raise ExistsError("there is a document already")
        if isinstance(mode, Version) and self._blob(key).stat.version != mode:
            raise ConflictError("the document has changed since it was read")
        self.writes += 1
        self.documents[key] = self.writes, data
        return self._blob(key).stat

    async def write_many(self, writes, /):
        return await each(self.write(key, data, mode=mode) for key, data, mode in writes)

    async def stat(self, key, /):
        return self._blob(key).stat

    async def delete(self, key, /, *, version=None):
        if key in self.documents:
            if version is not None and self._blob(key).stat.version != version:
                raise ConflictError("the document has changed since it was read")
            del self.documents[key]

    def scan(self, prefix, /, *, recursive):
        start = prefix + "/" if prefix else ""
        found = [
            self._blob(key).stat
            for key in list(self.documents)
            if key.startswith(start) and (recursive or "/" not in key[len(start):])
        ]
        return Pages([found])

    def classify(self, error, /):
        if isinstance(error, FileNotFoundError):
            return NotFoundError
        return UnavailableError if isinstance(error, Full) else BackendError

    async def versioned(self):
        return None

    def filesystem(self):
        raise NotImplementedError

    async def aclose(self):
        self.closed += 1


opened = []


async def open_backend(url, options, /):
    unknown = set(options) - {"colour"}
    if unknown:
        raise ConfigError(f"unknown option {', '.join(sorted(unknown))}")
    opened.append(Shelf(url, options))
    return opened[-1]


def not_async(url, options, /):
    return Shelf(url, options)


async def explode(url, options, /):
    raise RuntimeError(options["colour"])
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Installs a package with entry points into a folder on `sys.path`; gives the name of its module."""
    folder = tmp_path / "site"
    folder.mkdir()
    modules: list[str] = []

    def install(package: str, code: str = BACKEND, /, **points: str) -> str:
        module = package.replace("-", "_")
        (folder / f"{module}.py").write_text(code)
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{scheme} = {module}:{name}\n" for scheme, name in points.items())
        (info / "entry_points.txt").write_text(f"[accountstore.backends]\n{lines}")
        modules.append(module)
        importlib.invalidate_caches()
        return module

    monkeypatch.syspath_prepend(str(folder))
    yield install
    for module in modules:
        sys.modules.pop(module, None)


def store_on(*urls: str, **options: Any) -> AbstractAsyncContextManager[AccountStore]:
    """A store to open, with storages `s0`, `s1` and so on."""
    storages = {f"s{i}": StorageConfig(url, options) for i, url in enumerate(urls)}
    return AccountStore.open(StoreConfig(default="s0", storages=storages))


# --- built in ---------------------------------------------------------------------------------------------------------


def test_the_built_in_schemes_have_their_backends() -> None:
    """`memory`, `file` and `local` have backends of their own; a scheme that is not built in goes to fsspec."""
    assert find_backend("memory") is memory.open_backend
    assert find_backend("file") is local.open_backend
    assert find_backend("local") is local.open_backend
    for scheme in ("sftp", "ftp", "nonsense", "", "s3x", "S3"):
        assert find_backend(scheme) is fsspec_backend.open_backend


CLOUDS = {
    "s3": ("s3", "s3a"),
    "gcs": ("gs", "gcs"),
    "azure": ("az", "abfs", "abfss"),
}
"""Modules of backends, with their schemes."""


def test_the_schemes_of_clouds_have_their_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schemes of S3, Google Cloud Storage and Azure have a backend each, and with the engine `obstore` one for all;
    the packages below are not looked for.
    """

    modules: dict[str, ModuleType] = {}

    def load(name: str) -> ModuleType:
        modules[name] = ModuleType(name)
        modules[name].__dict__["open_backend"] = object()
        return modules[name]

    monkeypatch.setattr("accountstore.registry.import_module", load)
    for name, schemes in CLOUDS.items():
        for scheme in schemes:
            for engine, module in (("fsspec", name), ("obstore", "obstore")):
                modules.clear()
                factory = find_backend(scheme, engine)
                assert [(name, module.open_backend) for name, module in modules.items()] == [
                    (f"accountstore.backends.{module}", factory)
                ]


@pytest.mark.parametrize("scheme", ["memory", "file", "local", "sftp", "nonsense", "s3x"])
@pytest.mark.anyio
@on_asyncio
async def test_the_engine_of_clouds_serves_no_other_scheme(install: Callable[..., str], scheme: str) -> None:
    """The engine `obstore` for a scheme that it does not serve is a `ConfigError` that names both, and imports nothing:
    neither its own package nor another one that provides the scheme.
    """
    module = install("other-backend", **({} if scheme in {"memory", "file", "local"} else {scheme: "open_backend"}))
    config = StoreConfig(storages={"s0": StorageConfig(f"{scheme}:///tmp/never", engine="obstore")})
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(config)
    assert str(caught.value) == f"storage 's0': the engine 'obstore' serves s3, gs and az URLs, not {scheme!r}"
    assert module not in sys.modules


MISSING = {
    "s3": ("s3://bucket", "fsspec", "s3fs", "s3"),
    "gcs": ("gs://bucket", "fsspec", "gcsfs", "gcs"),
    "azure": ("abfs://container", "fsspec", "adlfs", "azure"),
    "obstore": ("s3://bucket", "obstore", "obstore", "fast"),
}
"""By module: a URL, an engine, the package that they need, and the extra that brings it."""


class Missing:
    """Finds no module of a package, as where it is not installed."""

    def __init__(self, package: str, /) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None, /) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("module", MISSING)
@pytest.mark.anyio
@on_asyncio
async def test_a_missing_package_is_told_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage whose package is not installed is a `ConfigError` at open with the command that installs it."""
    url, engine, package, extra = MISSING[module]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(package), *sys.meta_path])
    if module in {"s3", "gcs"} and find_spec("aiohttp") is None:
        pytest.skip("aiohttp, which is looked for first, is not installed")
    monkeypatch.delitem(sys.modules, f"accountstore.backends.{module}", raising=False)
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(StoreConfig(storages={"s0": StorageConfig(url, engine=engine)}))
    told = f"storage 's0': {package} is not installed; install it with: pip install 'accountstore[{extra}]'"
    assert str(caught.value) == told


def test_backends_are_imported_on_first_use(tmp_path: Path) -> None:
    """Opening a store on memory imports neither the local backend nor that of other fsspec protocols."""
    code = """
        import sys, anyio
        from accountstore import AccountStore, StorageConfig, StoreConfig
        names = {f"accountstore.backends.{name}" for name in ("memory", "local", "posix", "fsspec")}
        assert not names & set(sys.modules), names & set(sys.modules)
        async def main(url):
            async with AccountStore.open(StoreConfig(storages={"a": StorageConfig(url)})):
                pass
        anyio.run(main, "memory://")
        assert names & set(sys.modules) == {"accountstore.backends.memory"}, names & set(sys.modules)
        anyio.run(main, sys.argv[1])
        assert "accountstore.backends.local" in sys.modules
        assert "accountstore.backends.fsspec" not in sys.modules
        print("well")
    """
    command = [*PYTHON, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("well\n", "")


# --- other packages ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_another_packages_backend_works_from_end_to_end(install: Callable[..., str]) -> None:
    """A backend that a package adds by an entry point serves every call of the store."""
    module = install("shelf-backend", shelf="open_backend")
    other = Location("other.account", folder="mail/deep", storage="s1")
    async with store_on("shelf://somewhere/x", "memory://") as store:
        assert store.capabilities("s0").update
        version = await store.save(AT, ACCOUNT, mode="create")
        with pytest.raises(ExistsError):
            await store.save(AT, ACCOUNT, mode="create")
        stored = await store.read(AT)
        assert (stored.document, stored.version) == (ACCOUNT, version)
        updated = await store.update(AT, lambda _: Account(host="new", port=1, credentials=ACCOUNT.credentials))
        with pytest.raises(ConflictError):
            await store.save(AT, ACCOUNT, mode=version)
        assert (await store.get(AT)).host == "new"
        assert (await store.check()).ok
        await store.move(AT, other)
        await store.move(other, AT)
        assert [entry.location async for entry in store.list(recursive=True)] == [AT]
        assert len([pair async for pair in store.save_many([(AT, ACCOUNT)])]) == 1
        assert [type(r).__name__ async for _, r in store.get_many([AT, Location("no.account")])] == [
            "Stored",
            "NotFoundError",
        ]
        with pytest.raises(NotFoundError):
            await store.get(Location("no.account"))
        with pytest.raises(UncertainError) as caught:
            await store.save(AT, Account(host="too much", port=1, credentials=ACCOUNT.credentials))
        assert "too much" not in str(caught.value)
        assert str(caught.value).count(" [storage 's0': shelf://somewhere/x]") == 1
        with pytest.raises(AccountStoreError):
            await store.filesystem()
        await store.delete(AT, version=(await store.stat(AT)).version)
        assert not await store.exists(AT)
        assert updated.version != version
    [backend] = sys.modules[module].opened
    assert (backend.url, backend.options, backend.closed) == ("shelf://somewhere/x", {}, 1)


@pytest.mark.anyio
@on_asyncio
async def test_another_package_is_imported_on_first_use(install: Callable[..., str]) -> None:
    """A package with a backend is not imported before a storage with its scheme is opened."""
    module = install("lazy-backend", lazy="open_backend")
    async with store_on("memory://", "ftp://localhost/x"):
        assert module not in sys.modules
    async with store_on("lazy://", colour="red"):
        assert module in sys.modules
        assert sys.modules[module].opened[0].options == {"colour": "red"}


@pytest.mark.anyio
@on_asyncio
async def test_each_storage_has_a_backend_of_its_own(install: Callable[..., str]) -> None:
    """Two storages with one scheme, and two stores, share nothing."""
    module = install("own-backend", own="open_backend")
    async with store_on("own://a", "own://b") as one, store_on("own://a") as two:
        await one.save(AT, ACCOUNT)
        assert not await one.exists(Location("email.account", folder="mail", storage="s1"))
        assert not await two.exists(AT)
    assert [backend.url for backend in sys.modules[module].opened] == ["own://a", "own://b", "own://a"]


async def opening(url: str, /, **options: Any) -> str:
    """The message of the `ConfigError` of opening a store."""
    with pytest.raises(ConfigError) as caught:
        async with store_on(url, **options):
            raise AssertionError("it opened")
    assert type(caught.value) is ConfigError
    return str(caught.value)


@pytest.mark.anyio
@on_asyncio
async def test_two_packages_for_one_scheme_are_refused(install: Callable[..., str]) -> None:
    """A scheme that two packages provide is a `ConfigError` that names both; neither is imported."""
    modules = [install(package, twice="open_backend") for package in ("one-backend", "two-backend")]
    message = await opening("twice://")
    for part in ("'s0'", "'twice'", "one-backend", "two-backend"):
        assert part in message
    assert not set(modules) & set(sys.modules)


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize("scheme", ["memory", "file", "local", *chain(*CLOUDS.values())])
async def test_a_built_in_scheme_is_not_taken_over_in_silence(install: Callable[..., str], scheme: str) -> None:
    """A package that provides a scheme of ours is a `ConfigError` that names it, and gets no document."""
    module = install("greedy-backend", **{scheme: "open_backend"})
    message = await opening(f"{scheme}:///tmp/never")
    for part in (f"'{scheme}'", "greedy-backend", "accountstore"):
        assert part in message
    assert module not in sys.modules


@pytest.mark.anyio
@on_asyncio
async def test_a_package_may_take_a_scheme_of_fsspec(install: Callable[..., str]) -> None:
    """A scheme that fsspec knows too belongs to the package that provides it here."""
    module = install("sftp-backend", sftp="open_backend")
    async with store_on("sftp://example.org/x"):
        assert len(sys.modules[module].opened) == 1


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize(
    ("code", "name", "part"),
    [
        ("import no_such_package_at_all", "open_backend", "no_such_package_at_all"),
        ("raise ImportError('pip install what-it-needs')", "open_backend", "pip install what-it-needs"),
        ("x = 1", "open_backend", "cannot be"),
        ("raise RuntimeError('canary')", "open_backend", "cannot be"),
        ("x = (", "open_backend", "cannot be"),
        ("open_backend = None", "open_backend", "cannot be"),
        (BACKEND, "not_async", "cannot be"),
        (BACKEND, "explode", "RuntimeError"),
    ],
    ids=["missing import", "import error", "no attribute", "error", "syntax", "none", "not async", "explodes"],
)
async def test_a_backend_that_cannot_be_loaded_is_told(
    install: Callable[..., str], code: str, name: str, part: str
) -> None:
    """A package that cannot be imported or opened is a `ConfigError` at open, with storage and reason, no values."""
    install("broken-backend", code, broken=name)
    message = await opening("broken://", colour="canary")
    assert "'s0'" in message
    assert part in message
    assert "canary" not in message


@pytest.mark.anyio
@on_asyncio
async def test_a_package_that_cannot_be_imported_is_named(install: Callable[..., str]) -> None:
    """Whatever goes wrong in importing it, the message names the package: it is what must be repaired."""
    for number, code in enumerate(("import no_such_package_at_all", "x = 1", "raise RuntimeError", "x = (")):
        install(f"bad-backend-{number}", code, **{f"bad{number}": "open_backend"})
        assert f"bad-backend-{number}" in await opening(f"bad{number}://")


@pytest.mark.anyio
@on_asyncio
async def test_a_backend_refuses_its_own_options(install: Callable[..., str]) -> None:
    """What a factory says in a `ConfigError` reaches the user, with the storage's name."""
    install("strict-backend", strict="open_backend")
    assert await opening("strict://", color="red") == "storage 's0': unknown option color"
