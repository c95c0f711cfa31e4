"""fsspec's options in obstore's words: what each sets, which values are refused, and that no message tells a value."""

from __future__ import annotations

import json
import re
import traceback
from datetime import timedelta
from functools import partial
from importlib import import_module
from inspect import signature
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import pytest
from cloudtargets import forget_credentials, need_packages, on_asyncio

from accountstore import AccountStore, ConfigError, StorageConfig, StoreConfig
from accountstore.backends import kinds
from accountstore.config import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytest.importorskip("obstore")
translation: Any = import_module("accountstore.backends.obstore.options")
opening: Any = import_module("accountstore.backends.obstore.opening")

SECRET = "xyzzy-plugh-7301"
ANON_KEY = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
"""What tells obstore's Google client not to sign."""
GOOGLE = "https://storage.googleapis.com"
FROM_ENV = "AZURE_STORAGE_CONNECTION_STRING"


class Place(NamedTuple):
    """A bucket to open, what its client is told without any option, and where fsspec has the options."""

    bucket: str
    store: dict[str, Any]
    url: str
    fsspec: str


ACCOUNT_URL = "box@me.dfs.core.windows.net"
PLACES = {
    "s3": Place("box", {"disable_bulk_delete": True}, "s3://box/p", "s3fs:S3FileSystem"),
    "gcs": Place("box", {}, "gs://box/p", "gcsfs.core:GCSFileSystem"),
    "azure": Place(ACCOUNT_URL, {"account_name": "me"}, f"abfs://{ACCOUNT_URL}/p", "adlfs:AzureBlobFileSystem"),
}


def key_file(base: str = GOOGLE) -> dict[str, Any]:
    """The content of a key file that obstore takes without a private key in it."""
    return {"gcs_base_url": base, **ANON_KEY}


def google(base: str = GOOGLE) -> dict[str, str]:
    """What an anonymous Google client is told."""
    return {"service_account_key": json.dumps(key_file(base))}


class Row(NamedTuple):
    """An option or several, and what the store and the HTTP client of obstore are told for them."""

    service: str
    options: dict[str, Any]
    store: Mapping[str, Any]
    client: Mapping[str, Any] = {}


def row(service: str, options: dict[str, Any], store: Mapping[str, Any] | None = None, /, **client: Any) -> Row:
    return Row(service, options, store or {}, client)


s3, gcs, azure = (partial(row, service) for service in PLACES)


def connection(text: str) -> dict[str, Any]:
    return {"connection_string": text}


def account(name: str, endpoint: str, **more: str) -> dict[str, str]:
    return {"account_name": name, "endpoint": endpoint, **more}


BLOB = "https://you.blob.core.windows.net"
LOCAL = "http://[::1]:9/you"
HTTP: dict[str, Any] = {"allow_http": True}
CONNECTIONS: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    ("AccountName=you;AccountKey=a2V5a2V5IQ==", BLOB, {"account_key": "a2V5a2V5IQ=="}, {}),
    (
        "DefaultEndpointsProtocol=https;EndpointSuffix=core.example.org;AccountName=you;",
        "https://you.blob.core.example.org",
        {},
        {},
    ),
    ("DefaultEndpointsProtocol=http;AccountName=you", "http://you.blob.core.windows.net", {}, HTTP),
    (f"BlobEndpoint={LOCAL}/;AccountName=you;AccountKey=a2V5", LOCAL, {"account_key": "a2V5"}, HTTP),
    (f"BlobEndpoint={BLOB}/;SharedAccessSignature=sv=1&sig=c2ln", BLOB, {"sas_key": "sv=1&sig=c2ln"}, {}),
    ("AccountName=you;QueueEndpoint=https://q;FileEndpoint=https://f;TableEndpoint=https://t", BLOB, {}, {}),
]
"""Connection strings; the endpoint, the keys and the client's settings that they are understood as."""

