"""Processes and a real identity provider: one exchange for each expiry, whoever dies, stands still or is off the time.

`ACCOUNTSTORE_EXPIRIES` and `ACCOUNTSTORE_REFRESH_KILLS` say how often, `ACCOUNTSTORE_REFRESH_WORKERS` by how many.
"""

from __future__ import annotations

import os
import random
import select
import signal
import statistics
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import cloudservers
import pytest
from cloudtargets import Target
from lab import Lab, Worker
from msgspec.structs import replace
from providers import Provider, real_provider

from accountstore import Account, AccountStore, Location, OAuthCredentials, StorageConfig, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cloudservers import Server
    from cloudstub import Stub

pytestmark = pytest.mark.once
pytest.importorskip("httpx2")

EXPIRIES = int(os.environ.get("ACCOUNTSTORE_EXPIRIES", "3"))
KILLS = int(os.environ.get("ACCOUNTSTORE_REFRESH_KILLS", "6"))
WORKERS = int(os.environ.get("ACCOUNTSTORE_REFRESH_WORKERS", "4"))
AT = Location("shared.account", folder="mail")
PAST = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def started() -> Iterator[Provider]:
    """The real provider, once for all tests."""
    with cloudservers.or_skip(real_provider) as provider:
        yield provider


@pytest.fixture
def provider(started: Provider) -> Provider:
    """The provider as after its start."""
    started.set(ttl=3600, grace=0, delay=0)
    return started


class Shared:
    """The document that the workers share, as the test itself reaches it: from outside of any event loop."""

    def __init__(self, url: str, options: dict[str, Any] | None = None, engine: Any = "fsspec", /) -> None:
        self._config = StoreConfig(storages={"lab": StorageConfig(url, options or {}, engine=engine)})
        self.lab = Lab(url, options, engine)

    def _run(self, work: Callable[[AccountStore], Any], /) -> Any:
        async def run() -> Any:
            async with AccountStore.open(self._config) as store:
                return await work(store)

        return anyio.run(run)

    def put(self, account: Account, /) -> None:
        """Begin with a new family."""
        self._run(lambda store: store.save(AT, account))

    def get(self) -> Account:
        """The document."""
        found: Account = self._run(lambda store: store.get(AT))
        return found

    def expire(self, **more: Any) -> None:
        """Let the access token be one that has expired long ago by every clock."""

        def expired(account: Account) -> Account:
            assert isinstance(account.credentials, OAuthCredentials)
            return replace(account, credentials=replace(account.credentials, expires_at=PAST), **more)

        self._run(lambda store: store.update(AT, expired))


def is_good(provider: Provider, token: str, /) -> bool:
    """Whether an access token is good."""
    credentials = OAuthCredentials(login="x", refresh_token="x", access_token=token)
    return provider.honours(Account(host="h", port=1, credentials=credentials))


def since(provider: Provider, before: dict[str, Any], /) -> dict[str, int]:
    """What the provider has counted since then."""
    now = provider.counts()
    return {name: now[name] - before[name] for name in ("exchanges", "refusals", "revoked")}


def refresh_together(workers: list[Worker], /, **command: Any) -> list[dict[str, Any]]:
    """Have all workers refresh the document at once; their answers."""
    for worker in workers:
        worker.send(at=str(AT), **command)
    return [worker.answer() for worker in workers]


def one_exchange_each(shared: Shared, provider: Provider, skews: tuple[float, ...] = (0.0,)) -> None:
    """Several processes: in each expiry one exchange, and a good token for all."""
    shared.put(provider.account())
    before = provider.counts()
    polls: list[int] = []
    slowest = 0.0
    with shared.lab as lab:
        workers = lab.workers(WORKERS, skews)
        for expiry in range(EXPIRIES):
            if expiry:
                shared.expire()
            answers = refresh_together(workers)
            tokens = {
                outcome.get("token", outcome.get("error")) for answer in answers for outcome in answer["outcomes"]
            }
            assert len(tokens) == 1, tokens
            assert is_good(provider, tokens.pop())
            polls += [answer["polls"] for answer in answers]
            slowest = max(slowest, *(answer["seconds"] for answer in answers))
            assert since(provider, before) == {"exchanges": expiry + 1, "refusals": 0, "revoked": 0}
    print(
        f"{WORKERS} processes, {EXPIRIES} expiries: {since(provider, before)}, polls {statistics.mean(polls):.1f} each"
        f" and {max(polls)} at most, the slowest call {slowest:.2f} s"
    )


