"""What lies among the documents: links, unreadable files, odd keys of each service; and what may not be deleted."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import pytest
from anyio import to_thread
from cloudtargets import TARGETS, Target
from doubles import Recording
from migrating import SOURCE, TARGET, account, config, files, found, once, outcomes_of, put, source, target
from msgspec import msgpack, to_builtins
from msgspec.structs import replace

from accountstore import (
    AccountStore,
    DeniedError,
    EncodeError,
    Location,
    OAuthCredentials,
    StorageConfig,
    StoreConfig,
    UnsupportedError,
)
from accountstore.backends.local.syscalls import SystemCalls
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import JSON
from accountstore.migration import Options, Place, migrate, plan, read_report, verify
from accountstore.secrets import reveal
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cloudstub import Stub

pytestmark = pytest.mark.anyio

GOOD = JSON.encode(account("a"))


def lay_out(root: Path, /) -> dict[str, tuple[str, str]]:
    """Put odd things beside a document; what each is to be told as."""
    (root / "real.account").write_bytes(GOOD)
    (root / "folder.account").mkdir()
    (root / "inside.account").symlink_to("real.account")
    (root / "outside.account").symlink_to("/etc/hostname")
    (root / "dangling.account").symlink_to("nowhere")
    (root / "linked").symlink_to(root.parent)
    os.mkfifo(root / "pipe.account")
    with socket.socket(socket.AF_UNIX) as heard:
        heard.bind(os.path.relpath(root / "socket"))
    link = "source: it is a symbolic link"
    return {
        "inside.account": ("refused", link),
        "outside.account": ("refused", link),
        "dangling.account": ("refused", link),
        "linked": ("foreign", link),
        "pipe.account": ("refused", "source: it is no regular file"),
        "socket": ("foreign", "source: it is no regular file"),
    }


async def test_links_and_devices_are_told_and_not_followed(tmp_path: Path) -> None:
    """A symbolic link, wherever it leads, a pipe and a socket are told by name with the reason, by a plan too; nothing
    is read through them, and the documents are copied.
    """
    root = tmp_path / "old" / "mail"
    root.mkdir(parents=True)
    odd = lay_out(root)
    async with AccountStore.open(config(tmp_path)) as store:
        for run in (plan(store, SOURCE, TARGET), migrate(store, SOURCE, TARGET, **files(tmp_path))):
            told = {outcome.name: (outcome.outcome, outcome.reason) async for outcome in run}
            assert told == odd | {"real.account": ("copied", "")}
            assert run.report.exit_code == 1
        assert [entry.location.file_name async for entry in store.list(storage="New", recursive=True)] == [
            "real.account"
        ]


async def test_what_stands_in_a_documents_place_at_the_target_is_told_once(tmp_path: Path) -> None:
    """A link or a pipe at the target is a conflict where the source has a document of that name, in a plan, a run and a
    verification, and is told once; where the source has none, or has none any more, it is foreign.
    """
    there = tmp_path / "new" / "post" / "all"
    async with AccountStore.open(config(tmp_path)) as store:
        for name in ("a.account", "gone.account", "linked.account", "piped.account", "z.account"):
            await store.save(source(name), account("a"))
        await once(store, tmp_path, exclude=("linked*", "piped*"))
        await store.delete(source("gone.account"))
        (there / "gone.account").unlink()
        for name in ("alone.account", "gone.account", "linked.account"):
            (there / name).symlink_to("a.account")
        os.mkfifo(there / "piped.account")
        told = {
            "a.account": "same",
            "alone.account": "foreign",
            "gone.account": "foreign",
            "linked.account": "conflict",
            "piped.account": "conflict",
            "z.account": "same",
        }
        for action in (plan, verify, migrate, plan, verify, migrate):
            assert await outcomes_of(action(store, SOURCE, TARGET, **files(tmp_path))) == told


async def test_links_that_are_followed_are_documents(tmp_path: Path) -> None:
    """With `follow_links` a link inside the storage is the document it leads to; one that leads out is still told."""
    root = tmp_path / "old" / "mail"
    root.mkdir(parents=True)
    lay_out(root)
    old = StorageConfig(f"{tmp_path}/old", options={"follow_links": True})
    told = StoreConfig(storages={"Old": old, "New": StorageConfig(f"{tmp_path}/new")}, default="Old")
    async with AccountStore.open(told) as store:
        words = await outcomes_of(migrate(store, SOURCE, TARGET, **files(tmp_path)))
    assert {name for name, word in words.items() if word == "copied"} == {"real.account", "inside.account"}
    assert words["outside.account"] == words["dangling.account"] == "refused"


async def test_a_folder_that_became_a_link_loses_no_copy(tmp_path: Path) -> None:
    """What is behind a link is not read, and is not gone, either: with `mirror_deletes` its copies stay, and the run is
    not all right, as its plan said.
    """
    async with AccountStore.open(config(tmp_path)) as store:
        for name in ("team/a.account", "z.account"):
            await store.save(source(name), account("a"))
        await once(store, tmp_path)
        folder = tmp_path / "old" / "mail" / "team"
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        for call in (plan, migrate):
            run = call(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(tmp_path))
            assert await outcomes_of(run) == {"team": "foreign", "team/a.account": "refused", "z.account": "same"}
            assert run.report.exit_code == 1
        assert await found(store, target("team/a.account")) == "a"


async def test_a_source_that_became_a_link_is_told(tmp_path: Path) -> None:
    """A link in the source's own place is no empty folder: the run is not all right."""
    async with AccountStore.open(config(tmp_path)) as store:
        await store.save(source("a.account"), account("a"))
        await once(store, tmp_path)
        folder = tmp_path / "old" / "mail"
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        assert await outcomes_of(run) == {"": "failed", "a.account": "refused"}
        assert run.report.exit_code == 1