USUAL: list[tuple[str, list[dict[str, Any]]]] = [
    ("s3", [{name: False} for name in ("anon", "requester_pays", "version_aware", "cache_regions")]),
    ("s3", [{"use_ssl": True}, {"client_kwargs": {}}, {"client_kwargs": {"region_name": None}}]),
    ("s3", [{"config_kwargs": {"signature_version": version}} for version in ("s3v4", "v4")]),
    ("s3", [{"config_kwargs": {"request_checksum_calculation": "When_Required"}}]),
    ("s3", [{"config_kwargs": {"response_checksum_validation": each}} for each in ("when_required", "WHEN_SUPPORTED")]),
    (
        "s3",
        [{"config_kwargs": {"s3": {"addressing_style": "auto"}}}, {"config_kwargs": {"retries": {"mode": "standard"}}}],
    ),
    ("gcs", [{"token": "google_default"}, {"token": "cloud"}, {"access": "full_control"}, {"access": "read_write"}]),
    ("gcs", [{"requester_pays": False}, {"version_aware": False}]),
    ("azure", [{"anon": False}, {"location_mode": "primary"}, {"version_aware": False}]),
    ("azure", [{"assume_container_exists": True}, {"assume_container_exists": False}]),
]
"""Options with the value that is obstore's own way: taken, and nothing is told."""

