"""Rotation: every document moves to the current key, whatever kills it and whoever writes meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from doubles import BatchMemory, Recording, drained, raises
from msgspec.structs import replace
from running import HUNG, PYTHON
from samples import ACCOUNT, AT, ELSEWHERE, MULTI, MULTI_AT, RICH, next_port
from sealed import KEYS, sealed_over, sealer, static, write_keys

from accountstore import (
    Account,
    AccountStore,
    AccountStoreError,
    ConfigError,
    Encryption,
    Location,
    StorageConfig,
    StoreConfig,
    Version,
    errors,
)
from accountstore.backends.base import Blob
from accountstore.backends.memory import MemoryBackend
from accountstore.codecs import BYTE_ORDER_MARK, is_sealed
from accountstore.rotation import Rotated, reseal, resume_time, rewrap, sealing, verify
from accountstore.testing import Fault, FaultyBackend, store_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from accountstore.backends.base import Backend, Stat, WriteMode
    from accountstore.sealing.sealer import Mode
    from accountstore.testing.faults import Operation

pytestmark = pytest.mark.anyio

LIMIT = 10**6
KILLS = int(os.environ.get("ACCOUNTSTORE_ROTATION_KILLS", "10"))
PLACES = [Location(f"user{i}.account", folder=f"team/{i % 3}") for i in range(12)]


def over(backend: Backend, /, *keys: str, mode: Mode = "required", timeout: float = 30) -> AccountStore:
    """A store on a backend, whose first key seals."""
    return sealed_over({"main": backend}, {"main": sealer(static(*keys), mode=mode)}, timeout=timeout)


async def filled(backend: Backend, *keys: str) -> AccountStore:
    store = over(backend, *keys)
    for i, at in enumerate(PLACES):
        await store.save(at, replace(ACCOUNT, port=i + 1))
    await store.save_multi(MULTI_AT, MULTI)
    return store


async def outcomes(results: AsyncIterator[tuple[Location, Rotated | AccountStoreError]]) -> Counter[str]:
    """How many documents have which outcome, or error."""
    found = await drained(results)
    assert all(result.location == at for at, result in found if isinstance(result, AccountStoreError))
    return Counter(result.outcome if isinstance(result, Rotated) else type(result).__name__ for _, result in found)


async def files(backend: Backend) -> dict[str, dict[str, Any]]:
    """The sealed documents of a backend, taken apart."""
    pages = [stat.key async for page in backend.scan("", recursive=True) for stat in page]
    return {key: json.loads((await backend.read(key, limit=LIMIT)).data) for key in pages}


@pytest.mark.parametrize("kind", [MemoryBackend, BatchMemory])
async def test_every_document_moves_to_the_current_key(kind: type[MemoryBackend]) -> None:
    """`rewrap` changes the recipients of each document and nothing else; the old key is needed by none. Begun again
    it writes nothing; `verify` proves it.
    """
    backend = kind()
    await filled(backend, "old")
    before = await files(backend)
    store = over(backend, "new", "old")
    assert await outcomes(verify(store)) == {"stale": 13}
    assert await outcomes(rewrap(store)) == {"written": 13}
    after = await files(backend)
    for key, tree in before.items():
        assert after[key].pop("recipients")[0]["header"] == {"alg": "A256KW", "kid": "new"}
        assert tree.pop("recipients")[0]["header"]["kid"] == "old"
        assert after[key] == tree
    recording = Recording(backend)
    again = over(recording, "new", "old")
    assert await outcomes(verify(again)) == {"current": 13}
    assert await outcomes(rewrap(again)) == {"current": 13}
    assert {"write", "write_many"}.isdisjoint(recording.log)
    alone = over(backend, "new")
    assert (await alone.get(PLACES[3])).port == 4
    assert await alone.get_multi(MULTI_AT) == MULTI
    assert await outcomes(verify(alone)) == {"current": 13}


async def test_verify_names_what_still_needs_the_old_key() -> None:
    """A document that was left behind is `stale`, with its key ids; without the old key it is a `MissingKeyError`."""
    backend = MemoryBackend()
    await filled(backend, "new")
    await over(backend, "old").save(AT, ACCOUNT)
    stale = {at: r for at, r in await drained(verify(over(backend, "new", "old"))) if r != Rotated("current", ("new",))}
    assert stale == {AT: Rotated("stale", ("old",))}
    assert await outcomes(verify(over(backend, "new"))) == {"current": 13, "MissingKeyError": 1}


async def test_a_folder_alone_and_a_scoped_store() -> None:
    """A rotation of a folder reaches what is in it and below; so does one of a narrowed store."""
    backend = MemoryBackend()
    await filled(backend, "old")
    store = over(backend, "new", "old")
    assert await outcomes(rewrap(store, "team/0")) == {"written": 4}
    assert await outcomes(rewrap(store.scoped("team/1"))) == {"written": 4}
    assert await outcomes(rewrap(store, "team")) == {"written": 4, "current": 8}


async def test_a_plain_storage_is_sealed_and_made_plain_again() -> None:
    """First encryption and the way back are the same call; unknown fields, and the very bytes, come through both."""
    backend = MemoryBackend()
    plain = store_over({"main": backend})
    for at in PLACES:
        await plain.save_json(at, RICH)
    before = {at: (await backend.read(at.path, limit=LIMIT)).data for at in PLACES}
    optional = over(backend, "old", mode="optional")
    assert await outcomes(verify(optional)) == {"stale": 12}
    assert await outcomes(rewrap(optional)) == {"written": 12}
    assert all([is_sealed((await backend.read(at.path, limit=LIMIT)).data) for at in PLACES])
    required = over(backend, "old")
    assert await outcomes(verify(required)) == {"current": 12}
    assert json.loads((await required.read_json(PLACES[0])).document) == json.loads(RICH)
    back = over(backend, "old", mode="unsealing")
    assert await outcomes(rewrap(back)) == {"written": 12}
    assert await outcomes(verify(back)) == {"current": 12}
    assert {at: (await backend.read(at.path, limit=LIMIT)).data for at in PLACES} == before


@pytest.mark.parametrize("kind", [MemoryBackend, BatchMemory])
@pytest.mark.parametrize("call", [rewrap, reseal])
async def test_a_document_that_no_store_reads_is_left(call: Any, kind: type[MemoryBackend]) -> None:
    """A plain document of more than `max_bytes`, which a sealed file may have, is an error of the call and of `verify`,
    and stays as it was: sealed, nothing would open it. The others beside it are sealed.
    """
    backend = kind()
    store = sealed_over({"main": backend}, {"main": sealer(mode="optional")}, max_bytes=1000)
    large = RICH.rstrip()[:-1] + b"," + b" " * 20_000 + b'"x": 1}'
    for at, data in ((AT, large), (ELSEWHERE, RICH)):
        await backend.write(at.path, data, mode="overwrite")
    assert await outcomes(verify(store)) == {"TooLargeError": 1, "stale": 1}
    assert await outcomes(call(store)) == {"TooLargeError": 1, "written": 1}
    assert (await backend.read(AT.path, limit=LIMIT)).data == large
    back = sealed_over({"main": backend}, {"main": sealer(mode="unsealing")}, max_bytes=1000)
    assert await outcomes(rewrap(back)) == {"current": 1, "written": 1}


async def test_a_plain_document_with_an_envelopes_fields_is_plain() -> None:
    """Unknown fields that are called as those of a sealed document do not make a plain one sealed: it is read, sealed
    and made plain again, with them.
    """
    backend = MemoryBackend()
    odd = json.dumps(json.loads(RICH) | {"protected": "x", "ciphertext": 1, "iv": "", "tag": ""}).encode()
    await store_over({"main": backend}).save_json(AT, odd)
    for mode in ("optional", "unsealing"):
        store = over(backend, "old", mode=mode)
        assert json.loads((await store.read_json(AT)).document) == json.loads(odd)
        assert await outcomes(rewrap(store)) == {"written": 1}
    assert json.loads((await backend.read(AT.path, limit=LIMIT)).data) == json.loads(odd)


@pytest.mark.parametrize("mode", ["required", "optional", "unsealing"])
async def test_a_byte_order_mark_before_a_sealed_document_is_passed_over(mode: Mode) -> None:
    """As some editors put one there: the document is read and verified, and a rotation moves it and seals it no second
    time; without keys it is still told as sealed.
    """
    backend = MemoryBackend()
    await over(backend, "old").save(AT, ACCOUNT)
    data = (await backend.read(AT.path, limit=LIMIT)).data
    await backend.write(AT.path, BYTE_ORDER_MARK + data, mode="overwrite")
    store = over(backend, "new", "old", mode=mode)
    assert await store.get(AT) == ACCOUNT
    with raises(errors.MissingKeyError):
        await store_over({"main": backend}).get(AT)
    assert await outcomes(verify(store)) == {"stale": 1}
    assert await outcomes(rewrap(store)) == {"written": 1}
    assert await over(backend, "new", mode=mode).get(AT) == ACCOUNT


async def test_a_planted_document_is_not_sealed_by_a_rotation() -> None:
    """In a required storage, plaintext is refused by a rotation, too: it gives nobody's document a seal."""
    backend = MemoryBackend()
    await filled(backend, "old")
    await store_over({"main": backend}).save(AT, ACCOUNT)
    for call in (rewrap, reseal, verify):
        found = dict(await drained(call(over(backend, "new", "old"))))
        assert isinstance(found[AT], errors.NotSealedError)
    assert not is_sealed((await backend.read(AT.path, limit=LIMIT)).data)


