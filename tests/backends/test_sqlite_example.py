"""The example of a backend, docs/examples/sqlite_backend.py: the public suite on it, and what it promises beside."""

from __future__ import annotations

import ast
import importlib.util
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from running import HUNG
from samples import ACCOUNT, AT

from accountstore import BackendError, ConfigError, FullError, UnavailableError
from accountstore.testing import BackendTests, Harness, store_over

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sqlite_backend.py"
_SPEC = importlib.util.spec_from_file_location("sqlite_backend", EXAMPLE)
assert _SPEC is not None
assert _SPEC.loader is not None
example = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(example)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.db"


def opener(path: Path, /) -> Callable[[], Awaitable[Any]]:
    return partial(example.open_backend, f"sqlite://{path}", {})


@pytest.mark.once
class TestSqlite(BackendTests):
    """The public suite."""

    @pytest.fixture
    def harness(self, path: Path) -> Harness:
        def run(statement: str, *values: object) -> Any:
            with closing(sqlite3.connect(path, timeout=HUNG, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = OFF")
                return database.execute(statement, values).fetchone()

        def put(key: str, data: bytes) -> None:
            run("REPLACE INTO documents VALUES (?, hex(randomblob(8)), ?)", key, data)

        def get(key: str) -> bytes | None:
            row: tuple[bytes] | None = run("SELECT data FROM documents WHERE key = ?", key)
            return None if row is None else row[0]

        return Harness(open=opener(path), put=put, get=get)


def test_it_imports_from_the_seam_alone() -> None:
    """It is a page of some hundred lines, and all that it imports of the library is `accountstore.backends.base`."""
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 100
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom | ast.Import)]
    assert [ast.unparse(node) for node in imported if "accountstore" in ast.unparse(node)] == [
        "from accountstore.backends import base"
    ]


@pytest.mark.anyio
async def test_it_is_private_and_durable(path: Path) -> None:
    """Its file is the owner's alone, a commit is on the disk, and of a deleted document nothing is left in the file."""
    backend = await opener(path)()
    async with store_over({"main": backend}) as store:
        assert path.stat().st_mode & 0o777 == 0o600
        await store.save(AT, ACCOUNT)
        assert ACCOUNT.host.encode() in path.read_bytes()
        await store.delete(AT)
        assert ACCOUNT.host.encode() not in path.read_bytes()
        assert await backend._run("PRAGMA synchronous") == [(3,)]
        assert await backend._run("PRAGMA journal_mode") == [("delete",)]
        assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.anyio
async def test_its_errors_are_ours(path: Path) -> None:
    """A locked database is unavailable, and surely unchanged; a full one is full; else it is a `BackendError`."""
    backend = await opener(path)()
    async with store_over({"main": backend}) as store:
        await store.save(AT, ACCOUNT)
        await backend._run("PRAGMA busy_timeout = 0")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(UnavailableError) as caught:
                await store.save(AT, ACCOUNT)
            assert (type(caught.value), caught.value.sent) == (UnavailableError, False)
        await backend._run("PRAGMA max_page_count = 1")
        with pytest.raises(FullError):
            await backend.write("large.account", bytes(100_000), mode="overwrite")
        await backend._run("DROP TABLE documents")
        with pytest.raises(BackendError) as failed:
            await store.get(AT)
        assert type(failed.value) is BackendError
    with pytest.raises(ConfigError, match="color"):
        await example.open_backend("sqlite:///accounts.db", {"color": "red"})