@pytest.mark.parametrize("number", ["1e400", "18446744073709551616"])
async def test_a_plan_refuses_numbers_that_the_target_cannot_carry(tmp_path: Path, number: str) -> None:
    """A plan says `refused`, as the run does, of a number in JSON that MessagePack has not."""
    async with AccountStore.open(config(tmp_path)) as store:
        await store.save_json(source("a.account"), GOOD[:-1] + f',"x":{number}}}'.encode())
        for run in (plan(store, SOURCE, TARGET), migrate(store, SOURCE, TARGET, **files(tmp_path))):
            assert await outcomes_of(run) == {"a.account": "refused"}


async def test_what_the_target_cannot_carry_is_refused(tmp_path: Path) -> None:
    """A MessagePack document with values that JSON has not is refused by name, with what it has and where, as a plan
    says before, and stays at the source, by `copy` and `move` too; to MessagePack it goes as it is. When an access
    token ends is no such value.
    """
    end = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    tokens = OAuthCredentials(login="l", client_id="c", refresh_token="r", access_token="t", expires_at=end)
    odd = msgpack.encode(to_builtins(account("a"), enc_hook=reveal) | {"key": b"CANARY"})
    storages = {name: StorageConfig(f"{tmp_path}/{name}", codec="msgpack") for name in ("Old", "New")}
    storages |= {"Json": StorageConfig(f"{tmp_path}/Json")}
    options = Options(delete_source=True)
    async with AccountStore.open(StoreConfig(storages=storages, default="Old")) as store:
        await store.save(source("tokens.account"), replace(account("a"), credentials=tokens))
        (tmp_path / "Old/mail/odd.account").write_bytes(odd)
        for run in (plan(store, SOURCE, "Json:"), migrate(store, SOURCE, "Json:", **files(tmp_path))):
            told = {outcome.name: (outcome.outcome, outcome.reason) async for outcome in run}
            assert told == {
                "odd.account": ("refused", "target: has bytes, which the other format cannot carry (at $[...])"),
                "tokens.account": ("copied", ""),
            }
        assert {each.outcome for each in (await verify(store, SOURCE, "Json:")).outcomes} == {"missing", "same"}
        for call in (store.copy, store.move):
            with pytest.raises(EncodeError, match="has bytes"):
                await call(source("odd.account"), Location("odd.account", storage="Json"))
        moved = migrate(store, SOURCE, TARGET, options=options, journal=tmp_path / "other", key_file=tmp_path / "key")
        assert await outcomes_of(moved) == {"odd.account": "moved", "tokens.account": "moved"}
        assert (tmp_path / "New/post/all/odd.account").read_bytes() == odd


