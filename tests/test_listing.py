"""`list`: what it shows, page by page, and what is left when a loop is broken off."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import anyio
import pytest
from anyio import get_running_tasks
from msgspec.structs import replace
from samples import ACCOUNT, MULTI

from accountstore import AccountStore, Entry, Event, Folder, Location, Skipped, StorageConfig, StoreConfig
from accountstore.backends.base import Capabilities, Stat, pages_of
from accountstore.backends.fsspec import FsspecBackend
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.errors import BackendError, DeniedError, LocationError, UnavailableError
from accountstore.listing import Listing
from accountstore.testing import store_over
from accountstore.validation import MAX_PATH

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
async def test_names_that_are_no_locations_are_told(store: AccountStore, tmp_path: Path) -> None:
    """Files whose names or depth no location can have are not listed, do not stop the listing, and are told."""
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
    left_out: list[Skipped] = []
    assert await paths(store.list(recursive=True, skipped=left_out.append)) == sorted(PATHS)
    deep = "/".join(["x" * 250] * 5) + "/y.account"
    assert {item.path for item in left_out} == {
        *(f"{name}.account" for name in names),
        *(f"{name}/x.account" for name in names),
        deep,
    }
    reasons = {item.path: item.reason for item in left_out}
    assert reasons["e\u0301.account"].startswith("file name: is not in Unicode normal form C")
    assert reasons[deep] == f"folder and file name: longer than {MAX_PATH} bytes"


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
    """Lists pages of its own, and counts those taken; an error in place of one is raised. It declares no folders."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, folders=False)

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


async def opened_since(files: dict[str, str], /) -> set[tuple[str, str]]:
    """The descriptors that are still open and were not among these. The thread of a blocking store lets go of a dropped
    iterator when it comes to it: it has 5 s. What other tests have left may close meanwhile.
    """
    for _ in range(500):
        gc.collect()
        if open_files().items() <= files.items():
            break
        await anyio.sleep(0.01)
    return {*open_files().items()} - {*files.items()}


@on_local
async def test_a_folder_of_several_pages(store: AccountStore, tmp_path: Path) -> None:
    """A folder with more documents than a page lists each of them once; dropped between two pages, it is closed."""
    names = [f"{number:04}.account" for number in range(2500)]

    def make() -> None:
        for name in names:
            (tmp_path / name).touch()

    await anyio.to_thread.run_sync(make)
    assert await paths(store.list()) == names
    gc.collect()
    files = open_files()
    listing = store.list()
    await anext(listing)
    assert os.path.realpath(tmp_path) in open_files().values() or sys.platform != "linux"
    del listing
    assert await opened_since(files) == set()


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
    assert await opened_since(files) == set()
    assert {task.id for task in get_running_tasks()} == tasks
    assert await paths(store.list(recursive=True)) == sorted(PATHS)


async def folders(items: AsyncIterator[Entry | Folder], /) -> list[str]:
    """The folders of a listing, sorted."""
    return sorted([item.path async for item in items if isinstance(item, Folder)])


async def test_folders_are_listed_where_they_are_asked_for(store: AccountStore) -> None:
    """With `folders`, a listing has each folder once, beside the documents; `recursive`, those below too."""
    await fill(store)
    await fill(store, [f"many/{number}/x.account" for number in range(30)])
    many = [f"many/{number}" for number in range(30)]
    assert await folders(store.list(folders=True)) == ["mail", "mailbox", "many"]
    assert await folders(store.list("mail", folders=True)) == ["mail/team"]
    assert await folders(store.list("many", folders=True)) == sorted(many)
    assert await folders(store.list("mail", folders=True, recursive=True)) == ["mail/team", "mail/team/deep"]
    everything = ["mail", "mail/team", "mail/team/deep", "mailbox", "many", *many]
    assert await folders(store.list(folders=True, recursive=True)) == sorted(everything)
    for recursive in (False, True):
        without = await paths(store.list("mail", recursive=recursive))
        found = [item async for item in store.list("mail", recursive=recursive, folders=True)]
        assert sorted(item.location.path for item in found if isinstance(item, Entry)) == without
        assert await folders(store.list("mail/team/deep", folders=True, recursive=recursive)) == []
        assert await folders(store.list("nowhere", folders=True, recursive=recursive)) == []


