"""Memory does not grow with the number of documents. `ACCOUNTSTORE_MIGRATION_LISTED` says how many there are."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from running import HUNG, PYTHON

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once

LISTED = int(os.environ.get("ACCOUNTSTORE_MIGRATION_LISTED", "60000"))
FEW = 6000

PROGRAM = r"""
import json, re, sys, time
from pathlib import Path

import anyio
from msgspec.structs import replace

from accountstore.backends.base import Stat, Version, pages_of
from accountstore.backends.memory import MemoryBackend
from accountstore.migration import Options, migrate
from accountstore.migration.journal import Journal
from accountstore.migration.records import Done
from accountstore.testing import store_over

folder, count, keep = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "keep"
PAGE = 1000

def name(number):
    return f"f{number // 1000:05}/{number:08}.account"

def pages():
    return (range(first, min(first + PAGE, count)) for first in range(0, count, PAGE))

class Invented(MemoryBackend):
    # Lists so many documents that nobody has written.
    @property
    def capabilities(self):
        return replace(super().capabilities, sorted=True)

    def scan(self, prefix, /, *, recursive):
        return pages_of(
            [Stat(f"m/{name(number)}", 900, Version(str(number)), None) for number in numbers] for numbers in pages()
        )

def fill(marks, journal):
    journal.begin_run({})
    for numbers in pages():
        found = [(name(number), Version(str(number))) for number in numbers]
        done = [Done(at, "copied", marks.of("source", version), marks.of("target", version)) for at, version in found]
        journal.record([(one, None) for one in done])
    journal.end_run()

async def main():
    async with store_over({"Old": Invented(), "New": Invented()}) as store:
        path, key = f"{folder}/{count}", f"{folder}/{count}.key"
        journal = Journal.open(path, {"source": "Old:m", "target": "New:m", "shard": "1/1"})
        fill(journal.marks(key), journal)
        journal.close()
        kept = []
        run = migrate(store, "Old:m", "New:m", journal=path, key_file=key)
        async for outcome in run:
            if keep:
                kept.append(outcome)
        assert run.report.totals["same"].documents == count, run.report
    # Not `ru_maxrss`, in which the process that started this one counts.
    json.dump({"peak": int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])}, sys.stdout)

anyio.run(main)
"""


def peak(folder: Path, count: int, /, *, keep: bool = False) -> int:
    """The peak of a second pass over so many documents, in kB; `keep`: of one that keeps each outcome."""
    place = folder / str(keep)
    place.mkdir(exist_ok=True)
    command = [*PYTHON, "-c", PROGRAM, str(place), str(count), "keep" if keep else "drop"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG * 4, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return int(found["peak"])


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """A second pass over ten times as many documents, or as many as were asked for, takes at most 1.2 of the memory.
    Control: one that keeps each outcome takes more.
    """
    few = peak(tmp_path, FEW)
    many = peak(tmp_path, LISTED)
    print(f"{FEW:,}: {few:,} kB, {LISTED:,}: {many:,} kB, {many / few:.3f}")
    assert many <= 1.2 * few
    assert peak(tmp_path, 60_000, keep=True) > 1.2 * few
