"""The blocking-call detector itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blockbuster import BlockingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_detector_finds_blocking_library_code(tmp_path: Path) -> None:
    """Library code that opens a file on the event loop fails its test: here the loading of a configuration."""
    from accountstore.config import load_config

    path = tmp_path / "accountstore.toml"
    path.write_text('[storages.a]\nurl = "memory://"\n')
    with pytest.raises(BlockingError):
        load_config(path)
