"""Import times, each in a fresh interpreter that has its bytecode compiled already."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from anyio import to_thread

from benchmarks.harness import Comparison, Goal, Round

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from benchmarks.harness import Run, Workspace

_BASE = "import anyio, msgspec"
# A package that imports on first use looks fast until it is used, so all of its names are imported too.
_OURS = ("import accountstore", "from accountstore import *")
_PROGRAM = """
import sys, time
started = time.perf_counter()
{statement}
print(time.perf_counter() - started, "fsspec" in sys.modules)
"""


class Child:
    """Starts interpreters that find what this one finds, and keep their bytecode in a folder of the run."""

    def __init__(self, folder: str, /) -> None:
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONPYCACHEPREFIX": f"{folder}/bytecode",
        }

    def start(self, statement: str, /) -> tuple[float, bool]:
        """Seconds that the statement takes, and whether fsspec is imported after it."""
        command = [sys.executable, "-P", "-c", _PROGRAM.format(statement=statement)]
        seconds, fsspec = subprocess.check_output(command, env=self._environment, text=True).split()
        return float(seconds), fsspec == "True"

    def timed(self, statement: str, /) -> Run:
        """As `harness.timed`."""

        async def run(times: int) -> float:
            return await to_thread.run_sync(lambda: sum(self.start(statement)[0] for _ in range(times)))

        return run


async def imports(work: Workspace, /) -> AsyncGenerator[Round]:
    """The package and its names against the two packages that it cannot do without."""
    child = Child(work.folder)
    for statement in _OURS:
        _, fsspec = await to_thread.run_sync(child.start, statement)
        yield Round(
            statement,
            {statement: child.timed(statement), _BASE: child.timed(_BASE)},
            [Comparison(_BASE, Goal("at most", 1.3))],
            work.effort(2, 1),
            "fsspec is imported: it must not be" if fsspec else "fsspec is not imported",
        )
