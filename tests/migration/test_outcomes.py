"""What becomes of a document, for each state of both ends; and that `plan` says so before and `verify` afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import TARGETS, Target
from migrating import SOURCE, TARGET, config, files, found, once, outcomes_of, put, source, target

from accountstore import AccountStore, StorageConfig, StoreConfig
from accountstore.migration import Options, migrate, plan, verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from cloudstub import Stub

pytestmark = pytest.mark.anyio

CLOUDS = [pytest.param(each, marks=pytest.mark.once, id=each.name) for each in TARGETS]


@pytest.fixture(params=["memory", "local", *CLOUDS])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AccountStore]:
    """A store with two ends of a kind."""
    told = config(tmp_path)
    if request.param == "memory":
        told = StoreConfig(storages={name: StorageConfig("memory://") for name in ("Old", "New")}, default="Old")
    elif isinstance(request.param, Target):
        stub: Stub = request.getfixturevalue("stub")
        clouds = [request.param.config(stub.url, bucket).storages["cloud"] for bucket in ("old", "new")]
        told = StoreConfig(storages=dict(zip(("Old", "New"), clouds, strict=True)), default="Old")
    async with AccountStore.open(told) as opened:
        yield opened


NEW: Mapping[tuple[str | None, str | None], str] = {
    ("a", None): "copied",
    ("a", "a"): "same",
    ("a", "other"): "conflict",
    (None, "a"): "foreign",
}
"""By what is at both ends, of documents that were never copied."""
AGAIN: Mapping[tuple[str | None, str | None], str | None] = {
    ("a", "a"): "same",
    ("b", "a"): "changed",
    ("b", "b"): "same",
    ("a", "other"): "newer",
    ("b", "other"): "conflict",
    ("a", None): "removed",
    ("b", None): "conflict",
    (None, "a"): "gone",
    (None, "other"): "gone",
    (None, None): None,
}
"""Of documents that were copied as `a`."""
OPTIONS: Mapping[str, dict[str, Any]] = {
    "": {},
    "verify by writes": {"verify": "write"},
    "no verification": {"verify": "none"},
    "overwrite": {"on_conflict": "overwrite"},
    "mirror": {"mirror_deletes": True},
    "delete the source": {"delete_source": True},
    "spool": {"listing": "spool"},
}


def expected(before: bool, ends: tuple[str | None, str | None], options: str, /) -> str | None:
    word = AGAIN[ends] if before else NEW[ends]
    if options == "overwrite" and word in {"conflict", "removed"}:
        return "copied" if ends[1] is None else "changed"
    if options == "mirror" and before and ends[0] is None and ends[1] is not None:
        return "deleted" if ends[1] == "a" else "conflict"
    if options == "delete the source" and word in {"copied", "changed", "same", "newer"}:
        return "moved"
    return word


def afterwards(ends: tuple[str | None, str | None], word: str | None, /) -> tuple[str | None, str | None]:
    """What is at both ends when that has become of it."""
    match word:
        case "copied" | "changed":
            return ends[0], ends[0]
        case "deleted":
            return None, None
        case "moved":
            return None, "other" if ends[1] == "other" else ends[0]
        case _:
            return ends


# The others differ from the first in how they look, which the long run shows.
QUICK = {"", "overwrite", "mirror", "delete the source"}


@pytest.mark.parametrize(
    "options", [pytest.param(name, marks=() if name in QUICK else pytest.mark.once) for name in OPTIONS]
)
async def test_what_becomes_of_a_document(store: AccountStore, tmp_path: Path, options: str) -> None:
    """Each state of both ends has its outcome, which a plan foretells; nothing else is changed; and a further pass
    finds nothing to do, as does each that follows.
    """
    if options == "delete the source" and store.capabilities("Old").verify:
        pytest.importorskip("s3fs")
    cases = {f"f{number % 2}/{int(before)}{number}.account": (before, ends) for before, number, ends in _cases()}
    for name, (before, _) in cases.items():
        if before:
            await put(store, source(name), "a")
    await once(store, tmp_path)
    for name, (_, ends) in cases.items():
        await put(store, source(name), ends[0])
        await put(store, target(name), ends[1])
    wanted = {name: word for name, case in cases.items() if (word := expected(*case, options))}
    kept = files(tmp_path)
    chosen = Options(**OPTIONS[options])
    planned = await outcomes_of(plan(store, SOURCE, TARGET, options=chosen, **kept))
    assert planned == {name: _as_planned(cases[name][1], word) for name, word in wanted.items()}
    for name, (_, ends) in cases.items():
        assert (await found(store, source(name)), await found(store, target(name))) == ends
    run = migrate(store, SOURCE, TARGET, options=chosen, **kept)
    assert await outcomes_of(run) == wanted
    assert run.report.exit_code == (3 if "conflict" in wanted.values() else 0)
    for name, (_, ends) in cases.items():
        assert (await found(store, source(name)), await found(store, target(name))) == afterwards(
            ends, wanted.get(name)
        ), name
    again = await outcomes_of(migrate(store, SOURCE, TARGET, options=chosen, **kept))
    assert not {"copied", "changed", "deleted", "moved"} & {*again.values()}
    assert {name for name, word in again.items() if word == "conflict"} == {
        name for name, word in wanted.items() if word == "conflict"
    }
    assert await outcomes_of(migrate(store, SOURCE, TARGET, options=chosen, **kept)) == again


def _cases() -> list[tuple[bool, int, tuple[str | None, str | None]]]:
    return [
        *((False, number, ends) for number, ends in enumerate(NEW)),
        *((True, number, ends) for number, ends in enumerate(AGAIN)),
    ]


def _as_planned(ends: tuple[str | None, str | None], word: str, /) -> str:
    """A plan says what is copied, not what is then removed at the source."""
    if word != "moved":
        return word
    return {"other": "newer", None: "copied"}.get(ends[1], "same" if ends[0] == ends[1] else "changed")


async def test_verify_says_how_the_ends_differ(store: AccountStore, tmp_path: Path) -> None:
    """`verify` reads both ends and changes nothing: what is missing, what differs, what is the same."""
    for name, ends in {"a": ("a", "a"), "b": ("a", None), "c": ("a", "other"), "d": (None, "a")}.items():
        await put(store, source(f"{name}.account"), ends[0])
        await put(store, target(f"{name}.account"), ends[1])
    report = await verify(store, SOURCE, TARGET)
    assert [(outcome.name[0], outcome.outcome) for outcome in report.outcomes] == [
        ("a", "same"),
        ("b", "missing"),
        ("c", "differs"),
        ("d", "foreign"),
    ]
    assert (report.ok, report.exit_code) == (False, 1)
    assert await found(store, target("b.account")) is None


async def test_verify_names_what_was_removed_at_the_target(store: AccountStore, tmp_path: Path) -> None:
    """A copy that is no longer there is missing, with the journal as without; all of them, where the target is empty.
    Overwriting copies them again.
    """
    for name in ("a.account", "b.account"):
        await put(store, source(name), "a")
    await once(store, tmp_path)
    for gone in ("a.account", "b.account"):
        await store.delete(target(gone))
        for kept in ({}, files(tmp_path)):
            report = await verify(store, SOURCE, TARGET, **kept)
            told = {outcome.name: (outcome.outcome, outcome.reason) for outcome in report.outcomes}
            assert told[gone] == ("missing", "it was deleted at the target since it was copied" if kept else "")
            assert report.exit_code == 1
    assert {*(await once(store, tmp_path, on_conflict="overwrite")).totals} == {"copied"}
    assert (await verify(store, SOURCE, TARGET, **files(tmp_path))).ok
