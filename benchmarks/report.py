"""The machine, and results as rows and as lines to read."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import accountstore
from benchmarks.harness import summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.harness import Count, Goal, Round

Row: TypeAlias = "dict[str, Any]"
_CLIENTS = "s3fs gcsfs adlfs obstore aiobotocore aioboto3 pydantic cloudpathlib py-key-value-aio"
_PACKAGES = f"accountstore anyio trio msgspec fsspec {_CLIENTS}"


def describe_machine(folder: str, /, *, quick: bool) -> Row:
    """What the numbers depend on."""
    return {
        "kind": "machine",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "filesystem": filesystem_type(folder),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": "asyncio",
        "quick": quick,
        "package": os.path.dirname(accountstore.__file__),
        "packages": {
            name: next((found.version for found in distributions(name=name)), None) for name in _PACKAGES.split()
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:(.*)", info.read_text("utf-8"), re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or "unknown"


def filesystem_type(folder: str, /) -> str:
    """The type of the file system that holds a folder, by GNU's df."""
    done = subprocess.run(["df", "--output=fstype", folder], check=False, capture_output=True, text=True, timeout=60)
    return "unknown" if done.returncode else done.stdout.split()[-1]


def _held_to(goal: Goal | None, number: float, /) -> Row:
    return {"goal": str(goal) if goal else None, "met": goal.met(number) if goal else None}


def results(case: str, made: Round, seconds: Mapping[str, Sequence[float]], /) -> Iterator[Row]:
    """One result for each comparison of a round."""
    for other, goal, measure, ours in made.comparisons:
        sides = {"ours": ours or next(iter(made.contenders)), "other": other}
        times = {side: seconds[name] for side, name in sides.items()}
        summary = summarise([*map(measure.of, times["ours"], times["other"])])
        yield {
            "kind": "result",
            "case": case,
            "title": made.title,
            **sides,
            **{f"{side}_us": median(time) * 1e6 for side, time in times.items()},
            **summary._asdict(),
            **_held_to(goal, summary.median),
            "unit": measure.unit,
            "operations_a_block": made.effort.turns * made.effort.operations,
            "note": made.note,
        }


def table(found: Sequence[Row], /) -> str:
    """Results of one round, as lines to read."""
    lines = [found[0]["title"], *(f"  ({note})" for note in [found[0]["note"]] if note)]
    sides = {row[side]: row[f"{side}_us"] for row in found for side in ("ours", "other")}
    lines += [f"  {microseconds:>12,.1f} us an operation  {name}" for name, microseconds in sides.items()]
    for row in found:
        pair = f"{row['ours']} against {row['other']}"
        goal = f"goal {row['goal']}: {'met' if row['met'] else 'MISSED'}" if row["goal"] else "no goal"
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(f"  {row['median']:>12.2f} {row['unit']} {interval}  {pair}  {goal}")
    return "\n".join(lines)


def counts(case: str, made: Sequence[Count], /) -> list[Row]:
    """One row for each number that was counted."""
    rows = (each._asdict() | _held_to(each.goal, each.number) for each in made)
    return [{"kind": "count", "case": case, **row} for row in rows]


def tally(found: Sequence[Row], /) -> str:
    """Counted numbers, as lines to read: a line for an operation, a column for a storage."""
    storages = list(dict.fromkeys(row["storage"] for row in found))
    lines = [found[0]["title"], f"  {'':<28}" + "".join(f"{storage:>16}" for storage in storages) + "  goal"]
    for operation in dict.fromkeys(row["operation"] for row in found):
        cells = {row["storage"]: row for row in found if row["operation"] == operation}
        line = "".join(f"{cells[storage]['number']:>16}" for storage in storages)
        goals = dict.fromkeys(row["goal"] or "no goal" for row in cells.values())
        missed = [storage for storage, row in cells.items() if row["met"] is False]
        lines.append(f"  {operation:<28}{line}  {'; '.join(goals)}" + (f": MISSED by {missed}" if missed else ""))
    return "\n".join(lines)
