"""The progress of a migration: a bar on a terminal, a line now and then elsewhere; and what it came to."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import msgspec
from rich import filesize
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar

from accountstore.cli.exits import error_line, print_error
from accountstore.cli.show import console
from accountstore.migration import PROBLEMS, Migration, Outcome, Report

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Progress", "print_report")

_LINE_SECONDS = 10.0
_BAR_SECONDS = 0.1
_ESTIMATE_SECONDS = 5.0
_ESTIMATE_DOCUMENTS = 100
"""So long and so many it takes until the time left can be told."""


class Progress:
    """Follows a run on stderr: documents, rate, bytes, conflicts, errors, and the time left where that is known.

    Each problem is told in a line of its own, as it comes.
    """

    def __init__(self, run: Migration, /, *, shown: bool) -> None:
        self._run = run
        self._shown = shown
        self._documents = self._bytes = self._conflicts = self._errors = 0
        self._began = self._told = time.monotonic()
        self._expected: int | None = None
        self._bar: Bar | None = None
        if shown and sys.stderr.isatty():
            self._bar = Bar(
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=console(stderr=True),
            )
            self._task = self._bar.add_task(self._text(), total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._update()
            self._bar.stop()

    def add(self, outcome: Outcome, /) -> None:
        """A document is done."""
        self._documents += 1
        self._bytes += outcome.bytes
        self._conflicts += outcome.outcome == "conflict"
        self._errors += outcome.outcome in PROBLEMS - {"conflict"}
        if not self._shown:
            return
        if outcome.outcome in PROBLEMS:
            self._tell(outcome)
        now = time.monotonic()
        if now - self._told >= (_LINE_SECONDS if self._bar is None else _BAR_SECONDS):
            self._told = now
            self._update()

    def _tell(self, outcome: Outcome, /) -> None:
        times = [
            f"{end} {moment:%Y-%m-%d %H:%M:%S}"
            for end, moment in (("source", outcome.source_time), ("target", outcome.target_time))
            if moment is not None
        ]
        about = "; ".join(filter(None, [outcome.reason, ", ".join(times)]))
        line = f"{outcome.outcome}: {outcome.source} to {outcome.target}" + (f" ({about})" if about else "")
        if self._bar is None:
            print_error(line)
        else:
            self._bar.console.print(error_line(line), soft_wrap=True)  # above the bar

    def _update(self) -> None:
        if self._bar is not None:
            self._expected = self._run.expected or self._expected
            total = self._expected and max(self._expected, self._documents)  # what is left out counts too
            self._bar.update(self._task, description=self._text(), completed=self._documents, total=total)
        else:
            print_error(f"{self._documents:,} documents, {self._text()}")

    def _text(self) -> str:
        seconds = max(time.monotonic() - self._began, 0.001)
        return (
            f"{self._documents / seconds:,.0f}/s, {_size(self._bytes)}, {_number(self._conflicts, 'conflict')},"
            f" {_number(self._errors, 'error')}{self._left(seconds)}"
        )

    def _left(self, seconds: float, /) -> str:
        """The time left at the rate so far; nothing where that would be a guess."""
        expected = self._run.expected
        if expected is None or seconds < _ESTIMATE_SECONDS or self._documents < _ESTIMATE_DOCUMENTS:
            return ""
        return f", {timedelta(seconds=round(max(expected - self._documents, 0) * seconds / self._documents))} left"


def print_report(report: Report, /, *, as_json: bool) -> None:
    """What a run came to, on stdout."""
    if as_json:
        told = {
            "action": report.action,
            "source": report.source,
            "target": report.target,
            "complete": report.complete,
            **({"absent": report.absent} if report.absent else {}),
            "seconds": round(report.seconds, 3),
            "totals": {word: {"documents": t.documents, "bytes": t.bytes} for word, t in report.totals.items()},
        }
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
        return
    sys.stdout.write(f"{report.source} to {report.target}, {_number(report.documents, 'document')}")
    if report.absent:
        sys.stdout.write(f", without the journals of shards {', '.join(map(str, report.absent))}")
    elif not report.complete:
        sys.stdout.write(", not to the end")
    sys.stdout.write(f", {report.seconds:,.1f} s\n")
    for word, total in sorted(report.totals.items()):
        sys.stdout.write(f"  {word:10} {total.documents:>12,}  {_size(total.bytes):>10}\n")


def _size(count: int, /) -> str:
    return filesize.decimal(count)


def _number(count: int, thing: str, /) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
