"""The benchmarks run: nothing here looks at how fast anything is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from running import HUNG, PYTHON

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

ROOT = Path(__file__).parents[1]
TIMED = (
    "save",
    "get",
    "get_many",
    "memory",
    "peers",
    "import",
    "cloud-cpu",
    "cloud-throughput",
    "cloud-latency",
    "cloud-loops",
    "cloud-peers",
)
CASES = (*TIMED, "cloud-requests")
GOALS = {
    "save": "at most 1.15",
    "get": "at most 1.3",
    "get_many": "at least 5",
    "memory": "at most 20",
    "import": "at most 1.3",
    "cloud-loops": "at least 0.75",
}
CLOUD_GOALS = {
    ("cloud-cpu", "bare aiobotocore"): "at most 1.1",
    ("cloud-cpu", "bare obstore"): "at most 1.25",
    ("cloud-throughput", "accountstore, s3fs engine"): "at least 5",
    ("cloud-throughput", "accountstore, adlfs engine"): "at least 6",
    ("cloud-throughput", "accountstore, gcsfs engine"): None,
    ("cloud-latency", "3,200 a second"): "at least 0.9",
    ("cloud-latency", "bare obstore"): None,
}
OPERATIONS = {"get": 1, "read": 1, "save, overwrite": 1, "save, create": 1, "save, swap": 1, "update": 2, "delete": 1}
SVG = "{http://www.w3.org/2000/svg}"
Rows = list[dict[str, Any]]


def run_benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Start the command line in a process of its own, where a warning is an error."""
    program = "import runpy, sys; sys.path.append('.'); runpy.run_module('benchmarks', run_name='__main__')"
    return subprocess.run(
        [*PYTHON, "-W", "error", "-c", program, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )


pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Rows]:
    """What a run with little work prints, and the JSON lines that it writes."""
    folder = tmp_path_factory.mktemp("benchmarks")
    file = folder / "results.jsonl"
    done = run_benchmarks("--quick", "--blocks", "2", "--json", file, "--folder", folder)
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == [file.name]
    return done.stdout, [json.loads(line) for line in file.read_text().splitlines()]


def results_of(rows: Rows, *cases: str) -> Rows:
    """The timed results of cases; the test is skipped where one was left out, which must say why."""
    found = [row for row in rows if row["kind"] == "result" and row["case"] in cases]
    reasons = [row["reason"] for row in rows if row["kind"] == "left out" and row["case"] in cases]
    if reasons:
        assert all(reasons)
        pytest.skip(reasons[0])
    assert found
    return found


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks importable, which are no part of the package, behind all that is installed."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def test_every_case_runs(quick_run: tuple[str, Rows]) -> None:
    """Each case runs to its end and gives results, or says why something is left out."""
    _, (_, *rows) = quick_run
    assert {row["case"] for row in rows} == set(CASES)
    assert {row["kind"] for row in rows} <= {"result", "count", "left out"}


@pytest.mark.parametrize("case", TIMED)
def test_numbers_are_finite(quick_run: tuple[str, Rows], case: str) -> None:
    """Each number is finite, there is one for each block, and the median is in its interval."""
    _, (_, *rows) = quick_run
    for result in results_of(rows, case):
        assert len(result["blocks"]) == 2
        assert all(math.isfinite(value) for value in result["blocks"])
        assert result["low"] <= result["median"] <= result["high"]
        assert result["ours_us"] > 0 < result["other_us"]


@pytest.mark.parametrize(("case", "goal"), GOALS.items())
def test_goals_are_those_of_the_issue(quick_run: tuple[str, Rows], case: str, goal: str) -> None:
    """Each result of a case with a goal states it, and whether its median met it."""
    _, (_, *rows) = quick_run
    for result in results_of(rows, case):
        if result["other"] != "by hand, with tempfile":
            assert_goal(result, goal)


def assert_goal(result: dict[str, Any], goal: str) -> None:
    """The result states this goal, and whether it met it."""
    bound = float(goal.rpartition(" ")[2])
    assert result["goal"] == goal
    assert result["met"] == (result["median"] >= bound if "least" in goal else result["median"] <= bound)


def test_goals_of_clouds(quick_run: tuple[str, Rows]) -> None:
    """The CPU over a bare client, the engines' throughput and the rate from afar have a goal for each other side."""
    _, (_, *rows) = quick_run
    results = results_of(rows, "cloud-cpu", "cloud-throughput", "cloud-latency")
    assert {(result["case"], result["other"]) for result in results} == set(CLOUD_GOALS)
    for result in results:
        goal = CLOUD_GOALS[result["case"], result["other"]]
        if goal:
            assert_goal(result, goal)
        else:
            assert result["goal"] is result["met"] is None


