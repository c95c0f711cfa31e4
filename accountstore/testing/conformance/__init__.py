"""The suite for backends: what the seam promises, tried on a storage.

    class TestMine(BackendTests):
        @pytest.fixture
        def harness(self, tmp_path):
            return Harness.on_folder(tmp_path, lambda: open_backend(f"mine://{tmp_path}", {}))

Set-up and checks go around the backend, so an error in its `write` cannot hide one in its `read`. A test of something
that the backend does not declare is skipped, and says so.
"""

from __future__ import annotations

from accountstore.testing.conformance.batches import BatchTests
from accountstore.testing.conformance.cancels import CancelTests
from accountstore.testing.conformance.harness import Harness
from accountstore.testing.conformance.names import UnicodeTests
from accountstore.testing.conformance.races import RaceTests
from accountstore.testing.conformance.scans import ScanTests
from accountstore.testing.conformance.sequential import SequentialTests

__all__ = ("BackendTests", "Harness")


class BackendTests(SequentialTests, BatchTests, UnicodeTests, RaceTests, CancelTests, ScanTests):
    """Derive a class from this one and give it a fixture `harness`.

    The class variables say how much is tried. Names tell the groups: `-k "not race"` leaves one out.
    """
