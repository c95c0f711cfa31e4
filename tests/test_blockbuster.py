"""The blocking-call detector itself."""

from __future__ import annotations

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from detector import no_blocking_calls
from running import HUNG
from samples import ACCOUNT, AT

from accountstore.backends.memory import MemoryBackend
from accountstore.config_file import load_config
from accountstore.testing import store_over

blockbuster = pytest.importorskip("blockbuster")

if TYPE_CHECKING:
    from pathlib import Path

    from accountstore import Account


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_detector_finds_blocking_library_code(tmp_path: Path) -> None:
    """Library code that opens a file on the event loop fails its test: here the loading of a configuration."""
    path = tmp_path / "accountstore.toml"
    path.write_text('[storages.a]\nurl = "memory://"\n')
    with pytest.raises(blockbuster.BlockingError):
        load_config(path)


def _waits_for_an_import(thread: int) -> bool:
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]  # documented in `sys`
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "acquire"


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "control"])
def test_event_loops_may_import_the_same_module(allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for another thread's import is no blocking call. The control: to the plain detector it is."""
    begun, given_up = threading.Event(), threading.Event()
    loop = threading.get_ident()
    name = f"imported_{allowed}".lower()

    def importing() -> None:
        begun.set()
        end = time.monotonic() + HUNG
        while not given_up.is_set() and not _waits_for_an_import(loop):
            assert time.monotonic() < end
            time.sleep(0.001)

    async def change(account: Account) -> Account:
        __import__(name)
        return account

    async def main() -> None:
        store = store_over({"a": MemoryBackend()})
        await store.save(AT, ACCOUNT)
        await store.update(AT, change)

    (tmp_path / f"{name}.py").write_text("import threading\nthreading.importing()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(threading, "importing", importing, raising=False)
    detector = no_blocking_calls() if allowed else blockbuster.blockbuster_ctx("accountstore")
    end = nullcontext() if allowed else pytest.raises(blockbuster.BlockingError)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(__import__, name)
        assert begun.wait(HUNG)
        try:
            with detector, end:
                anyio.run(main)
        finally:
            given_up.set()
    first.result()


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "control"])
def test_finalizers_of_processes_may_block(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test's processes have left, collected as garbage during a call, is no blocking call of it. The
    control: to the detector as it comes it is one.
    """
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    with no_blocking_calls() if allowed else blockbuster.blockbuster_ctx("accountstore"):
        anyio.run(_collect_a_process_s_garbage)
    assert [each.exc_type for each in raised] == ([] if allowed else [blockbuster.BlockingError])


async def _collect_a_process_s_garbage() -> None:
    class Garbage:
        itself: Garbage

    store = store_over({"a": MemoryBackend()}, observer=lambda _: gc.collect())
    garbage = Garbage()
    garbage.itself = garbage
    Finalize(garbage, time.sleep, (0,))
    del garbage
    await store.exists(AT)
