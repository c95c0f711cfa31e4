"""`python -m accountstore`: the same as `accountstore`."""

from __future__ import annotations

from accountstore.cli import main

main()