TAKEN = [
    *(row(service, options) for service, rows in USUAL for options in rows),
    s3({"key": "k", "secret": "s"}, {"access_key_id": "k", "secret_access_key": "s"}),
    s3({"username": "k", "password": "s"}, {"access_key_id": "k", "secret_access_key": "s"}),
    s3(
        {"key": "k", "secret": "s", "token": "t"},
        {"access_key_id": "k", "secret_access_key": "s", "session_token": "t"},
    ),
    s3({"endpoint_url": "https://s3.example.org"}, {"aws_endpoint_url_s3": "https://s3.example.org"}),
    s3({"endpoint_url": "http://[::1]:9"}, {"aws_endpoint_url_s3": "http://[::1]:9"}, allow_http=True),
    s3({"anon": True}, {"skip_signature": True}),
    s3({"requester_pays": True}, {"request_payer": True}),
    s3({"use_ssl": False}, allow_http=True),
    s3({"client_kwargs": {"region_name": "eu-west-1"}}, {"region": "eu-west-1"}),
    s3(
        {"client_kwargs": {"endpoint_url": "http://[::1]:9"}},
        {"aws_endpoint_url_s3": "http://[::1]:9"},
        allow_http=True,
    ),
    s3(
        {"client_kwargs": {"aws_access_key_id": "k", "aws_secret_access_key": "s", "aws_session_token": "t"}},
        {"access_key_id": "k", "secret_access_key": "s", "session_token": "t"},
    ),
    s3({"client_kwargs": {"verify": False}}, allow_invalid_certificates=True),
    s3({"client_kwargs": {"verify": True}}, allow_invalid_certificates=False),
    s3({"config_kwargs": {"region_name": "eu-west-1"}}, {"region": "eu-west-1"}),
    s3({"config_kwargs": {"s3": {"addressing_style": "path"}}}, {"virtual_hosted_style_request": False}),
    s3({"config_kwargs": {"s3": {"addressing_style": "virtual"}}}, {"virtual_hosted_style_request": True}),
    s3({"config_kwargs": {"connect_timeout": 1.5}}, connect_timeout=timedelta(seconds=1.5)),
    s3({"config_kwargs": {"read_timeout": 7}}, read_timeout=timedelta(seconds=7)),
    s3({"config_kwargs": {"max_pool_connections": 10}}, pool_max_idle_per_host="10"),
    s3({"config_kwargs": {"user_agent": "me/1"}}, user_agent="me/1"),
    s3({"config_kwargs": {"request_checksum_calculation": "when_supported"}}, {"checksum_algorithm": "SHA256"}),
    s3({"s3_additional_kwargs": {"ChecksumAlgorithm": "SHA256"}}, {"checksum_algorithm": "SHA256"}),
    s3({"s3_additional_kwargs": {"ChecksumAlgorithm": "CRC64NVME"}}, {"checksum_algorithm": "CRC64NVME"}),
    s3(
        {"endpoint_url": "https://s3.example.org", "config_kwargs": {"s3": {"addressing_style": "virtual"}}},
        {"aws_endpoint_url_s3": "https://box.s3.example.org", "virtual_hosted_style_request": True},
    ),
    s3({"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}, {"server_side_encryption": "AES256"}),
    s3(
        {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "i", "BucketKeyEnabled": True}},
        {"server_side_encryption": "aws:kms", "sse_kms_key_id": "i", "sse_bucket_key_enabled": True},
    ),
    gcs({"token": "anon"}, google()),
    gcs({"token": "anon", "endpoint_url": "https://g.example.org"}, google("https://g.example.org")),
    gcs({"endpoint_url": "http://[::1]:9", "token": "anon"}, google("http://[::1]:9"), allow_http=True),
    gcs({"token": "ya29.raw"}, {"bearer_token": "ya29.raw"}),
    gcs({"token": key_file()}, {"service_account_key": json.dumps(key_file())}),
    gcs({"token": json.dumps(key_file(), indent=1)}, {"service_account_key": json.dumps(key_file())}),
    gcs(
        {"token": "ya29.raw", "endpoint_url": "http://[::1]:9"},
        {"bearer_token": "ya29.raw", "base_url": "http://[::1]:9"},
        allow_http=True,
    ),
    gcs({"endpoint_url": "https://g.example.org"}, {"base_url": "https://g.example.org"}),
    gcs({"requests_timeout": 5}, timeout=timedelta(seconds=5)),
    azure({"account_name": "you"}, {"account_name": "you"}),
    azure({"account_key": "a2V5"}, {"account_key": "a2V5"}),
    azure({"account_key": " a2V5\n"}, {"account_key": "a2V5"}),
    azure({"sas_token": "sv=1&sig=c2ln"}, {"sas_key": "sv=1&sig=c2ln"}),
    azure(
        {"client_id": "i", "client_secret": "s", "tenant_id": "t"},
        {"client_id": "i", "client_secret": "s", "tenant_id": "t"},
    ),
    azure({"anon": True}, {"skip_signature": True}),
    azure({"account_host": "blob.example.org"}, {"endpoint": "https://blob.example.org"}),
    azure({"connection_timeout": 2}, connect_timeout=timedelta(seconds=2)),
    azure({"read_timeout": 3}, read_timeout=timedelta(seconds=3)),
    *(
        azure(connection(text), account("you", endpoint, **keys), **client)
        for text, endpoint, keys, client in CONNECTIONS
    ),
]

WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "s3": {"default_block_size": 5, "default_fill_cache": True, "default_cache_type": SECRET, "max_concurrency": 5},
    "gcs": {
        **dict.fromkeys(("project", "consistency", "default_location"), SECRET),
        "block_size": 5,
        "cache_timeout": 5.5,
        "secure_serialize": False,
    },
    "azure": {"blocksize": 5, "default_fill_cache": True, "default_cache_type": SECRET, "max_concurrency": 5},
}
"""Options about fsspec's open files, listings and new buckets: taken, and nothing is told."""

IGNORED = [row(service, {name: value}) for service, given in WITHOUT_EFFECT.items() for name, value in given.items()]


def shown(row: Row) -> str:
    """The row's name in the report."""
    return f"{row.service}-" + re.sub(r"\W+", "-", repr(row.options)).strip("-")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the caller's environment says of a service is another test's business."""
    forget_credentials(monkeypatch, str(tmp_path))
    for name in ("REQUESTS_CA_BUNDLE", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)


CONNECT = timedelta(seconds=5)


def told(service: str, bucket: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What obstore's store and its HTTP client are told, but for what finds AWS credentials."""
    store, client = translation.settings_of(service, bucket, options)
    store.pop("credential_provider", None)
    return store, client


