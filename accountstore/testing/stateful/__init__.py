"""State machines that do whatever Hypothesis thinks of, to a storage and to a model of it in a dict.

`run_state_machine_as_test(backend_machine(open_backend), settings=...)` from `hypothesis.stateful` runs one; so does
its attribute `TestCase`, as a `unittest` class.
"""

from __future__ import annotations

from accountstore.testing.stateful.backends import backend_machine
from accountstore.testing.stateful.stores import store_machine

__all__ = ("backend_machine", "store_machine")