def test_cloud_peers_are_beside_both_engines(quick_run: tuple[str, Rows]) -> None:
    """Each peer is compared with both engines, for get and for save; the obstore engine is to be ahead."""
    _, (_, *rows) = quick_run
    results = results_of(rows, "cloud-peers")
    peers = {result["other"] for result in results}
    assert len(peers) == 4
    assert len(results) == len(peers) * 2 * 2
    for result in results:
        if result["ours"] == "accountstore, obstore engine":
            assert_goal(result, "at most 1")
        else:
            assert result["ours"] == "accountstore, s3fs engine"


def test_requests_are_counted(quick_run: tuple[str, Rows]) -> None:
    """Operations send to each storage as many requests as they promise; a check's are counted without a promise."""
    printed, (_, *rows) = quick_run
    counted = [row for row in rows if row["case"] == "cloud-requests" and row["kind"] == "count"]
    if not counted:
        pytest.skip("no engine is installed")
    assert "requests an operation" in printed
    for storage in {row["storage"] for row in counted}:
        mine = {row["operation"]: row for row in counted if row["storage"] == storage}
        assert {name: mine[name]["requests"] for name in OPERATIONS} == OPERATIONS
        assert all(row["met"] for name, row in mine.items() if name != "check")
        assert mine["check"]["goal"] is None
        assert mine["check"]["requests"] > 1
        assert mine["list, one page"]["requests"] == 1
        assert mine["list, 1,001 documents"]["requests"] == (1 if storage.startswith("Azure") else 2)


def test_peers_say_what_they_promise(quick_run: tuple[str, Rows]) -> None:
    """Only a peer that writes atomically has a goal; each says whether it is atomic and durable."""
    _, (_, *rows) = quick_run
    peers = results_of(rows, "peers")
    assert {result["other"] for result in peers if not result["goal"]} == {"fsspec pipe_file, cat_file", "anyio.Path"}
    assert all(result["other_durable"] for result in peers)
    assert all((result["goal"] is not None) == (result["other_atomic"] == "yes") for result in peers)


def test_machine_is_described(quick_run: tuple[str, Rows]) -> None:
    """The first line and the print-out tell the machine, the file system and the versions."""
    printed, (machine, *_) = quick_run
    assert machine["kind"] == "machine"
    assert machine["filesystem"]
    assert machine["packages"]["msgspec"] in printed
    assert machine["processor"] in printed


def test_import_loads_no_fsspec(quick_run: tuple[str, Rows]) -> None:
    """Importing the package, or all of its names, does not import fsspec."""
    _, (_, *rows) = quick_run
    imports = results_of(rows, "import")
    assert [result["notes"] for result in imports] == [["fsspec is not imported"]] * 2


def test_import_of_fsspec_is_noticed(own_modules: None, tmp_path: Path) -> None:
    """Control: the check that finds no fsspec finds it after an import of fsspec."""
    from benchmarks.cases_import import Child

    child = Child(str(tmp_path))
    seconds, fsspec = child.start("import fsspec")
    assert fsspec
    assert seconds > 0
    assert not child.start("import json")[1]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_contenders_take_turns(own_modules: None) -> None:
    """Contenders alternate within a block, forwards and backwards; seconds are those of one operation."""
    from benchmarks.blocks import Contender, Effort, measure

    order: list[str] = []

    def contender(name: str, seconds: float) -> Contender:
        async def run(count: int) -> float:
            order.append(name)
            return seconds * count

        return Contender(name, run)

    seconds = await measure([contender("a", 1.0), contender("b", 3.0)], Effort(2, 5), 2)
    assert order == ["b", "a", "a", "b", "a", "b", "b", "a", "b", "a", "a", "b"]
    assert seconds == {"a": [1.0, 1.0], "b": [3.0, 3.0]}


def test_interval_holds_the_median(own_modules: None) -> None:
    """A median comes with an interval round it, which one block out of line does not move."""
    from benchmarks.blocks import summarise

    steady = summarise([1.0, 1.1, 1.2] * 5)
    assert (steady.median, steady.low, steady.high) == (1.1, 1.0, 1.2)
    assert summarise([*[1.0] * 14, 1000.0]).high == 1.0


