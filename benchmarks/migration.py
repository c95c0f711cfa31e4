"""Migrations against other tools, S3 to S3 on the project's stub: `python -m benchmarks.migration`.

Each client runs on one processor and the stub on the other ones, turn by turn, so that a loaded machine slows all
alike; what is printed are documents a second of processor time and of the clock, and
requests a document: medians.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from accountstore import AccountStore, Location, StorageConfig, StoreConfig
from accountstore.migration import Options, migrate

sys.path.append(str(Path(__file__).parent.parent / "tests" / "servers"))
from cloudstub import Stub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IN_FLIGHT = 64
_LOOP = "get and save, in a loop"
_DOCUMENT = (
    '{"host":"%s","port":993,"credentials":'
    '{"discriminator":"EmailClientAccountPasswordCredentials","login":"me","password":"pw"}}'
)


class Cost(NamedTuple):
    """What a run took."""

    seconds: float
    cpu: float
    requests: int
    peak: int
    """Resident memory of the client, in kB."""


def config(url: str, /) -> StoreConfig:
    options = {"key": "k", "secret": "s", "endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"}}
    storages = {
        name: StorageConfig(f"s3://{name.lower()}/x", options=options, engine="obstore", conditions="trust")
        for name in ("Old", "New")
    }
    return StoreConfig(storages=storages, default="Old")


async def ours(url: str, folder: str, way: str, /) -> None:
    """A side of the library: a migration, or a loop."""
    async with AccountStore.open(config(url)) as store:
        if way == "loop":
            async for entry in store.list("m", recursive=True):
                at = entry.location
                account = await store.get(at)
                await store.save(Location(at.file_name, folder=at.folder, storage="New"), account)
            return
        how, _, processes = way.partition("*")
        options: Any = Options(verify=how, concurrency=IN_FLIGHT)  # type: ignore[arg-type]  # one of the words
        report = await migrate(
            store, "Old:m", "New:m",
            journal=f"{folder}/journal", key_file=f"{folder}/key", options=options, processes=int(processes or 1),
            config=config(url),
        )  # fmt: skip
        if not report.ok:
            raise RuntimeError(str(report))


def commands(url: str, folder: str, /) -> Mapping[str, Sequence[Sequence[str]]]:
    """The sides: each is one or more programs, one after another."""
    python = [sys.executable, "-m", "benchmarks.migration", "--side"]
    sides: dict[str, Sequence[Sequence[str]]] = {
        f"ours, verify={way}": [[*python, way, url, folder]] for way in ("none", "write", "read", "write*2")
    }
    sides[_LOOP] = [[*python, "loop", url, folder]]
    if rclone := shutil.which("rclone"):
        ends = ["OLD:old/x/m", "NEW:new/x/m"]
        flags = ["--transfers", str(IN_FLIGHT), "--checkers", str(IN_FLIGHT), "--disable", "copy"]
        sides["rclone copy"] = [[rclone, "copy", *ends, *flags]]
        sides["rclone copy, check --download"] = [
            [rclone, "copy", *ends, *flags],
            [rclone, "check", "--download", *ends, "--checkers", str(IN_FLIGHT)],
        ]
    return sides


def environment(url: str, folder: str, /) -> dict[str, str]:
    told = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}
    told |= {"ENDPOINT": url, "NO_CHECK_BUCKET": "true"}
    remotes = {f"RCLONE_CONFIG_{end}_{key}": value for end in ("OLD", "NEW") for key, value in told.items()}
    return {**os.environ, **remotes, "RCLONE_CONFIG": f"{folder}/rclone.conf"}


def measure(
    stub: Stub, side: Sequence[Sequence[str]], documents: int, delay: float, folder: str, pinned: bool, /
) -> Cost:
    """Run a side on new ends."""
    fill(stub, documents)
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir()
    stub.mode(delay=delay, log=False)
    before, cpu, peak = time.perf_counter(), 0.0, 0
    for command in side:
        pin = ("taskset", "-c", "0") if pinned else ()
        process = subprocess.Popen(
            [*pin, *command],
            env=environment(stub.url, folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command}: {said.decode()[-500:]}")
        cpu += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss)
    seconds = time.perf_counter() - before
    stub.mode(delay=0)
    return Cost(seconds, cpu, stub.count(), peak)


def fill(stub: Stub, documents: int, /) -> None:
    stub.reset()
    for number in range(documents):
        stub.put("s3", "old", f"x/m/{number:07}.account", (_DOCUMENT % ("h" * 900)).encode())


def main() -> None:
    """Print a table of the sides, for each latency."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, nargs="*", default=[0.0, 0.02])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--side", nargs=3, metavar=("WAY", "URL", "FOLDER"))
    asked = parser.parse_args()
    if asked.side:
        anyio.run(ours, asked.side[1], asked.side[2], asked.side[0])
        return
    processors = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as above, Stub() as stub:
        os.sched_setaffinity(stub.pid, set(processors[1:]) or set(processors))
        sides = commands(stub.url, f"{above}/run")
        # The loop would take long, and is measured when it is asked for.
        chosen = {name: side for name, side in sides.items() if name in (asked.only or {*sides} - {_LOOP})}
        for delay in asked.delay:
            costs: dict[str, list[Cost]] = {name: [] for name in chosen}
            for _ in range(asked.rounds):
                for name, side in chosen.items():
                    pinned = "*" not in name
                    costs[name].append(measure(stub, side, asked.documents, delay, f"{above}/run", pinned))
            print(
                f"{asked.documents:,} documents, {delay * 1e3:g} ms, load {os.getloadavg()[0]:.1f} of {len(processors)}"
            )
            for name, found in costs.items():
                rate = asked.documents / median(cost.seconds for cost in found)
                core = asked.documents / median(cost.cpu for cost in found)
                requests = median(cost.requests for cost in found) / asked.documents
                peak = max(cost.peak for cost in found) / 1000
                print(f"  {name:32} {rate:8,.0f}/s  {core:8,.0f}/s of a core  {requests:5.2f} requests  {peak:6.0f} MB")
            print(
                json.dumps({name: [cost._asdict() for cost in found] for name, found in costs.items()}), file=sys.stderr
            )


if __name__ == "__main__":
    main()
