"""Local storage beside other libraries that put a value into a file, each used as its manual says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from anyio import to_thread

from accountstore import AccountStore
from benchmarks.harness import Comparison, Goal, LeftOut, Round, missing, timed
from benchmarks.samples import PLAIN_ACCOUNT, PlainAccount, decode, encode, one_storage
from benchmarks.sides import NAMES, Side, contenders, fill, our_side

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from benchmarks.harness import Case, Workspace

_FSSPEC = "fsspec pipe_file, cat_file (neither atomic nor durable)"
_ANYIO = "anyio.Path (neither atomic nor durable)"
_KEY_VALUE = "py-key-value-aio file tree (atomic, its names not durable)"


def _paths(folder: str, /) -> Sequence[str]:
    os.makedirs(folder, mode=0o700)
    return [f"{folder}/user{i}.account" for i in range(NAMES)]


def _fsspec(folder: str, /) -> Side:
    """A plain fsspec filesystem, one thread hop an operation."""
    from fsspec.implementations.local import LocalFileSystem

    fs: Any = LocalFileSystem(skip_instance_cache=True)
    paths = _paths(folder)

    def read(path: str) -> PlainAccount:
        return decode(fs.cat_file(path))

    def write(path: str) -> None:
        fs.pipe_file(path, encode(PLAIN_ACCOUNT))

    def get(i: int) -> Any:
        return to_thread.run_sync(read, paths[i % NAMES])

    def save(i: int) -> Any:
        return to_thread.run_sync(write, paths[i % NAMES])

    return Side(get, save)


def _anyio_path(folder: str, /) -> Side:
    """`read_bytes` and `write_bytes`."""
    paths = [anyio.Path(path) for path in _paths(folder)]

    async def get(i: int) -> PlainAccount:
        return decode(await paths[i % NAMES].read_bytes())

    def save(i: int) -> Any:
        return paths[i % NAMES].write_bytes(encode(PLAIN_ACCOUNT))

    return Side(get, save)


def _key_value(folder: str, /) -> Side:
    """A value there is a dictionary."""
    from key_value.aio.stores.filetree import FileTreeStore

    os.makedirs(folder, mode=0o700)
    store: Any = FileTreeStore(data_directory=folder)

    async def get(i: int) -> PlainAccount:
        return msgspec.convert(await store.get(f"user{i % NAMES}", collection="mail"), PlainAccount)

    def save(i: int) -> Any:
        return store.put(f"user{i % NAMES}", msgspec.to_builtins(PLAIN_ACCOUNT), collection="mail")

    return Side(get, save)


async def _peers(work: Workspace, /) -> AsyncGenerator[Round | LeftOut]:
    root = f"{work.folder}/peers"
    peers = {_FSSPEC: _fsspec(f"{root}/fsspec"), _ANYIO: _anyio_path(f"{root}/anyio")}
    comparisons = [Comparison(peer) for peer in peers]
    if absent := missing("key_value", "aiofile"):
        yield LeftOut(_KEY_VALUE, absent)
    else:
        peers[_KEY_VALUE] = _key_value(f"{root}/key-value")
        comparisons.append(Comparison(_KEY_VALUE, goal=Goal("at most", 1)))
    async with AccountStore.open(one_storage(f"{root}/accountstore")) as store:
        sides = {"accountstore": our_side(store), **peers}
        await fill(*sides.values())
        for name, effort in (("save", work.effort(4, 10)), ("get", work.effort(6, 20))):
            yield Round(f"local {name} beside others", contenders(sides, name, timed), comparisons, effort)


CASES: Mapping[str, Case] = {"peers": _peers}