@pytest.mark.parametrize("row", [*TAKEN, *IGNORED], ids=shown)
def test_an_option_is_told_to_the_client(row: Row) -> None:
    """Each option of fsspec's that obstore has a word for sets that, and nothing else; obstore knows each word."""
    place = PLACES[row.service]
    assert told(row.service, place.bucket, row.options) == ({**place.store, **row.store}, dict(row.client))
    client = opening.open_store(row.service, place.bucket, row.options, CONNECT)
    settings = {name.removeprefix("aws_") for name in (*place.store, *row.store)}
    assert {*client.config} == {"container_name" if row.service == "azure" else "bucket", *settings}
    assert {*client.client_options} == {"timeout", "connect_timeout", *row.client}


@pytest.mark.parametrize("row", TAKEN, ids=shown)
def test_an_option_that_is_none_is_not_given(row: Row) -> None:
    """None is fsspec's word for an option that is not given, and sets nothing here either."""
    nothing = dict.fromkeys(row.options)
    assert told(row.service, PLACES[row.service].bucket, nothing) == (PLACES[row.service].store, {})


@pytest.mark.parametrize("service", PLACES)
def test_the_client_repeats_nothing_and_waits_for_the_store(service: str) -> None:
    """Without options a client is told to send each request once, to give up after a day, which are both the store's,
    and to give up sooner where it cannot connect.
    """
    client = opening.open_store(service, PLACES[service].bucket, {}, CONNECT)
    assert client.retry_config["max_retries"] == 0
    assert client.retry_config["retry_timeout"] == timedelta(0)
    assert client.client_options == {"timeout": "1day", "connect_timeout": "5s"}


COUNTERPART = "no counterpart in obstore"
VALUE = "a value that obstore does not know"


def refused(service: str, name: str, value: object, why: str = VALUE, told: str = "") -> Any:
    """An option, or its value, that is refused; the message tells `told`, or the option's name alone."""
    told = told or repr(name)
    return pytest.param(service, {name: value}, f"{told} has {why}", id=f"{service}-{told.replace(' ', '-')}")


def inside(name: str, table: dict[str, object], told: str, why: str = VALUE) -> Any:
    """A refused option in an option."""
    return refused("s3", name, table, why, f"{name} {told}")


NO_FILE = "client_kwargs 'verify' names no file of certificates"
NO_TOKEN = "'token' is neither a token nor the path of a file that is there"
NO_TOKENS = (
    f"/run/{SECRET}.json",
    f"{SECRET}.json",
    f"./{SECRET}",
    f"{SECRET}\n",
    f"two {SECRET}",
    f"a/{SECRET}",
    "~/k",
)
NO_URL = "'endpoint_url', or AWS_ENDPOINT_URL, is no http or https URL of a server"
NO_URLS = (
    *("localhost:9000", "http://", "http://[::1", f"ftp://{SECRET}", "https://exa mple.com", "http://127.0.0.1:99999"),
    *("/x", f"http://h?{SECRET}", f"http://h#{SECRET}", " http://h", "https://b\u00fccher.example"),
)
"""Endpoints that make obstore panic, or send somewhere else."""

