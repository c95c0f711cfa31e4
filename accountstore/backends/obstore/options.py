"""fsspec's options in obstore's words. One that has none is refused, never dropped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from obstore.store import AzureStore, GCSStore, S3Store

from accountstore.backends.base import ConfigError

Service: TypeAlias = Literal["s3", "gcs", "azure"]

_SERVICES: Mapping[str, Service] = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}
# Settings of obstore's HTTP client; the others are of its store.
_CLIENT = frozenset({"allow_http", "allow_invalid_certificates", "user_agent", "pool_max_idle_per_host"}) | frozenset(
    {"timeout", "connect_timeout", "read_timeout"}
)

_SECRETS = {"AccountKey": "account_key", "SharedAccessSignature": "sas_key"}


_Word: TypeAlias = "str | tuple[str, Callable[[Any], Any] | Mapping[Any, Any]] | Mapping[str, _Word] | _Function"
"""What an option is in obstore: the name of a setting, which takes the same text or bool; a name and what makes its
value (None: no setting); the options in this one; or a function that returns settings. For a value without a
counterpart, what makes one raises an ArithmeticError, LookupError, TypeError or ValueError."""
_Function: TypeAlias = Callable[[Any], dict[str, Any]]


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


def settings_of(service: Service, bucket: str, options: Mapping[str, Any], /) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in obstore's words: what its store takes, and what its HTTP client takes.

    Raises:
        ConfigError: an option or its value has no counterpart in obstore, or the URL names no container; it shows the
            option's name, never its value.
    """
    settings: dict[str, Any] = {}
    if service == "s3":
        settings["disable_bulk_delete"] = True  # for servers that know no bulk
    if service == "azure":
        container, at, host = bucket.partition("@")
        if not container:
            raise ConfigError("the url must name a container: az://container/prefix")
        if at:
            settings["account_name"] = host.partition(".")[0]
        if not options and (text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING")):
            options = {"connection_string": text}
    settings |= _translate(_WORDS[service], options)
    endpoint = str(settings.get("endpoint") or settings.get("base_url") or "")
    if endpoint.startswith("http://"):
        settings["allow_http"] = True
    if service == "gcs" and settings.pop("skip_signature", False):
        # The client signs writes all the same, unless it holds a key that says not to.
        base = settings.pop("base_url", "https://storage.googleapis.com")
        key = {"gcs_base_url": base, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        settings["service_account_key"] = json.dumps(key)
    client = {name: settings.pop(name) for name in settings.keys() & _CLIENT}
    return settings, client


def _translate(words: Mapping[str, _Word], options: Mapping[str, Any], within: str = "", /) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:  # how fsspec's are not given
            continue
        if name not in words:
            raise ConfigError(f"options: {within}{name!r} has no counterpart in obstore")
        try:
            settings |= _settings(words[name], value, f"{within}{name} ")
        except ConfigError:
            raise  # of an option in this one
        except (ArithmeticError, LookupError, TypeError, ValueError):
            refusal = ConfigError(f"options: {within}{name!r} has a value that obstore does not know")
        else:
            continue
        raise refusal  # outside: the text of its cause may hold the value
    return settings


def _settings(word: _Word, value: Any, within: str, /) -> dict[str, Any]:
    match word:
        case str():
            if not isinstance(value, (str, bool)):
                raise TypeError
            return {word: value}
        case Mapping():
            if not isinstance(value, Mapping):
                raise TypeError
            return _translate(word, value, within)
        case (name, make):
            made = make[value] if isinstance(make, Mapping) else make(value)
            return {} if made is None else {name: made}
        case _:
            return word(value)


def _if_true(value: Any, /) -> bool | None:
    return True if value else None


def _seconds(value: Any, /) -> timedelta:
    seconds = timedelta(seconds=float(value))
    if seconds < timedelta(0):
        raise ValueError
    return seconds


def _unverified(verify: Any, /) -> bool:
    if not isinstance(verify, bool):
        raise TypeError  # a file of certificates, which obstore cannot be given
    return not verify


def _google(access: Any, /) -> dict[str, Any]:
    """A word, a path, a raw token, or the content of a key file: as gcsfs takes it."""
    match access:
        case dict():
            return {"service_account_key": json.dumps(access)}
        case "anon":
            return {"skip_signature": True}
        case "google_default" | "cloud":
            return {}
        case str() if access not in {"cache", "browser"}:
            return {"application_credentials" if os.path.exists(access) else "bearer_token": access}
        case _:
            raise ValueError


def _connection_string(text: Any, /) -> dict[str, Any]:
    parts = {name: value for name, _, value in (part.partition("=") for part in str(text).split(";") if part)}
    protocol, suffix = parts.pop("DefaultEndpointsProtocol", "https"), parts.pop("EndpointSuffix", "core.windows.net")
    account, blob = parts.pop("AccountName", ""), parts.pop("BlobEndpoint", "").rstrip("/")
    account = account or re.split("[./]", blob.partition("://")[2])[0]
    if not account:
        raise ConfigError("options: 'connection_string' names no account")
    for name in ("QueueEndpoint", "FileEndpoint", "TableEndpoint"):
        parts.pop(name, None)
    if not parts.keys() <= _SECRETS.keys():  # a part may be a key whose name was forgotten: it is not shown
        raise ConfigError("options: 'connection_string' has a part that obstore does not know")
    endpoint = blob or f"{protocol}://{account}.blob.{suffix}"
    return {"account_name": account, "endpoint": endpoint, **{_SECRETS[name]: parts[name] for name in parts}}


def _without_effect(*names: str) -> dict[str, _Word]:
    """Options that concern fsspec's open files, listings or new buckets, and no document."""
    return dict.fromkeys(names, ("", lambda _: None))


_WORDS: Mapping[Service, Mapping[str, _Word]] = {
    "s3": {
        "key": "access_key_id",
        "username": "access_key_id",
        "secret": "secret_access_key",
        "password": "secret_access_key",
        "token": "session_token",
        "endpoint_url": "endpoint",
        "anon": ("skip_signature", _if_true),
        "requester_pays": ("request_payer", _if_true),
        "use_ssl": ("allow_http", lambda wanted: None if wanted else True),
        "version_aware": ("", {False: None}),
        "cache_regions": ("", {False: None}),
        "client_kwargs": {
            "region_name": "region",
            "endpoint_url": "endpoint",
            "aws_access_key_id": "access_key_id",
            "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token",
            "verify": ("allow_invalid_certificates", _unverified),
        },
        "config_kwargs": {
            "s3": {
                "addressing_style": ("virtual_hosted_style_request", {"path": False, "virtual": True, "auto": None})
            },
            "signature_version": ("", {"s3v4": None, "v4": None}),
            "region_name": "region",
            "connect_timeout": ("connect_timeout", _seconds),
            "read_timeout": ("read_timeout", _seconds),
            "max_pool_connections": ("pool_max_idle_per_host", lambda count: str(int(count))),
            "user_agent": ("user_agent", str),
            **_without_effect("retries"),  # the store's own on either engine
        },
        "s3_additional_kwargs": {
            "ServerSideEncryption": "server_side_encryption",
            "SSEKMSKeyId": "sse_kms_key_id",
            "BucketKeyEnabled": "sse_bucket_key_enabled",
        },
        **_without_effect("default_block_size", "default_fill_cache", "default_cache_type", "max_concurrency"),
    },
    "gcs": {
        "token": _google,
        "endpoint_url": "base_url",
        "access": ("", {"full_control": None, "read_write": None}),
        "requester_pays": ("", {False: None}),
        "version_aware": ("", {False: None}),
        "requests_timeout": ("timeout", _seconds),
        **_without_effect("project", "block_size", "consistency", "cache_timeout"),
        **_without_effect("default_location", "secure_serialize"),
    },
    "azure": {
        "account_name": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_key",
        "client_id": "client_id",
        "client_secret": "client_secret",
        "tenant_id": "tenant_id",
        "anon": ("skip_signature", _if_true),
        "connection_string": _connection_string,
        "account_host": ("endpoint", "https://{}".format),
        "location_mode": ("", {"primary": None}),
        "version_aware": ("", {False: None}),
        "assume_container_exists": ("", {True: None, False: None}),
        "connection_timeout": ("connect_timeout", _seconds),
        "read_timeout": ("read_timeout", _seconds),
        **_without_effect("blocksize", "default_fill_cache", "default_cache_type", "max_concurrency"),
    },
}
