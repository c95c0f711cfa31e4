"""Every document from here to there, verified and resumable, while services write at both ends::

    run = migrate(store, "Old:mail", "New:mail", journal="mail.journal")
    async for outcome in run:
        ...
    assert run.report.ok

`plan` says what a run would do; `verify` reads and compares both ends. `Journal` is where a run keeps what it has done.
"""

from __future__ import annotations

from accountstore.migration.calls import migrate, plan, verify
from accountstore.migration.model import PROBLEMS, Options, Outcome, Place, Report, Total
from accountstore.migration.reports import read_report
from accountstore.migration.run import Migration

__all__ = (
    "PROBLEMS",
    "Migration",
    "Options",
    "Outcome",
    "Place",
    "Report",
    "Total",
    "migrate",
    "plan",
    "read_report",
    "verify",
)
