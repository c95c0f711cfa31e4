"""What a migration costs on an object store: requests a document, as the server counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import Target, on_asyncio, on_each_target
from migrating import files
from samples import ACCOUNT

from accountstore import AccountStore, Location, StorageConfig, StoreConfig
from accountstore.codecs import JSON
from accountstore.migration import Options, migrate

if TYPE_CHECKING:
    from pathlib import Path

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once]

DOCUMENTS = 300
PAGES = 4
"""Requests for pages, at most: of two listings, of which one is empty at first."""


def two_ends(target: Target, url: str, /) -> StoreConfig:
    old, new = (target.config(url, bucket).storages["cloud"] for bucket in ("old", "new"))
    return StoreConfig(storages={"Old": old, "New": new}, default="Old")


def listed_versions(target: Target, /) -> bool:
    """Whether the listings tell versions: obstore's of Google Cloud Storage do not."""
    return target != Target("gcs", "obstore")


@on_asyncio
@on_each_target
@pytest.mark.parametrize("end", ["source", "target"])
async def test_a_second_pass_with_a_folder_reads_no_cloud(stub: Stub, target: Target, tmp_path: Path, end: str) -> None:
    """With nothing changed, a pass from a local folder to one costs the listing of the cloud: what the folder has is
    read, and the listed version settles the rest.
    """
    cloud, folder = two_ends(target, stub.url).storages["Old"], StorageConfig(f"{tmp_path}/folder")
    ends = ("folder", "cloud") if end == "target" else ("cloud", "folder")
    config = StoreConfig(storages={"cloud": cloud, "folder": folder}, default="cloud")
    async with AccountStore.open(config) as store:
        for number in range(30):
            await store.save(Location(f"{number}.account", folder="mail", storage=ends[0]), ACCOUNT)
        await migrate(store, f"{ends[0]}:mail", f"{ends[1]}:mail", **files(tmp_path))
        stub.reset(keep=True)
        report = await migrate(store, f"{ends[0]}:mail", f"{ends[1]}:mail", **files(tmp_path))
        assert report.totals.keys() == {"same"}
        assert stub.count() <= (PAGES if listed_versions(target) else 30 + PAGES)


@on_asyncio
@on_each_target
@pytest.mark.parametrize(("verify", "requests"), [("none", 2), ("write", 2), ("read", 3)])
async def test_requests_a_document(stub: Stub, target: Target, tmp_path: Path, verify: Any, requests: int) -> None:
    """A copied document costs two requests, and a third for reading it back, which S3's own digest saves; a second pass
    with nothing changed costs the listings alone; and one changed document then costs what a copied one did.
    """
    for number in range(DOCUMENTS):
        stub.put(target.service, "old", f"p/mail/{number:05}.account", JSON.encode(ACCOUNT))
    if verify == "write" and target.service != "s3":
        requests = 3
    async with AccountStore.open(two_ends(target, stub.url)) as store:
        counts: list[int] = []
        changed = None
        for _ in range(3):
            stub.reset(keep=True)
            report = await migrate(store, "Old:mail", "New:mail", options=Options(verify=verify), **files(tmp_path))
            assert report.ok
            changed = report.totals.get("changed")
            counts.append(stub.count())
            if len(counts) == 2:
                stub.put(target.service, "old", "p/mail/00007.account", JSON.encode(ACCOUNT).replace(b"me", b"we"))
        assert requests * DOCUMENTS < counts[0] <= requests * DOCUMENTS + PAGES
        assert changed is not None
        assert changed.documents == 1
        if listed_versions(target):
            assert counts[1] <= PAGES
            assert counts[1] <= 0.02 * counts[0]
            assert counts[2] <= counts[1] + requests
        else:
            assert counts[1] <= 2 * DOCUMENTS + PAGES


@on_asyncio
@on_each_target
async def test_a_copy_that_is_no_document_any_more(stub: Stub, target: Target, tmp_path: Path) -> None:
    """It is a conflict, pass after pass, though its version tells only that it has changed at the target; so it is
    read, and nothing else; not the source, which is as it was copied.
    """
    async with AccountStore.open(two_ends(target, stub.url)) as store:
        for number in range(20):
            await store.save(Location(f"{number:02}.account", folder="mail", storage="Old"), ACCOUNT)
        await migrate(store, "Old:mail", "New:mail", **files(tmp_path))
        stub.put(target.service, "new", "p/mail/07.account", b"no document")
        for _ in range(2):
            stub.reset(keep=True)
            run = migrate(store, "Old:mail", "New:mail", **files(tmp_path))
            assert [outcome.name async for outcome in run if outcome.outcome == "conflict"] == ["07.account"]
            assert run.report.exit_code == 3
            assert stub.count() <= PAGES + (1 if listed_versions(target) else 40)