async def test_a_moved_document_is_not_rewrapped() -> None:
    """A document that stands at another place than it was sealed for is told, and stays as it is."""
    backend = MemoryBackend()
    await filled(backend, "old")
    data = (await backend.read(PLACES[0].path, limit=LIMIT)).data
    await backend.write(PLACES[1].path, data, mode="overwrite")
    found = dict(await drained(rewrap(over(backend, "new", "old"))))
    assert isinstance(found[PLACES[1]], errors.MovedError)
    assert (await backend.read(PLACES[1].path, limit=LIMIT)).data == data


async def test_reseal_encrypts_anew() -> None:
    """`reseal` gives each document a new key, IV and ciphertext."""
    backend = MemoryBackend()
    await filled(backend, "old")
    store = over(backend, "new", "old")
    await outcomes(rewrap(store))
    before = await files(backend)
    assert await outcomes(reseal(store)) == {"written": 13}
    after = await files(backend)
    for key, tree in before.items():
        assert after[key]["protected"] == tree["protected"]
        assert all(after[key][part] != tree[part] for part in ("iv", "ciphertext", "tag", "recipients"))
    assert await over(backend, "new").get_multi(MULTI_AT) == MULTI


class Dated(MemoryBackend):
    """Dates documents by whole seconds of a clock of its own, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime | None = datetime(2020, 1, 1, 12, 0, 0, 900_000, tzinfo=UTC)
        self.times: dict[str, datetime | None] = {}

    async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
        stat = await super().write(key, data, mode=mode, write_token=write_token)
        self.times[key] = self.now and self.now.replace(microsecond=0)
        return stat

    async def read(self, key: str, /, *, limit: int) -> Blob:
        blob = await super().read(key, limit=limit)
        return Blob(blob.data, replace(blob.stat, modified=self.times[key]))

    async def stat(self, key: str, /) -> Stat:
        return replace(await super().stat(key), modified=self.times[key])


async def test_a_resealing_is_resumed_by_the_storages_clock() -> None:
    """`resume_time` is a time of the storage's, whatever clock this machine has: what was rotated in the very second
    in which a run began is encrypted anew by the next run; what the run wrote later is left.
    """
    backend = Dated()
    assert backend.now is not None
    await filled(backend, "old")
    store = over(backend, "new", "old")
    await outcomes(rewrap(store))
    before = await files(backend)
    start = await resume_time(store)
    assert start == datetime(2020, 1, 1, 12, 0, 1, tzinfo=UTC)
    assert start == await resume_time(store.scoped("team"))
    assert await outcomes(reseal(store, "team/0", before=start)) == {"written": 4}  # ended at once, in the same second
    backend.now += timedelta(seconds=5)
    assert await outcomes(reseal(store, "team/1")) == {"written": 4}
    backend.now += timedelta(seconds=5)
    assert await outcomes(reseal(store, before=start)) == {"written": 9, "current": 4}
    after = await files(backend)
    assert {key for key in before if before[key]["ciphertext"] == after[key]["ciphertext"]} == set()
    assert after.keys() == before.keys()


async def test_a_date_that_is_still_to_come_proves_nothing() -> None:
    """A document that is dated later than the storage's time, as a copied file may be, is encrypted anew; and so are
    all, where `before` is later than it.
    """
    backend = Dated()
    assert backend.now is not None
    store = await filled(backend, "new")
    start = await resume_time(store)
    backend.times[PLACES[0].path] = backend.now + timedelta(days=3000)
    backend.now += timedelta(seconds=60)
    backend.times[PLACES[1].path] = backend.now.replace(microsecond=0)
    assert await outcomes(reseal(store, before=start)) == {"written": 12, "current": 1}
    last = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
    assert await outcomes(reseal(store, before=last)) == {"written": 13}


async def test_a_storage_without_dates_is_resealed_whole() -> None:
    """Where documents have no date, there is no time to go on with, and whatever is given leaves none; a time without
    a zone is refused.
    """
    backend = Dated()
    backend.now = None
    store = await filled(backend, "new")
    assert await resume_time(store) is None
    assert await outcomes(reseal(store, before=datetime(2000, 1, 1, tzinfo=UTC))) == {"written": 13}
    with raises(ValueError, "time zone"):
        reseal(store, before=datetime(2000, 1, 1))  # noqa: DTZ001 -- as somebody may give it


async def test_what_no_location_names_is_told() -> None:
    """A document with a name that no location has is not reached, and `skipped` is called with it."""
    backend = MemoryBackend()
    await filled(backend, "old")
    await backend.write("team/a#b.account", b"x", mode="overwrite")
    told: list[str] = []
    await drained(verify(over(backend, "old"), skipped=lambda one: told.append(one.path)))
    assert told == ["team/a#b.account"]


async def test_what_cannot_be_done_is_refused_before_anything_is_written() -> None:
    """A storage without encryption, or one that cannot compare and swap, is refused; verifying needs no swap."""
    with raises(ConfigError, "no `encryption`"):
        rewrap(store_over({"main": MemoryBackend()}))
    backend = Recording(None, (), update=False)
    await filled(backend, "old")
    store = over(backend, "new", "old")
    backend.log.clear()
    for call in (rewrap, reseal):
        with raises(errors.UnsupportedError):
            await drained(call(store))
    assert backend.log == []
    assert await outcomes(verify(store)) == {"stale": 13}
    with raises(ValueError):
        rewrap(store, concurrency=0)

    async def wait(_: object) -> None:
        raise AssertionError

    with raises(TypeError):
        verify(store, skipped=wait)


async def test_a_deleted_document_has_no_result() -> None:
    """A document that others delete between its listing and reading, or its reading and writing, is left out."""
    backend = Recording()
    await filled(backend, "old")

    async def delete(operation: Operation) -> None:
        if operation == "write":
            backend.before = None
            await backend.remove(PLACES[0].path)
            await backend.remove(PLACES[1].path)

    backend.before = delete
    found = dict(await drained(rewrap(over(backend, "new", "old"), concurrency=1)))
    assert set(PLACES) - set(found) == set(PLACES[:2])
    assert await outcomes(verify(over(backend, "new"))) == {"current": 11}


async def test_what_a_store_is_sealed_by_can_be_asked() -> None:
    """`sealing` says mode, id and keys; None of a plain storage."""
    found = sealing(over(MemoryBackend(), "new", "old"), "main")
    assert found is not None
    assert (found.mode, found.id, found.key_ids) == ("required", "main", ("new", "old"))
    assert sealing(store_over({"main": MemoryBackend()})) is None


async def test_a_rotation_is_an_event_for_each_document() -> None:
    """The observer hears of each document, by the name of the call."""
    heard: list[tuple[str, str]] = []
    backend = MemoryBackend()
    await filled(backend, "old")
    own = {"main": sealer(static("new", "old"))}
    store = sealed_over({"main": backend}, own, observer=lambda event: heard.append((event.operation, event.outcome)))
    await drained(rewrap(store))
    assert Counter(heard) == {("rewrap", "ok"): 13}


# --- killed, failing, beside writers ----------------------------------------------------------------------------------


async def all_readable(backend: Backend) -> None:
    """Every document opens with the key ring, and is what was written."""
    ring = over(backend, "new", "old")
    for i, at in enumerate(PLACES):
        assert (await ring.get(at)).port == i + 1
    assert await ring.get_multi(MULTI_AT) == MULTI


@pytest.mark.parametrize("moment", ["before", "after", "hang"])
@pytest.mark.parametrize("call", [rewrap, pytest.param(reseal, marks=pytest.mark.once)])
async def test_a_rotation_that_fails_at_any_request_goes_on(call: Any, moment: Any) -> None:
    """Whichever request fails, loses its answer, or is cancelled: each document opens throughout, and the next run
    finishes.
    """
    counting = FaultyBackend(MemoryBackend())
    await filled(counting, "old")
    counting.calls.clear()
    await drained(call(over(counting, "new", "old"), "team/0", concurrency=1))
    steps = [(name, n + 1) for name, count in counting.calls.items() for n in range(count)]
    assert Counter(name for name, _ in steps) == {"scan": 2, "read": 4, "write": 4}
    for operation, nth in steps:
        backend = MemoryBackend()
        await filled(backend, "old")
        faulty = FaultyBackend(backend, [Fault(operation, nth, moment)])  # type: ignore[arg-type]  # one of them
        timeout = 0.05 if moment == "hang" else HUNG
        with suppress(AccountStoreError):
            await drained(call(over(faulty, "new", "old", timeout=timeout), "team/0", concurrency=1))
        await all_readable(backend)
        left = await outcomes(rewrap(over(backend, "new", "old")))
        assert left.keys() <= {"written", "current"}, (operation, nth)
        assert await outcomes(verify(over(backend, "new"))) == {"current": 13}
        await all_readable(backend)


async def test_a_cancelled_page_is_done_again() -> None:
    """An iteration that goes on after a cancellation skips no document."""
    backend = MemoryBackend()
    await filled(backend, "old")
    hanging = FaultyBackend(backend, [Fault("read", 5, "hang")])
    results = rewrap(over(hanging, "new", "old"), concurrency=1)
    with anyio.move_on_after(0.05) as scope:
        await drained(results)
    assert scope.cancelled_caught
    assert len(await drained(results)) == 13


@pytest.mark.parametrize("call", [rewrap, reseal])
async def test_no_writer_loses_a_change_to_a_rotation(call: Any) -> None:
    """Writers that update documents while the storage is rotated again and again lose nothing."""

    class Slow(MemoryBackend):
        async def read(self, key: str, /, *, limit: int) -> Any:
            found = await super().read(key, limit=limit)
            await anyio.sleep(0)
            return found

    backend = Slow()
    await filled(backend, "old")
    writers = over(backend, "old", "new")
    rounds = 0
    updates = Counter[Location]()

    async def write(at: Location) -> None:
        while rounds < 3 or updates[at] < 20:
            await writers.update(at, next_port)
            updates[at] += 1
            await anyio.sleep(0.005)

    async def rotate() -> None:
        nonlocal rounds
        while True:
            found = await outcomes(call(over(backend, "new", "old")))
            assert found.keys() <= {"written", "current"}
            rounds += 1

    async with anyio.create_task_group() as rotating:
        rotating.start_soon(rotate)
        async with anyio.create_task_group() as tasks:
            for at in PLACES[:6]:
                for _ in range(2):
                    tasks.start_soon(write, at)
        rotating.cancel_scope.cancel()
    for i, at in enumerate(PLACES[:6]):
        assert (await writers.get(at)).port == i + 1 + updates[at]
    await outcomes(rewrap(over(backend, "new", "old")))
    assert await outcomes(verify(over(backend, "new"))) == {"current": 13}


async def test_control_a_rotation_without_compare_and_swap_loses_changes() -> None:
    """The control: on a backend that ignores versions, a rotation undoes what a writer did meanwhile."""

    class Ignores(MemoryBackend):
        async def write(self, key: str, data: bytes, /, *, mode: WriteMode, write_token: str = "") -> Stat:
            mode = "overwrite" if isinstance(mode, Version) else mode
            return await super().write(key, data, mode=mode, write_token=write_token)

    backend = Recording(Ignores())
    await filled(backend, "old")
    at = PLACES[0]

    async def change(operation: Operation) -> None:
        if operation == "write":
            backend.before = None
            await over(backend, "old").save(at, replace(ACCOUNT, port=777))

    backend.before = change
    await drained(rewrap(over(backend, "new", "old"), "team/0", concurrency=1))
    assert (await over(backend, "new", "old").get(at)).port == 1


ROTATE = """
import sys, anyio
from accountstore import AccountStore, AccountStoreError, Encryption, StorageConfig, StoreConfig
from accountstore.rotation import rewrap

