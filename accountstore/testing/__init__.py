"""For those who write backends, and for services that test against a storage that fails. Needs the extra `testing`.

- `BackendTests`: the suite that says whether a backend is right, applied by a `Harness`.
- `backend_machine`, `store_machine`: Hypothesis state machines that compare a backend, or the whole store, with a
  model.
- `FaultyBackend`, `Fault`: a backend around another one, whose chosen calls fail or hang.
- `Recorder`, `exercise`, `read_histories`, `find_violation`: what several processes or tasks did with documents is
  recorded, and each document's history checked against a single register; a `Call` is one line of it. Each process has
  a log of its own; in each, `await exercise(Recorder(store, location, log, "client 1"), Random(1), 8)`; at the end
  `find_violation(calls)` for the calls of each document in `read_histories(logs)`.
- `LossyProxy`, `LossyBackend`, `Schedule`: a network that loses, delays, cuts and repeats requests and answers.
- `store_over`: a store on backends that a test has made itself.
- `account_store`: a pytest fixture, an empty store in memory.

Provisional: names and tests here may change in a minor release, and a stricter suite may find faults in a backend that
passed the one before.
"""

from __future__ import annotations

try:
    import hypothesis as hypothesis
    import pytest
except ImportError as _error:
    raise ImportError(
        f"accountstore.testing needs {_error.name}; install it with: pip install 'accountstore[testing]'"
    ) from None

# The assertions of a plain module would fail without saying what they compared.
pytest.register_assert_rewrite("accountstore.testing.conformance")

from accountstore.testing.conformance import BackendTests, Harness  # noqa: E402 -- after the line above
from accountstore.testing.faults import Fault, FaultyBackend, store_over  # noqa: E402 -- as above
from accountstore.testing.fixtures import account_store  # noqa: E402 -- as above
from accountstore.testing.histories import (  # noqa: E402 -- as above
    Call,
    LossyBackend,
    LossyProxy,
    Recorder,
    Schedule,
    exercise,
    find_violation,
    is_linearizable,
    read_histories,
)
from accountstore.testing.stateful import backend_machine, store_machine  # noqa: E402 -- as above

__all__ = (
    "BackendTests",
    "Call",
    "Fault",
    "FaultyBackend",
    "Harness",
    "LossyBackend",
    "LossyProxy",
    "Recorder",
    "Schedule",
    "account_store",
    "backend_machine",
    "exercise",
    "find_violation",
    "is_linearizable",
    "read_histories",
    "store_machine",
    "store_over",
)
