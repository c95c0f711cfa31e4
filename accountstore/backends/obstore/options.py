"""fsspec's options in obstore's words. One that has none is refused, never dropped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeAlias

from obstore.store import AzureStore, GCSStore, S3Store

from accountstore.backends.base import ConfigError

Service: TypeAlias = Literal["s3", "gcs", "azure"]

_SERVICES: Mapping[str, Service] = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
# What concerns fsspec's open files, listings or new buckets, and no document.
_WITHOUT_EFFECT: Mapping[Service, frozenset[str]] = {
    "s3": frozenset({"default_block_size", "default_fill_cache", "default_cache_type", "max_concurrency"}),
    "gcs": frozenset({"project", "block_size", "consistency", "cache_timeout", "default_location", "secure_serialize"}),
    "azure": frozenset({"blocksize", "default_fill_cache", "default_cache_type", "max_concurrency"}),
}
_SECRETS = {"AccountKey": "account_key", "SharedAccessSignature": "sas_key"}


class Settings(NamedTuple):
    """The configuration of one obstore client: its store's, and that of its HTTP client."""

    store: dict[str, Any]
    client: dict[str, Any]


# It raises an ArithmeticError, TypeError or ValueError for a value that obstore does not know.
_Translation: TypeAlias = "Callable[[Any, Settings], None]"
_Words: TypeAlias = "Mapping[str, str | _Translation]"


def service_of(url: str, /) -> Service:
    """Which service a URL is of, by its scheme."""
    return _SERVICES[url.partition("://")[0].lower()]


def open_store(service: Service, bucket: str, options: Mapping[str, Any], /) -> Any:
    """A client that repeats nothing and has no deadline: both are the store's. It may read files."""
    kind: Any = {"s3": S3Store, "gcs": GCSStore, "azure": AzureStore}[service]
    store, client = settings_of(service, bucket, options)
    return kind(
        bucket.partition("@")[0],
        **store,
        client_options={"timeout": timedelta(days=1), **client},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
    )


