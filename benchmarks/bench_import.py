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

# A package that imports on first use looks fast until it is used: so all of our names are imported too, and of anyio,
# which does so in newer releases, what any program uses.
_BASE = "import msgspec; from anyio import CancelScope, Lock, create_task_group, run, sleep"
_OURS = ("import accountstore", "from accountstore import *")
_PROGRAM = """
import sys, time
started = time.perf_counter()
{statement}
print(time.perf_counter() - started, "fsspec" in sys.modules)
"""


def start(folder: str, statement: str, /) -> tuple[float, bool]:
    """Seconds that a statement takes, and whether fsspec is imported after it, in an interpreter that finds what this
    one finds and keeps its bytecode in the folder.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONPYCACHEPREFIX": f"{folder}/bytecode",
    }
    command = [sys.executable, "-P", "-c", _PROGRAM.format(statement=statement)]
    seconds, fsspec = subprocess.check_output(command, env=environment, text=True).split()
    return float(seconds), fsspec == "True"


def _timed(folder: str, statement: str, /) -> Run:
    async def run(times: int) -> float:
        return await to_thread.run_sync(lambda: sum(start(folder, statement)[0] for _ in range(times)))

    return run


async def imports(work: Workspace, /) -> AsyncGenerator[Round]:
    for statement in _OURS:
        _, fsspec = await to_thread.run_sync(start, work.folder, statement)
        yield Round(
            statement,
            {each: _timed(work.folder, each) for each in (statement, _BASE)},
            [Comparison(_BASE, Goal("at most", 1.3))],
            work.effort(2, 1),
            "fsspec is imported: it must not be" if fsspec else "fsspec is not imported",
        )
