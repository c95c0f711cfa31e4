"""A backend on SQLite, as another package would have it: with an entry point `sqlite` it serves `sqlite:///accounts.db`."""

import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence

from anyio import CapacityLimiter, to_thread

from accountstore.backends import base

_OPENING = """
    PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON;  -- a commit is on the disk, and what was removed is zeros
    CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, version TEXT NOT NULL, data BLOB NOT NULL);
"""
_FIND = "SELECT key, length(data), version, iif(length(data) <= :limit, data, NULL) FROM documents WHERE"
_BELOW = "key > :after AND key < :end AND (:deep OR instr(substr(key, :length + 1), '/') = 0) ORDER BY key LIMIT 1000"
_INSERT = "INTO documents VALUES (:key, :version, :data) RETURNING key"
_SWAP = "UPDATE documents SET version = :version, data = :data WHERE key = :key AND version = :old RETURNING key"
_DELETE = "DELETE FROM documents WHERE key = :key AND version = coalesce(:old, version) RETURNING key"
_ERRORS = {sqlite3.SQLITE_CONSTRAINT: base.ExistsError, sqlite3.SQLITE_FULL: base.FullError}


class SqliteBackend:
    """Documents are rows. A write is one statement with its condition in it: one step, among processes too."""

    capabilities = base.Capabilities(create=True, update=True, atomic=True, durable=True)

    def __init__(self, path: str, /) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would let others read it
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(_OPENING)
        self._turn = CapacityLimiter(1)

    async def _run(self, statement: str, /, **values: object) -> list[tuple[str, int, str, bytes]]:
        return await to_thread.run_sync(self._execute, statement, values, limiter=self._turn)

    def _execute(self, statement: str, values: Mapping[str, object], /) -> list[tuple[str, int, str, bytes]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:  # for five seconds; nothing was done
                raise base.UnavailableError("the database is locked", sent=False) from None
            raise _ERRORS.get(error.sqlite_errorcode & 0xFF, base.BackendError)(error.sqlite_errorname) from None

    async def _find(self, where: str, /, *, limit: int = -1, **values: object) -> list[tuple[base.Stat, bytes]]:
        rows = await self._run(f"{_FIND} {where}", limit=limit, **values)
        return [(base.Stat(key, size, base.Version(version), None), data) for key, size, version, data in rows]

    async def read(self, key: str, /, *, limit: int) -> base.Blob:
        for stat, data in await self._find("key = :key", key=key, limit=limit):
            base.check_size(stat.size, limit)
            return base.Blob(data, stat)
        raise base.NotFoundError("there is no such document")

    async def write(self, key: str, data: bytes, /, *, mode: base.WriteMode, write_token: str = "") -> base.Stat:
        version = os.urandom(8).hex()
        old = mode.token if isinstance(mode, base.Version) else None
        statement = _SWAP if old is not None else f"{'INSERT' if mode == 'create' else 'REPLACE'} {_INSERT}"
        if not await self._run(statement, key=key, version=version, data=data, old=old):
            raise base.ConflictError("the document has changed since it was read")
        return base.Stat(key, len(data), base.Version(version), None)

    async def stat(self, key: str, /) -> base.Stat:
        return (await self.read(key, limit=2**31)).stat

    async def delete(self, key: str, /, *, version: base.Version | None = None) -> None:
        deleted = await self._run(_DELETE, key=key, old=version and version.token)
        if version and not deleted and await self._find("key = :key", key=key):
            raise base.ConflictError("the document has changed since it was read")

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[base.Stat]]:
        start, end = (f"{prefix}/", f"{prefix}0") if prefix else ("", b"")  # 0 follows /, and a blob any text

        async def page(after: str | None) -> tuple[list[base.Stat], str | None]:
            found = await self._find(_BELOW, after=after or start, end=end, deep=recursive, length=len(start))
            return [stat for stat, _ in found], found[-1][0].key if found else None

        return base.pages_by_cursor(page)

    async def versioned(self) -> bool | None:
        return False

    async def versions(self, key: str, /) -> list[base.VersionInfo]:
        return base.only_version(await self.stat(key))

    async def usage(self) -> base.Usage | None:
        return None

    async def filesystem(self) -> tuple[object, str]:
        raise base.UnsupportedError("a database has no fsspec filesystem")

    async def aclose(self) -> None:
        await to_thread.run_sync(self._database.close, limiter=self._turn)


async def open_backend(url: str, options: Mapping[str, object], /) -> SqliteBackend:
    """Open the database at the path in `url`, making it if it is missing. There are no options."""
    if options:
        raise base.ConfigError(f"a SQLite storage has no options, but got {', '.join(sorted(options))}")
    return await to_thread.run_sync(SqliteBackend, url.partition("://")[2])
