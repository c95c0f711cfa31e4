"""Options that no client can use fail at opening, with their name and never their value."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from cloudservers import ACCOUNT_KEY
from cloudtargets import AT, BUCKET, CANARY, OLD, Target, by_fsspec, on_asyncio, refusal

from accountstore import AccountStore

if TYPE_CHECKING:
    from cloudstub import Stub

pytestmark = [pytest.mark.anyio, pytest.mark.once, on_asyncio]

KEY = {"type": "service_account", "client_email": "a@example.org", "private_key": CANARY, "token_uri": "x"}
PACKED_KEY = b64encode(json.dumps(KEY).encode()).decode()
SERVICES = {name: Target(name, "fsspec") for name in ("s3", "gcs", "azure")}
WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "s3": [
        ({"key": 1}, "options: 'key' must be a string"),
        ({"anon": "no"}, "options: 'anon' must be true or false"),
        ({"region": CANARY}, "options: unknown 'region'; here it is client_kwargs.region_name"),
        ({"aws_access_key_id": CANARY}, "options: unknown 'aws_access_key_id'; here it is key"),
        ({"port": 9000}, "options: unknown 'port'; here it is endpoint_url, which has host and port"),
        ({"max_concurrency": CANARY}, "options: 'max_concurrency' must be a whole number"),
        ({"username": "u"}, "'key' and 'username' are two names of one"),
        ({"client_kwargs": CANARY}, "options: 'client_kwargs' must be a table"),
        ({"client_kwargs": {"region": CANARY}}, "options.client_kwargs: unknown 'region'; did you mean 'region_name'?"),
        ({"client_kwargs": {"config": {}}}, "options.client_kwargs: unknown 'config'"),
        ({"client_kwargs": {"verify": f"/{CANARY}.pem"}}, "'verify' names a file that is not there"),
        ({"client_kwargs": {"aws_session_token": 5}}, "options.client_kwargs: 'aws_session_token' must be a string"),
        ({"endpoint_url": f"{CANARY}:9000"}, "options: 'endpoint_url' must be a URL"),
        ({"endpoint_url": f"http://me:{CANARY}@h"}, "options: 'endpoint_url' must be a URL"),
        ({"endpoint_url": f"http://h/?sig={CANARY}"}, "options: 'endpoint_url' must be a URL"),
        ({"key": f"{CANARY}\n"}, "options: 'key' has a line break"),
        ({"token": f"{CANARY}\r\nX-Amz-Acl: public-read"}, "options: 'token' has a line break"),
        ({"client_kwargs": {"region_name": "eu\n"}}, "options.client_kwargs: 'region_name' has a line break"),
        ({"config_kwargs": {"max_pool_conections": 5}}, "did you mean 'max_pool_connections'?"),
        ({"config_kwargs": {"connect_timeout": CANARY}}, "options.config_kwargs: 'connect_timeout' must be a number"),
        ({"config_kwargs": {"s3": {"addressing_style": CANARY}}}, "options.config_kwargs: 's3' cannot be used"),
        ({"s3_additional_kwargs": {"ServerSideEncrypton": "AES256"}}, "did you mean 'ServerSideEncryption'?"),
        ({"s3_additional_kwargs": {"SSECustomerKey": 5}}, "options.s3_additional_kwargs: 'SSECustomerKey' must be a"),
        ({"s3_additional_kwargs": {"Tagging": {}}}, "options.s3_additional_kwargs: 'Tagging' must be a string"),
        ({"config_kwargs": {"signature_version": "S3V4"}}, "'signature_version' must be one of"),
        ({"s3_additional_kwargs": {"Delimiter": "/"}}, "options.s3_additional_kwargs: 'Delimiter' is set by the store"),
        ({"s3_additional_kwargs": {"IfNoneMatch": "*"}}, "options.s3_additional_kwargs: 'IfNoneMatch' is set by"),
        ({"max_concurrency": 0}, "options: 'max_concurrency' must be at least 1"),
        ({"client_kwargs": {"region_name": "a b!"}}, "options.client_kwargs: 'region_name' cannot be one"),
        ({"client_kwargs": {"api_version": CANARY}}, "options.client_kwargs: 'api_version' must be 2006-03-01"),
        ({"client_kwargs": {"verify": "/"}}, "'verify' names a file that is not there"),
        ({"client_kwargs": {"aws_access_key_id": CANARY}}, "options: 'key' and client_kwargs 'aws_access_key_id' are"),
        ({"config_kwargs": {"defaults_mode": CANARY}}, "options.config_kwargs: 'defaults_mode' must be one of auto"),
        ({"config_kwargs": {"signature_version": CANARY}}, "options.config_kwargs: 'signature_version' must be one of"),
        ({"config_kwargs": {"max_pool_connections": -3}}, "options: 'max_pool_connections' must be at least 0"),
        ({"session": CANARY}, "options: 'session' must be a session"),
        ({"endpoint_url": "http://[bad/"}, "options: 'endpoint_url' must be a URL"),
        ({"endpoint_url": "http://127.0.0.1:99999"}, "options: 'endpoint_url' must be a URL"),
        ({"endpoint_url": "http://a b/"}, "options: 'endpoint_url' must be a URL"),
    ],
    "gcs": [
        ({"session_kwargs": {"raise_for_status": True}}, "options.session_kwargs: 'raise_for_status' is set by the"),
        ({"session_kwargs": {"base_url": "http://h"}}, "options.session_kwargs: 'base_url' is set by the store"),
        ({"project": 5}, "options: 'project' must be a string"),
        ({"access": CANARY}, "options: 'access' must be one of full_control, read_only, read_write"),
        ({"requests_timeout": CANARY}, "options: 'requests_timeout' must be a number"),
        ({"session_kwargs": {"trust_emv": True}}, "options.session_kwargs: unknown 'trust_emv'; did you mean"),
        ({"endpoint_url": CANARY}, "options: 'endpoint_url' must be a URL"),
        ({"token": 5}, "options: 'token' must be a method's name"),
        ({"token": "browser"}, "options: 'token' is a file that is not there, or neither"),
        ({"token": f"/run/secrets/{CANARY}.json"}, "options: 'token' is a file that is not there, or neither"),
        ({"token": f"{CANARY}.json"}, "options: 'token' is a file that is not there, or neither"),
        ({"token": PACKED_KEY}, "options: 'token' is a key file in base64"),
        ({"token": f"{{{CANARY}"}, "options: 'token' is, or names, a key file that is not JSON"),
        ({"token": KEY}, "options: 'token' is no key of a service account"),
        ({"token": '{"private_key": "zQ7kzQ7k"}'}, "options: 'token' is no key of a service account"),
    ],
    "azure": [
        ({"account_name": 5}, "options: 'account_name' must be a string"),
        ({"anon": "false"}, "options: 'anon' must be true or false"),
        ({"timeout": CANARY}, "options: 'timeout' must be a number"),
        ({"connection_string": CANARY}, "options: 'connection_string' is none"),
        ({"account_key": f"{CANARY}x"}, "options: 'account_key' is not in base64"),
        ({"account_key": f"AccountKey={CANARY}"}, "options: 'account_key' is not in base64"),
        ({"account_name": f"a;AccountKey={CANARY}"}, "options: 'account_name' names no server"),
        ({"account_host": f"h/?sig={CANARY}"}, "options: 'account_host' must be a host"),
        ({"sas_token": f"AccountName=a;AccountKey={CANARY}"}, "options: 'sas_token' is no token"),
        ({"sas_token": f"https://a.example/?sv=1&sig={CANARY}"}, "options: 'sas_token' is no token"),
        ({"connection_string": f"BlobEndpoint=https://h;SharedAccessSignature={CANARY}"}, "'connection_string' is no"),
        ({"credential": 5}, "options: 'credential' must be a credential of azure.identity"),
    ],
}
ROWS = [(SERVICES[name], given, words) for name, rows in WRONG.items() for given, words in rows]


@pytest.mark.parametrize(("target", "given", "words"), ROWS, ids=[f"{row[0].service}-{row[2]}" for row in ROWS])
async def test_an_option_that_cannot_be_used(stub: Stub, target: Target, given: dict[str, Any], words: str) -> None:
    """A wrong name, type or credential is told when the store is opened, by the option's name; nothing is sent."""
    options = target.options(stub.url) | given
    assert words in await refusal(target.config_of(f"{target.scheme}://{BUCKET}/p", options))
    assert stub.count() == 0


