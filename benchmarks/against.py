"""This version of the package against another one, in one interleaved run: `python -m benchmarks --against PYTHON`.

The benchmarks use the package's public names only, so that those of this checkout measure both. Each block is a pair of
processes, one with either version, which work in turns: each contender's turn is followed by the same one of the other
process. What differs from process to process is in the interval.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from benchmarks.harness import RATE, SPEEDUP, summarise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.report import Row

_ROOT = str(Path(__file__).parents[1])
# The package that is installed goes before that of the checkout.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from benchmarks.__main__ import main; sys.exit(main())"
_SECONDS = 600
_WORSE = 1.05
_KEY = ("kind", "case", "title", "ours", "other", "storage", "operation")


class Turns(NamedTuple):
    """Of two processes the one works that has the byte: pipes to get it by and to hand it over."""

    mine: int
    others: int

    def wait(self) -> None:
        """Until it is this one's turn, or the other process has ended."""
        os.read(self.mine, 1)

    def pass_on(self) -> None:
        """Let the other process have its turn."""
        with suppress(BrokenPipeError):
            os.write(self.others, b".")
        self.wait()


def versions(python: str, folder: str, /) -> Row:
    """Print where the package of the other interpreter is and that of this one, and which others are not the same."""
    before, after = (rows[0] for rows in _pair((python, sys.executable), folder, "calls"))
    if before["package"] == after["package"]:
        sys.exit(f"both interpreters have the package in {after['package']}")
    print(f"before: {before['package']}\nafter:  {after['package']}")
    for name, version in after["packages"].items():
        if before["packages"][name] != version:
            print(f"NOT THE SAME {name}: {before['packages'][name]}, {version}")
    return {"kind": "versions", "before": before, "after": after}


def compare(python: str, folder: str, blocks: int, /, case: str, *options: str) -> Iterator[Row]:
    """Measure a case with either package. Print and yield a row for each number that both have."""
    before: list[dict[tuple[Any, ...], Row]] = []
    after: list[dict[tuple[Any, ...], Row]] = []
    for block in range(blocks):
        turn = {python: before, sys.executable: after}
        order = tuple(turn) if block % 2 == 0 else tuple(reversed(turn))
        for interpreter, rows in zip(order, _pair(order, folder, case, "--blocks", "3", *options), strict=True):
            turn[interpreter].append({tuple(map(row.get, _KEY)): row for row in rows})
    for key in before[0]:
        old, new = ([found[key] for found in side if key in found] for side in (before, after))
        if key[0] in {"count", "result"} and len(old) == len(new) == blocks:
            yield _count(old[0], new[0]) if key[0] == "count" else _change(old, new)


def _pair(pythons: Sequence[str], folder: str, /, *arguments: str) -> Iterator[list[Row]]:
    """What a process of each interpreter measures, which take turns."""
    (first, to_first), (second, to_second) = os.pipe(), os.pipe()
    os.write(to_first, b".")
    processes: list[subprocess.Popen[bytes]] = []
    files = [f"{folder}/{number}.jsonl" for number in range(2)]
    for python, file, turns in zip(pythons, files, ((first, to_second), (second, to_first)), strict=True):
        options = ("--folder", folder, "--json", file, "--turns", *map(str, turns))
        command = (python, "-P", "-c", _PROGRAM, _ROOT, *arguments, *options)
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, pass_fds=turns))
    for end in (first, to_first, second, to_second):
        os.close(end)
    try:
        for process in processes:
            if status := process.wait(_SECONDS):
                raise subprocess.CalledProcessError(status, process.args)
    finally:
        for process in processes:
            process.kill()
    return (msgspec.json.Decoder(dict[str, Any]).decode_lines(Path(file).read_bytes()) for file in files)


def _count(old: Row, new: Row, /) -> Row:
    print(f"{new['title']}, {new['storage']}, {new['operation']}: {old['number']} -> {new['number']}")
    return {name: new[name] for name in _KEY if name in new} | {"before": old["number"], "after": new["number"]}


def _change(before: Sequence[Row], after: Sequence[Row], /) -> Row:
    """The number before and after; and its change, above 1 for the worse, beside that of the library's own time."""
    pairs = list(zip(before, after, strict=True))
    unit = after[0]["unit"]
    more_is_better = unit in {RATE.unit, SPEEDUP.unit}
    change = summarise([(old["median"] / new["median"]) ** (1 if more_is_better else -1) for old, new in pairs])
    own = summarise([new["ours_us"] / old["ours_us"] for old, new in pairs])
    numbers = {"before": median(row["median"] for row in before), "after": median(row["median"] for row in after)}
    print(
        f"{after[0]['title']}, {after[0]['ours']} against {after[0]['other']}:"
        f" {numbers['before']:.2f} -> {numbers['after']:.2f} {unit};"
        f" change {change}, own time {own}{' WORSE' if change.median > _WORSE else ''}",
        flush=True,
    )
    row = {name: after[0][name] for name in _KEY if name in after[0]}
    return row | numbers | {"unit": unit, "change": change.blocks, "own": own.blocks}