def test_failing_case_is_reported(
    own_modules: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A case that fails makes the status 1, and the cases after it still run."""
    from benchmarks import __main__ as program
    from benchmarks.blocks import Case, Round, Workspace

    async def fail(work: Workspace) -> AsyncGenerator[Round]:
        raise OSError("out of order")
        yield

    monkeypatch.setattr(program, "CASES", {"fail": Case("fail", fail), "memory": program.CASES["memory"]})
    assert program.main(["--quick", "--blocks", "1", "--folder", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "out of order" in printed.err
    assert "memory get" in printed.out


def test_what_is_not_installed_is_reported(
    own_modules: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What lacks a package is left out with the reason, in print and in the rows, and fails nothing."""
    from benchmarks import __main__ as program
    from benchmarks import cases_cloud, cloud

    def lacking(*packages: str) -> str:
        return cloud.missing("no_such_package", "json")

    monkeypatch.setattr(cases_cloud, "missing", lacking)
    file = tmp_path / "results.jsonl"
    assert program.main(["cloud-cpu", "--quick", "--json", str(file), "--folder", str(tmp_path)]) == 0
    assert "left out, not installed: no_such_package" in capsys.readouterr().out
    _, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["kind"], row["reason"]) for row in rows} == {("left out", "not installed: no_such_package")}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_tasks_share_the_operations(own_modules: None) -> None:
    """Each operation runs once, whether there are fewer of them than tasks or more, and the counter goes on."""
    from benchmarks.blocks import in_flight

    begun: list[int] = []

    async def operation(i: int) -> None:
        begun.append(i)

    run = in_flight(operation, 4)
    assert await run(3) > 0
    assert await run(9) > 0
    assert sorted(begun) == list(range(12))


# --- the chart --------------------------------------------------------------------------------------------------------


def _result(title: str, ours: str, ours_us: float, other: str, other_us: float) -> dict[str, Any]:
    names = {"ours": ours, "ours_us": ours_us, "other": other, "other_us": other_us}
    return {"kind": "result", "case": "cloud-peers", "title": title, **names}


ROWS: Rows = [
    {"kind": "left out", "case": "cloud-peers", "title": "a peer", "reason": "not installed"},
    {"kind": "result", "case": "peers", "title": "local", "ours": "accountstore", "other": "x"},
    _result("S3 get beside others", "accountstore, fast", 100.0, "a <slow> & old one", 4000.0),
    _result("S3 get beside others", "accountstore, slow", 1000.0, "a <slow> & old one", 4000.0),
    _result("S3 save beside others", "accountstore, fast", 200.0, "a <slow> & old one", 800.0),
]


def texts_of(svg: ET.Element, kind: str) -> list[str]:
    """What stands in the texts of a class."""
    return [text.text or "" for text in svg.iter(f"{SVG}text") if text.get("class") == kind]


def assert_chart(drawn: str, rows: Rows) -> None:
    """A bar, a label and a value for each contender of each round: the value is the row's, the bar is as long."""
    svg = ET.fromstring(drawn)
    assert svg.tag == f"{SVG}svg"
    assert not list(svg.iter(f"{SVG}script"))
    speeds: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["kind"] == "result" and row["case"] == "cloud-peers":
            for side in ("ours", "other"):
                speeds[row["title"], row[side]] = 1e6 / row[f"{side}_us"]
    labels, values = texts_of(svg, "label"), texts_of(svg, "value")
    bars = [float(bar.get("width", "")) for bar in svg.iter(f"{SVG}rect") if bar.get("class") == "bar"]
    assert sorted(zip(labels, values, strict=True)) == sorted((name, f"{v:,.0f}") for (_, name), v in speeds.items())
    assert len(bars) == len(speeds)
    longest = max(bars) / max(speeds.values())
    assert sorted(bars) == pytest.approx(sorted(max(1.0, longest * speed) for speed in speeds.values()), abs=0.1)


def test_chart_shows_the_rows(own_modules: None) -> None:
    """The chart is well-formed whatever the names, and shows each contender's operations a second, ours first."""
    from benchmarks.chart import chart

    drawn = chart(ROWS)
    assert_chart(drawn, ROWS)
    assert texts_of(ET.fromstring(drawn), "value") == ["10,000", "1,000", "250", "5,000", "1,250"]


def test_chart_of_a_run(quick_run: tuple[str, Rows], tmp_path: Path) -> None:
    """A chart is drawn from the file of an earlier run, with its machine in small print; nothing runs."""
    _, rows = quick_run
    results_of(rows, "cloud-peers")
    source, target = tmp_path / "results.jsonl", tmp_path / "chart.svg"
    source.write_text("\n".join(map(json.dumps, rows)))
    done = run_benchmarks("--chart", target, "--from", source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    drawn = target.read_text(encoding="utf-8")
    assert_chart(drawn, rows)
    assert rows[0]["processor"] in texts_of(ET.fromstring(drawn), "small")[0]


def test_chart_without_results(tmp_path: Path) -> None:
    """Where there is nothing to draw, no file is written, and the status says so."""
    source, target = tmp_path / "results.jsonl", tmp_path / "chart.svg"
    source.write_text(json.dumps(ROWS[0]))
    done = run_benchmarks("--chart", target, "--from", source)
    assert done.returncode == 1
    assert "no results of cloud-peers" in done.stderr
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other"], "unknown case 'other'"),
        (["--blocks", "0"], "--blocks"),
        (["--from", "results.jsonl"], "--from goes with --chart"),
        (["save", "--from", "results.jsonl", "--chart", "chart.svg"], "--from goes with --chart alone"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Sequence[str], message: str) -> None:
    """An unknown case or no block at all ends with status 2 and says why."""
    done = run_benchmarks(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
