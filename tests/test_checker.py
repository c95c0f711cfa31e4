"""The checker of recorded histories, on known good and bad ones, and against every order of small random ones."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from accountstore.testing import Call, find_violation, is_linearizable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accountstore.testing.histories.checker import CallName, Outcome


def read(start: int, end: int, seen: str | None) -> Call:
    """A read that has found something, or nothing."""
    return Call("get", start, end, "missing" if seen is None else "done", seen=seen)


def write(start: int, end: int, value: str) -> Call:
    """An overwrite."""
    return Call("save", start, end, "done", value)


def swap(start: int, end: int, seen: str, value: str) -> Call:
    """A swap that has succeeded."""
    return Call("swap", start, end, "done", value, seen)


def delete(start: int, end: int) -> Call:
    """A delete."""
    return Call("delete", start, end, "done")


def refused(call: Call) -> Call:
    """The same, with its condition not held."""
    return replace(call, outcome="refused")


def unknown(call: Call) -> Call:
    """The same, without an answer."""
    return replace(call, outcome="unknown")


def create(start: int, end: int, value: str) -> Call:
    """A create that has succeeded."""
    return Call("create", start, end, "done", value)


GOOD: dict[str, Sequence[Call]] = {
    "nothing": [],
    "one after another": [read(0, 1, None), write(2, 3, "a"), read(4, 5, "a"), swap(6, 7, "a", "b"), read(8, 9, "b")],
    "a read beside a write sees the old": [write(0, 1, "a"), write(2, 9, "b"), read(3, 4, "a"), read(5, 6, "b")],
    "two writes at once in either order": [write(0, 9, "a"), write(0, 9, "b"), read(10, 11, "a")],
    "two swaps of one, one refused": [write(0, 1, "a"), swap(2, 5, "a", "b"), refused(swap(2, 5, "a", "c"))],
    "a create refused beside a delete": [write(0, 1, "a"), delete(2, 5), refused(create(2, 5, "b"))],
    "an unanswered write that was done late": [write(0, 1, "a"), unknown(write(2, 3, "b")), read(9, 10, "b")],
    "an unanswered write that was not done": [write(0, 1, "a"), unknown(write(2, 3, "b")), read(9, 10, "a")],
    "a remove of what is gone": [write(0, 1, "a"), delete(2, 3), Call("remove", 4, 5, "done", None, "a")],
    "what has failed": [write(0, 1, "a"), replace(write(2, 3, "b"), outcome="failed"), read(4, 5, "a")],
    "an update of what is missing": [Call("update", 0, 1, "missing", "a")],
}
BAD: dict[str, Sequence[Call]] = {
    "a lost write": [write(0, 1, "a"), write(2, 3, "b"), read(4, 5, "a")],
    "a lost delete": [write(0, 1, "a"), delete(2, 3), read(4, 5, "a")],
    "a write out of nowhere": [read(0, 1, "a")],
    "a write seen before it began": [read(0, 1, "a"), write(2, 3, "a")],
    "reads that go back": [write(0, 1, "a"), write(2, 9, "b"), read(3, 4, "b"), read(5, 6, "a")],
    "two swaps of one": [write(0, 1, "a"), swap(2, 5, "a", "b"), swap(2, 5, "a", "c")],
    "two creates": [create(0, 5, "a"), create(0, 5, "b")],
    "a create over a document": [write(0, 1, "a"), create(2, 3, "b")],
    "a swap refused for nothing": [write(0, 1, "a"), refused(swap(2, 3, "a", "b"))],
    "a create refused for nothing": [refused(create(0, 1, "a"))],
    "a remove refused for nothing": [write(0, 1, "a"), refused(Call("remove", 2, 3, "done", None, "a"))],
    "a repetition that undoes another": [write(0, 9, "a"), read(1, 2, "a"), write(3, 4, "b"), read(10, 11, "a")],
    "an unanswered write done twice": [
        *(unknown(write(0, 1, "a")), read(2, 3, "a"), write(4, 5, "b")),
        *(read(6, 7, "b"), read(8, 9, "a")),
    ],
    "a write that has failed and was done": [replace(write(0, 1, "a"), outcome="failed"), read(2, 3, "a")],
    "a document that an update misses": [write(0, 1, "a"), Call("update", 2, 3, "missing", "b")],
}
RECREATED = [write(0, 9, "a"), read(1, 2, "a"), delete(3, 4), read(10, 11, "a")]


@pytest.mark.parametrize("calls", GOOD.values(), ids=GOOD)
def test_good_histories_are_accepted(calls: Sequence[Call]) -> None:
    """A history that some order explains is one of a register."""
    assert is_linearizable(calls)
    assert find_violation(calls) == []


@pytest.mark.parametrize("calls", BAD.values(), ids=BAD)
@pytest.mark.parametrize("recreating", [False, True])
def test_bad_histories_are_found(calls: Sequence[Call], recreating: bool) -> None:
    """A history that no order explains is none, wherever it stands among others that say nothing of it."""
    assert not is_linearizable(calls, recreating=recreating)
    more = [read(100, 101, None), write(102, 103, "z"), read(104, 105, "z")]
    found = find_violation([*calls, *more], recreating=recreating)
    assert found
    assert all(call.start < 100 for call in found)
    assert "->" in str(found[0])


def test_a_repeated_write_may_undo_a_delete_where_that_is_said() -> None:
    """With `recreating` a write takes effect again over a missing document before its end, and never later."""
    assert not is_linearizable(RECREATED)
    assert is_linearizable(RECREATED, recreating=True)
    assert not is_linearizable([replace(RECREATED[0], end=2), *RECREATED[1:]], recreating=True)
    assert is_linearizable([*RECREATED[:3], read(8, 15, "a"), refused(create(10, 12, "b"))], recreating=True)
    assert is_linearizable([*RECREATED[:3], read(8, 15, "a"), refused(swap(10, 12, "c", "b"))], recreating=True)


def _by_every_order(calls: Sequence[Call]) -> bool:
    """Whether some order of all calls that are done, and some that are not, explains them: by trying each."""
    named = [call for call in calls if call.outcome != "unknown"]
    for order in permutations(calls):
        for length in range(len(named), len(order) + 1):
            chosen = order[:length]
            if all(call in chosen for call in named) and _explains(chosen):
                return True
    return False


def _explains(order: Sequence[Call]) -> bool:
    state: str | None = None
    for i, call in enumerate(order):
        if any(later.outcome != "unknown" and later.end < call.start for later in order[i:]):
            return False
        match call.name, call.outcome:
            case "get", _:
                holds = state == call.seen
            case "create", outcome:
                holds = (state is None) is (outcome != "refused")
            case "swap", outcome:
                holds = (state == call.seen) is (outcome != "refused")
            case _:
                holds = True
        if not holds:
            return False
        if call.name != "get" and call.outcome != "refused":
            state = call.value
    return True


def _random_call(random: Random, number: int) -> Call:
    start = random.randrange(12)
    names: Sequence[CallName] = ("get", "save", "create", "swap", "delete")
    name = random.choice(names)
    outcomes: Sequence[Outcome] = ("done",) if name in {"get", "delete"} else ("done", "done", "refused", "unknown")
    outcome = "done" if name == "save" and number else random.choice(outcomes)
    seen = random.choice((None, "0", "1", "2")) if name == "get" else random.choice("012") if name == "swap" else None
    if name == "save" and outcome == "refused":
        outcome = "done"
    if name == "get" and seen is None:
        outcome = "missing"
    value = str(number) if name in {"save", "create", "swap"} else None
    return Call(name, start, start + random.randrange(6), outcome, value, seen, str(number))


def test_the_search_agrees_with_every_order() -> None:
    """On small random histories the search answers what trying each order does, and both answers occur."""
    random = Random(7)
    answers: list[bool] = []
    for _ in range(1500):
        calls = [_random_call(random, number) for number in range(random.randrange(1, 6))]
        answers.append(is_linearizable(calls))
        assert answers[-1] is _by_every_order(calls), calls
    assert 300 < sum(answers) < 1200