REFUSED = [
    *(refused("s3", name, True) for name in ("version_aware", "cache_regions")),
    pytest.param("s3", {"client_kwargs": {"verify": SECRET}}, NO_FILE, id="s3-verify"),
    refused("s3", "key", f"{SECRET}\u2028"),
    inside("s3_additional_kwargs", {"ChecksumAlgorithm": "CRC32"}, "'ChecksumAlgorithm'"),
    inside("config_kwargs", {"request_checksum_calculation": SECRET}, "'request_checksum_calculation'"),
    refused("gcs", "token", '{"private_key": "' + SECRET),
    *(pytest.param("gcs", {"token": value}, NO_TOKEN, id=f"gcs-token-{n}") for n, value in enumerate(NO_TOKENS)),
    *(pytest.param("s3", {"endpoint_url": value}, NO_URL, id=f"s3-endpoint-{n}") for n, value in enumerate(NO_URLS)),
    inside("config_kwargs", {"signature_version": SECRET}, "'signature_version'"),
    inside("config_kwargs", {"read_timeout": -1}, "'read_timeout'"),
    inside("config_kwargs", {"s3": {"addressing_style": SECRET}}, "s3 'addressing_style'"),
    *(refused("gcs", "token", value) for value in ("cache", "browser", 7301)),
    *(refused("gcs", name, SECRET) for name in ("access", "requester_pays")),
    refused("azure", "location_mode", SECRET),
    *(refused(service, "version_aware", True) for service in ("gcs", "azure")),
    refused("gcs", "requests_timeout", inf),
    *(refused("azure", name, value) for name, value in (("connection_timeout", -1), ("read_timeout", inf))),
    *(refused(service, "nonsense", SECRET, COUNTERPART) for service in PLACES),
    *(inside(name, {"nonsense": SECRET}, "'nonsense'", COUNTERPART) for name in ("client_kwargs", "config_kwargs")),
    inside("s3_additional_kwargs", {"nonsense": SECRET}, "'nonsense'", COUNTERPART),
    inside("config_kwargs", {"max_concurrency": SECRET}, "'max_concurrency'", COUNTERPART),
    inside("config_kwargs", {"s3": {"nonsense": SECRET}}, "s3 'nonsense'", COUNTERPART),
]

CONNECTION_STRINGS = {
    **dict.fromkeys(("", f"AccountKey={SECRET}", f"BlobEndpoint={SECRET}", SECRET), "names no account"),
    f"AccountName=you;Nonsense={SECRET}": "has a part that obstore does not know",
    f"AccountName=you;{SECRET}==": "has a part that obstore does not know",
}
"""Connection strings that are refused, and what the message says."""


def refusal(service: str, options: Mapping[str, Any]) -> str:
    """The message that options are refused with; neither it nor what an uncaught error prints tells the value."""
    with pytest.raises(ConfigError) as caught:
        translation.settings_of(service, PLACES[service].bucket, options)
    printed = "".join(traceback.format_exception(caught.value))
    assert SECRET not in printed + repr(caught.value.__context__)
    return without_hint(str(caught.value))


def without_hint(said: str) -> str:
    """A message without the names that are known, or one that is meant."""
    return re.split(r"[:;,]? (?:known:|did you mean)", said)[0]


@pytest.mark.parametrize(("service", "options", "said"), REFUSED)
def test_an_option_or_value_without_counterpart_is_refused(service: str, options: dict[str, Any], said: str) -> None:
    """What obstore has no word for, or cannot act on, is refused by the option's name, and not dropped; inside another
    option also.
    """
    assert refusal(service, options) == f"options: {said}"


OF_EACH_KIND: tuple[Any, ...] = ("false", True, 1, 1.5, [1], {"a": 1})


def of_other_kinds(service: str) -> Iterator[tuple[str, str, object]]:
    """Each option that obstore has a word for, where it stands, and what is not of its kind."""
    for place, known in kinds.PLACES[cast("kinds.Service", service)].items():
        words = translation._WORDS[service]
        for name in place.split(".")[1:]:
            words = words[name]
        assert {name for name, word in words.items() if isinstance(word, str)} <= known.keys()
        for name in words.keys() & known.keys():
            for value in OF_EACH_KIND:
                if not isinstance(value, known[name]) or (value is True and bool not in known[name]):
                    yield place, name, value


@pytest.mark.parametrize("service", PLACES)
def test_a_value_of_another_kind_is_refused(service: str) -> None:
    """The text "false" is no flag, which would count as true, nor `true` a secret, nor a number a name: each is refused
    by what the option must be, also where the option has no effect.
    """
    for place, name, value in of_other_kinds(service):
        given: dict[str, Any] = {name: value}
        for table in reversed(place.split(".")[1:]):
            given = {table: given}
        with pytest.raises(ConfigError) as caught:
            translation.settings_of(service, PLACES[service].bucket, given)
        assert re.match(rf"{place}: '{name}' must be (a |true or false)", str(caught.value)), str(caught.value)