def test_one_exchange_for_each_expiry_on_a_folder(tmp_path: Path, provider: Provider) -> None:
    """On a local folder: as many exchanges as expiries, no refusal, no family revoked."""
    one_exchange_each(Shared(str(tmp_path)), provider)


IN_A_LONG_RUN = [("seaweedfs", "obstore"), ("moto", "fsspec"), ("azurite", "fsspec")] if EXPIRIES >= 50 else []
BUCKETS = [("seaweedfs", "fsspec"), ("moto", "obstore"), ("fake_gcs", "fsspec"), ("azurite", "obstore"), *IN_A_LONG_RUN]


@pytest.mark.parametrize(("name", "engine"), BUCKETS)
def test_one_exchange_for_each_expiry_on_a_bucket(
    name: str, engine: str, provider: Provider, request: pytest.FixtureRequest
) -> None:
    """The same on S3, Google Cloud Storage and Azure, with either engine."""
    server: Server = request.getfixturevalue(name)
    bucket = f"refresh-{engine}"
    server.bucket(bucket)
    one_exchange_each(Shared(f"{server.scheme}://{bucket}/p", server.options, engine), provider)


def test_one_exchange_for_each_expiry_on_google_by_obstore(stub: Stub, provider: Provider) -> None:
    """Also where the emulator does not take what obstore sends, and the project's own server does."""
    target = Target("gcs", "obstore")
    one_exchange_each(Shared("gs://acct/p", target.options(stub.url), target.engine), provider)


@pytest.mark.parametrize("how", ["naive", "swap"])
def test_control_without_the_lease_the_family_is_revoked(how: str, tmp_path: Path, provider: Provider) -> None:
    """The control: read-exchange-save, and compare-and-swap alone, lose the mailbox at the first expiry."""
    shared = Shared(str(tmp_path))
    shared.put(provider.account())
    provider.set(delay=500)  # so that all have read before the first one saves, on a busy machine too
    before = provider.counts()
    with shared.lab as lab:
        refresh_together(lab.workers(WORKERS), how=how)
    counts = since(provider, before)
    print(how, counts)
    assert counts["refusals"] > 0
    assert counts["revoked"] > 0


def test_clocks_that_are_set_apart_change_nothing(tmp_path: Path, provider: Provider) -> None:
    """With clocks that are an hour ahead or behind, also among tokens that live for less: the same."""
    provider.set(ttl=1800)
    one_exchange_each(Shared(str(tmp_path)), provider, (0.0, 3600.0, -3600.0))


def test_an_edit_meanwhile_survives(tmp_path: Path, provider: Provider) -> None:
    """Somebody edits the host while another process exchanges the token: both are there afterwards."""
    shared = Shared(str(tmp_path))
    shared.put(provider.account())
    provider.set(delay=300)
    before = provider.counts()
    with shared.lab as lab:
        worker = lab.worker()
        worker.send(at=str(AT), events=True)
        assert worker.next() == {"event": "before"}
        shared.expire(host="new.example.org")
        token = worker.answer()["outcomes"][0]["token"]
    account = shared.get()
    assert account.host == "new.example.org"
    assert provider.honours(account)
    assert is_good(provider, token)
    assert since(provider, before) == {"exchanges": 1, "refusals": 0, "revoked": 0}