class Decomposing(MemoryBackend):
    """Keeps names in Unicode's decomposed form, and finds them in either, as HFS+ does."""

    async def read(self, key: str, /, *, limit: int) -> Any:
        return await super().read(normalize("NFD", key), limit=limit)

    async def write(self, key: str, data: bytes, /, *, mode: Any, write_token: str = "") -> Any:
        return await super().write(normalize("NFD", key), data, mode=mode, write_token=write_token)

    async def stat(self, key: str, /) -> Any:
        return await super().stat(normalize("NFD", key))

    async def delete(self, key: str, /, *, version: Any = None) -> None:
        await super().delete(normalize("NFD", key), version=version)


@pytest.mark.parametrize("others", [[], ["a.account"]], ids=["alone", "with others"])
async def test_copies_whose_names_the_target_decomposes_are_found(tmp_path: Path, others: list[str]) -> None:
    """They are looked at by their names: not told as removed, nor is their target taken for one that is not mounted."""
    name = "caf\u00e9.account"
    async with store_over({"Old": MemoryBackend(), "New": Decomposing()}) as store:
        for each in (name, *others):
            await store.save(source(each), account("a"))
        assert {*(await once(store, tmp_path)).totals} == {"copied"}
        told = await outcomes_of(migrate(store, SOURCE, TARGET, **files(tmp_path)))
        assert told == dict.fromkeys([name, *others], "same") | {normalize("NFD", name): "foreign"}
        await store.delete(target(name))
        if others:
            assert (await outcomes_of(migrate(store, SOURCE, TARGET, **files(tmp_path))))[name] == "removed"


@pytest.mark.parametrize(
    ("before", "after", "listed"),
    [
        ("caf\u00e9.account", "cafe\u0301.account", True),
        ("\u0401.account", "\u0415\u0308.account", True),  # it is listed behind the other
        ("\u00e9/a.account", "e\u0301/a.account", True),
        ("\u00e9/\u00fc.account", "e\u0301/\u00fc.account", True),
        ("caf\u00e9.account", "cafe\u0301.account", False),
    ],
    ids=["file", "behind", "folder", "folder alone", "named"],
)
async def test_copies_whose_names_the_source_decomposes_are_left(
    tmp_path: Path, before: str, after: str, listed: bool
) -> None:
    """With `mirror_deletes`, a document that the source has under another Unicode form of its name keeps its copy, and
    a plan and a run say why; of a copy that somebody has removed nothing is said.
    """
    options = Options(mirror_deletes=True, names=None if listed else (before, "z.account"))
    async with AccountStore.open(config(tmp_path)) as store:
        for name in (before, "z.account"):
            await store.save(source(name), account("a"))
        await once(store, tmp_path)
        place = tmp_path / "old" / "mail"
        (place / after).parent.mkdir(exist_ok=True)
        (place / before).rename(place / after)
        for call in (plan, migrate):
            run = call(store, SOURCE, TARGET, options=options, **files(tmp_path))
            told = {outcome.name: outcome async for outcome in run}
            assert told[before].outcome == "gone"
            assert "under another Unicode form of its name" in told[before].reason
        assert await found(store, target(before)) == "a"
        await store.delete(target(before))
        told_now = await outcomes_of(migrate(store, SOURCE, TARGET, options=options, **files(tmp_path)))
        assert (before in told_now) is not listed


