"""`list`: what it shows, page by page, and what is left when a loop is broken off."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import get_running_tasks
from samples import ACCOUNT, MULTI

from accountstore import AccountStore, Entry, Location, StorageConfig, StoreConfig
from accountstore.backends.base import Stat, pages_of
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.errors import BackendError, DeniedError, LocationError, UnavailableError
from accountstore.testing import store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.anyio

IN_MAIL = ("mail/a.account", "mail/c.account", "mail/team/d.account", "mail/team/deep/e.multi.account")
PATHS = ("a.account", "b.multi.account", *IN_MAIL, "mailbox/f.account")


@pytest.fixture(params=["memory", "local", "plain"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """An open store with one storage: in memory, in a folder, and in a folder through fsspec."""
    storage = {
        "memory": StorageConfig("memory://"),
        "local": StorageConfig(str(tmp_path)),
        "plain": StorageConfig("dir://", {"path": str(tmp_path), "target_protocol": "file"}),
    }[request.param]
    async with AccountStore.open(StoreConfig(storages={"main": storage})) as opened:
        yield opened


on_local = pytest.mark.parametrize("store", ["local"], indirect=True)


async def fill(store: AccountStore, paths: Iterable[str] = PATHS, /) -> None:
    for path in paths:
        at = Location.parse(path)
        await (store.save_multi(at, MULTI) if ".multi." in path else store.save(at, ACCOUNT))


async def paths(entries: AsyncIterator[Entry], /) -> list[str]:
    return sorted([entry.location.path async for entry in entries])


async def test_a_folder_lists_its_documents(store: AccountStore) -> None:
    """`list` shows the folder's own documents, `recursive` those below too; a missing folder is empty."""
    await fill(store)
    assert await paths(store.list()) == ["a.account", "b.multi.account"]
    assert await paths(store.list("mail")) == ["mail/a.account", "mail/c.account"]
    assert await paths(store.list("mail/team")) == ["mail/team/d.account"]
    assert await paths(store.list(recursive=True)) == sorted(PATHS)
    assert await paths(store.list("mail", recursive=True)) == sorted(IN_MAIL)
    assert await paths(store.list("mail/team/deep", recursive=True)) == ["mail/team/deep/e.multi.account"]
    for folder in ("no", "no/such/folder", "mai", "mail/a"):
        for recursive in (False, True):
            assert await paths(store.list(folder, recursive=recursive)) == []


async def test_entries_have_what_the_storage_knows(store: AccountStore) -> None:
    """An entry has a location that the store takes, the size, and the time of the document; its version may be None."""
    await fill(store)
    async for entry in store.list(recursive=True):
        stat = await store.stat(entry.location)
        assert (entry.size, entry.modified) == (stat.size, stat.modified)
        assert entry.version in {None, stat.version}
        assert entry.size > 0
        assert entry.modified is not None
        assert entry.modified.tzinfo is not None
    assert {entry.location.storage async for entry in store.list()} == {None}
    assert {entry.location.storage async for entry in store.list(storage="main")} == {"main"}


@pytest.mark.parametrize(
    "folder", ["/", "/a", "a/", "a//b", "..", "a/../b", "*", "a:b", "x.account", "a\\b", "\x00", "a" * 256]
)
async def test_a_folder_that_is_not_allowed_is_refused(folder: str) -> None:
    """A folder that no location could name is a `LocationError`, of a listing and of a scope."""
    store = store_over({"main": MemoryBackend()})
    for call in (store.list, store.scoped):
        with pytest.raises(LocationError):
            call(folder)


async def test_a_scoped_listing_is_relative(store: AccountStore) -> None:
    """A narrowed store lists its folder only, with locations that it takes itself."""
    await fill(store)
    tenant = store.scoped("mail")
    inside = ["a.account", "c.account", "team/d.account", "team/deep/e.multi.account"]
    assert await paths(tenant.list()) == inside[:2]
    assert await paths(tenant.list(recursive=True)) == inside
    assert await paths(tenant.list("team", recursive=True)) == inside[2:]
    assert await paths(tenant.scoped("team").list(recursive=True)) == ["d.account", "deep/e.multi.account"]
    async for entry in tenant.list(recursive=True):
        assert await tenant.exists(entry.location)
    assert await paths(store.scoped("").list(recursive=True)) == sorted(PATHS)


