"""Which tests run, event loops, the blocking-call detector, and what the report's header says.

`pytest` alone needs the extra `testing` and a minute: it runs what is on memory and folders, on asyncio and trio.
`pytest --all` runs all. What needs a package that is missing is skipped.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
from contextlib import nullcontext
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, patch

import cloudservers
import pytest
from cloudstub import Stub
from detector import no_blocking_calls
from doubles import skip_pauses
from hypothesis import HealthCheck, settings

from accountstore import AccountStore, StorageConfig, StoreConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from cloudservers import Server

UVLOOP_PARAMETERS = (("asyncio", {"use_uvloop": True}), {"use_uvloop": True})
TRIO_PARAMETERS: tuple[object, ...] = (("trio", {}),)
LOOPS = [
    pytest.param(("asyncio", {"debug": False}), id="asyncio"),
    pytest.param(UVLOOP_PARAMETERS[0], id="uvloop"),
    pytest.param(TRIO_PARAMETERS[0], id="trio"),
]

ON_ONE_LOOP = {"migration", "sealing"}
"""Folders whose quick tests are on asyncio alone: what they show stands above the event loop."""

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that selects everything."""
    parser.addoption("--all", action="store_true", help="also what is long or needs a server, and uvloop")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `--all` runs."""
    on_uvloop = [item for item in items if _is_on(item, UVLOOP_PARAMETERS)]
    if config.getoption("--all"):
        if find_spec("uvloop") is None:
            for item in on_uvloop:
                item.add_marker(pytest.mark.skip(reason="could not import 'uvloop'"))
        return
    on_trio = [item for item in items if item.path.parent.name in ON_ONE_LOOP and _is_on(item, TRIO_PARAMETERS)]
    left_out = {*on_uvloop, *on_trio, *(item for item in items if item.get_closest_marker("once"))}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Keep what is there now out of the many collections of garbage that tests ask for, which it makes slow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waits_for_the_disk(request: pytest.FixtureRequest) -> Iterator[None]:
    """Quick tests do not wait for the disk: what a loss of power leaves is shown on a disk that is a model."""
    with nullcontext() if request.config.getoption("--all") else patch("os.fsync", os.fstat):
        yield


def _is_on(item: pytest.Item, loop: tuple[object, ...]) -> bool:
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    return any(isinstance(each, (tuple, dict)) and each in loop for each in parameters)


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each asynchronous test runs on asyncio, asyncio with uvloop, and trio."""
    return request.param


@pytest.fixture(autouse=True)
def _no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose event loop is blocked by a call out of the library."""
    with no_blocking_calls() if "anyio_backend" in request.fixturenames else nullcontext():
        yield


@pytest.fixture(scope="session")
def one_loader() -> Iterator[None]:
    """All sessions of botocore share what it has read about the services: each would list thousands of its files, and
    read megabytes, for longer than most tests take.
    """
    if find_spec("botocore") is None:
        yield
        return
    from botocore import session

    with patch.object(session, "create_loader", cache(session.create_loader)):
        yield


def _served(start: Callable[[], AbstractContextManager[Server]], /) -> Any:
    """A fixture that starts a server once a run; or skips, with the reason, where it is not installed."""

    @pytest.fixture(scope="session")
    def server(one_loader: None) -> Iterator[Server]:
        with cloudservers.or_skip(start) as started:
            yield started

    return server


moto = _served(cloudservers.moto)
seaweedfs = _served(cloudservers.seaweedfs)
rclone = _served(cloudservers.rclone)
fake_gcs = _served(cloudservers.fake_gcs)
azurite = _served(cloudservers.azurite)


@pytest.fixture(scope="session")
def stub_server(one_loader: None) -> Iterator[Stub]:
    """The project's own server of the object stores."""
    with Stub() as server:
        yield server


@pytest.fixture
def stub(stub_server: Stub) -> Stub:
    """That server as after its start."""
    stub_server.reset()
    return stub_server


def pytest_report_header() -> str:
    """Name the versions that the results depend on."""
    names = ("accountstore", "anyio", "fsspec", "msgspec", "trio", "uvloop", "hypothesis")
    versions = {name: next((found.version for found in distributions(name=name)), "missing") for name in names}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Python {platform.python_version()} on {sys.platform}: {packages}"


@pytest.fixture(params=["memory", "local"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """An open store with one storage `main`, in memory or in a folder."""
    url = "memory://" if request.param == "memory" else f"file://{tmp_path}"
    async with AccountStore.open(StoreConfig(storages={"main": StorageConfig(url)})) as opened:
        yield opened


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between two attempts, which are not waited for."""
    return skip_pauses(monkeypatch)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory for the command line, that has a configuration and nothing else."""
    from commandline import COMMAND, CONFIG, configure

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    outside = {"ACCOUNTSTORE_CONFIG", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "PYTHONUNBUFFERED"}
    for name in outside | {"EDITOR", "VISUAL", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"}:
        monkeypatch.delenv(name, raising=False)
    # The runner would build all commands anew for each call, which takes longer than most of them.
    monkeypatch.setattr("typer.testing._get_command", Mock(return_value=COMMAND), raising=False)
    configure(CONFIG)


@pytest.fixture
def saved() -> None:
    """With a document at `a.account`."""
    from commandline import SINGLE, run

    run("save", "a.account", stdin=SINGLE)


@pytest.fixture
def tree() -> None:
    """Documents in folders of two storages, and a file that is none."""
    from commandline import SINGLE, run

    data = json.dumps(SINGLE).encode()
    for name in ("a.account", "b.multi.account", "mail/c.account", "mail/team a/d.account", "note.txt"):
        Path("first", name).parent.mkdir(parents=True, exist_ok=True)
        Path("first", name).write_bytes(data)
    run("save", "Archive:old/e.account", stdin=SINGLE)
