"""The public suite on the embedded backends, and on fsspec's protocols against real servers on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from doubles import memory_harness

from accountstore.backends.local.backend import LocalBackend, open_backend
from accountstore.backends.local.files import Files
from accountstore.testing import BackendTests, Harness

if TYPE_CHECKING:
    from pathlib import Path

    from fileservers import Remote

pytest_plugins = ["fileservers"]


class TestMemory(BackendTests):
    """The reference."""

    @pytest.fixture
    def harness(self) -> Harness:
        return memory_harness()


class TestLocal(BackendTests):
    """A folder."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return Harness.on_folder(tmp_path, lambda: open_backend(f"file://{tmp_path}", {}))


class TestLocalWithoutLocks(BackendTests):
    """A folder on a network file system."""

    documents = 600

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        async def opened() -> LocalBackend:
            return LocalBackend(Files(str(tmp_path), locking=False))

        return Harness.on_folder(tmp_path, opened)


@pytest.mark.once
class TestFileServers(BackendTests):
    """SFTP and FTP, by blocking clients with one connection and by an asynchronous one with many requests at a time."""

    # Less of it: each test opens a connection.
    limit = 64 * 1024
    rounds = 4
    tasks = 6
    documents = 800
    steps = 4

    @pytest.fixture
    def harness(self, remote: Remote) -> Harness:
        return Harness.on_folder(remote.folder, remote.open)