KEYS = {"key": "a", "secret": "b"}
CONFUSED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(("s3", KEYS, {name: "false"}) for name in ("anon", "requester_pays", "use_ssl", "max_concurrency")),
    ("s3", {"key": "a"}, {"secret": True}),
    ("s3", {"secret": "b"}, {"key": f"{SECRET}\n"}),
    ("s3", KEYS, {"client_kwargs": {"region_name": True}}),
    ("s3", KEYS, {"config_kwargs": {"read_timeout": "7"}}),
    ("s3", KEYS, {"s3_additional_kwargs": {"BucketKeyEnabled": "false"}}),
    ("gcs", {"token": "anon"}, {"project": 1}),
    ("gcs", {"token": "anon"}, {"cache_timeout": "x"}),
    ("azure", {"account_name": "a"}, {"anon": "false"}),
    ("azure", {"account_name": "a"}, {"account_key": True}),
]


@pytest.mark.parametrize(("service", "options", "wrong"), CONFUSED, ids=str)
@on_asyncio
@pytest.mark.anyio
async def test_both_engines_say_the_same_of_a_wrong_kind(
    service: str, options: dict[str, Any], wrong: dict[str, Any]
) -> None:
    """What an option must be is the same on either engine, and so is the message."""
    need_packages(service)
    said: set[str] = set()
    for engine in get_args(Engine):
        config = StorageConfig(PLACES[service].url, options=options | wrong, engine=engine)
        with pytest.raises(ConfigError) as caught:
            await AccountStore.open(StoreConfig(storages={"cloud": config}))
        said.add(str(caught.value))
    (message,) = said
    assert re.search("must be|line break", message)


@pytest.mark.parametrize("text", CONNECTION_STRINGS)
def test_a_connection_string_that_is_not_understood_is_refused(text: str) -> None:
    """A connection string without an account, or with a part that has no counterpart, is refused. The part is not told:
    it may be the key itself, whose name was forgotten.
    """
    assert refusal("azure", connection(text)) == f"options: 'connection_string' {CONNECTION_STRINGS[text]}"


@pytest.mark.parametrize("service", PLACES)
def test_every_option_of_the_client_of_fsspec_is_taken_or_refused(service: str) -> None:
    """Each option of the installed client of fsspec's is in the table above or refused by its name; none is dropped."""
    need_packages(service)
    module, _, name = PLACES[service].fsspec.partition(":")
    known = {*signature(getattr(import_module(module), name).__init__).parameters} - {"self", "kwargs"}
    taken = {option for row in (*TAKEN, *IGNORED) if row.service == service for option in row.options}
    assert taken <= known
    for option in known - taken:
        assert refusal(service, {option: SECRET}) == f"options: {option!r} has no counterpart in obstore"


