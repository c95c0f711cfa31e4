"""Whether a history of one document is that of a single register: Wing and Gong's search with Lowe's memory.

J. M. Wing, C. Gong, "Testing and Verifying Concurrent Objects" (1993): try each call that may come first, then search
the rest. G. Lowe, "Testing for Linearizability" (2017): never search twice from the same calls done and the same state.
As by Knossos and Porcupine, each document is checked by itself (Herlihy and Wing: linearizability is local).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

__all__ = ("Call", "find_violation", "is_linearizable")

CallName: TypeAlias = Literal["get", "save", "create", "swap", "update", "delete", "remove", "again"]
Outcome: TypeAlias = Literal["done", "missing", "refused", "failed", "unknown"]
_NEVER = 1 << 63


class Call(Struct, frozen=True):
    """One call on a document, whose values are texts, each written by one call only; None: there is no document.

    `name` says what was called: `get`, `save`, `create`, `swap` (a save in place of the version of `seen`), `update`
    (which has read `seen`), `delete`, or `remove` (a delete of the version of `seen`). `value` is what it wrote, `seen`
    also what a `get` has returned. `start` and `end` are nanoseconds of one monotonic clock.

    The outcome: `done`; `missing`, there was no document; `refused`, the condition did not hold; `failed`, it has
    surely changed nothing; `unknown`, it may take effect once at any time after its start: an `UncertainError`, or no
    answer as the process was killed.
    """

    name: CallName
    start: int
    end: int = _NEVER
    outcome: Outcome = "unknown"
    value: str | None = None
    seen: str | None = None
    by: str = ""

    def __str__(self) -> str:
        """A line that a person can read."""
        of = {"seen": self.seen, "value": self.value}
        shown = " ".join(f"{name}={value}" for name, value in of.items() if value is not None)
        end = "never" if self.end == _NEVER else f"{self.end / 1e6:.3f}"
        return f"{self.start / 1e6:.3f} to {end} ms  {self.by}: {self.name} {shown} -> {self.outcome}"


def is_linearizable(calls: Sequence[Call], initial: str | None = None, /, *, recreating: bool = False) -> bool:
    """Whether the calls on one document, each in effect at one moment between its start and its end, are those of a
    register.

    With `recreating`, a save or a create may take effect again before it ends, where there is no document: so ends one
    whose answer is lost, and whose document somebody deletes before the store looks.
    """
    history = sorted(filter(_counts, calls), key=_start)
    if recreating:
        history = sorted([*history, *(_again(call) for call in history if _may_recreate(call))], key=_start)
    before = {call.value: i for i, call in enumerate(history) if call.name != "again"}
    ends = [_NEVER if call.outcome == "unknown" else call.end for call in history]
    needed = sum(1 << i for i, call in enumerate(history) if call.outcome != "unknown")
    stack: list[tuple[int, str | None]] = [(0, initial)]
    known = set(stack)
    while stack:
        done, state = stack.pop()
        rest = needed & ~done
        if not rest:
            return True
        horizon = min(ends[i] for i in range(len(history)) if rest >> i & 1)
        latest = max((history[i].start for i in range(len(history)) if done >> i & 1), default=0)
        possible: list[int] = []
        for i, call in enumerate(history):
            if call.start > horizon:
                break
            if done >> i & 1 or not _holds(call, state):
                continue
            if call.name != "again" or (latest <= call.end and done >> before[call.value] & 1):
                possible.append(i)
        open_ends = (call.end for i, call in enumerate(history) if call.name == "again" and not done >> i & 1)
        soon = min((end for end in open_ends if end >= latest), default=_NEVER)
        # What changes nothing, and bars nothing that may be done again, may well be next.
        harmless = [i for i in possible if not _changes(history[i]) and history[i].start <= soon]
        for i in harmless[:1] or possible:
            following = done | 1 << i, _after(history[i], state)
            if following not in known:
                known.add(following)
                stack.append(following)
    return False


def find_violation(calls: Sequence[Call], initial: str | None = None, /, *, recreating: bool = False) -> list[Call]:
    """As few of the calls as are no history of a register, in the order of their starts; empty where all are one."""
    if is_linearizable(calls, initial, recreating=recreating):
        return []
    found = sorted(filter(_counts, calls), key=_start)
    for end in sorted(call.end for call in found):  # whatever begins a history of a register is one
        first = [call if call.end <= end else replace(call, outcome="unknown") for call in found if call.start <= end]
        if not is_linearizable(first, initial, recreating=recreating):
            found = [call for call in first if _counts(call)]
            break
    for call in [call for call in found if not _changes(call)]:
        fewer = [each for each in found if each is not call]
        if not is_linearizable(fewer, initial, recreating=recreating):
            found = fewer
    return found


def _start(call: Call, /) -> int:
    return call.start


def _counts(call: Call, /) -> bool:
    """Whether a call says anything: one that has failed, or a read without an answer, does not."""
    unread = call.name == "get" or (call.name == "update" and call.seen is None)
    return call.outcome != "failed" and not (unread and call.outcome == "unknown")


def _changes(call: Call, /) -> bool:
    return call.name != "get" and call.outcome in {"done", "unknown"}


def _may_recreate(call: Call, /) -> bool:
    return call.name in {"save", "create"} and _changes(call)


def _again(call: Call, /) -> Call:
    return Call("again", call.start, call.end, "unknown", call.value, by=call.by)


def _holds(call: Call, state: str | None, /) -> bool:
    """Whether a call can have its outcome in a state of the register."""
    refused = call.outcome == "refused"
    if call.outcome == "missing":
        return state is None
    match call.name:
        case "save" | "delete":
            return True
        case "create" | "again":
            return (state is not None) is refused
        case "remove":
            return state not in {None, call.seen} if refused else state in {None, call.seen}
        case _:
            return (state != call.seen) is refused


def _after(call: Call, state: str | None, /) -> str | None:
    return call.value if _changes(call) else state
