"""Recorded histories: what several processes or tasks did with documents, checked against a register."""

from __future__ import annotations

from accountstore.testing.histories.checker import Call, find_violation, is_linearizable
from accountstore.testing.histories.network import LossyBackend, LossyProxy, Schedule
from accountstore.testing.histories.recorder import Recorder, exercise, read_histories

__all__ = (
    "Call",
    "LossyBackend",
    "LossyProxy",
    "Recorder",
    "Schedule",
    "exercise",
    "find_violation",
    "is_linearizable",
    "read_histories",
)
