"""The machine, the table, and JSON lines."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

from accountstore.backends.local.syscalls import filesystem_type
from benchmarks.blocks import summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.blocks import LeftOut, Round, Tally

__all__ = ("counts", "describe_machine", "json_lines", "left_out", "read_json_lines", "results", "table", "tally")

_PACKAGES = (
    "accountstore",
    "anyio",
    "trio",
    "msgspec",
    "fsspec",
    "s3fs",
    "gcsfs",
    "adlfs",
    "obstore",
    "aiobotocore",
    "aioboto3",
    "pydantic",
    "cloudpathlib",
    "py-key-value-aio",
)


def describe_machine(folder: str, /, *, quick: bool) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "kind": "machine",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "filesystem": filesystem_type(folder) or "unknown",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": "asyncio",
        "quick": quick,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(name: str, /) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def results(case: str, made: Round, seconds: Mapping[str, Sequence[float]], /) -> list[dict[str, Any]]:
    """One result for each comparison of a round."""
    contenders = {contender.name: contender for contender in made.contenders}
    found: list[dict[str, Any]] = []
    for comparison in made.comparisons:
        ours, other = contenders[comparison.ours or made.contenders[0].name], contenders[comparison.other]
        pairs = zip(seconds[ours.name], seconds[other.name], strict=True)
        summary = summarise([comparison.measure(mine, theirs) for mine, theirs in pairs])
        found.append(
            {
                "kind": "result",
                "case": case,
                "title": made.title,
                "ours": ours.name,
                "other": other.name,
                "ours_us": median(seconds[ours.name]) * 1e6,
                "other_us": median(seconds[other.name]) * 1e6,
                "other_atomic": other.atomic or None,
                "other_durable": other.durable or None,
                "median": summary.median,
                "low": summary.low,
                "high": summary.high,
                "unit": comparison.unit,
                "goal": str(comparison.goal) if comparison.goal else None,
                "met": comparison.goal.met(summary.median) if comparison.goal else None,
                "blocks": summary.values,
                "operations_a_block": made.effort.turns * made.effort.operations,
                "notes": made.notes,
            }
        )
    return found


def table(found: Sequence[Mapping[str, Any]], /) -> str:
    """Results of one round, as lines to read."""
    first = found[0]
    lines = [first["title"], *(f"  ({note})" for note in first["notes"])]
    sides = {result["ours"]: (result["ours_us"], "") for result in found}
    for result in found:
        promises = ""
        if result["other_atomic"]:
            promises = f"  [atomic: {result['other_atomic']}; durable: {result['other_durable']}]"
        sides.setdefault(result["other"], (result["other_us"], promises))
    for i, (name, (microseconds, promises)) in enumerate(sides.items()):
        lines.append(f"  {'' if i else 'us an operation':<32} {microseconds:>12,.1f}  {name}{promises}")
    of = ""
    for result in found:
        if result["ours"] != (of or first["ours"]):
            of = result["ours"]
            lines.append(f"  {of}")
        goal = "no goal"
        if result["goal"]:
            goal = f"goal {result['goal']}: {'met' if result['met'] else 'MISSED'}"
        lines.append(
            f"  against {result['other']:<28} {result['median']:>8.2f} {result['unit']}"
            f"  [{result['low']:.2f}, {result['high']:.2f}]  {goal}"
        )
    return "\n".join(lines)


def counts(case: str, made: Tally, /) -> list[dict[str, Any]]:
    """One row for each number that was counted."""
    return [
        {
            "kind": "count",
            "case": case,
            "title": made.title,
            "storage": count.storage,
            "operation": count.operation,
            "requests": count.requests,
            "goal": str(count.goal) if count.goal else None,
            "met": count.goal.met(count.requests) if count.goal else None,
        }
        for count in made.counts
    ]


def tally(found: Sequence[Mapping[str, Any]], /) -> str:
    """Counted numbers, as lines to read: a line for an operation, a column for a storage."""
    storages = list(dict.fromkeys(row["storage"] for row in found))
    lines = [found[0]["title"], f"  {'':<28}" + "".join(f"{storage:>16}" for storage in storages) + "  goal"]
    for operation in dict.fromkeys(row["operation"] for row in found):
        cells = {row["storage"]: row for row in found if row["operation"] == operation}
        line = "".join(f"{cells[storage]['requests'] if storage in cells else '-':>16}" for storage in storages)
        goals = list(dict.fromkeys(row["goal"] or "no goal" for row in cells.values()))
        missed = [storage for storage, row in cells.items() if row["met"] is False]
        lines.append(f"  {operation:<28}{line}  {'; '.join(goals)}" + (f": MISSED by {missed}" if missed else ""))
    return "\n".join(lines)


def left_out(case: str, made: LeftOut, /) -> dict[str, Any]:
    """The row of what could not be measured."""
    return {"kind": "left out", "case": case, "title": made.title, "reason": made.reason}


def json_lines(rows: Sequence[Mapping[str, Any]], /) -> bytes:
    """One JSON object a line."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def read_json_lines(path: str, /) -> list[dict[str, Any]]:
    """The rows that `json_lines` wrote."""
    with open(path, "rb") as lines:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
