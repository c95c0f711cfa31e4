"""Answers that are none of an object store's: redirects, pages of a proxy, listings that end too early or never."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from cloudtargets import AT, CALLS, Target, by_fsspec, on_asyncio

from accountstore import AccountStore, BackendError, UnavailableError

if TYPE_CHECKING:
    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]


async def listed(store: AccountStore) -> list[str]:
    """The names of the documents in the folder of `AT`, and below."""
    return [entry.location.file_name async for entry in store.list(AT.folder, recursive=True)]


async def refused(store: AccountStore, match: str) -> None:
    """The listing fails with these words, for good or for now."""
    with pytest.raises(BackendError, match=match):
        await listed(store)


@by_fsspec
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(stub: Stub, target: Target, status: int) -> None:
    """Whatever is asked, another server that the storage's names is not: a document would go there, or come."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        headers = {"Location": f"http://127.0.0.1:{other.getsockname()[1]}/b/a.account"}
        stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": status, "headers": headers}])
        async with AccountStore.open(target.config(stub.url, attempts=1, timeout=5)) as store:
            for call in (*CALLS.values(), lambda store: store.delete(AT), listed):
                with pytest.raises(BackendError, match="redirects, which is not followed") as caught:
                    await call(store)
                assert type(caught.value) is BackendError
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("target", [Target("s3", "fsspec"), Target("azure", "fsspec")], ids=["s3", "azure"])
@pytest.mark.parametrize("op", ["get", "list"])
async def test_an_answer_without_end_is_not_taken_into_memory(
    stub: Stub, target: Target, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal, or a listing, that is longer than any is given up."""
    monkeypatch.setattr("accountstore.backends.sessions.MOST_TOLD", 1000)
    status = 500 if op == "get" else 200
    stub.faults([{"nth": 1, "times": 9, "kind": "answer", "status": status, "op": op, "body": " " * 5000}])
    async with AccountStore.open(target.config(stub.url, attempts=1)) as store:
        with pytest.raises(UnavailableError, match="the answer has no end"):
            await (store.get(AT) if op == "get" else listed(store))