async def test_tenants_can_be_enumerated(store: AccountStore) -> None:
    """A folder of a listing leads to its documents: by `list` and by `scoped`, in the store and in a narrowed one."""
    await fill(store)
    for given, within in ((None, store), ("main", store), (None, store.scoped("mail")), ("main", store.scoped("mail"))):
        found = [item async for item in within.list(storage=given, folders=True) if isinstance(item, Folder)]
        assert {item.storage for item in found} == {given}
        assert str(found[0]) == (f"{found[0].path}/" if given is None else f"main:{found[0].path}/")
        for item in found:
            below = await paths(within.list(item.path, storage=item.storage, recursive=True))
            relative = await paths(within.scoped(item.path, storage=item.storage).list(recursive=True))
            assert below == [f"{item.path}/{path}" for path in relative] != []


@on_local
async def test_an_empty_folder_is_a_folder(store: AccountStore, tmp_path: Path) -> None:
    """Where the storage has folders without files, a listing of the folder above has them; links are none."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty", target_is_directory=True)
    assert await folders(store.list(folders=True)) == ["empty"]


@pytest.mark.parametrize("recursive", [False, True])
async def test_folders_of_a_backend_that_has_none_come_from_its_keys(recursive: bool) -> None:
    """Where a backend gives no folders, they are those that its documents are in, found by a recursive scan."""
    store = store_over({"main": Paging(["a.account", "m/x.account"], ["m/x.txt", "n/o/y.account"])})
    assert not store.capabilities().folders
    found = [str(getattr(item, "location", item)) async for item in store.list(folders=True, recursive=recursive)]
    deep = ["m/", "m/x.account", "n/", "n/o/", "n/o/y.account"]
    assert found == ["a.account", *(deep if recursive else ["m/", "n/"])]


PHANTOMS = (
    *(
        "/x.account",
        "//x.account",
        "m//x.account",
        "m/../x.account",
        "./x.account",
        "m/\t.account",
        "c.account/x.account",
    ),
    *("a#b.account", "DOMAIN\\me.account", "a:b.account", "bu\u0308cher.account", "m/\udcff.account"),
)
"""Keys of documents that no location names."""
NO_DOCUMENTS = ("c.account/", "m/", "x.txt", "/x.txt", ".accountstore-x.account", ".accountstore-1/x.account")
"""Keys of nothing that a location should name: folders, other files, the library's own."""


@pytest.mark.parametrize("key", PHANTOMS)
async def test_what_a_listing_shows_can_be_read(key: str) -> None:
    """A key that no location names shows under no other name, whatever the backend; the others show, and it is told."""
    left_out: list[Skipped] = []
    listing = store_over({"main": Paging(["a.account", key, *NO_DOCUMENTS], ["b.account"])}).list(
        recursive=True, skipped=left_out.append
    )
    assert await paths(listing) == ["a.account", "b.account"]
    [item] = left_out
    assert (item.path, item.storage) == (key, None)
    assert item.reason


async def test_a_listing_shows_nothing_outside_its_folder() -> None:
    """What a backend gives from outside of the folder, or from below it unasked, does not show, nor in a scope."""
    keys = ["m/a.account", "m/n/b.account", "mx/c.account", "d.account", "m//e.account"]
    store = store_over({"main": Paging(keys)})
    for within, start in ((store, "m/"), (store.scoped("m"), "")):
        for recursive in (False, True):
            left_out: list[Skipped] = []
            listing = within.list(start.strip("/"), recursive=recursive, skipped=left_out.append)
            assert await paths(listing) == [f"{start}a.account", f"{start}n/b.account"][: 1 + recursive]
            assert [item.path for item in left_out] == [f"{start}/e.account"][:recursive]