async def test_an_account_that_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure without any account does not open, unless the environment names one."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    config = SERVICES["azure"].config_of(f"az://{BUCKET}/p", {})
    assert "no account is named" in await refusal(config)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "ours")
    async with AccountStore.open(config):
        pass


async def test_a_bucket_that_cannot_be_one() -> None:
    """A name that S3 has for no bucket does not open."""
    assert "must name a bucket" in await refusal(SERVICES["s3"].config_of("s3://b cket/p", {}))


USABLE: dict[str, dict[str, Any]] = {
    "s3": {
        "anon": False,
        "use_ssl": None,
        "client_kwargs": {"region_name": "us-east-1", "verify": False},
        "config_kwargs": {"s3": {"addressing_style": "path"}, "connect_timeout": 5, "retries": {"mode": "standard"}},
        "s3_additional_kwargs": {"ServerSideEncryption": "AES256", "Metadata": {"a": "b"}},
    },
    "gcs": {"access": "read_write", "requests_timeout": 5, "session_kwargs": {"trust_env": True}, "token": "anon"},
    "azure": {
        "anon": None,
        "timeout": 5,
        "connection_timeout": 2.5,
        "max_concurrency": 2,
        "account_key": f" {ACCOUNT_KEY}\n",
    },
}


@by_fsspec
async def test_control_options_that_can_be_used(stub: Stub, target: Target) -> None:
    """The control: options of the right name and kind are taken, and the store works."""
    options = target.options(stub.url) | USABLE[target.service]
    async with AccountStore.open(target.config_of(f"{target.scheme}://{BUCKET}/p", options)) as store:
        await store.save(AT, OLD)
        assert await store.get(AT) == OLD


@pytest.mark.parametrize(
    "given",
    [
        {"s3_additional_kwargs": {"Tagging": "a=b"}},
        {"s3_additional_kwargs": {"SSECustomerKey": b"\x01" * 32, "SSECustomerAlgorithm": "AES256"}},
        {"s3_additional_kwargs": {"SSECustomerKey": "k" * 32, "SSECustomerAlgorithm": "AES256"}},
        {"config_kwargs": {"request_checksum_calculation": "WHEN_REQUIRED", "defaults_mode": "Standard"}},
    ],
    ids=str,
)
async def test_control_what_botocore_takes(stub: Stub, given: dict[str, Any]) -> None:
    """The control: an argument is of the kind that it is of in a document's requests; case is as botocore has it."""
    target = SERVICES["s3"]
    async with AccountStore.open(target.config_of(f"s3://{BUCKET}/p", target.options(stub.url) | given)) as store:
        await store.save(AT, OLD)
        assert await store.get(AT) == OLD
