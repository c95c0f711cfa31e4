"""All schedules of three tasks that refresh one document, with a crash or a stall of one at each of its steps."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace
from providers import SmallProvider
from schedules import AT, LEASE, Fault, Run, Schedules, meet

from accountstore import Account, NoAnswerError, OAuthCredentials, RefusedError, Stored
from accountstore.lease import FIELD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from accountstore import AccountStore

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"debug": False})], ids=["asyncio"]),
]

MOST = int(os.environ.get("ACCOUNTSTORE_SCHEDULES", "40"))
"""How many schedules to run with a fault at one place."""
STEPS = 50
"""More than a task takes in any schedule."""


async def refresh(store: AccountStore, exchange: Any, /) -> Stored[Account]:
    return await store.refresh(AT, exchange, lease=LEASE, timeout=10**6)


async def naive(store: AccountStore, exchange: Any, /) -> Account:
    """Read, exchange, compare and swap, again on conflict: what `update` with an exchange in it does."""
    from datetime import UTC, datetime, timedelta

    async def change(account: Account) -> Account:
        credentials = account.credentials
        assert isinstance(credentials, OAuthCredentials)
        if credentials.access_token is not None:
            return account
        grant = await exchange(credentials)
        new = replace(
            credentials,
            access_token=grant.access_token,
            refresh_token=grant.refresh_token,
            expires_at=datetime.now(UTC) + timedelta(hours=1),
        )
        return replace(account, credentials=new)

    return (await store.update(AT, change)).document


async def every_fault(
    schedules: Schedules, kind: Any, make: Callable[[], SmallProvider], /
) -> AsyncIterator[tuple[int, Run]]:
    """All schedules with the fault after each number of steps that the task takes in one of them."""
    for steps in range(STEPS):
        runs = await schedules.all(make, Fault(kind, steps), most=MOST)
        for run in runs:
            yield steps, run
        if all(run.steps[0] < steps for run in runs):
            return
    raise AssertionError("a task does not end")


def always(*_: object) -> bool:
    return True


def judge(run: Run, /) -> list[str]:
    """What is wrong with a schedule at its end, whatever fault it had. Whoever stood still past its lease, and was not
    taken over before it went on, may have had no answer.
    """
    wrong = list(run.wrong)
    for task, outcome in run.outcomes.items():
        if isinstance(outcome, NoAnswerError) and task == 0 and run.fault is not None and run.fault.kind != "crash":
            continue
        if isinstance(outcome, Stored):
            tokens = outcome.document.credentials
            if tokens.access_token is None or tokens.refresh_token.reveal() not in run.provider.good:
                wrong.append(f"task {task} has a token that is not good")
        else:
            wrong.append(f"task {task}: {outcome!r}")
    if len(run.outcomes) < len(run.steps) - run.is_dead:
        wrong.append("not all tasks have ended")
    return wrong


async def test_every_schedule_without_a_fault_has_one_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tasks, in every order of their steps: one exchange, no refusal, and all have the token."""
    runs = await Schedules(monkeypatch, refresh).all(SmallProvider)
    print(f"{len(runs)} schedules of three tasks, {max(sum(run.steps) for run in runs)} steps at most")
    assert len(runs) > 50
    for run in runs:
        assert (run.provider.exchanges, run.provider.refusals, judge(run)) == (1, 0, [])


@pytest.mark.once
@pytest.mark.parametrize("kind", ["crash", "stall", "late"])
async def test_every_schedule_with_a_fault_ends_well(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of the tasks dead, or standing still past its lease, at any of its steps: the others go on and get a
    good token, where the provider takes a spent token again for a while; and so does the one that stood still, which
    spends none while another has the lease, and whose late tokens do not win.
    """
    schedules = Schedules(monkeypatch, refresh)
    count = Counter[str]()
    async for steps, run in every_fault(schedules, kind, partial(SmallProvider, grace=True)):
        assert judge(run) == [], steps
        assert run.provider.exchanges in {1, 2}
        count["schedules"] += 1
        count["with two exchanges"] += run.provider.exchanges == 2
        assert len({outcome.version for outcome in run.outcomes.values() if isinstance(outcome, Stored)}) == 1
    print(f"{kind}: {dict(count)}")
    assert count["with two exchanges"] > 0


@pytest.mark.once
@pytest.mark.parametrize("kind", ["crash", "stall", "late"])
async def test_a_family_is_lost_only_when_its_holder_has_spent_the_token(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with a provider that revokes all at a second use: tasks are refused only where the one with the fault
    had spent the token and not saved what it got. There is one exchange in all, and each task ends.
    """
    schedules = Schedules(monkeypatch, refresh)
    count = Counter[str]()
    async for _, run in every_fault(schedules, kind, SmallProvider):
        count["schedules"] += 1
        assert run.provider.exchanges == 1
        assert len(run.outcomes) == len(run.steps) - run.is_dead
        if not run.provider.refusals:
            assert judge(run) == []
            continue
        count["families lost"] += 1
        assert run.spenders == [0]
        assert {type(outcome) for outcome in run.outcomes.values()} <= {NoAnswerError, RefusedError, Stored}
    print(f"{kind}: {dict(count)}")
    assert 0 < count["families lost"] < count["schedules"]


@pytest.mark.once
@pytest.mark.parametrize("fault", [None, Fault("crash", 3)])
async def test_the_leases_do_not_pile_up(fault: Fault | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of each schedule nobody has a lease, and the document keeps the token before the last."""
    for run in await Schedules(monkeypatch, refresh).all(partial(SmallProvider, grace=True), fault):
        data = (await run.memory.read(AT.path, limit=10**6)).data
        (entry,) = msgspec.json.decode(data)[FIELD].values()
        assert entry == {"previous": "R0"}


async def test_control_without_the_lease_a_bad_schedule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: compare-and-swap alone, with the exchange within, spends the token twice, which the schedules show
    among the first thousand.
    """
    runs = await Schedules(monkeypatch, naive).all(SmallProvider, most=1000)
    bad = [number for number, run in enumerate(runs) if run.provider.refusals or judge(run)]
    print(f"without the lease, {len(bad)} of {len(runs)} schedules are bad, the first is number {bad[0]}")
    assert bad


async def test_control_a_lease_that_is_not_looked_at_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with a lease that everybody takes over at once, the schedules show that two spend tokens."""
    monkeypatch.setattr("accountstore.lease.LeaseWatch.is_over", always)
    runs = await Schedules(monkeypatch, refresh, 2).all(SmallProvider, most=1000)
    assert any("while task" in wrong for run in runs for wrong in run.wrong)


@pytest.mark.once
async def test_swapping_steps_that_do_not_meet_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks: all orders, with those that only swap steps which do not meet, end in the same ways as without."""
    ends: list[set[Any]] = []
    for they_meet in (meet, always):
        monkeypatch.setattr("schedules.meet", they_meet)
        runs = await Schedules(monkeypatch, refresh, 2).all(partial(SmallProvider, grace=True), Fault("late", 3))
        ends.append({(tuple(run.steps), run.provider.exchanges, tuple(run.provider.good)) for run in runs})
        print(f"{len(runs)} schedules")
    assert ends[0] == ends[1]


async def test_control_schedules_that_something_else_decides_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what depends on anything but the order of the steps, as here on how many runs there were, is found
    when the steps are taken again.
    """
    count = 0

    def make() -> SmallProvider:
        nonlocal count
        count += 1
        provider = SmallProvider()
        if count == 5:
            provider.good.clear()
        return provider

    with pytest.raises(AssertionError, match="the same steps led to"):
        await Schedules(monkeypatch, refresh).all(make)