async def test_the_comparison_with_the_key_is_what_hides_a_phantom(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the comparison of a location with its key, `/x.account` shows as another document."""
    monkeypatch.setattr(Location, "path", property(lambda self: f"/{self.file_name}"))
    [entry] = [entry async for entry in store_over({"main": Paging(["/x.account"])}).list(recursive=True)]
    assert (entry.location.folder, entry.location.file_name) == ("", "x.account")


async def test_folders_that_no_location_names_are_told() -> None:
    """A folder that cannot be given to `list` is left out and told, with a slash at its end."""
    left_out: list[Skipped] = []
    keys = ["m/", "a#b/", "//", "c.account/", ".accountstore-1/", "n/x.txt"]
    store = store_over({"main": Paging(keys)})
    assert await folders(store.list(folders=True, skipped=left_out.append)) == ["m", "n"]
    assert [item.path for item in left_out] == ["a#b/", "/", "c.account/"]


@pytest.mark.parametrize("observed", [False, True])
async def test_what_is_left_out_is_logged_and_counted(caplog: pytest.LogCaptureFixture, observed: bool) -> None:
    """Without `skipped`, one record a page at WARNING names up to ten, as text; the page's event counts all."""
    events: list[Event] = []
    pages = ["a.account", *(f"{number}#\n.account" for number in range(12))], ["b.account"], ["m/\u202e#.account"]
    store = store_over({"main": Paging(*pages)}, observer=events.append if observed else None)
    with caplog.at_level(logging.WARNING):
        assert await paths(store.list(recursive=True)) == ["a.account", "b.account"]
    first, second = [record.getMessage() for record in caplog.records]
    assert {(record.name, record.levelno) for record in caplog.records} == {("accountstore", logging.WARNING)}
    assert first.startswith("a listing of 'main' leaves out '0#\\n.account' (file name: has '#': no ")
    assert first.endswith(" and 2 more")
    assert first.count("#\\n.account") == 10
    assert "'m/\\u202e#.account'" in second
    assert not observed or [event.skipped for event in events] == [12, 0, 1, 0]


def test_what_stands_in_a_documents_place_is_told() -> None:
    """A link or a pipe with a document's name is left out and told; under another name it is nobody's business."""
    stats = [Stat(name, 0, None, None, instead="a symbolic link") for name in ("m/a.account", "m/..data")]
    listing = Listing("m", "m", None, recursive=False, folders=False)
    assert listing.read(stats) == []
    assert [(item.path, item.reason) for item in listing.skipped] == [("m/a.account", "it is a symbolic link")]


async def test_without_the_record_nobody_would_know(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The control: without the record, a document that is left out is told by nothing but the event's count."""
    monkeypatch.setattr("accountstore.listing._warn", Mock())
    events: list[Event] = []
    with caplog.at_level(logging.DEBUG):
        store = store_over({"main": Paging(["a#.account"])}, observer=events.append)
        assert await paths(store.list()) == []
    assert not caplog.records
    assert [event.skipped for event in events] == [1, 0]


async def test_a_coroutine_function_cannot_be_told() -> None:
    """A coroutine function as `skipped`, which nobody would await, is refused when it is given."""
    coroutine_function: Any = anyio.sleep
    with pytest.raises(TypeError, match="skipped must be a plain function"):
        store_over({"main": MemoryBackend()}).list(skipped=coroutine_function)


async def test_who_asks_is_told_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With `skipped` there is no record: the caller decides. Paths are those of the store that lists."""
    left_out: list[Skipped] = []
    store = store_over({"main": Paging(["m/a#b.account", "m/c.account"])})
    with caplog.at_level(logging.DEBUG + 1):
        listing = store.scoped("m").list(storage="main", skipped=left_out.append)
        assert await paths(listing) == ["c.account"]
    assert [(item.path, item.storage) for item in left_out] == [("a#b.account", "main")]
    assert not caplog.records


class OddFiles:
    """An fsspec filesystem whose listings have the folder itself and names with empty segments, as object stores'."""

    async_impl = True
    dircache = Mock()

    def ls(self, path: str, *, detail: bool) -> list[dict[str, Any]]:
        kinds = {"": "directory", "a.account": "file", "c.account/": "file", "/": "directory", "m/": "directory"}
        assert path in {"/root", "/root/m"}, "a folder that is none is asked for"
        found = kinds if path == "/root" else {"": "directory", "/": "directory", "b.account": "file"}
        return [{"name": f"{path}/{name}", "type": kind, "size": 1} for name, kind in found.items()]


async def test_odd_entries_of_fsspec_are_no_documents() -> None:
    """On fsspec, a folder within itself and a name with an empty segment lead nowhere, in both kinds of listing."""
    backend = FsspecBackend(OddFiles, "/root", parallel=True)
    store = store_over({"main": backend})
    assert await paths(store.list(recursive=True)) == ["a.account", "m/b.account"]
    assert await folders(store.list(folders=True)) == ["m"]
    assert await folders(store.list("m", folders=True)) == []