@pytest.mark.parametrize("grace", [0, 30_000])
def test_a_holder_that_is_killed_is_taken_over(grace: int, tmp_path: Path, provider: Provider) -> None:
    """The holder dies at any moment: the others go on when its lease is over. A family is lost only where the holder
    had spent the token and not saved what it got; with the provider's grace period none is.
    """
    lease, delay = 2.0, 20
    provider.set(grace=grace, delay=delay)
    shared = Shared(str(tmp_path))
    shared.put(provider.account())
    count = Counter[str]()
    saves: list[float] = []
    waits: list[float] = []
    seed = random.Random(grace)
    with shared.lab as lab:
        workers = lab.workers(4)
        for kill in range(KILLS):
            shared.expire()
            before = provider.counts()
            for worker in workers:
                worker.send(at=str(AT), events=True, terms={"lease": lease})
            holder = await_event(workers)
            # Before the exchange, during it, and while its outcome is saved.
            time.sleep(seed.uniform(0, 0.002) if kill % 3 == 0 else seed.uniform(0, delay / 1000 + 0.02))
            holder.kill()
            began = time.monotonic()
            outcomes: list[dict[str, Any]] = []
            for worker in workers:
                if worker is not holder:
                    answer = worker.answer()
                    outcomes += answer["outcomes"]
                    count["called again"] += answer["again"]
                    waits.append(time.monotonic() - began)
                    if answer["save"] is not None:
                        saves.append(answer["save"])
                        count["exchanges of survivors"] += 1
            with suppress(EOFError, ConnectionResetError):
                holder.answer()
                count["ended before"] += 1
            holder.close()
            workers[workers.index(holder)] = lab.worker(loop=seed.choice(["asyncio", "trio"]))
            counts = since(provider, before)
            count["kills"] += 1
            count["exchanges"] += counts["exchanges"]
            assert grace or counts["exchanges"] == 1
            if counts["revoked"]:  # so the one exchange was the holder's, who has not saved it
                count["families lost"] += 1
                assert grace == 0
                assert outcomes == [{"error": "RefusedError"}] * len(outcomes)
                shared.put(provider.account())
            else:
                tokens = {outcome.get("token", outcome.get("error")) for outcome in outcomes}
                assert all(is_good(provider, str(token)) for token in tokens), tokens
    slowest = max(waits)
    width = f"{1000 * statistics.median(saves):.1f} ms" if saves else "not seen"
    print(
        f"grace {grace} ms: {dict(count)}; the longest wait after a kill {slowest:.2f} s with leases of {lease} s;"
        f" from answer to saved {width}"
    )
    assert count["kills"] == KILLS
    if grace:
        assert count["families lost"] == 0


def await_event(workers: list[Worker], /) -> Worker:
    """The worker that is about to exchange the token. The others tell nothing before it has."""
    ready, _, _ = select.select(workers, [], [], 60)
    (holder,) = ready
    assert holder.next() == {"event": "before"}
    return holder


@pytest.mark.parametrize("moment", ["before", "answered"])
def test_a_holder_that_stood_still_does_not_win(moment: str, tmp_path: Path, provider: Provider) -> None:
    """A process that is suspended past its lease, with its exchange under way or answered, and goes on later: the one
    that took over has stored its tokens, which stay, and which the late one's caller gets too.
    """
    provider.set(grace=30_000)
    shared = Shared(str(tmp_path))
    shared.put(provider.account())
    with shared.lab as lab:
        late, other = lab.workers(2)
        late.send(at=str(AT), events=True, terms={"lease": 0.5})
        if moment == "answered":
            provider.set(delay=200)
        assert late.next() == {"event": "before"}
        if moment == "answered":
            time.sleep(0.1)  # its token is spent, and the answer on its way
        late.kill(signal.SIGSTOP)
        (winner,) = refresh_together([other], terms={"lease": 0.5})
        stored = shared.get()
        late.kill(signal.SIGCONT)
        outcome = late.answer()["outcomes"][0]
    assert winner["takeovers"] == 1
    assert outcome == winner["outcomes"][0]
    assert shared.get() == stored
    assert provider.honours(stored)


def test_a_thousand_tasks_in_four_processes(tmp_path: Path, provider: Provider) -> None:
    """One exchange for them all; the rest have the token within the exchange's time and one poll more."""
    delay = 0.3
    provider.set(delay=delay * 1000)
    shared = Shared(str(tmp_path))
    shared.put(provider.account())
    before = provider.counts()
    with shared.lab as lab:
        answers = refresh_together(lab.workers(4), tasks=250)
    tokens = {outcome.get("token", outcome.get("error")) for answer in answers for outcome in answer["outcomes"]}
    assert sum(len(answer["outcomes"]) for answer in answers) == 1000
    assert len(tokens) == 1
    assert is_good(provider, tokens.pop())
    assert since(provider, before) == {"exchanges": 1, "refusals": 0, "revoked": 0}
    polls = sum(answer["polls"] for answer in answers)
    print(
        f"1,000 tasks: one read each, {polls} polls, an exchange of {delay} s, all done in"
        f" {max(answer['seconds'] for answer in answers):.2f} s"
    )
    assert polls < 4 * 40
