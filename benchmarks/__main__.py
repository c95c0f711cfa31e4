"""Run the benchmarks: `python -m benchmarks [case ...]`."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from argparse import SUPPRESS, ArgumentParser
from contextlib import aclosing
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import msgspec

from benchmarks import report
from benchmarks.against import Turns, compare, versions
from benchmarks.chart import draw
from benchmarks.harness import Round, Workspace, measure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from benchmarks.harness import Effort, Rounds, Run
    from benchmarks.report import Row

Timing: TypeAlias = "Callable[[Mapping[str, Run], Effort], Awaitable[Mapping[str, Sequence[float]]]]"


CASES: dict[str, tuple[str, str]] = {
    "save": ("bench_local.save", ""),
    "get": ("bench_local.get", ""),
    "get_many": ("bench_local.get_many", ""),
    "blocking": ("bench_local.blocking", ""),
    "memory": ("bench_memory.memory", ""),
    "calls": ("bench_memory.calls", ""),
    "bounds": ("bench_bounds.bounds", "s3fs obstore"),
    "peers": ("bench_local.peers", "key_value aiofile"),
    "sealed": ("bench_sealed.envelope", "cryptography"),
    "sealed-stores": ("bench_sealed.stores", "cryptography s3fs obstore"),
    "sealed-peers": ("bench_sealed.fernet", "cryptography key_value cachetools"),
    "sealed-rotation": ("bench_sealed.rotation", "cryptography"),
    "import": ("bench_import.imports", ""),
    "gateway": ("bench_gateway.gateway", "starlette uvicorn httptools argon2 itsdangerous prometheus_client"),
    "cloud-cpu": ("bench_cloud.cpu", "s3fs obstore"),
    "cloud-throughput": ("bench_cloud.throughput", "s3fs gcsfs adlfs obstore"),
    "cloud-latency": ("bench_cloud.latency", "obstore"),
    "cloud-loops": ("bench_cloud.loops", "s3fs obstore trio"),
    "cloud-requests": ("bench_cloud.requests", "s3fs gcsfs adlfs obstore"),
    "cloud-peers": ("bench_cloud.peers", "s3fs obstore aioboto3 boto3 cloudpathlib key_value pydantic"),
}
"""The cases: a function, whose module is imported when it runs, and the packages without which it is left out."""
_BLOCKS = 15
_NO_DISK = frozenset({"tmpfs", "ramfs"})


async def _run(name: str, work: Workspace, timing: Timing, rows: list[Row], /) -> None:
    path, packages = CASES[name]
    if absent := [package for package in packages.split() if find_spec(package) is None]:
        rows.append({"kind": "left out", "case": name, "reason": f"not installed: {', '.join(absent)}"})
        print(f"{name}: left out, {rows[-1]['reason']}\n", flush=True)
        return
    module, _, function = path.partition(".")
    case: Callable[[Workspace], Rounds] = getattr(import_module(f"benchmarks.{module}"), function)
    async with aclosing(case(work)) as rounds:
        async for made in rounds:
            if isinstance(made, Round):
                found = [*report.results(name, made, await timing(made.contenders, made.effort))]
                shown = report.table(found)
            else:
                found = report.counts(name, made)
                shown = report.tally(found)
            print(f"{shown}\n", flush=True)
            rows += found


def _folder() -> str:
    """The folder for temporary files, unless that is no disk; then the working directory."""
    folder = tempfile.gettempdir()
    return os.getcwd() if report.filesystem_type(folder) in _NO_DISK else folder


def _run_all(cases: Sequence[str], work: Workspace, timing: Timing, rows: list[Row], /) -> bool:
    """Run the cases one after another. Whether none failed."""
    machine = report.describe_machine(work.folder, quick=work.quick)
    rows.append(machine)
    for name, value in machine.items():
        print(f"{name}: {value}")
    print("--quick: too little work to tell anything\n" if work.quick else "", flush=True)
    fine = True
    for name in cases:
        try:
            anyio.run(_run, name, work, timing, rows)
        except Exception:  # noqa: BLE001 -- the other cases still run
            fine = False
            traceback.print_exc()
    goals = [row for row in rows if row.get("goal")]
    print(f"{sum(row['met'] for row in goals)} of {len(goals)} goals met")
    return fine


def main(arguments: Sequence[str] | None = None, /) -> int:
    """Run the cases that are named, or all. Missed goals are reported; only a case that fails makes the result 1."""
    parser = ArgumentParser(prog="python -m benchmarks", description="Compare accountstore with the alternatives.")
    parser.add_argument("case", nargs="*", help=f"{', '.join(CASES)}; all if none is named")
    parser.add_argument("--blocks", type=int, default=_BLOCKS, help="blocks that the medians are of (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="little work a block: to see that everything runs")
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, one JSON object a line")
    parser.add_argument("--chart", metavar="FILE", help="draw the results of cloud-peers, as SVG")
    parser.add_argument("--folder", default=_folder(), help="where to write documents (%(default)s)")
    parser.add_argument("--against", metavar="PYTHON", help="compare with the package that another interpreter has")
    parser.add_argument("--turns", type=int, nargs=2, help=SUPPRESS)
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.case if name not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    if chosen.blocks < 1:
        parser.error("--blocks must be at least 1")
    if chosen.chart and (chosen.against or "cloud-peers" not in (chosen.case or CASES)):
        parser.error("--chart needs the case cloud-peers, without --against")
    cases: list[str] = chosen.case or list(CASES)
    rows: list[Row] = []
    fine = True
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=chosen.folder) as folder:
        if chosen.against:
            rows.append(versions(chosen.against, folder))
            for name in cases:
                rows += compare(chosen.against, folder, chosen.blocks, name, *(["--quick"] if chosen.quick else []))
        else:
            timing = partial(measure, blocks=chosen.blocks)
            if chosen.turns:
                turns = Turns(*chosen.turns)
                turns.wait()
                timing = partial(timing, after_turn=turns.pass_on)
            print(f"medians of {chosen.blocks} blocks, [bootstrap 95 % interval]")
            fine = _run_all(cases, Workspace(folder, chosen.quick), timing, rows)
    if chosen.json:
        Path(chosen.json).write_bytes(msgspec.json.Encoder().encode_lines(rows))
    if chosen.chart:
        draw(chosen.chart, rows)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
