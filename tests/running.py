"""What tests that start programs or wait for something share."""

from __future__ import annotations

import sys

__all__ = ("HUNG", "PYTHON")

HUNG = 300.0
"""Seconds after which what a test waits for is taken for hung: they end a hang, and judge no speed."""

PYTHON = (sys.executable, "-P")
"""The command of this interpreter: its programs import the package that is under test, not what is in the folder that
they are started in, which may be the checkout.
"""
