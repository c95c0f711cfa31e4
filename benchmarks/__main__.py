"""Run the benchmarks: `python -m benchmarks [case ...]`."""

from __future__ import annotations

import sys
import tempfile
import traceback
from argparse import ArgumentParser
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from accountstore.backends.local.syscalls import filesystem_type
from benchmarks import cases_cloud, cases_cloud_peers, cases_import, cases_local, cases_memory, cases_peers
from benchmarks.blocks import LeftOut, Tally, Workspace, measure
from benchmarks.chart import chart
from benchmarks.report import counts, describe_machine, json_lines, left_out, read_json_lines, results, table, tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.blocks import Case

_MODULES = (cases_local, cases_memory, cases_peers, cases_import, cases_cloud, cases_cloud_peers)
CASES = {case.name: case for module in _MODULES for case in module.CASES}
_BLOCKS = 15
_NO_DISK = frozenset({"tmpfs", "ramfs"})


async def _run(case: Case, work: Workspace, blocks: int, rows: list[dict[str, Any]], /) -> None:
    async with aclosing(case.rounds(work)) as rounds:
        async for made in rounds:
            if isinstance(made, LeftOut):
                found = [left_out(case.name, made)]
                shown = f"{made.title}: left out, {made.reason}"
            elif isinstance(made, Tally):
                found = counts(case.name, made)
                shown = tally(found)
            else:
                found = results(case.name, made, await measure(made.contenders, made.effort, blocks))
                shown = table(found)
            print(f"{shown}\n", flush=True)
            rows += found


def _folder() -> str:
    """The folder for passing files, unless that is no disk; then the working directory."""
    folder = tempfile.gettempdir()
    return "." if filesystem_type(folder) in _NO_DISK else folder


def _draw(path: str, rows: Sequence[Mapping[str, Any]], /) -> int:
    """Draw the chart. 1 if there is nothing to draw."""
    try:
        drawn = chart(rows)
    except ValueError as error:
        print(f"no chart: {error}", file=sys.stderr)
        return 1
    with open(path, "w", encoding="utf-8") as file:
        file.write(drawn)
    return 0


def main(arguments: Sequence[str] | None = None, /) -> int:
    """Run the cases that are named, or all. Missed goals are reported; only a case that fails makes the result 1."""
    parser = ArgumentParser(prog="python -m benchmarks", description="Compare accountstore with the alternatives.")
    parser.add_argument("case", nargs="*", help=f"{', '.join(CASES)}; all if none is named")
    parser.add_argument("--blocks", type=int, default=_BLOCKS, help="blocks that the medians are of (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="little work a block: to see that everything runs")
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, one JSON object a line")
    parser.add_argument("--chart", metavar="FILE", help="draw the results of cloud-peers, as SVG")
    parser.add_argument("--from", metavar="FILE", dest="source", help="draw from what --json wrote; nothing is run")
    parser.add_argument("--folder", default=_folder(), help="where to write documents (%(default)s)")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.case if name not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    if chosen.blocks < 1:
        parser.error("--blocks must be at least 1")
    if chosen.source:
        if chosen.case or chosen.json or not chosen.chart:
            parser.error("--from goes with --chart alone")
        return _draw(chosen.chart, read_json_lines(chosen.source))
    machine = describe_machine(chosen.folder, quick=chosen.quick)
    for name, value in machine.items():
        print(f"{name}: {value}")
    print(f"medians of {chosen.blocks} blocks, [bootstrap 95 % interval]")
    print("--quick: too little work to tell anything\n" if chosen.quick else "", flush=True)
    rows, failed = [machine], 0
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=chosen.folder) as folder:
        for name in chosen.case or CASES:
            try:
                anyio.run(_run, CASES[name], Workspace(folder, chosen.quick), chosen.blocks, rows)
            except Exception:  # noqa: BLE001 -- the other cases still run
                failed = 1
                traceback.print_exc()
    if chosen.json:
        with open(chosen.json, "wb") as file:
            file.write(json_lines(rows))
    if chosen.chart:
        failed = max(failed, _draw(chosen.chart, rows))
    goals = [row for row in rows if row.get("goal")]
    print(f"{sum(row['met'] for row in goals)} of {len(goals)} goals met")
    return failed


if __name__ == "__main__":
    sys.exit(main())