async def main(folder, keys):
    storage = StorageConfig(folder, encryption=Encryption(keys=keys, required=True, id="main"))
    async with AccountStore.open(StoreConfig(storages={"main": storage})) as store:
        print("ready", flush=True)
        async for at, result in rewrap(store):
            if isinstance(result, AccountStoreError):
                print(at, result)
                sys.exit(1)

anyio.run(main, *sys.argv[1:])
"""


def on_folder(folder: Path, keys: str) -> StoreConfig:
    storage = StorageConfig(str(folder), encryption=Encryption(keys=keys, required=True, id="main"))
    return StoreConfig(storages={"main": storage})


@pytest.mark.once
def test_a_killed_rotation_loses_nothing(tmp_path: Path) -> None:
    """Processes that rotate a folder back and forth are killed at random moments, beside writers: each
    opens throughout, no change is lost, and a run that ends leaves nothing under the old key.
    """
    folder = tmp_path / "data"
    forth = write_keys(tmp_path / "new.jwks", "new", "old")
    back = write_keys(tmp_path / "old.jwks", "old", "new")
    places = [Location(f"user{i}.account", folder=f"team/{i % 7}") for i in range(300)]
    random = Random(7)

    async def fill() -> None:
        async with AccountStore.open(on_folder(folder, back)) as store:
            async for _, result in store.save_many([(at, replace(ACCOUNT, port=1)) for at in places]):
                assert isinstance(result, Version)

    async def write(process: subprocess.Popen[bytes], seconds: float) -> int:
        """Update documents until the process ends, or is killed after these seconds; the number of updates."""
        updates = 0
        until = time.monotonic() + seconds
        async with AccountStore.open(on_folder(folder, back)) as store:
            while process.poll() is None:
                if time.monotonic() > until:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                await store.update(places[updates % 10], next_port)
                updates += 1
        return updates

    async def read() -> list[Account]:
        async with AccountStore.open(on_folder(folder, back)) as store:
            return [await store.get(at) for at in places]

    anyio.run(fill)
    updates = kills = 0
    for n in range(KILLS):
        command = [*PYTHON, "-c", ROTATE, str(folder), (forth, back)[n % 2]]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            updates += anyio.run(write, process, random.uniform(0, 0.3))
            kills += process.returncode == -signal.SIGKILL
        found = anyio.run(read)
        assert sum(account.port - 1 for account in found) == updates
    done = subprocess.run([*PYTHON, "-c", ROTATE, str(folder), forth], check=False, timeout=HUNG)
    assert done.returncode == 0
    alone = write_keys(tmp_path / "alone.jwks", "new")

    async def check() -> Counter[str]:
        async with AccountStore.open(on_folder(folder, alone)) as store:
            return await outcomes(verify(store))

    assert anyio.run(check) == {"current": 300}
    leftovers = [name for _, _, names in os.walk(folder) for name in names if not name.endswith(".account")]
    print(f"\n{KILLS} rotations, {kills} killed, {updates} updates beside them, leftovers: {leftovers}")
    assert kills > KILLS // 4


def test_keys_are_as_long_as_they_must_be() -> None:
    """The samples of keys have the size that the format wants."""
    sizes: Mapping[str, int] = {name: len(key) for name, key in KEYS.items()}
    assert set(sizes.values()) == {32}
