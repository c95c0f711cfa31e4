"""The public suite on the object stores, against real servers on loopback."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from accountstore.registry import find_backend
from accountstore.testing import BackendTests, Harness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cloudservers import Server

    from accountstore.backends.base import Backend

pytestmark = [pytest.mark.once]


def bucket_of(path: Path) -> str:
    """A bucket name for one test."""
    return f"t{abs(hash(path)):x}"[:40]


def harness_on(server: Server, path: Path, engine: str, prefix: str = "some/prefix/") -> Harness:
    """Open backends on a prefix of a bucket of this test's own; look into it around them.

    Where a server counts the prefix among a key's 1,024 bytes, there is none.
    """
    bucket = bucket_of(path)
    server.bucket(bucket)
    factory = find_backend(server.scheme, engine)

    async def opened() -> Backend:
        return await factory(f"{server.scheme}://{bucket}/{prefix}", server.options)

    return Harness(
        open=opened,
        put=lambda key, data: server.put(bucket, f"{prefix}{key}", data),
        get=lambda key: server.get(bucket, f"{prefix}{key}"),
    )


class _Cloud(BackendTests):
    # Less of it: each call is a request.
    limit = 128 * 1024
    rounds = 4
    tasks = 6
    documents = 1200
    steps = 6


@pytest.mark.xdist_group("moto")
class TestMoto(_Cloud):
    """S3 through s3fs, against moto."""

    @pytest.fixture
    def harness(self, moto: Server, tmp_path: Path) -> Harness:
        return harness_on(moto, tmp_path, "fsspec")


@pytest.mark.xdist_group("seaweedfs")
class TestSeaweedFS(_Cloud):
    """S3 through s3fs, against SeaweedFS."""

    tasks = 2  # it stalls where three race

    @pytest.fixture
    def harness(self, seaweedfs: Server, tmp_path: Path) -> Harness:
        return harness_on(seaweedfs, tmp_path, "fsspec", "")


@pytest.mark.xdist_group("fake_gcs")
class TestFakeGCS(_Cloud):
    """Google Cloud Storage through gcsfs, against fake-gcs-server."""

    @pytest.fixture
    def harness(self, fake_gcs: Server, tmp_path: Path) -> Harness:
        return harness_on(fake_gcs, tmp_path, "fsspec")


@pytest.mark.xdist_group("azurite")
class TestAzurite(_Cloud):
    """Azure Blob Storage through adlfs, against Azurite."""

    @pytest.fixture
    def harness(self, azurite: Server, tmp_path: Path) -> Harness:
        return harness_on(azurite, tmp_path, "fsspec")


@pytest.mark.xdist_group("moto")
class TestMotoByObstore(_Cloud):
    """S3 through obstore, against moto."""

    @pytest.fixture
    def harness(self, moto: Server, tmp_path: Path) -> Harness:
        return harness_on(moto, tmp_path, "obstore")


@pytest.mark.xdist_group("seaweedfs")
class TestSeaweedFSByObstore(_Cloud):
    """S3 through obstore, against SeaweedFS."""

    tasks = 2

    @pytest.fixture
    def harness(self, seaweedfs: Server, tmp_path: Path) -> Harness:
        return harness_on(seaweedfs, tmp_path, "obstore", "")


@pytest.mark.xdist_group("azurite")
class TestAzuriteByObstore(_Cloud):
    """Azure Blob Storage through obstore, against Azurite."""

    @pytest.fixture
    def harness(self, azurite: Server, tmp_path: Path) -> Harness:
        return harness_on(azurite, tmp_path, "obstore")
