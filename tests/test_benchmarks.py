"""The benchmarks run: nothing here looks at how fast anything is."""

from __future__ import annotations

import json
import math
import operator
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import anyio
import pytest
from running import HUNG, PYTHON

import accountstore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.harness import Rounds, Workspace

ROOT = Path(__file__).parents[1]
PEERS = ("s3fs, pydantic", "aioboto3, msgspec", "cloudpathlib in threads", "py-key-value-aio")
GOALS: dict[str, set[tuple[str, str | None]]] = {
    "save": {("by hand", "at most 1.15"), ("by hand, with tempfile", None)},
    "get": {("by hand", "at most 1.3")},
    "get_many": {("one get after another", "at least 5")},
    "blocking": {("AccountStore", None)},
    "memory": {("dict and decode", "at most 20")},
    "peers": {
        ("py-key-value-aio file tree (atomic, its names not durable)", "at most 1"),
        ("fsspec pipe_file, cat_file (neither atomic nor durable)", None),
        ("anyio.Path (neither atomic nor durable)", None),
    },
    "sealed": {
        ("cryptography's calls", "at most 2"),
        ("the same format by hand: cryptography, base64, json", None),
    },
    "sealed-stores": {("plain", "at most 1.05")},
    "sealed-peers": {("py-key-value-aio's Fernet wrapper", "at most 1")},
    "sealed-rotation": {("copying through get and save", "at most 0.8")},
    "import": {("import msgspec; from anyio import CancelScope, Lock, create_task_group, run, sleep", "at most 1.3")},
    "cloud-cpu": {("bare aiobotocore", "at most 1.1"), ("bare obstore", "at most 1.25")},
    "cloud-throughput": {
        ("accountstore, s3fs engine", "at least 5"),
        ("accountstore, adlfs engine", "at least 6"),
        ("accountstore, gcsfs engine", None),
    },
    "cloud-latency": {("3,200 a second", "at least 0.9"), ("bare obstore", None)},
    "cloud-loops": {("asyncio", "at least 0.75")},
    "cloud-peers": set(product(PEERS, ("at most 1", None))),
}
"""What each timed case compares with, and its goal."""
OPERATIONS = {"get": 1, "read": 1, "save, overwrite": 1, "save, create": 1, "save, swap": 1, "update": 2, "delete": 1}
Rows = list[dict[str, Any]]

pytestmark = pytest.mark.once


def quick_run(folder: Path, *arguments: str) -> tuple[str, Rows]:
    """What a run with little work prints, and its rows. A warning in it is an error; it leaves nothing behind."""
    file, work = folder / "results.jsonl", folder / "work"
    work.mkdir()
    program = "import runpy, sys; sys.path.append('.'); runpy.run_module('benchmarks', run_name='__main__')"
    options = ("--quick", "--blocks", "2", "--json", str(file), "--folder", str(work))
    command = [*PYTHON, "-W", "error", "-c", program, *arguments, *options]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=HUNG)
    assert done.returncode == 0, done.stderr
    assert not os.listdir(work)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if row["kind"] == "left out":
            assert f"left out, {row['reason']}" in done.stdout
            pytest.skip(row["reason"])
    return done.stdout, rows


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks importable, which are no part of the package."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.mark.parametrize("case", GOALS)
def test_every_timed_case_runs(tmp_path: Path, case: str) -> None:
    """A case compares with what it should, under its goals, and says which are met; the machine is told."""
    printed, (machine, *rows) = quick_run(tmp_path, case)
    assert machine["filesystem"]
    assert machine["packages"]["msgspec"] in printed
    assert {(row["other"], row["goal"]) for row in rows} == GOALS[case]
    for row in rows:
        assert row["case"] == case
        assert len(row["blocks"]) == 2
        assert all(map(math.isfinite, row["blocks"]))
        assert row["low"] <= row["median"] <= row["high"]
        assert row["ours_us"] > 0 < row["other_us"]
        if row["goal"]:
            kind, bound = row["goal"].rsplit(maxsplit=1)
            assert row["met"] == ((operator.ge if kind == "at least" else operator.le)(row["median"], float(bound)))
        assert case != "import" or row["note"] == "fsspec is not imported"
        assert case != "cloud-peers" or (row["goal"] is None) == (row["ours"] == "accountstore, s3fs engine")