@on_local
async def test_files_that_are_no_documents_do_not_show(store: AccountStore, tmp_path: Path) -> None:
    """Other files, temporary files, folders, links and devices are not listed, and nothing is listed through them."""
    await fill(store)
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    outside.mkdir()
    (outside / "x.account").write_bytes(JSON.encode(ACCOUNT))
    mail = tmp_path / "mail"
    temporary = (".accountstore-0123456789abcdef.tmp", ".accountstore-x.account")
    (mail / "folder.account").mkdir()
    for name in ("x", "x.txt", "x.Account", ".account", ".multi.account", *temporary, "folder.account/x.account"):
        (mail / name).write_text("foreign")
    (mail / "file-link.account").symlink_to(outside / "x.account")
    (mail / "folder-link").symlink_to(outside, target_is_directory=True)
    (mail / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(mail / "pipe.account")
    assert await paths(store.list(recursive=True)) == sorted(PATHS)


@on_local
async def test_names_that_are_no_locations_do_not_show(store: AccountStore, tmp_path: Path) -> None:
    """Files whose names or depth no location can have are not listed, and do not stop the listing."""
    await fill(store)
    names = ["x:y", "x*", "x#1", "x\\y", "x\n", "e\u0301", "[x]"]
    if sys.platform == "linux":
        names.append(os.fsdecode(b"\xff"))
    for name in names:
        (tmp_path / f"{name}.account").touch()
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.account").touch()

    def make_deep() -> None:
        at = os.open(tmp_path, os.O_RDONLY)
        for _ in range(5):
            os.mkdir("x" * 250, dir_fd=at)
            below = os.open("x" * 250, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(os.open("y.account", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.close(at)

    await anyio.to_thread.run_sync(make_deep)
    assert await paths(store.list(recursive=True)) == sorted(PATHS)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@on_local
async def test_a_forbidden_folder_is_denied(store: AccountStore, tmp_path: Path) -> None:
    """A folder that may not be read is a `DeniedError`, and does not look empty."""
    await fill(store)
    (tmp_path / "mail").chmod(0)
    try:
        with pytest.raises(DeniedError):
            await paths(store.list("mail"))
    finally:
        (tmp_path / "mail").chmod(0o700)


class Paging(MemoryBackend):
    """Lists pages of its own, and counts those taken; an error in place of one is raised."""

    def __init__(self, *pages: Sequence[str] | Exception) -> None:
        super().__init__()
        self.pages = pages
        self.taken = 0

    def scan(self, prefix: str, /, *, recursive: bool) -> AsyncIterator[Sequence[Stat]]:
        return pages_of(self._take())

    def _take(self) -> Iterator[Sequence[Stat]]:
        for page in self.pages:
            if isinstance(page, Exception):
                raise page
            self.taken += 1
            yield [Stat(key, 1, None, None) for key in page]


async def test_pages_are_taken_one_at_a_time() -> None:
    """A page is asked for when the entries of those before it are used up; empty pages are passed over."""
    backend = Paging(["a.account", "b.account"], [], ["x.txt"], ["c.account"], [])
    listing = store_over({"main": backend}).list()
    assert backend.taken == 0
    for name, taken in (("a", 1), ("b", 1), ("c", 4)):
        assert (await anext(listing)).location.file_name == f"{name}.account"
        assert backend.taken == taken
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(listing)


@pytest.mark.parametrize(
    ("error", "kind"), [(ConnectionResetError(), UnavailableError), (RuntimeError("canary"), BackendError)]
)
async def test_an_error_in_a_listing_is_typed(error: Exception, kind: type[BackendError]) -> None:
    """What the storage raises between two pages is a typed error, after the entries before it."""
    listing = store_over({"main": Paging(["a.account"], error)}).list()
    assert (await anext(listing)).location.path == "a.account"
    with pytest.raises(kind) as caught:
        await anext(listing)
    assert "canary" not in str(caught.value)


def open_files() -> dict[str, str]:
    """The descriptors of this process and what they lead to, where the system says so."""
    if not os.path.isdir("/proc/self/fd"):
        return {}
    links = {fd: f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
    return {fd: os.readlink(link) for fd, link in links.items() if os.path.lexists(link)}


@on_local
async def test_a_folder_of_several_pages(store: AccountStore, tmp_path: Path) -> None:
    """A folder with more documents than a page lists each of them once; dropped between two pages, it is closed."""
    names = [f"{number:04}.account" for number in range(2500)]

    def make() -> None:
        for name in names:
            (tmp_path / name).touch()

    await anyio.to_thread.run_sync(make)
    assert await paths(store.list()) == names
    listing = store.list()
    await anext(listing)
    assert os.path.realpath(tmp_path) in open_files().values() or sys.platform != "linux"
    del listing
    gc.collect()
    assert os.path.realpath(tmp_path) not in open_files().values()


async def test_documents_that_stay_show_while_others_come_and_go(store: AccountStore) -> None:
    """A listing during which others are saved and deleted shows each document that was there all the time, once."""
    stay = [f"stay-{number}.account" for number in range(30)]
    await fill(store, stay)
    await fill(store, [f"go-{number}.account" for number in range(30)])
    seen: list[str] = []
    async for entry in store.list():
        seen.append(entry.location.path)
        if len(seen) < 20:
            await store.delete(Location(f"go-{len(seen)}.account"))
            await store.save(Location(f"come-{len(seen)}.account"), ACCOUNT)
    assert sorted(path for path in seen if path.startswith("stay")) == sorted(stay)
    assert len(set(seen)) == len(seen)


async def test_breaking_off_leaves_nothing_behind(store: AccountStore) -> None:
    """A listing dropped before its end, at once or after an entry, leaves no task or open file and warns of nothing."""
    await fill(store)
    async for _ in store.list(recursive=True):
        break
    gc.collect()
    tasks, files = {task.id for task in get_running_tasks()}, open_files()
    for _ in range(3):
        store.list(recursive=True)
        async for _ in store.list(recursive=True):
            break
        listing = store.list("mail", recursive=True)
        await anext(listing)
        del listing
        await anyio.sleep(0)
    gc.collect()
    await anyio.sleep(0)
    assert {task.id for task in get_running_tasks()} == tasks
    # What other tests have left may close meanwhile: files may be gone, but none may be new.
    assert open_files().keys() <= files.keys()
    assert await paths(store.list(recursive=True)) == sorted(PATHS)
