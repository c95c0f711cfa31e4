"""S3 through s3fs: what goes with which request, credentials that are not there, and answers of a HEAD."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from cloudtargets import ABSENT, AT, BUCKET, CANARY, NEW, OLD, Target, denied, forget_credentials, on_asyncio

from accountstore import AccountStore, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]

S3 = Target("s3", "fsspec")
URL = f"s3://{BUCKET}/p"


@pytest.mark.parametrize(
    ("options", "header", "carriers"),
    [
        ({"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}, "x-amz-server-side-encryption", {"put"}),
        ({"requester_pays": True}, "x-amz-request-payer", {"put", "get", "head", "list", "delete-if", "delete"}),
    ],
    ids=["encryption", "payer"],
)
async def test_additional_arguments_go_with_the_requests_that_take_them(
    stub: Stub, options: dict[str, Any], header: str, carriers: set[str]
) -> None:
    """What encrypts goes with writes only, and who pays with every request; no request fails for the others' sake."""
    async with AccountStore.open(S3.config_of(URL, S3.options(stub.url) | options, conditions="trust")) as store:
        version = await store.save(AT, OLD)
        await store.get(AT)
        await store.stat(AT)
        assert [entry.location async for entry in store.list(AT.folder)] == [AT]
        await store.delete(AT, version=version)
        await store.delete(AT)
    sent = [(one["op"], f"\r\n{header}:" in head.lower()) for one, head in zip(stub.log(), stub.heads(), strict=True)]
    assert sent == [(op, op in carriers) for op in ("put", "get", "head", "list", "delete-if", "delete")]


async def test_a_profile_is_an_option(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile of the user's AWS configuration can be named, as s3fs hands it to its session."""
    forget_credentials(monkeypatch, str(tmp_path))
    keys = "aws_access_key_id = ours\naws_secret_access_key = secret\nregion = us-east-1\n"
    (tmp_path / "AWS_CONFIG_FILE").write_text(f"[profile mail]\n{keys}")
    async with AccountStore.open(S3.config_of(URL, {"profile": "mail", "endpoint_url": stub.url})) as store:
        await store.save(AT, OLD)
    assert "Credential=ours/" in stub.heads()[0]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, "NoCredentialsError"),
        ({"key": CANARY}, "PartialCredentialsError"),
        ({"secret": CANARY}, "PartialCredentialsError"),
        ({"profile": "failing"}, "CredentialRetrievalError"),
    ],
    ids=["none", "a key without its secret", "a secret without its key", "a program that fails"],
)
async def test_credentials_that_are_not_there(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], error: str
) -> None:
    """Without credentials access is denied: nothing is sent, nothing is tried again, and no secret is told."""
    forget_credentials(monkeypatch, str(tmp_path))
    program = f'"{sys.executable}" -c "raise SystemExit(\'{CANARY}\')"'
    (tmp_path / "AWS_CONFIG_FILE").write_text(f"[profile failing]\ncredential_process = {program}\n")
    options = {"endpoint_url": stub.url, "client_kwargs": {"region_name": "us-east-1"}, **given}
    async with AccountStore.open(S3.config_of(URL, options)) as store:
        await denied(store, rf"no credentials were found \({error}\)")
    assert stub.count() == 0


async def test_a_bucket_that_may_not_be_asked_for_holds_no_such_document(stub: Stub) -> None:
    """Where the question whether the bucket exists is denied, a missing document is a missing document."""
    async with AccountStore.open(S3.config(stub.url)) as store:
        stub.faults([{"nth": 2, "kind": "403"}])
        with pytest.raises(NotFoundError):
            await store.stat(ABSENT)
    assert [one["status"] for one in stub.log()] == [404, 403]


async def test_a_body_that_is_shorter_than_told_is_no_document(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bytes than the answer has told are none, also from a client that does not compare the two itself."""
    S3.put(stub, AT, NEW)
    stream: Any = pytest.importorskip("aiohttp").StreamReader
    read = stream.read

    async def shorter(self: Any, size: int = -1) -> bytes:
        return bytes((await read(self, size))[:-1])

    async with AccountStore.open(S3.config(stub.url, attempts=1)) as store:
        assert await store.get(AT) == NEW
        monkeypatch.setattr(stream, "read", shorter)
        with pytest.raises(UnavailableError):
            await store.get(AT)
