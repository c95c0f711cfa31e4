"""S3 through s3fs: what goes with which request, credentials that are not there, and answers of a HEAD."""

from __future__ import annotations

import socket
import sys
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args
from unittest.mock import Mock

import anyio
import pytest
from cloudtargets import (
    ABSENT,
    AT,
    BUCKET,
    CANARY,
    NEW,
    OLD,
    OTHER,
    Target,
    assert_closed,
    denied,
    forget_credentials,
    on_asyncio,
    refusal,
)

from accountstore import AccountStore, DeniedError, NotFoundError, UnavailableError
from accountstore.config import Engine

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
        ({"profile": "failing"}, "CredentialRetrievalError"),
    ],
    ids=["none", "a program that fails"],
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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key": CANARY}, "options: 'secret' is missing, which goes with 'key'"),
        ({"username": CANARY}, "options: 'secret' is missing, which goes with 'username'"),
        ({"key": CANARY, "secret": ""}, "options: 'secret' is missing, which goes with 'key'"),
        ({"key": CANARY, "token": CANARY}, "options: 'secret' is missing, which goes with 'key'"),
        ({"secret": CANARY}, "options: 'key' is missing, which goes with 'secret'"),
        ({"password": CANARY}, "options: 'key' is missing, which goes with 'password'"),
        ({"token": CANARY}, "options: 'key' and 'secret' are missing, which go with 'token'"),
        (
            {"client_kwargs": {"aws_secret_access_key": CANARY}},
            "options: 'key' is missing, which goes with client_kwargs 'aws_secret_access_key'",
        ),
        ({"key": CANARY, "username": CANARY, "secret": CANARY}, "options: 'key' and 'username' are two names of one"),
        ({"profile": CANARY}, "options: 'profile' cannot be used (ProfileNotFound)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("engine", get_args(Engine))
async def test_credentials_by_half(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: Engine, given: dict[str, Any], said: str
) -> None:
    """Half of a credential is refused at opening by the option that is missing, also where the environment has the
    other half; so is a profile that is not there.
    """
    forget_credentials(monkeypatch, str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "theirs")
    assert said in await refusal(Target("s3", engine).config_of(URL, given))


WHOLE: list[dict[str, Any]] = [
    {"key": "a", "password": "b", "token": "c"},
    {"key": "a", "client_kwargs": {"aws_secret_access_key": "b", "region_name": "x"}},
    {"profile": "mail"},
]


@pytest.mark.parametrize(
    ("engine", "given"),
    [("fsspec", {"key": "a", "anon": True}), *((engine, given) for engine in get_args(Engine) for given in WHOLE)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def test_control_credentials_that_are_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: Engine, given: dict[str, Any]
) -> None:
    """The control: a key and its secret, under whichever names, a key that is not used, and a profile that is there."""
    forget_credentials(monkeypatch, str(tmp_path))
    (tmp_path / "AWS_CONFIG_FILE").write_text("[profile mail]\naws_access_key_id = a\naws_secret_access_key = b\n")
    async with AccountStore.open(Target("s3", engine).config_of(URL, given)) as store:
        assert store.storages == ("cloud",)


async def test_half_of_the_credentials_may_be_in_the_configuration_of_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client takes from there counts at opening too."""
    config = S3.config_of(URL, {"key": "a"})
    configuration: Any = import_module("fsspec.config")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "b")
    monkeypatch.setitem(configuration.conf, "s3", {"secret": "b"})
    async with AccountStore.open(config) as store:
        assert store.storages == ("cloud",)


async def test_a_document_that_may_only_be_asked_for_is_missing(stub: Stub) -> None:
    """Where the question that tells it from a missing bucket is denied, a missing document is a missing document."""
    async with AccountStore.open(S3.config(stub.url)) as store:
        stub.faults([{"nth": 2, "kind": "403"}])
        with pytest.raises(NotFoundError):
            await store.stat(ABSENT)
    assert [one["status"] for one in stub.log()] == [404, 403]


ARN = "arn:aws:s3:us-east-1:123456789012:accesspoint"


@pytest.mark.parametrize("arn", [f"{ARN}/mail", f"{ARN}:mail"])
@pytest.mark.parametrize("prefix", ["", "/team", "/team/"])
async def test_an_access_point_is_a_bucket(stub: Stub, monkeypatch: pytest.MonkeyPatch, arn: str, prefix: str) -> None:
    """The ARN of an access point names its server, whichever way it is written, and stands in no path."""
    look_up = socket.getaddrinfo

    def here(host: Any, *more: Any) -> Any:
        return look_up("127.0.0.1" if str(host).endswith("localhost") else host, *more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    options = S3.options(f"http://localhost:{stub.port}")
    del options["config_kwargs"]
    async with AccountStore.open(S3.config_of(f"s3://{arn}{prefix}", options)) as store:
        await store.save(AT, OLD)
    line, *headers = stub.heads()[0].split("\r\n")
    assert f"host: mail-123456789012.localhost:{stub.port}" in [header.lower() for header in headers]
    assert line.split(" ")[1].partition("?")[0] == f"{prefix.rstrip('/')}/{AT.path}"


async def test_a_role_whose_token_is_missing_is_a_denial(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the environment names a file with a token that is not there, access is denied; no document is missing."""
    forget_credentials(monkeypatch, str(tmp_path))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mail")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    options = {"endpoint_url": stub.url, "client_kwargs": {"region_name": "us-east-1"}}
    async with AccountStore.open(S3.config_of(URL, options)) as store:
        await denied(store, "need is not there")
    assert stub.count() == 0


REFUSED = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>"


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_refusal_of_the_service_for_credentials_is_a_denial(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    """What the service answers that gives credentials, 404 too, is an error about them, never about a document."""
    forget_credentials(monkeypatch, str(tmp_path))
    (tmp_path / "token").write_text("token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mail")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", stub.url)
    stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": status, "headers": {}, "body": REFUSED}])
    options = {"endpoint_url": stub.url, "client_kwargs": {"region_name": "us-east-1"}}
    async with AccountStore.open(S3.config_of(URL, options)) as store:
        await denied(store, "no credentials were found")


def write_keys(folder: Path, key: str) -> None:
    """Renew the user's file of credentials."""
    text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\nregion = us-east-1\n"
    (folder / "AWS_SHARED_CREDENTIALS_FILE").write_text(text)


def keys_used(stub: Stub) -> list[str]:
    """The keys of the requests since the reset."""
    return [head.partition("Credential=")[2].partition("/")[0] for head in stub.heads()]


async def get_with_renewed_keys(stub: Stub, folder: Path, options: dict[str, Any]) -> list[str]:
    """The keys of three reads of an open store, after the first of which new ones are in the user's file."""
    write_keys(folder, "ONE")
    S3.put(stub, AT, OLD)
    async with AccountStore.open(S3.config_of(URL, {"endpoint_url": stub.url, **options}, attempts=1)) as store:
        await store.get(AT)
        write_keys(folder, "TWO")
        await store.get(AT)
        stub.faults([{"nth": 1, "kind": "answer", "status": 400, "code": "ExpiredToken"}])
        with pytest.raises(DeniedError):
            await store.get(AT)
        stub.reset(keep=True)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(store.get, AT)
        used = keys_used(stub)
    await assert_closed(stub)
    return used


async def test_renewed_credentials_are_taken_up(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When the key is refused, an open store asks for credentials anew, and its next calls have the new key."""
    forget_credentials(monkeypatch, str(tmp_path))
    assert await get_with_renewed_keys(stub, tmp_path, {}) == ["TWO"] * 3


async def test_control_a_client_keeps_its_credentials(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The control: a client that is not opened anew goes on with the old key; so does one whose key is an option."""
    forget_credentials(monkeypatch, str(tmp_path))
    assert await get_with_renewed_keys(stub, tmp_path, {"key": "OURS", "secret": "x"}) == ["OURS"] * 3
    monkeypatch.setattr("accountstore.backends.object_store.Bucket._retire", Mock())
    assert await get_with_renewed_keys(stub, tmp_path, {}) == ["ONE"] * 3


async def test_credentials_that_stay_refused_are_not_asked_for_without_end(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A client that was refused from the first is made anew once a second at most, whoever asks."""
    forget_credentials(monkeypatch, str(tmp_path))
    write_keys(tmp_path, "ONE")
    made: list[object] = []
    backend: Any = pytest.importorskip("accountstore.backends.s3").S3Backend
    make = backend._make

    def noted(self: Any) -> Any:
        made.append(self)
        return make(self)

    monkeypatch.setattr(backend, "_make", noted)
    monkeypatch.setattr("accountstore.backends.object_store._AGAIN", 3600.0)
    stub.faults([{"nth": 1, "times": 99, "kind": "answer", "status": 403, "code": "InvalidAccessKeyId"}])
    async with AccountStore.open(S3.config_of(URL, {"endpoint_url": stub.url}, attempts=1)) as store:
        for _ in range(5):
            with pytest.raises(DeniedError):
                await store.get(AT)
    assert len(made) == 1


async def test_an_answer_that_is_not_the_servers_came_not(stub: Stub) -> None:
    """What a proxy puts in the place of an answer counts as one that did not come, and is asked for again."""
    S3.put(stub, AT, OLD)
    stub.faults([{"nth": 1, "kind": "answer", "status": 200, "op": "list", "headers": {}, "body": "welcome"}])
    async with AccountStore.open(S3.config(stub.url, attempts=1)) as store:
        with pytest.raises(UnavailableError):
            assert [entry async for entry in store.list()]
        assert [entry.location async for entry in store.list(AT.folder)] == [AT]


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


@pytest.mark.parametrize("odd", ["9999-12-31T23:59:59.999-01:00", "0000-00-00T00:00:00.000Z", "soon", ""])
async def test_one_odd_date_hides_nothing(stub: Stub, odd: str) -> None:
    """A date that no calendar has is none: its document and the others are listed."""
    dates = {AT: odd, OTHER: "2026-11-27T12:00:00.000Z"}
    shown = "".join(
        f"<Contents><Key>p/{at.path}</Key><LastModified>{date}</LastModified><ETag>&quot;1&quot;</ETag><Size>2</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for at, date in dates.items()
    )
    xml = f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{shown}</ListBucketResult>'
    answer = {"nth": 1, "times": 9, "kind": "answer", "status": 200, "op": "list", "body": xml}
    stub.faults([{**answer, "headers": {"Content-Type": "application/xml"}}])
    async with AccountStore.open(S3.config(stub.url)) as store:
        found = {entry.location: entry.modified async for entry in store.list(AT.folder)}
    assert found == {AT: None, OTHER: datetime(2026, 11, 27, 12, tzinfo=UTC)}
