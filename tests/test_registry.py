"""The registry: backends of other packages, found by their entry points and loaded on first use."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import chain, product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from msgspec.structs import replace
from running import PYTHON
from samples import ACCOUNT, AT, CALLS, ELSEWHERE, MULTI, MULTI_AT, next_port

from accountstore import AccountStore, ConfigError, StorageConfig, StoreConfig
from accountstore.backends import fsspec as fsspec_backend
from accountstore.backends import memory
from accountstore.backends.local import backend as local
from accountstore.errors import ConflictError, ExistsError, NotFoundError, UncertainError, UnsupportedError
from accountstore.registry import find_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For what does not depend on the event loop."""

BACKEND = """
from accountstore.backends.base import Capabilities, ConfigError, UnsupportedError
from accountstore.backends.memory import MemoryBackend

class Shelf(MemoryBackend):
    capabilities = Capabilities(create=True, update=True, atomic=True, durable=False)

    def __init__(self, url, options):
        super().__init__()
        self.url, self.options, self.closed = url, options, 0

    async def write(self, key, data, /, *, mode, write_token=""):
        if b"too much" in data:
            raise ConnectionResetError("too much")
        return await super().write(key, data, mode=mode)

    async def filesystem(self):
        raise UnsupportedError("a shelf has no filesystem")

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
"""
"""A module of another package, with a backend that keeps what it was opened with."""


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


async def refused(url: str, /, engine: Any = "fsspec", **options: Any) -> str:
    """The message of the `ConfigError` of opening a store on a storage `s0`."""
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(StoreConfig(storages={"s0": StorageConfig(url, options, engine=engine)}))
    assert type(caught.value) is ConfigError
    return str(caught.value)


def test_the_built_in_schemes_have_their_backends() -> None:
    """`memory`, `file` and `local` have backends of their own; a scheme that is not built in goes to fsspec."""
    assert find_backend("memory") is memory.open_backend
    assert find_backend("file") is local.open_backend
    assert find_backend("local") is local.open_backend
    for scheme in ("sftp", "ftp", "nonsense", "", "s3x", "S3"):
        assert find_backend(scheme) is fsspec_backend.open_backend


CLOUDS = {"s3": ("s3", "s3a"), "gcs": ("gs", "gcs"), "azure": ("az", "abfs", "abfss")}
"""Modules of backends, with their schemes."""
OURS = ("memory", "file", "local", *chain(*CLOUDS.values()))


def test_the_schemes_of_clouds_have_their_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cloud has a backend, and the engine `obstore` one for all; packages below are not looked for."""
    load = Mock()
    monkeypatch.setattr("accountstore.registry.import_module", load)
    for name, schemes in CLOUDS.items():
        for scheme, (engine, module) in product(schemes, (("fsspec", name), ("obstore", "obstore.backend"))):
            load.reset_mock()
            found: Any = find_backend(scheme, engine, 7.0)
            if engine == "obstore":  # which is told what an operation may take
                assert found.keywords == {"seconds": 7.0}
                found = found.func
            assert found is load.return_value.open_backend
            load.assert_called_once_with(f"accountstore.backends.{module}")


@pytest.mark.parametrize("scheme", ["memory", "file", "local", "sftp", "nonsense", "s3x"])
@on_asyncio
async def test_the_engine_of_clouds_serves_no_other_scheme(install: Callable[..., str], scheme: str) -> None:
    """The engine `obstore` with another scheme is a `ConfigError` that names both, and imports no package."""
    module = install("other-backend", **({} if scheme in {"memory", "file", "local"} else {scheme: "open_backend"}))
    message = await refused(f"{scheme}:///tmp/never", engine="obstore")
    assert message == f"storages.s0.engine: the engine 'obstore' serves s3, gs and az URLs, not {scheme!r}"
    assert module not in sys.modules


MISSING = {
    "s3": ("s3://bucket", "fsspec", "s3fs", "s3"),
    "gcs": ("gs://bucket", "fsspec", "gcsfs", "gcs"),
    "azure": ("abfs://container", "fsspec", "adlfs", "azure"),
    "obstore.backend": ("s3://bucket", "obstore", "obstore", "fast"),
}
"""By module: a URL, an engine, the package that they need, and the extra that brings it."""


@pytest.mark.parametrize("module", MISSING)
@on_asyncio
async def test_a_missing_package_is_reported_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage whose package is not installed is a `ConfigError` at open with the command that installs it."""
    url, engine, package, extra = MISSING[module]

    def find_none(name: str, *_: object) -> None:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=find_none), *sys.meta_path])
    if module in {"s3", "gcs"} and find_spec("aiohttp") is None:
        pytest.skip("aiohttp, which is looked for first, is not installed")
    monkeypatch.delitem(sys.modules, f"accountstore.backends.{module}", raising=False)
    key = "url" if engine == "fsspec" else "engine"
    message = f"storages.s0.{key}: {package} is not installed; install it with: pip install 'accountstore[{extra}]'"
    assert await refused(url, engine=engine) == message