def test_requests_are_counted(tmp_path: Path) -> None:
    """Operations send to each storage as many requests as they promise; a check's are counted without a promise."""
    _, (_, *rows) = quick_run(tmp_path, "cloud-requests")
    assert len({row["storage"] for row in rows}) == 6
    for storage in {row["storage"] for row in rows}:
        mine = {row["operation"]: row for row in rows if row["storage"] == storage}
        assert {name: mine[name]["number"] for name in OPERATIONS} == OPERATIONS
        assert all(row["met"] for name, row in mine.items() if name != "check")
        assert mine["check"]["goal"] is None
        assert mine["check"]["number"] > 1
        assert mine["list, one page"]["number"] == 1
        assert mine["list, 1,001 documents"]["number"] == (1 if storage.startswith("Azure") else 2)


def test_bounds_are_printed(tmp_path: Path) -> None:
    """What a store takes under load is counted for each storage; the event loop's longest stall has a goal."""
    _, (_, *rows) = quick_run(tmp_path, "bounds")
    assert {row["storage"] for row in rows} == {"memory", "local", "S3, obstore", "S3, s3fs"}
    longest = ("longest garbage collection, ms", "longest stall, ms")
    counted = ("descriptors", "connections", "threads", "memory, MB", *longest)
    for row in rows:
        assert (row["goal"] is None) == (row["operation"] != "longest stall, ms")
    assert sorted((row["storage"], row["operation"]) for row in rows) == sorted(
        product({row["storage"] for row in rows}, counted)
    )
    numbers = {(row["storage"], row["operation"]): row["number"] for row in rows}
    assert numbers["S3, obstore", "connections"] > numbers["local", "connections"] == 0 < numbers["local", "threads"]


def test_the_gateway_is_measured(tmp_path: Path) -> None:
    """Requests a second against a bare route, and saves against the store's own, have goals, as memory has; latency is
    counted.
    """
    _, (_, *rows) = quick_run(tmp_path, "gateway")
    timed = {(row["other"], row["goal"]) for row in rows if "other" in row}
    assert timed == {("bare Starlette route", "at least 0.7"), ("the store's own save", "at least 0.6")}
    counted = {(row["operation"], row["goal"]) for row in rows if "number" in row}
    memory = {(name, "at most 105") for name in ("100,000 requests", "10,000 dropped connections")}
    assert counted == {("p50, us", None), ("p99, us", None), *memory}
    assert all(row["number"] > 0 for row in rows if "number" in row)


def test_few_functions_are_called(tmp_path: Path) -> None:
    """One get of memory is at most 30 calls of the package's functions, one save at most 42."""
    _, (_, *rows) = quick_run(tmp_path, "calls")
    assert [(row["operation"], row["goal"]) for row in rows] == [("get", "at most 30"), ("save", "at most 42")]
    assert all(0 < row["number"] <= int(row["goal"].rpartition(" ")[2]) for row in rows)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_call_is_counted() -> None:
    """Control: two operations are twice as many calls, and those of other packages are none."""
    from benchmarks.bench_memory import count_calls
    from benchmarks.sides import open_store

    async with open_store("memory://") as store:

        async def exist(*names: str) -> None:
            for name in names:
                await store.exists(accountstore.Location(name))

        once = await count_calls(lambda: exist("a.account"))
        assert await count_calls(lambda: exist("a.account", "b.account")) == 2 * once > 0
    assert await count_calls(lambda: anyio.sleep(0)) == 0


def test_import_of_fsspec_is_noticed(tmp_path: Path) -> None:
    """Control: the check that finds no fsspec finds it after an import of fsspec."""
    from benchmarks.bench_import import start

    seconds, fsspec = start(str(tmp_path), "import fsspec")
    assert fsspec
    assert seconds > 0
    assert not start(str(tmp_path), "import json")[1]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_contenders_take_turns() -> None:
    """Contenders alternate within a block, forwards and backwards; seconds are those of one operation."""
    from benchmarks.harness import Effort, measure

    order: list[str] = []

    async def a(times: int) -> float:
        order.append("a")
        return 1.0 * times

    async def b(times: int) -> float:
        order.append("b")
        return 3.0 * times

    seconds = await measure({"a": a, "b": b}, Effort(2, 5), 2, lambda: order.append("."))
    assert "".join(order) == "b.a.a.b.a.b.b.a.b.a.a.b."
    assert seconds == {"a": [1.0, 1.0], "b": [3.0, 3.0]}


def test_interval_holds_the_median() -> None:
    """A median comes with an interval round it, which one block out of line does not move."""
    from benchmarks.harness import summarise

    steady = summarise([1.0, 1.1, 1.2] * 5)
    assert (steady.median, steady.low, steady.high) == (1.1, 1.0, 1.2)
    assert summarise([*[1.0] * 14, 1000.0]).high == 1.0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tasks_share_the_operations() -> None:
    """Each operation runs once, whether there are fewer of them than tasks or more, and the counter goes on."""
    from benchmarks.harness import in_flight

    begun: list[int] = []

    async def operation(i: int) -> None:
        begun.append(i)

    run = in_flight(operation, 4)
    assert await run(3) > 0
    assert await run(9) > 0
    assert sorted(begun) == list(range(12))


