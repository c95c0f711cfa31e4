"""Local storage beside other libraries that put a value into a file, each used as its manual says."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import to_thread

from accountstore import AccountStore, Location
from benchmarks.blocks import Case, Comparison, Contender, Goal, Round, ratio, timed
from benchmarks.samples import ACCOUNT, PLAIN_ACCOUNT, PlainAccount, one_storage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from benchmarks.blocks import Workspace

__all__ = ("CASES",)

_NAMES = 16
_FOLDER = "mail/team-a"
_FSSPEC = "fsspec pipe_file, cat_file"
_ANYIO = "anyio.Path"
_KEY_VALUE = "py-key-value-aio file tree"
_AHEAD = Goal("at most", 1)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(PlainAccount)


class _Fsspec:
    """A plain fsspec filesystem, one thread hop an operation."""

    def __init__(self, folder: str, /) -> None:
        from fsspec.implementations.local import LocalFileSystem

        os.makedirs(folder, mode=0o700)
        self._fs: Any = LocalFileSystem(skip_instance_cache=True)
        self._paths = [f"{folder}/user{i}.account" for i in range(_NAMES)]

    def _save(self, path: str, /) -> None:
        self._fs.pipe_file(path, _encoder.encode(PLAIN_ACCOUNT))

    def _get(self, path: str, /) -> PlainAccount:
        return _decoder.decode(self._fs.cat_file(path))

    def save(self, i: int, /) -> Any:
        return to_thread.run_sync(self._save, self._paths[i % _NAMES])

    def get(self, i: int, /) -> Any:
        return to_thread.run_sync(self._get, self._paths[i % _NAMES])


class _AnyioPath:
    """`write_bytes` and `read_bytes`."""

    def __init__(self, folder: str, /) -> None:
        os.makedirs(folder, mode=0o700)
        self._paths = [anyio.Path(f"{folder}/user{i}.account") for i in range(_NAMES)]

    def save(self, i: int, /) -> Any:
        return self._paths[i % _NAMES].write_bytes(_encoder.encode(PLAIN_ACCOUNT))

    async def get(self, i: int, /) -> PlainAccount:
        return _decoder.decode(await self._paths[i % _NAMES].read_bytes())


class _KeyValue:
    """A value there is a dictionary."""

    def __init__(self, folder: str, /) -> None:
        from key_value.aio.stores.filetree import FileTreeStore

        os.makedirs(folder, mode=0o700)
        self._store: Any = FileTreeStore(data_directory=folder)

    def save(self, i: int, /) -> Any:
        return self._store.put(f"user{i % _NAMES}", msgspec.to_builtins(PLAIN_ACCOUNT), collection="mail")

    async def get(self, i: int, /) -> PlainAccount:
        return msgspec.convert(await self._store.get(f"user{i % _NAMES}", collection="mail"), PlainAccount)


async def _peers(work: Workspace, /) -> AsyncGenerator[Round]:
    root = f"{work.folder}/peers"
    places = [Location(f"user{i}.account", folder=_FOLDER) for i in range(_NAMES)]
    fsspec, path = _Fsspec(f"{root}/fsspec"), _AnyioPath(f"{root}/anyio")
    comparisons: list[Comparison] = []
    notes: Sequence[str] = ()
    key_value: _KeyValue | None = None
    if find_spec("key_value") and find_spec("aiofile"):
        key_value = _KeyValue(f"{root}/key-value")
        # It fsyncs the file but not the folder: held to the goal although its renames are not durable.
        comparisons.append(Comparison(_KEY_VALUE, ratio, _AHEAD))
    else:
        notes = (f"{_KEY_VALUE}: not installed, left out (dependency group bench)",)
    comparisons += [Comparison(_FSSPEC), Comparison(_ANYIO)]
    async with AccountStore.open(one_storage(f"{root}/accountstore")) as store:
        saves = [
            Contender("accountstore", timed(lambda i: store.save(places[i % _NAMES], ACCOUNT)), "yes", "yes"),
            Contender(_FSSPEC, timed(fsspec.save), "no", "no"),
            Contender(_ANYIO, timed(path.save), "no", "no"),
        ]
        gets = [
            Contender("accountstore", timed(lambda i: store.get(places[i % _NAMES])), "yes", "yes"),
            Contender(_FSSPEC, timed(fsspec.get), "no", "no"),
            Contender(_ANYIO, timed(path.get), "no", "no"),
        ]
        if key_value is not None:
            saves.insert(1, Contender(_KEY_VALUE, timed(key_value.save), "yes", "file, not its name"))
            gets.insert(1, Contender(_KEY_VALUE, timed(key_value.get), "yes", "file, not its name"))
        for contender in saves:
            await contender.run(_NAMES)
        yield Round("local save beside others, account", saves, comparisons, work.effort(4, 10), notes)
        yield Round("local get beside others, account", gets, comparisons, work.effort(6, 20), notes)


CASES = (Case("peers", _peers),)
