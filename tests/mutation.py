"""How strong the tests are: change the installed package in one place at a time, and see whether a test fails.

    nox -s mutation -- --count 600 --skip 'testing/*' 'cli/*' -- tests --all

1. The tests run on the package as it is, measured: which of them, or of the programs that they start, executes which
   line, and how long each takes.
2. Mutants are drawn at random, by a seed, from all functions (`mutants.py`).
3. For each the tests that execute its lines run, the quick ones first, until their seconds of step 1 make `--seconds`.
   The first failure ends it, as does a test that hangs.
4. The test that failed runs alone on the package as it is. If it fails there too, the outcome is "unclear".

Results are JSON lines in a folder named by a digest of package, tests and arguments. A second run goes on where the
first ended, with `--again --seconds 60` it gives those that survived a second look. Not all of them change a behaviour.

mutmut 3 leaves out statements, conditions, exceptions and module level, and its wrappers fail the tests that look at
the package's names and imports; cosmic-ray runs all tests for each mutant.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
import warnings
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from mutants import Mutant, mutants, sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ("PARSER", "Tests", "run")

_HANGS = 15
"""Seconds that a test may take beyond five times what it took in step 1."""


class Worker:
    """An environment with a copy of the package, and a copy of the checkout without it, for the programs of tests."""

    def __init__(self, folder: Path, package: Path, root: Path, /) -> None:
        self._folder = folder
        self.output = folder / "output.txt"
        venv.create(folder / "env", symlinks=True)
        paths = sysconfig.get_paths("venv", {"base": str(folder / "env")})
        self._python = Path(paths["scripts"], "python")
        for program in Path(sysconfig.get_path("scripts")).iterdir():  # servers are found beside the interpreter
            with suppress(FileExistsError):
                if program.name != package.name:  # which would run without the mutant
                    Path(paths["scripts"], program.name).symlink_to(program)
        site = Path(paths["purelib"])
        (site / "installed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        self.package = site / package.name
        shutil.copytree(package, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        left_out = shutil.ignore_patterns(package.name, ".git", ".nox", ".venv", ".*_cache", "__pycache__")
        shutil.copytree(root, folder / "checkout", ignore=left_out)

    def test(self, arguments: Sequence[str], seconds: float | None = None, **env: str) -> tuple[int | None, list[Any]]:
        """Run pytest. Its exit code, or None where it hung, and the reports of the tests' phases."""
        log = self._folder / "log.jsonl"
        log.unlink(missing_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON", "COV"))}
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [self._python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--report-log={log}", *arguments],
                cwd=self._folder / "checkout",
                env={**kept, "PYTHONDONTWRITEBYTECODE": "1", **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = None
            try:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(seconds)
            finally:
                for number in (signal.SIGINT, signal.SIGKILL):  # at first pytest may end the servers that it started
                    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                        os.killpg(process.pid, number)
                        process.wait(5)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        reports = [json.loads(line) for line in lines if line.endswith("}")]
        return code, [each for each in reports if each["$report_type"] == "TestReport"]


class Tests(NamedTuple):
    """The tests that pass, with their seconds; and by module and line those that execute it."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[str, Sequence[str]]]

    @classmethod
    def measured(cls, worker: Worker, file: Path, jobs: int, arguments: Sequence[str], /) -> Tests:
        """Step 1, unless the file has what it found."""
        if not file.exists():
            rc = file.with_name("measure.ini")
            # A program that a test starts knows the test, as pytest sets it in its environment.
            rc.write_text(
                f"[run]\ncore = ctrace\nparallel = true\ndata_file = {file.with_name('coverage')}\n"
                f"include = {worker.package}/*\ncontext = ${{PYTEST_CURRENT_TEST-}}\n"
            )
            env = {"PYTHONPATH": str(Path(__file__).parent), "COVERAGE_PROCESS_START": str(rc)}
            _, reports = worker.test(["-p", Path(__file__).stem, "-n", str(jobs), *arguments], None, **env)
            seconds: defaultdict[str, float] = defaultdict(float)
            for each in reports:
                seconds[each["nodeid"]] += each["duration"]
            failed = {each["nodeid"] for each in reports if each["outcome"] == "failed"}
            passed = {each["nodeid"] for each in reports if (each["outcome"], each["when"]) == ("passed", "call")}
            print(f"{len(passed - failed)} tests pass; of no use: {sorted(failed)}", flush=True)
            if not passed - failed:
                raise SystemExit(worker.output.read_text(encoding="utf-8", errors="replace"))
            known = {"seconds": {test: seconds[test] for test in passed - failed}, "lines": _lines(rc, worker.package)}
            file.write_text(json.dumps(known), encoding="utf-8")
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def of(self, mutant: Mutant, limit: float, /) -> list[str]:
        """The tests that a mutant is to fail, in their order."""
        lines = self.lines.get(mutant.module, {})
        executed = {*chain.from_iterable(lines.get(str(line), ()) for line in mutant.lines)}
        # What no test executes but the import may concern each test of the module: those in its own file first.
        on_import = mutant.on_import or executed == {""}
        chosen = ({*chain.from_iterable(lines.values())} if on_import else executed) & self.seconds.keys()
        own = f"test_{Path(mutant.module).stem}.py"
        variants: Counter[str] = Counter()
        ranked: list[tuple[bool, bool, int, float, str]] = []
        for seconds, test in sorted((self.seconds[test], test) for test in chosen):
            function = test.partition("[")[0]
            ranked.append((on_import and own not in test, seconds > limit / 5, variants[function], seconds, test))
            variants[function] += 1
        taken: list[str] = []
        for *_, seconds, test in sorted(ranked):
            limit -= seconds
            if taken and limit < 0:
                break
            taken.append(test)
        return taken


def _lines(rc: Path, package: Path, /) -> dict[str, dict[int, list[str]]]:
    from coverage import Coverage

    coverage = Coverage(config_file=str(rc))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of programs that were killed
        coverage.combine()
    data = coverage.get_data()
    found: dict[str, dict[int, list[str]]] = {}
    for name in data.measured_files():
        # A program's tests have the phase of the test behind their names.
        found[Path(name).relative_to(package).as_posix()] = {
            line: sorted({re.sub(r" \(\w+\)$", "", each.strip("|")) for each in those})
            for line, those in data.contexts_by_lineno(name).items()
        }
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """As a plugin of pytest's, in step 1: what is executed for a test is noted as that test's."""
    coverage: Any = sys.modules["coverage"].Coverage.current()
    coverage.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        coverage.switch_context("")


@dataclass
class Judge:
    """Says what becomes of mutants, and remembers which tests pass on the package as it is."""

    tests: Tests
    sources: Mapping[str, str]
    seconds: float
    sound: dict[tuple[str, ...], bool] = field(default_factory=dict)

    def judge(self, worker: Worker, mutant: Mutant, /) -> dict[str, Any]:
        """The outcome: killed, hung (which is killed, too), survived, unexecuted, unclear; and the test that failed."""
        tests = self.tests.of(mutant, self.seconds)
        code, failed = self._run(worker, tests, mutant) if tests else (0, None)
        outcome = "survived" if tests else "unexecuted"
        if code != 0:
            # Without one the package cannot be imported or has other tests, or the process hung or died.
            alone = (failed["nodeid"],) if failed else tuple(tests)
            if alone not in self.sound:
                self.sound[alone] = self._run(worker, alone)[0] == 0
            outcome = "hung" if code is None or (failed and "Timeout (>" in str(failed["longrepr"])) else "killed"
            outcome = outcome if self.sound[alone] else "unclear"
        return {**mutant._asdict(), "outcome": outcome, "test": failed["nodeid"] if failed else ""}

    def _run(self, worker: Worker, tests: Sequence[str], mutant: Mutant | None = None, /) -> tuple[int | None, Any]:
        """Pytest's exit code, or None where it hung, and the report of the test that failed."""
        took = [self.tests.seconds[test] for test in tests]
        hangs = _HANGS + 5 * max(took)
        with ExitStack() as stack:
            if mutant:
                source, path = self.sources[mutant.module], worker.package / mutant.module
                stack.callback(path.write_text, source, encoding="utf-8")
                path.write_text(mutant.apply(source), encoding="utf-8")
            code, reports = worker.test(["-x", f"--timeout={hangs:.0f}", *tests], 60 + hangs + 5 * sum(took))
        return code, next((each for each in reports if each["outcome"] == "failed"), None)


def run(chosen: Namespace, package: Path, root: Path, /) -> str:
    """All steps, for the folder of an installed package and the root of its checkout. The report."""
    files = {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}
    sources = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    digest = hashlib.sha256(repr((sources, chosen.pytest)).encode())
    for path in sorted(Path(root, "tests").rglob("*.py")):
        digest.update(path.read_bytes())
    folder: Path = chosen.out.resolve() / digest.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        mutant
        for name, source in sources.items()
        if any(fnmatch(name, glob) for glob in chosen.modules) and not any(fnmatch(name, glob) for glob in chosen.skip)
        for mutant in mutants(name, source)
    ]
    drawn = {_key(each._asdict()): each for each in sample(found, sources, chosen.count, chosen.seed)}
    results = folder / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows: dict[tuple[Any, ...], Any] = {_key(row): row for row in map(json.loads, lines)}
    alive = {key for key, row in rows.items() if chosen.again and row["outcome"] in {"survived", "unclear"}}
    left = [mutant for key, mutant in drawn.items() if key not in rows or key in alive]
    print(f"{folder}: {len(drawn)} of {len(found)} mutants, {len(left)} to run", flush=True)
    of_the_thread = threading.local()
    with tempfile.TemporaryDirectory() as passing, results.open("a", encoding="utf-8") as file:
        made = [Worker(Path(passing, str(number)), package, root) for number in range(chosen.jobs)]
        tests = Tests.measured(made[0], folder / "tests.json", chosen.jobs, chosen.pytest)
        judge = Judge(tests, sources, chosen.seconds)

        def take_a_worker() -> None:
            of_the_thread.worker = made.pop()

        def judged(mutant: Mutant) -> dict[str, Any]:
            return judge.judge(of_the_thread.worker, mutant)

        pool = ThreadPoolExecutor(chosen.jobs, initializer=take_a_worker)
        try:
            for done in as_completed([pool.submit(judged, mutant) for mutant in left]):
                row = done.result()
                rows[_key(row)] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
        finally:
            pool.shutdown(cancel_futures=True)
    text = report([rows[key] for key in drawn])
    (folder / "report.md").write_text(text, encoding="utf-8")
    return text


def _key(row: Mapping[str, Any], /) -> tuple[Any, ...]:
    return row["module"], row["start"], row["old"], row["new"]


def report(rows: Sequence[Mapping[str, Any]], /) -> str:
    """A table of the modules, and what was not killed."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row["module"]][row["outcome"]] += 1
        counts["All"][row["outcome"]] += 1
    lines = ["| Module | Mutants | Killed | of these hung | Survived | Unexecuted | Unclear | Score |"]
    lines.append(f"|---{'|--:' * 7}|")
    for name in (*sorted(counts.keys() - {"All"}), "All"):
        each = counts[name]
        killed, clear = each["killed"] + each["hung"], each.total() - each["unclear"]
        columns = (each.total(), killed, *(each[kind] for kind in ("hung", "survived", "unexecuted", "unclear")))
        lines.append(f"| {name} | {' | '.join(map(str, columns))} | {100 * killed / (clear or 1):.0f} % |")
    lines.append("")
    for row in sorted(rows, key=lambda row: (row["module"], row["start"])):
        if row["outcome"] not in {"killed", "hung"}:
            what = " -> ".join(f"`{' '.join(row[name].split())}`" for name in ("old", "new"))
            lines.append(f"- {row['module']}:{row['lines'][0]} {row['function']}, {row['outcome']}: {what}")
    return "\n".join(lines)


PARSER = ArgumentParser(description="Change the package, and see whether a test fails.")
PARSER.add_argument("--count", type=int, default=100, help="mutants (%(default)s)")
PARSER.add_argument("--seed", type=int, default=1, help="which ones are drawn (%(default)s)")
PARSER.add_argument("--jobs", type=int, default=2, help="how many at a time (%(default)s)")
PARSER.add_argument("--seconds", type=float, default=15, help="of tests for each (%(default)s)")
PARSER.add_argument("--again", action="store_true", help="those that survived once more: with more seconds")
PARSER.add_argument("--modules", nargs="+", default=["*"], metavar="GLOB", help="of the package; all by default")
PARSER.add_argument("--skip", nargs="+", default=[], metavar="GLOB", help="modules that are left alone")
PARSER.add_argument("--out", type=Path, default=Path(".nox", "mutation-results"), help="folder (%(default)s)")
PARSER.add_argument("pytest", nargs="*", default=[], help="which tests, and other options of pytest; behind `--`")

if __name__ == "__main__":
    spec = find_spec("accountstore")
    assert spec is not None
    print(run(PARSER.parse_args(), Path(str(spec.origin)).parent, Path(__file__).parents[1]))