def test_failing_case_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A case that fails makes the status 1, and the cases after it still run."""
    from benchmarks import __main__ as program
    from benchmarks import bench_local

    def fail(work: Workspace) -> Rounds:
        raise OSError("out of order")

    monkeypatch.setattr(bench_local, "save", fail)
    monkeypatch.setattr(program, "CASES", {"fail": ("bench_local.save", ""), "memory": program.CASES["memory"]})
    assert program.main(["--quick", "--blocks", "1", "--folder", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "out of order" in printed.err
    assert "memory get" in printed.out


def test_what_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A case that lacks a package is left out with the reason, in print and in the rows, and fails nothing."""
    from benchmarks import __main__ as program

    monkeypatch.setitem(program.CASES, "cloud-cpu", (program.CASES["memory"][0], "no_such_package json"))
    file = tmp_path / "results.jsonl"
    assert program.main(["cloud-cpu", "--quick", "--json", str(file), "--folder", str(tmp_path)]) == 0
    assert "left out, not installed: no_such_package\n" in capsys.readouterr().out
    _, row = map(json.loads, file.read_text().splitlines())
    assert (row["kind"], row["reason"]) == ("left out", "not installed: no_such_package")


def test_chart_is_an_svg(tmp_path: Path) -> None:
    """The chart is well-formed whatever the names, and shows each contender with its operations a second."""
    pytest.importorskip("matplotlib")
    from benchmarks.chart import draw
    from benchmarks.report import describe_machine

    sides = {"ours": "accountstore", "ours_us": 100.0, "other": "a <slow> & old one", "other_us": 4000.0}
    row = {"kind": "result", "case": "cloud-peers", **sides}
    rows = [describe_machine(str(tmp_path), quick=True), *({**row, "title": f"S3 {name}"} for name in ("get", "save"))]
    draw(str(tmp_path / "chart.svg"), rows)
    svg = ET.parse(tmp_path / "chart.svg").getroot()
    assert svg.tag.endswith("}svg")
    shown = [text.text for text in svg.iter() if text.tag.endswith("}text")]
    assert [shown.count(text) for text in ("accountstore", "a <slow> & old one", "10,000", "250")] == [2] * 4


def test_two_versions_are_compared(tmp_path: Path) -> None:
    """The package of another interpreter is measured in turn with this one's, and the numbers of both are told."""
    package = tmp_path / "other" / "accountstore"
    shutil.copytree(os.path.dirname(accountstore.__file__), package)
    with open(package / "store.py", "a", encoding="utf-8") as file:
        file.write("_get = AccountStore.get\nAccountStore.get = lambda self, location: _get(self, location)\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    printed, (versions, *rows) = quick_run(tmp_path, "memory", "calls", "--against", str(python))
    assert versions["before"]["package"] == str(package)
    assert versions["after"]["package"] == os.path.dirname(accountstore.__file__)
    *timed, get, save = rows
    assert (get["before"], save["before"]) == (get["after"] + 1, save["after"])
    assert f"memory, get: {get['before']} -> {get['after']}" in printed
    assert len(timed) == 2
    for row in timed:
        assert len(row["change"]) == len(row["own"]) == 2
        assert all(map(math.isfinite, (row["before"], row["after"], *row["change"], *row["own"])))


def test_two_processes_take_turns() -> None:
    """A process hands its turn to the other and waits to have it back; it goes on alone when the other has ended."""
    from benchmarks.against import Turns

    (mine, to_me), (others, to_other) = os.pipe(), os.pipe()
    turns = Turns(mine, to_other)
    os.write(to_me, b"..")
    turns.wait()
    turns.pass_on()
    assert os.read(others, 9) == b"."
    os.set_blocking(mine, False)
    with pytest.raises(BlockingIOError):
        turns.pass_on()
    os.close(to_me)
    os.close(others)
    turns.pass_on()
    os.close(mine)
    os.close(to_other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other"], "unknown case 'other'"),
        (["--blocks", "0"], "--blocks must be at least 1"),
        (["save", "--chart", "chart.svg"], "--chart needs the case cloud-peers"),
        (["memory", "--against", sys.executable], "both interpreters have the package in"),
    ],
)
def test_wrong_arguments_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    """What cannot be run ends with a status other than 0 and says why."""
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code
    assert message in f"{capsys.readouterr().err} {ended.value.code}"
