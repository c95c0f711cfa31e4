"""The public suite on real buckets: `nox -s cloud`, by hand.

`ACCOUNTSTORE_S3`, `ACCOUNTSTORE_GCS` and `ACCOUNTSTORE_AZURE` name a storage each as JSON:
`{"url": "s3://bucket/prefix", "options": {...}}`. Documents are written below the prefix, and removed again. A service
that is not named is skipped.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from anyio import to_thread
from fsspec import filesystem

from accountstore.registry import find_backend
from accountstore.testing import BackendTests, Harness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accountstore.backends.base import Backend

VARIABLES = ("ACCOUNTSTORE_S3", "ACCOUNTSTORE_GCS", "ACCOUNTSTORE_AZURE")
if not any(name in os.environ for name in VARIABLES):
    pytest.skip("no variable names a real bucket", allow_module_level=True)

pytestmark = [pytest.mark.once]


class TestRealCloud(BackendTests):
    """The suite on each service by each engine."""

    # Each call takes tens of milliseconds.
    limit = 64 * 1024
    rounds = 3
    tasks = 4
    documents = 50
    steps = 4

    @pytest.fixture(params=[(name, engine) for name in VARIABLES for engine in ("fsspec", "obstore")], ids="-".join)
    def harness(self, request: pytest.FixtureRequest) -> Iterator[Harness]:
        variable, engine = request.param
        text = os.environ.get(variable)
        if text is None:
            pytest.skip(f"{variable} names no bucket")
        storage: dict[str, Any] = json.loads(text)
        url, options = f"{storage['url'].rstrip('/')}/{uuid4().hex}", storage.get("options", {})
        scheme, _, root = url.partition("://")
        fs: Any = filesystem(scheme, **options, skip_instance_cache=True, use_listings_cache=False)
        factory = find_backend(scheme, engine)

        async def opened() -> Backend:
            return await factory(url, options)

        def read(key: str) -> bytes | None:
            try:
                return bytes(fs.cat_file(f"{root}/{key}"))
            except FileNotFoundError:
                return None

        yield Harness(
            open=opened,
            put=lambda key, data: to_thread.run_sync(partial(fs.pipe_file, f"{root}/{key}", data)),
            get=lambda key: to_thread.run_sync(read, key),
        )
        if fs.exists(root):
            fs.rm(root, recursive=True)
