"""Event loops, the blocking-call detector, and what the report's header says."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import cloudservers
import pytest
from blockbuster import blockbuster_ctx
from cloudstub import Stub
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudservers import Server

LOOPS = [
    pytest.param(("asyncio", {"debug": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tests")


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each asynchronous test runs on asyncio, asyncio with uvloop, and trio."""
    return request.param


@pytest.fixture(autouse=True)
def _no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test whose event loop is blocked by a call out of the library."""
    if "anyio_backend" not in request.fixturenames:
        yield
        return
    with blockbuster_ctx("accountstore", excluded_modules=["accountstore.testing"]) as detector:
        for function in detector.functions.values():
            # On an event loop of their own, in a thread.
            function.can_block_in("accountstore/backends/s3.py", "_open")
            function.can_block_in("accountstore/backends/azure.py", "_open")
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """S3 as moto serves it."""
    with cloudservers.or_skip(cloudservers.moto) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Server]:
    """S3 as SeaweedFS serves it."""
    with cloudservers.or_skip(cloudservers.seaweedfs) as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[Server]:
    """S3 as rclone serves it: without conditions."""
    with cloudservers.or_skip(cloudservers.rclone) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[Server]:
    """Google Cloud Storage as fake-gcs-server serves it."""
    with cloudservers.or_skip(cloudservers.fake_gcs) as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[Server]:
    """Azure Blob Storage as Azurite serves it."""
    with cloudservers.or_skip(cloudservers.azurite) as server:
        yield server


@pytest.fixture(scope="session")
def stub_server() -> Iterator[Stub]:
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
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()} on {sys.platform}: {packages}"
