"""The machine, results as rows and as lines to read, and JSON lines."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec

import accountstore
from benchmarks.harness import summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.harness import LeftOut, Round, Tally

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
        "filesystem": filesystem_type(folder),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "loop": "asyncio",
        "quick": quick,
        "package": os.path.dirname(accountstore.__file__),
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


def filesystem_type(folder: str, /) -> str:
    """The type of the file system that holds a folder, by GNU's df."""
    done = subprocess.run(["df", "--output=fstype", folder], check=False, capture_output=True, text=True, timeout=60)
    return "unknown" if done.returncode else done.stdout.split()[-1]


def _version(name: str, /) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def results(case: str, made: Round, seconds: Mapping[str, Sequence[float]], /) -> list[dict[str, Any]]:
    """One result for each comparison of a round."""
    found: list[dict[str, Any]] = []
    for other, measure, goal, ours in made.comparisons:
        name = ours or made.contenders[0].name
        summary = summarise([measure.of(*pair) for pair in zip(seconds[name], seconds[other], strict=True)])
        found.append(
            {
                "kind": "result",
                "case": case,
                "title": made.title,
                "ours": name,
                "other": other,
                "ours_us": median(seconds[name]) * 1e6,
                "other_us": median(seconds[other]) * 1e6,
                "median": summary.median,
                "low": summary.low,
                "high": summary.high,
                "unit": measure.unit,
                "goal": str(goal) if goal else None,
                "met": goal.met(summary.median) if goal else None,
                "blocks": summary.values,
                "operations_a_block": made.effort.turns * made.effort.operations,
                "notes": made.notes,
            }
        )
    return found


def table(found: Sequence[Mapping[str, Any]], /) -> str:
    """Results of one round, as lines to read."""
    lines = [found[0]["title"], *(f"  ({note})" for note in found[0]["notes"])]
    sides = {row[side]: row[f"{side}_us"] for row in found for side in ("ours", "other")}
    lines += [f"  {microseconds:>12,.1f} us an operation  {name}" for name, microseconds in sides.items()]
    for row in found:
        pair = f"{row['ours']} against {row['other']}"
        goal = f"goal {row['goal']}: {'met' if row['met'] else 'MISSED'}" if row["goal"] else "no goal"
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(f"  {row['median']:>12.2f} {row['unit']} {interval}  {pair}  {goal}")
    return "\n".join(lines)


def counts(case: str, made: Tally, /) -> list[dict[str, Any]]:
    """One row for each number that was counted."""
    return [
        {
            "kind": "count",
            "case": case,
            "title": made.title,
            "storage": storage,
            "operation": operation,
            "number": number,
            "goal": str(goal) if goal else None,
            "met": goal.met(number) if goal else None,
        }
        for storage, operation, number, goal in made.counts
    ]


def tally(found: Sequence[Mapping[str, Any]], /) -> str:
    """Counted numbers, as lines to read: a line for an operation, a column for a storage."""
    storages = list(dict.fromkeys(row["storage"] for row in found))
    lines = [found[0]["title"], f"  {'':<28}" + "".join(f"{storage:>16}" for storage in storages) + "  goal"]
    for operation in dict.fromkeys(row["operation"] for row in found):
        cells = {row["storage"]: row for row in found if row["operation"] == operation}
        line = "".join(f"{cells[storage]['number'] if storage in cells else '-':>16}" for storage in storages)
        goals = dict.fromkeys(row["goal"] or "no goal" for row in cells.values())
        missed = [storage for storage, row in cells.items() if row["met"] is False]
        lines.append(f"  {operation:<28}{line}  {'; '.join(goals)}" + (f": MISSED by {missed}" if missed else ""))
    return "\n".join(lines)


def left_out(case: str, made: LeftOut, /) -> dict[str, Any]:
    """The row of what could not be measured."""
    return {"kind": "left out", "case": case, "title": made.title, "reason": made.reason}


def write_json_lines(path: str, rows: Sequence[Mapping[str, Any]], /) -> None:
    """One JSON object a line."""
    with open(path, "wb") as file:
        file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def read_json_lines(path: str, /) -> list[dict[str, Any]]:
    """The rows that `write_json_lines` wrote."""
    with open(path, "rb") as lines:
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
