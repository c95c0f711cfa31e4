"""The benchmarks run: nothing here looks at how fast anything is."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

ROOT = Path(__file__).parents[1]
CASES = ("save", "get", "get_many", "memory", "peers", "import")
GOALS = {
    "save": "at most 1.15",
    "get": "at most 1.3",
    "get_many": "at least 5",
    "memory": "at most 20",
    "import": "at most 1.3",
}


def run_benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Start the command line in a process of its own, where a warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        timeout=50,
    )


pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What a run with little work prints, and the JSON lines that it writes."""
    folder = tmp_path_factory.mktemp("benchmarks")
    file = folder / "results.jsonl"
    done = run_benchmarks("--quick", "--blocks", "2", "--json", file, "--folder", folder)
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == [file.name]
    return done.stdout, [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks importable, which are no part of the package."""
    monkeypatch.syspath_prepend(ROOT)


def test_every_case_runs(quick_run: tuple[str, list[dict[str, Any]]]) -> None:
    """Each case runs to its end and gives results."""
    _, (_, *results) = quick_run
    assert {result["case"] for result in results} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_finite(quick_run: tuple[str, list[dict[str, Any]]], case: str) -> None:
    """Each number is finite, there is one for each block, and the median is in its interval."""
    _, (_, *results) = quick_run
    mine = [result for result in results if result["case"] == case]
    for result in mine:
        assert len(result["blocks"]) == 2
        assert all(math.isfinite(value) for value in result["blocks"])
        assert result["low"] <= result["median"] <= result["high"]
        assert result["ours_us"] > 0 < result["other_us"]
    assert mine


@pytest.mark.parametrize(("case", "goal"), GOALS.items())
def test_goals_are_those_of_the_issue(quick_run: tuple[str, list[dict[str, Any]]], case: str, goal: str) -> None:
    """Each result of a case with a goal states it, and whether its median met it."""
    _, (_, *results) = quick_run
    bound = float(goal.rpartition(" ")[2])
    for result in results:
        if result["case"] == case and result["other"] != "by hand, with tempfile":
            assert result["goal"] == goal
            assert result["met"] == (result["median"] >= bound if case == "get_many" else result["median"] <= bound)


def test_peers_say_what_they_promise(quick_run: tuple[str, list[dict[str, Any]]]) -> None:
    """Only a peer that writes atomically has a goal; each says whether it is atomic and durable."""
    _, (_, *results) = quick_run
    peers = [result for result in results if result["case"] == "peers"]
    assert {result["other"] for result in peers if not result["goal"]} == {"fsspec pipe_file, cat_file", "anyio.Path"}
    assert all(result["other_durable"] for result in peers)
    assert all((result["goal"] is not None) == (result["other_atomic"] == "yes") for result in peers)


def test_machine_is_described(quick_run: tuple[str, list[dict[str, Any]]]) -> None:
    """The first line and the print-out tell the machine, the file system and the versions."""
    printed, (machine, *_) = quick_run
    assert machine["kind"] == "machine"
    assert machine["filesystem"]
    assert machine["packages"]["msgspec"] in printed
    assert machine["processor"] in printed


def test_import_loads_no_fsspec(quick_run: tuple[str, list[dict[str, Any]]]) -> None:
    """Importing the package, or all of its names, does not import fsspec."""
    _, (_, *results) = quick_run
    imports = [result for result in results if result["case"] == "import"]
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


@pytest.mark.parametrize(
    ("arguments", "message"), [(["other"], "unknown case 'other'"), (["--blocks", "0"], "--blocks")]
)
def test_wrong_arguments_are_refused(arguments: Sequence[str], message: str) -> None:
    """An unknown case or no block at all ends with status 2 and says why."""
    done = run_benchmarks(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