def settings_of(service: Service, bucket: str, options: Mapping[str, Any], /) -> Settings:
    """The options in obstore's words.

    Raises:
        ConfigError: an option or its value has no counterpart in obstore, or the URL names no container; the option's
            name is told, never its value.
    """
    settings = Settings({}, {})
    if service == "s3":
        settings.store["disable_bulk_delete"] = True  # for servers that know no bulk
    if service == "azure" and "@" in bucket:
        container, _, host = bucket.partition("@")
        if not container:
            raise ConfigError("the url must name a container: abfs://container@account/prefix")
        settings.store["account_name"] = host.partition(".")[0]
    given = dict(options)
    if service == "azure" and not given and (text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING")):
        given["connection_string"] = text
    for name, value in given.items():
        _translate(_WORDS[service], name, value, settings, _WITHOUT_EFFECT[service])
    if service == "gcs" and settings.store.pop("skip_signature", False):
        # The client signs writes all the same, unless it holds a key that says not to.
        base = settings.store.pop("base_url", "https://storage.googleapis.com")
        key = {"gcs_base_url": base, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        settings.store["service_account_key"] = json.dumps(key)
        if base.startswith("http://"):
            settings.client["allow_http"] = True
    endpoint = str(settings.store.get("endpoint") or settings.store.get("base_url") or "")
    if endpoint.startswith("http://"):
        settings.client.setdefault("allow_http", True)
    return settings


def _translate(
    words: _Words, name: str, value: Any, settings: Settings, ignored: frozenset[str] = frozenset(), within: str = "", /
) -> None:
    word = words.get(name)
    if value is None or (word is None and name in ignored):
        return None  # None is how fsspec's are not given
    if word is None:
        raise ConfigError(f"options: {within}{name!r} has no counterpart in obstore")
    try:
        return (_setting(word) if isinstance(word, str) else word)(value, settings)
    except ConfigError:
        raise  # of an option in this one
    except (ArithmeticError, TypeError, ValueError):
        refusal = ConfigError(f"options: {within}{name!r} has a value that obstore does not know")
    raise refusal  # outside: the text of its cause may hold the value


def _setting(word: str, /) -> _Translation:
    def translate(value: Any, settings: Settings) -> None:
        if not isinstance(value, (str, bool)):
            raise TypeError
        settings.store[word] = value

    return translate


def _each(words: Mapping[str, str | Callable[[Any, Settings], None]], within: str, /) -> _Translation:
    """A table of options in an option."""

    def translate(table: Any, settings: Settings) -> None:
        if not isinstance(table, Mapping):
            raise TypeError
        for name, value in table.items():
            _translate(words, name, value, settings, frozenset(), f"{within} ")

    return translate


def _client(word: str, make: Callable[[Any], Any], /) -> _Translation:
    def translate(value: Any, settings: Settings) -> None:
        settings.client[word] = make(value)

    return translate


def _seconds(value: Any, /) -> timedelta:
    seconds = timedelta(seconds=float(value))
    if seconds < timedelta(0):
        raise ValueError
    return seconds


def _unverified(verify: Any, /) -> bool:
    if not isinstance(verify, bool):
        raise TypeError  # a file of certificates, which obstore cannot be given
    return not verify


def _store(word: str, value: Any) -> _Translation:
    """An option that, if true, sets another to a value."""

    def translate(wanted: Any, settings: Settings) -> None:
        if wanted:
            settings.store[word] = value

    return translate


def _addressing(style: Any, settings: Settings, /) -> None:
    if style in {"path", "virtual"}:
        settings.store["virtual_hosted_style_request"] = style == "virtual"
    elif style != "auto":
        raise ValueError


def _signature(version: Any, _: Settings, /) -> None:
    if version not in {"s3v4", "v4"}:
        raise ValueError


def _google(access: Any, settings: Settings, /) -> None:
    """A word, a path, a raw token, or the content of a key file: as gcsfs takes it."""
    if isinstance(access, dict):
        settings.store["service_account_key"] = json.dumps(access)
    elif access == "anon":
        settings.store["skip_signature"] = True
    elif access in {"google_default", "cloud"}:
        return
    elif access in {"cache", "browser"} or not isinstance(access, str):
        raise ValueError
    elif os.path.exists(access):
        settings.store["application_credentials"] = access
    else:
        settings.store["bearer_token"] = access


def _nothing(_value: Any, _settings: Settings, /) -> None:
    """Take an option that has nothing to say."""


def _only(*allowed: object) -> _Translation:
    """An option that may be given if it says what obstore does anyway."""

    def check(value: Any, _: Settings) -> None:
        if value not in allowed:
            raise ValueError

    return check


def _connection_string(text: Any, settings: Settings, /) -> None:
    parts: dict[str, str] = {}
    for part in filter(None, str(text).split(";")):
        name, _, value = part.partition("=")
        parts[name] = value
    protocol, suffix = parts.pop("DefaultEndpointsProtocol", "https"), parts.pop("EndpointSuffix", "core.windows.net")
    account, blob = parts.pop("AccountName", ""), parts.pop("BlobEndpoint", "").rstrip("/")
    account = account or re.split("[./]", blob.partition("://")[2])[0]
    if not account:
        raise ConfigError("options: 'connection_string' names no account")
    settings.store.update({"account_name": account, "endpoint": blob or f"{protocol}://{account}.blob.{suffix}"})
    for name in ("QueueEndpoint", "FileEndpoint", "TableEndpoint"):
        parts.pop(name, None)
    for name, value in parts.items():
        if name not in _SECRETS:  # which may be a key whose name was forgotten, and is not told
            raise ConfigError("options: 'connection_string' has a part that obstore does not know")
        settings.store[_SECRETS[name]] = value


_WORDS: Mapping[Service, _Words] = {
    "s3": {
        "key": "access_key_id",
        "username": "access_key_id",
        "secret": "secret_access_key",
        "password": "secret_access_key",
        "token": "session_token",
        "endpoint_url": "endpoint",
        "anon": _store("skip_signature", value=True),
        "requester_pays": _store("request_payer", value=True),
        "use_ssl": lambda wanted, settings: settings.client.update({} if wanted else {"allow_http": True}),
        "version_aware": _only(False),
        "cache_regions": _only(False),
        "client_kwargs": _each(
            {
                "region_name": "region",
                "endpoint_url": "endpoint",
                "aws_access_key_id": "access_key_id",
                "aws_secret_access_key": "secret_access_key",
                "aws_session_token": "session_token",
                "verify": _client("allow_invalid_certificates", _unverified),
            },
            "client_kwargs",
        ),
        "config_kwargs": _each(
            {
                "s3": _each({"addressing_style": _addressing}, "config_kwargs s3"),
                "signature_version": _signature,
                "region_name": "region",
                "connect_timeout": _client("connect_timeout", _seconds),
                "read_timeout": _client("read_timeout", _seconds),
                "max_pool_connections": _client("pool_max_idle_per_host", lambda count: str(int(count))),
                "user_agent": _client("user_agent", str),
                "retries": _nothing,  # the store's own on either engine
            },
            "config_kwargs",
        ),
        "s3_additional_kwargs": _each(
            {
                "ServerSideEncryption": "server_side_encryption",
                "SSEKMSKeyId": "sse_kms_key_id",
                "BucketKeyEnabled": "sse_bucket_key_enabled",
            },
            "s3_additional_kwargs",
        ),
    },
    "gcs": {
        "token": _google,
        "endpoint_url": "base_url",
        "access": _only("full_control", "read_write"),
        "requester_pays": _only(False),
        "version_aware": _only(False),
        "requests_timeout": _client("timeout", _seconds),
    },
    "azure": {
        "account_name": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_key",
        "client_id": "client_id",
        "client_secret": "client_secret",
        "tenant_id": "tenant_id",
        "anon": _store("skip_signature", value=True),
        "connection_string": _connection_string,
        "account_host": lambda host, settings: settings.store.update(endpoint=f"https://{host}"),
        "location_mode": _only("primary"),
        "version_aware": _only(False),
        "assume_container_exists": _only(True, False),
        "connection_timeout": _client("connect_timeout", _seconds),
        "read_timeout": _client("read_timeout", _seconds),
    },
}
