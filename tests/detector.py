"""Finds calls out of the library that block an event loop, where blockbuster is installed."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def no_blocking_calls() -> Generator[None]:
    """Let such a call raise an error, with few exceptions."""
    if find_spec("blockbuster") is None:
        yield
        return
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx("accountstore", excluded_modules=["accountstore.testing"]) as detector:
        for function in detector.functions.values():
            # On an event loop of their own, in a thread.
            function.can_block_in("accountstore/backends/s3.py", "_make")
            function.can_block_in("accountstore/backends/azure.py", "_make")
            # Small files, which botocore reads where it renews credentials.
            function.can_block_in("aiobotocore/credentials.py", "_protected_refresh")
            # The semaphores of processes that an earlier test started, collected as garbage during a call.
            function.can_block_in("multiprocessing/util.py", "__call__")
        # A module that an event loop in another thread imports: azure-core does so at its first answer.
        detector.functions["threading.Lock.acquire"].can_block_in("<frozen importlib._bootstrap>", "acquire")
        yield