@pytest.mark.parametrize("how", ["chmod", "fault"])
async def test_an_unreadable_file_is_told(tmp_path: Path, how: str) -> None:
    """A document that may not be read has failed, by name; the others are copied, and the next run tries it again."""
    if how == "chmod" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    old: Any = FaultyBackend(MemoryBackend(), [Fault("read", 2, error=PermissionError())])
    ends = {"Old": old, "New": MemoryBackend()}
    opened = AccountStore.open(config(tmp_path)) if how == "chmod" else store_over(ends)
    async with opened as store:
        for name in ("a.account", "b.account", "c.account"):
            await store.save(source(name), account("a"))
        if how == "chmod":
            (tmp_path / "old" / "mail" / "b.account").chmod(0)
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        told = {outcome.name: (outcome.outcome, outcome.error) async for outcome in run}
        failed = [name for name, word in told.items() if word == ("failed", DeniedError.__name__)]
        assert len(failed) == 1
        assert [word for word, _ in told.values()].count("copied") == 2
        if how == "chmod":
            (tmp_path / "old" / "mail" / "b.account").chmod(0o600)
        assert (await once(store, tmp_path)).ok


@pytest.mark.parametrize("end", ["old/mail", "new/post/all"])
async def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """It has failed, by name, and all that is known in it; the rest is copied. Nothing in it is taken for deleted, and
    the next run finds it as it was.
    """
    names = ("a.account", "closed/b.account", "z.account")
    async with AccountStore.open(config(tmp_path)) as store:
        for name in names[:2]:
            await store.save(source(name), account("a"))
        await once(store, tmp_path)
        await store.save(source(names[2]), account("a"))
        opened = SystemCalls.open

        def denying(path: str, flags: int, mode: int = 0, *, dir_fd: int | None = None) -> int:
            if path == "closed" and os.readlink(f"/proc/self/fd/{dir_fd}").endswith(end):
                raise PermissionError(13, "Permission denied")
            return opened(path, flags, mode, dir_fd=dir_fd)

        with monkeypatch.context() as patched:
            patched.setattr(SystemCalls, "open", staticmethod(denying))
            run = migrate(store, SOURCE, TARGET, options=Options(mirror_deletes=True), **files(tmp_path))
            told = await outcomes_of(run)
            assert told == dict(zip((*names, "closed/"), ("same", "failed", "copied", "failed"), strict=True))
            assert run.report.exit_code == 1
            report = await to_thread.run_sync(read_report, tmp_path / "journal")
            assert {outcome.name for outcome in report.outcomes} == {"closed/", "closed/b.account"}
        assert {*(await once(store, tmp_path, mirror_deletes=True)).totals} == {"same"}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("data", [b"", GOOD[:30], b"\xff", b" " * 300_000, b"{}"], ids=len)
async def test_a_target_that_is_no_document(tmp_path: Path, known: bool, data: bytes) -> None:
    """It is a conflict, and left; one that is to be overwritten is replaced by the source's document, as a plan says,
    and is the same then. Where the source has none, it stays.
    """
    new = MemoryBackend()
    async with store_over({"Old": MemoryBackend(), "New": new}) as store:
        await put(store, source("a.account"), "a")
        if known:
            await once(store, tmp_path)
        for name in ("a.account", "b.account"):
            await new.write(target(name).path, data, mode="overwrite")
        overwrite = Options(on_conflict="overwrite")
        assert {*(await once(store, tmp_path)).totals} == {"conflict", "foreign"}
        for call, words in (
            (plan, {"changed", "foreign"}),
            (migrate, {"changed", "foreign"}),
            (migrate, {"same", "foreign"}),
        ):
            report = await call(store, SOURCE, TARGET, options=overwrite, **files(tmp_path))
            assert ({*report.totals}, report.exit_code) == (words, 0)
        assert await found(store, target("a.account")) == "a"
        assert (await new.read(target("b.account").path, limit=10**6)).data == data


ODD: Mapping[str, Mapping[str, str]] = {
    "s3": {"a//b.account": "refused", "/c.account": "refused", "e\u0301.account": "refused"},
    "gcs": {"a//b.account": "refused", "../c.account": "refused", "g.ACCOUNT": "foreign"},
    "azure": {"a//b.account": "refused", "c\\d.account": "refused", "h.account ": "foreign"},
}
"""Keys that the service takes and no location has."""


