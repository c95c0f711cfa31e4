"""A backend against a dict of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from accountstore.backends.base import Backend, BatchBackend, Blob, Stat, Version, Write, WriteMode, classify_error
from accountstore.errors import (
    AccountStoreError,
    ConflictError,
    ExistsError,
    NotFoundError,
    TooLargeError,
)
from accountstore.testing.stateful.machine import Machine

__all__ = ("backend_machine",)

T = TypeVar("T")

_LIMIT = 4096
_KEYS = (
    "a.account",
    "A.account",
    "a.multi.account",
    "mail/a.account",
    "mail/\u00e9 %2F~.account",
    "mail/team/a.account",
    "mail-x/a.account",
    "mail/team/deep/er/\U0001f510.account",
)
_FOLDERS = ("", "mail", "mail/team", "mail-x", "mai", "none")

_keys = st.sampled_from(_KEYS)
_data = st.binary(max_size=2) | st.binary(max_size=64) | st.integers(_LIMIT - 1, _LIMIT + 1).map(bytes)
_picks = st.integers(0, 7)


def backend_machine(
    open_backend: Callable[[], Awaitable[Backend]],
    /,
    *,
    loop: str = "asyncio",
    loop_options: Mapping[str, Any] | None = None,
) -> type[RuleBasedStateMachine]:
    """A state machine that compares a backend with a dict of bytes.

    `open_backend` is called for each example and gives a backend on an empty storage. `loop` and `loop_options` are
    those of `anyio.run`. Modes that the backend does not declare are left out.
    """

    class BackendMachine(_BackendMachine):
        def __init__(self) -> None:
            super().__init__(open_backend, loop, loop_options or {})

    return BackendMachine


class _BackendMachine(Machine):
    def __init__(
        self, open_backend: Callable[[], Awaitable[Backend]], loop: str, options: Mapping[str, Any], /
    ) -> None:
        super().__init__(loop, options)
        self.backend = self.call(open_backend)
        self.able = self.backend.capabilities
        self.batch = cast("BatchBackend", self.backend)
        self.model: dict[str, tuple[bytes, Version]] = {}
        self.seen: dict[str, list[Version]] = {key: [] for key in _KEYS}

    async def close(self) -> None:
        await self.backend.aclose()

    def kind(self, error: Exception, /) -> type[AccountStoreError]:
        """The class that the store would raise."""
        return type(error) if isinstance(error, AccountStoreError) else classify_error(error)

    def attempt(self, function: Callable[[], Awaitable[T]], /) -> T | type[AccountStoreError]:
        """The result, or the class of the error."""
        try:
            return self.call(function)
        except Exception as error:  # noqa: BLE001 -- whatever a backend raises is compared
            return self.kind(error)

    def mode(self, key: str, pick: int, /) -> WriteMode:
        """Overwrite, create, or one of the versions that the key has had."""
        modes: list[WriteMode] = ["overwrite"]
        if self.able.create:
            modes.append("create")
        if self.able.update:
            modes += [Version("stale"), *self.seen[key][-5:]]
        return modes[-1 - pick % len(modes)]

    def expected(self, key: str, mode: WriteMode, /) -> tuple[type[AccountStoreError], ...]:
        """The errors of which a write must raise one; none where it must succeed."""
        if mode == "create":
            return (ExistsError,) if key in self.model else ()
        if mode == "overwrite":
            return ()
        if key not in self.model:
            return NotFoundError, ConflictError
        return () if mode == self.model[key][1] else (ConflictError,)

    def take_write(self, key: str, data: bytes, mode: WriteMode, result: Stat | type[AccountStoreError], /) -> None:
        """Compare what a write gave, and write in the model."""
        refused = self.expected(key, mode)
        if refused:
            assert not isinstance(result, Stat), f"a write of {key!r} succeeded instead of {refused}"
            assert issubclass(result, refused)
            return
        assert isinstance(result, Stat), f"a write of {key!r} raised {result}"
        assert (result.key, result.size) == (key, len(data))
        assert result.version is not None
        if key in self.model and self.model[key][0] != data:
            assert result.version != self.model[key][1], "other content has the same version"
        self.model[key] = data, result.version
        self.seen[key].append(result.version)

    def take_read(self, key: str, result: Blob | type[AccountStoreError], /) -> None:
        """Compare what a read gave."""
        if key not in self.model or len(self.model[key][0]) > _LIMIT:
            assert not isinstance(result, Blob), f"{key!r} was read"
            assert issubclass(result, TooLargeError if key in self.model else NotFoundError)
            return
        assert isinstance(result, Blob), f"a read of {key!r} raised {result}"
        data, version = self.model[key]
        assert result.data == data
        assert (result.stat.key, result.stat.size, result.stat.version) == (key, len(data), version)

    @rule(key=_keys, data=_data, pick=_picks)
    def write(self, key: str, data: bytes, pick: int) -> None:
        """Write in any mode that is declared."""
        mode = self.mode(key, pick)
        self.take_write(key, data, mode, self.attempt(lambda: self.backend.write(key, data, mode=mode)))

    @precondition(lambda self: self.able.batch > 1)
    @rule(documents=st.dictionaries(_keys, _data, max_size=5), pick=_picks)
    def write_many(self, documents: dict[str, bytes], pick: int) -> None:
        """Write some documents at once."""
        writes = [Write(key, data, self.mode(key, pick)) for key, data in documents.items()]
        results = self.call(lambda: self.batch.write_many(writes))
        for write, result in zip(writes, results, strict=True):
            self.take_write(*write, self.kind(result) if isinstance(result, Exception) else result)

    @rule(key=_keys)
    def read(self, key: str) -> None:
        """Read one document."""
        self.take_read(key, self.attempt(lambda: self.backend.read(key, limit=_LIMIT)))

    @precondition(lambda self: self.able.batch > 1)
    @rule(keys=st.lists(_keys, max_size=5))
    def read_many(self, keys: list[str]) -> None:
        """Read some documents at once."""
        results = self.call(lambda: self.batch.read_many(keys, limit=_LIMIT))
        for key, result in zip(keys, results, strict=True):
            self.take_read(key, self.kind(result) if isinstance(result, Exception) else result)

    @rule(key=_keys)
    def stat(self, key: str) -> None:
        """Stat one document."""
        result = self.attempt(lambda: self.backend.stat(key))
        if key not in self.model:
            assert not isinstance(result, Stat)
            assert issubclass(result, NotFoundError)
            return
        data, version = self.model[key]
        assert isinstance(result, Stat), result
        assert (result.key, result.size) == (key, len(data))
        assert result.version == version or (result.version is None and not self.able.update)

    @rule(key=_keys, pick=_picks)
    def delete(self, key: str, pick: int) -> None:
        """Delete, with or without a version."""
        mode = self.mode(key, pick)
        version = mode if isinstance(mode, Version) else None
        result = self.attempt(lambda: self.backend.delete(key, version=version))
        if version is not None and key in self.model and self.model[key][1] != version:
            assert result is ConflictError
        else:
            assert result is None
            self.model.pop(key, None)

    @rule(folder=st.sampled_from(_FOLDERS), recursive=st.booleans())
    def scan(self, folder: str, recursive: bool) -> None:
        """List a folder."""
        stats = self.call(lambda: _collect(self.backend.scan(folder, recursive=recursive)))
        start = f"{folder}/" if folder else ""
        found = sorted((stat.key, stat.size) for stat in stats if not stat.key.endswith("/"))
        assert found == sorted(
            (key, len(data))
            for key, (data, _) in self.model.items()
            if key.startswith(start) and (recursive or "/" not in key.removeprefix(start))
        )
        assert all(stat.version in {None, self.model[stat.key][1]} for stat in stats if stat.key in self.model)

    def teardown(self) -> None:
        try:
            self.scan("", recursive=True)
        finally:
            super().teardown()


async def _collect(pages: AsyncIterator[Sequence[Stat]], /) -> list[Stat]:
    return [stat async for page in pages for stat in page]