@pytest.mark.parametrize("token", [{"type": "authorized_user"}, "not JSON"], ids=["a key", "nonsense"])
def test_a_token_that_is_the_path_of_a_file_is_a_key_file(token: object, tmp_path: Path) -> None:
    """A Google token that names a file is told as that, and signs; what is in the file is read by the client."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(token))
    assert told("gcs", "box", {"token": str(path)}) == ({"application_credentials": str(path)}, {})
    path.unlink()
    assert "'token' is neither a token nor the path" in refusal("gcs", {"token": str(path)})


AZURE_URLS = [
    ("box", {"account_name": "you"}, {"account_name": "you"}),
    (ACCOUNT_URL, {}, {"account_name": "me"}),
    ("box@me", {"account_key": "a2V5"}, {"account_name": "me", "account_key": "a2V5"}),
    (ACCOUNT_URL, {"account_name": "you"}, {"account_name": "you"}),
    (ACCOUNT_URL, connection("AccountName=you"), account("you", BLOB)),
]


@pytest.mark.parametrize(("bucket", "options", "store"), AZURE_URLS)
def test_a_url_of_azure_may_name_the_account(bucket: str, options: dict[str, Any], store: dict[str, str]) -> None:
    """`abfs://container@account...` opens the container in that account; an account among the options goes before."""
    assert told("azure", bucket, options) == (store, {})
    client = opening.open_store("azure", bucket, options, CONNECT)
    assert client.config == {"container_name": "box", **store}


BUCKETS = ["arn:aws:s3:us-east-1:123456789012:accesspoint/mail", "..", ".", "a b", "a\nb", "b\u00fccher"]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_that_cannot_be_one_is_refused(bucket: str) -> None:
    """An access point's ARN, which obstore would take for a bucket, is refused with words that say what to do; so is
    what obstore panics at, or what leads out of the bucket.
    """
    with pytest.raises(ConfigError, match=r"alias|cannot be one"):
        translation.settings_of("s3", bucket, {})


def test_a_url_of_azure_without_a_container_is_refused() -> None:
    """`abfs://@account` names an account and no container."""
    with pytest.raises(ConfigError, match="the url must name a container"):
        translation.settings_of("azure", "@me.dfs.core.windows.net", {})


def test_the_environment_may_hold_the_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    """AZURE_STORAGE_CONNECTION_STRING counts for Azure, and only where there are no options."""
    monkeypatch.setenv(FROM_ENV, "AccountName=env;AccountKey=a2V5")
    env = account("env", "https://env.blob.core.windows.net", account_key="a2V5")
    assert told("azure", "box", {}) == (env, {})
    assert told("azure", "box", {"account_name": "you"}) == ({"account_name": "you"}, {})
    for service in ("s3", "gcs"):
        assert told(service, "box", {}) == (PLACES[service].store, {})
    monkeypatch.setenv(FROM_ENV, "")
    assert told("azure", "box", {}) == ({}, {})


SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


def test_the_scheme_names_the_service() -> None:
    """The service is known by the URL's scheme, in capital letters also."""
    for scheme, service in SCHEMES.items():
        assert translation.service_of(f"{scheme}://box/p") == service
        assert translation.service_of(f"{scheme.upper()}://box/p") == service


@pytest.mark.parametrize(
    ("name", "why"), [("nonsense", f"has {COUNTERPART}"), ("version_aware", "must be true or false")]
)
@pytest.mark.parametrize("service", PLACES)
@on_asyncio
@pytest.mark.anyio
async def test_options_are_checked_when_the_store_opens(service: str, name: str, why: str) -> None:
    """A store with the engine `obstore` and an option that it cannot act on does not open, instead of failing at the
    first call; the error names the storage and the option.
    """
    config = StorageConfig(PLACES[service].url, options={name: SECRET}, engine="obstore")
    with pytest.raises(ConfigError) as caught:
        await AccountStore.open(StoreConfig(storages={"cloud": config}))
    assert without_hint(str(caught.value)) == f"storages.cloud.options: {name!r} {why}"


def test_a_misspelt_option_is_told_with_the_one_that_is_meant() -> None:
    """The message has the name that is near."""
    with pytest.raises(
        ConfigError, match=r"'region' has no counterpart in obstore; here it is client_kwargs.region_name"
    ):
        translation.settings_of("s3", "bucket", {"region": "eu"})
    with pytest.raises(ConfigError, match=r"'endpont_url' has no counterpart in obstore.* 'endpoint_url'"):
        translation.settings_of("s3", "box", {"endpont_url": SECRET})


@pytest.mark.parametrize("service", PLACES)
@on_asyncio
@pytest.mark.anyio
async def test_a_store_opens_with_options_that_obstore_knows(service: str) -> None:
    """The control: the same storages open where nothing is wrong with the options, and no server is asked."""
    config = StorageConfig(PLACES[service].url, options={"version_aware": False}, engine="obstore")
    async with AccountStore.open(StoreConfig(storages={"cloud": config})) as store:
        assert store.storages == ("cloud",)
