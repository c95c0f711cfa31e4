"""What tests that start programs or wait for something share."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from accountstore import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ("HUNG", "PYTHON", "patiently")

T = TypeVar("T")

HUNG = 300.0
"""Seconds after which what a test waits for is taken for hung: they end a hang, and judge no speed."""

PYTHON = (sys.executable, "-P")
"""The command of this interpreter: its programs import the package that is under test, not what is in the folder that
they are started in, which may be the checkout.
"""


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What a call returns that nothing disturbs but the load of the machine, on which its deadline may be short."""
    for _ in range(20):
        with suppress(UnavailableError):
            return await call()
    return await call()