@pytest.mark.once
@pytest.mark.parametrize("engine_target", TARGETS, ids=lambda each: each.name)
async def test_odd_keys_of_each_service_are_told(stub: Stub, tmp_path: Path, engine_target: Target) -> None:
    """Keys that others have put into a bucket are told one by one, but not the marker of a folder; the documents are
    copied.
    """
    odd = {**ODD[engine_target.service], "f.txt": "foreign"}
    for key in (*odd, "d/"):
        stub.put(engine_target.service, "old", f"p/mail/{key}", GOOD)
    stub.put(engine_target.service, "old", "p/mail/good.account", GOOD)
    cloud = engine_target.config(stub.url, "old").storages["cloud"]
    told = StoreConfig(storages={"Old": cloud, "New": StorageConfig(f"{tmp_path}/new")}, default="Old")
    async with AccountStore.open(told) as store:
        run = migrate(store, SOURCE, TARGET, **files(tmp_path))
        words = {outcome.name: outcome.outcome async for outcome in run}
    assert words == odd | {"good.account": "copied"}
    assert [path.name for path in (tmp_path / "new").rglob("*.account")] == ["good.account"]


async def test_a_link_to_the_source_is_no_copy_of_it(tmp_path: Path) -> None:
    """What a target that follows links has may be a link to the source itself: nothing is moved there."""
    storage = StorageConfig(str(tmp_path), options={"follow_links": True})
    places = Place("old"), Place("new")
    async with AccountStore.open(StoreConfig(storages={"main": storage})) as store:
        await store.save(Location("a.account", folder="old"), account("a"))
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "a.account").symlink_to("../old/a.account")
        with pytest.raises(UnsupportedError, match="follow_links"):
            await migrate(store, *places, options=Options(delete_source=True), **files(tmp_path))
        assert await store.get(Location("a.account", folder="old")) == account("a")


@pytest.mark.parametrize("end", ["source", "target"])
async def test_what_may_not_be_deleted_is_copied_all_the_same(tmp_path: Path, end: str) -> None:
    """An end that denies deletes alone: each document that was to be removed there has failed, by name and reason, and
    stays; all is copied; and with the permission the next run removes it.
    """
    denying = Recording(MemoryBackend(), [Fault("delete", nth, error=PermissionError()) for nth in range(1, 3)])
    other = MemoryBackend()
    ends = {"Old": denying if end == "source" else other, "New": denying if end == "target" else other}
    options: dict[str, Any] = {"delete_source": True} if end == "source" else {"mirror_deletes": True}
    async with store_over(ends) as store:
        for name in ("a.account", "b.account"):
            await put(store, source(name), "a")
        if end == "target":
            assert (await once(store, tmp_path, **options)).ok
            for name in ("a.account", "b.account"):
                await store.delete(source(name))
            await put(store, source("c.account"), "a")
        run = migrate(store, SOURCE, TARGET, options=Options(**options), **files(tmp_path))
        told = {outcome.name: (outcome.outcome, outcome.error) async for outcome in run}
        failed = dict.fromkeys(("a.account", "b.account"), ("failed", DeniedError.__name__))
        assert told == failed | ({"c.account": ("copied", "")} if end == "target" else {})
        assert run.report.exit_code == 1
        for name in ("a.account", "b.account"):
            assert await found(store, target(name)) == "a"
        report = await once(store, tmp_path, **options)
        assert report.ok
        assert await found(store, (source if end == "source" else target)("a.account")) is None


async def test_a_target_that_denies_deletes_keeps_one_file_of_a_migration(tmp_path: Path) -> None:
    """By it two names of one place are found out before a source is removed: each run writes the same one again."""
    new = Recording(MemoryBackend(), [Fault("delete", nth, "before", PermissionError()) for nth in range(1, 10)])
    async with store_over({"Old": MemoryBackend(), "New": new}) as store:
        for name in ("a.account", "b.account", "c.account"):
            await put(store, source(name), "a")
            assert (await once(store, tmp_path, delete_source=True)).ok
        kept = [stat.key async for page in new.scan("", recursive=True) for stat in page]
    assert len([key for key in kept if not key.endswith(".account")]) == 1
