"""Nothing that a client below is given shows in a log, at any level."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import AT, CANARY, NEW, OLD, Target, by_fsspec, on_asyncio

from accountstore import AccountStore, AccountStoreError
from accountstore.backends.logs import quiet, quietly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once]


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Everything that is logged, at every level."""
    root, kept = logging.getLogger(), Kept()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    yield kept
    root.removeHandler(kept)
    root.setLevel(level)


def secretive(target: Target, url: str) -> dict[str, Any]:
    """Options with a secret in each that the service has."""
    if target.service == "s3":
        encryption = {"SSECustomerKey": CANARY * 4, "SSECustomerAlgorithm": "AES256"}
        return target.options(url, CANARY) | {"token": CANARY, "s3_additional_kwargs": encryption}
    if target.service == "gcs":
        return target.options(url) | {"token": f"ya29.{CANARY}"}
    parts = target.options(url)["connection_string"].partition("AccountKey=")
    rest = parts[2].partition(";")[2]
    return {"connection_string": f"{parts[0]}SharedAccessSignature=sv=2024-01-01&sig={CANARY};{rest}"}


async def logged(target: Target, stub: Stub, kept: Kept) -> list[str]:
    """The records that have a secret in them, of a store that is used with each kind of request."""
    config = target.config_of(f"{target.scheme}://acct/p", secretive(target, stub.url), attempts=2, timeout=20)
    async with AccountStore.open(config) as store:
        version = await store.save(AT, OLD)
        await store.get(AT)
        await store.save(AT, NEW, mode=version)
        await store.exists(AT)
        assert [entry.location async for entry in store.list(AT.folder)] == [AT]
        for kind in ("403", "drop-before", "503", "truncate"):
            stub.faults([{"nth": 1, "times": 99, "kind": kind}])
            with pytest.raises(AccountStoreError):
                await store.get(AT)
    found = (CANARY, "elE3a3pRN2t6UTdrelE3aw")  # in base64 too
    return [text for text in kept.texts if any(one in text for one in found)]


@by_fsspec
@on_asyncio
async def test_no_log_shows_an_option(stub: Stub, target: Target, kept: Kept) -> None:
    """With every logger at DEBUG, no record has a token, a key or a signature of the storage's options."""
    assert await logged(target, stub, kept) == []


@on_asyncio
async def test_control_the_client_of_s3_logs_its_secrets(
    stub: Stub, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with its loggers as they come, botocore writes the token and the key of the encryption."""
    monkeypatch.setattr("accountstore.backends.object_store.quiet", nullcontext)
    assert await logged(Target("s3", "fsspec"), stub, kept)


@on_asyncio
async def test_the_programs_own_records_are_kept(kept: Kept) -> None:
    """Only what a client logs for a store is dropped, and no warning: the program's own use of it logs as before."""
    logger = logging.getLogger("botocore.auth")
    with quiet():
        logger.debug("ours")
        logger.warning("a warning")
        quietly(lambda: logger.debug("ours in a thread"))
    logger.debug("theirs")
    ours = [text for text in kept.texts if text.startswith("botocore")]
    assert ours == ["botocore.auth: a warning", "botocore.auth: theirs"]