def test_backends_are_imported_on_first_use(tmp_path: Path) -> None:
    """Opening a store on memory imports neither the local backend nor that of other fsspec protocols; but whatever of
    the standard library a call may need, which may be out of descriptors.
    """
    code = """
        import sys, anyio
        from accountstore import AccountStore, StorageConfig, StoreConfig
        names = {f"accountstore.backends.{name}" for name in ("memory", "local.backend", "local.files", "fsspec")}
        assert not names & set(sys.modules), names & set(sys.modules)
        async def main(url):
            async with AccountStore.open(StoreConfig(storages={"a": StorageConfig(url)})):
                pass
        anyio.run(main, "memory://")
        assert {"hashlib", "hmac", "unicodedata"} <= set(sys.modules)
        assert names & set(sys.modules) == {"accountstore.backends.memory"}, names & set(sys.modules)
        anyio.run(main, sys.argv[1])
        assert names - set(sys.modules) == {"accountstore.backends.fsspec"}, names - set(sys.modules)
        print("well")
    """
    command = [*PYTHON, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("well\n", "")


def test_no_call_imports_anything_for_the_first_time() -> None:
    """A process that may open no more files imports no module: a store's calls, of a sealed storage too, and the check
    of a document go on. An unknown field's error has no guess then.
    """
    code = """
        import base64, errno, os, sys, types, anyio
        from importlib.util import find_spec
        from accountstore import Account, AccountStore, Encryption, Location, NoCredentials, StorageConfig, StoreConfig
        from accountstore import UnknownFieldError, from_json, to_json
        def full(name, *_):
            raise OSError(errno.EMFILE, f"Too many open files: {name}")
        async def main():
            key = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
            os.environ["KEYS"] = '{"keys":[{"kty":"oct","kid":"a","alg":"A256KW","k":"%s"}]}' % key
            storages = {"a": StorageConfig("memory://")}
            if find_spec("cryptography"):
                storages["b"] = StorageConfig("memory://", encryption=Encryption(keys="env:KEYS", required=True))
            document = Account(host="h", port=1, credentials=NoCredentials())
            async with AccountStore.open(StoreConfig(storages=storages, default="a")) as store:
                sys.meta_path.insert(0, types.SimpleNamespace(find_spec=full))
                for name in storages:
                    at = Location("x.account", storage=name)
                    await store.save(at, document)
                    assert await store.get(at) == document
                    assert (await store.check(name)).latency
                try:
                    from_json(to_json(document).replace(b"{", b'{"hots":1,', 1))
                except UnknownFieldError as error:
                    assert "hots" in str(error), error
                    print("well")
                del sys.meta_path[0]
        anyio.run(main)
    """
    done = subprocess.run([*PYTHON, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("well\n", "")


async def test_another_packages_backend_works_from_end_to_end(install: Callable[..., str]) -> None:
    """A backend that a package adds by an entry point serves every call of the store, and says no in its own way."""
    module = install("shelf-backend", shelf="open_backend")
    async with store_on("shelf://somewhere/x") as store:
        for name, call in CALLS.items():
            await store.save(AT, ACCOUNT)
            await store.save_multi(MULTI_AT, MULTI)
            await store.delete(ELSEWHERE)
            with pytest.raises(UnsupportedError) if name == "filesystem" else nullcontext():
                await call(store)
        assert (await store.check()).ok
        version = await store.save(AT, ACCOUNT)
        with pytest.raises(ExistsError):
            await store.save(AT, ACCOUNT, mode="create")
        await store.update(AT, next_port)
        with pytest.raises(ConflictError):
            await store.save(AT, ACCOUNT, mode=version)
        with pytest.raises(NotFoundError):
            await store.get(ELSEWHERE)
        with pytest.raises(UncertainError) as caught:
            await store.save(AT, replace(ACCOUNT, host="too much"))
        assert "too much" not in str(caught.value)
        assert str(caught.value).count(" [storage 's0': shelf://somewhere/x]") == 1
    [backend] = sys.modules[module].opened
    assert (backend.url, backend.options, backend.closed) == ("shelf://somewhere/x", {}, 1)


@on_asyncio
async def test_another_package_is_imported_on_first_use(install: Callable[..., str]) -> None:
    """A package with a backend is not imported before a storage with its scheme is opened."""
    module = install("lazy-backend", lazy="open_backend")
    async with store_on("memory://", "ftp://localhost/x"):
        assert module not in sys.modules
    async with store_on("lazy://", colour="red"):
        assert module in sys.modules
        assert sys.modules[module].opened[0].options == {"colour": "red"}


@on_asyncio
async def test_each_storage_has_a_backend_of_its_own(install: Callable[..., str]) -> None:
    """Two storages with one scheme, and two stores, share nothing."""
    module = install("own-backend", own="open_backend")
    async with store_on("own://a", "own://b") as one, store_on("own://a") as two:
        await one.save(AT, ACCOUNT)
        assert not await one.exists(replace(AT, storage="s1"))
        assert not await two.exists(AT)
    assert [backend.url for backend in sys.modules[module].opened] == ["own://a", "own://b", "own://a"]


@on_asyncio
@pytest.mark.parametrize(
    ("scheme", "packages", "named"),
    [
        ("twice", ("one-backend", "two-backend"), "one-backend, two-backend"),
        *((ours, ("greedy-backend",), "accountstore, greedy-backend") for ours in OURS),
    ],
)
async def test_a_scheme_that_two_packages_provide_is_refused(
    install: Callable[..., str], scheme: str, packages: tuple[str, ...], named: str
) -> None:
    """A scheme of two packages, of which one may be ours, is a `ConfigError` that names both; neither is imported."""
    modules = [install(package, **{scheme: "open_backend"}) for package in packages]
    message = await refused(f"{scheme}:///tmp/never")
    assert message == f"storages.s0.url: several packages provide the scheme {scheme!r}: {named}"
    assert not set(modules) & set(sys.modules)


@on_asyncio
async def test_a_package_may_take_a_scheme_of_fsspec(install: Callable[..., str]) -> None:
    """A scheme that fsspec knows too belongs to the package that provides it here."""
    module = install("sftp-backend", sftp="open_backend")
    async with store_on("sftp://example.org/x"):
        assert len(sys.modules[module].opened) == 1


@on_asyncio
@pytest.mark.parametrize(
    ("code", "name", "reason"),
    [
        ("import no_such_package", "open_backend", "loaded (No module named 'no_such_package')"),
        ("raise ImportError('pip install what-it-needs')", "open_backend", "loaded (pip install what-it-needs)"),
        ("x = 1", "open_backend", "loaded (AttributeError)"),
        ("raise RuntimeError('canary')", "open_backend", "loaded (RuntimeError)"),
        ("x = (", "open_backend", "loaded (SyntaxError)"),
        ("open_backend = None", "open_backend", "opened (TypeError)"),
        (BACKEND, "not_async", "opened (TypeError)"),
        (BACKEND, "explode", "opened (RuntimeError)"),
    ],
    ids=["missing import", "import error", "no attribute", "error", "syntax", "none", "not async", "explodes"],
)
async def test_a_backend_that_cannot_be_loaded_is_reported(
    install: Callable[..., str], code: str, name: str, reason: str
) -> None:
    """The `ConfigError` has storage and reason, no values, and the package where that must be repaired."""
    install("broken-backend", code, broken=name)
    package = "the backend for 'broken' of broken-backend " if reason.startswith("loaded") else ""
    key, where = ("storages.s0.url", "") if package else ("storages.s0", " [broken://]")
    assert await refused("broken://", colour="canary") == f"{key}: {package}cannot be {reason}{where}"


@on_asyncio
async def test_a_backend_refuses_its_own_options(install: Callable[..., str]) -> None:
    """What a factory says in a `ConfigError` reaches the user, with the storage's name."""
    install("strict-backend", strict="open_backend")
    assert await refused("strict://", color="red") == "storages.s0: unknown option color"
