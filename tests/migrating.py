"""What the tests of migration share: a store with two ends, documents there, and a run's outcomes by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from samples import ACCOUNT

from accountstore import AccountStore, Location, NotFoundError, StorageConfig, StoreConfig
from accountstore.migration import Options, migrate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from accountstore import Account
    from accountstore.migration import Migration, Report

SOURCE, TARGET = "Old:mail", "New:post/all"


def source(name: str, /) -> Location:
    """A document's location at the source."""
    folder, _, file_name = f"mail/{name}".rpartition("/")
    return Location(file_name, folder=folder, storage="Old")


def target(name: str, /) -> Location:
    """A document's location at the target."""
    folder, _, file_name = f"post/all/{name}".rpartition("/")
    return Location(file_name, folder=folder, storage="New")


def account(word: str, /) -> Account:
    """A document that differs by a word."""
    return replace(ACCOUNT, host=f"{word}.example.org")


def config(folder: Path, /) -> StoreConfig:
    """Two folders, JSON and MessagePack."""
    storages = {
        "Old": StorageConfig(f"{folder}/old"),
        "New": StorageConfig(f"{folder}/new", codec="msgpack"),
    }
    return StoreConfig(storages=storages, default="Old")


async def put(store: AccountStore, at: Location, word: str | None, /) -> None:
    """Let a document be this one; None: let there be none. One that is so already is left alone."""
    if word is None:
        await store.delete(at)
    elif await found(store, at) != word:
        await store.save(at, account(word))


async def found(store: AccountStore, at: Location, /) -> str | None:
    """Which document is there."""
    try:
        return (await store.get(at)).host.partition(".")[0]
    except NotFoundError:
        return None


async def outcomes_of(run: Migration, /) -> dict[str, str]:
    """What became of each document, by name; each is told once."""
    told: dict[str, str] = {}
    async for outcome in run:
        assert outcome.name not in told
        told[outcome.name] = outcome.outcome
    assert {word: told_of.documents for word, told_of in run.report.totals.items()} == _counted(told)
    return told


def _counted(told: Mapping[str, str], /) -> dict[str, int]:
    words = list(told.values())
    return {word: words.count(word) for word in words}


def files(folder: Path, /) -> dict[str, Any]:
    """Where a run keeps its journal and the key of its marks."""
    return {"journal": folder / "journal", "key_file": folder / "key"}


async def once(store: AccountStore, folder: Path, /, **options: Any) -> Report:
    """A whole run."""
    return await migrate(store, SOURCE, TARGET, options=Options(**options), **files(folder))
