"""fsspec's options in obstore's words. One that has none is refused, never dropped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from accountstore.backends.aws_keys import check_keys, without_own
from accountstore.backends.base import ConfigError
from accountstore.backends.kinds import PLACES, SCHEMES, Service
from accountstore.backends.obstore.around import options_around
from accountstore.backends.obstore.surroundings import aws, azure, certificates, google
from accountstore.backends.options import check_kinds, check_no_key, check_signature, hint, trimmed

_SERVICES: Mapping[str, Service] = {scheme: service for service, schemes in SCHEMES.items() for scheme in schemes}
# Settings of obstore's HTTP client; the others are of its store.
_CLIENT = frozenset({"allow_http", "allow_invalid_certificates", "user_agent", "pool_max_idle_per_host"}) | frozenset(
    {"timeout", "connect_timeout", "read_timeout", "root_certificate"}
)
_ENDPOINTS: Mapping[Service, tuple[str, str]] = {
    "s3": ("aws_endpoint_url_s3", "'endpoint_url', or AWS_ENDPOINT_URL,"),
    "gcs": ("base_url", "'endpoint_url', or STORAGE_EMULATOR_HOST,"),
    "azure": ("endpoint", "'account_host', or the endpoint of 'connection_string',"),
}
"""The setting, and what sets it."""
_TOKEN = re.compile(r"(?!.*\.(?:json|key|p12|pem|txt)$)[\w~+-][\w.~+-]*=*", re.ASCII)
"""What an access token looks like (RFC 6750), and the path of a key file does not."""

_WHEN = {"when_required": None, "when_supported": "SHA256"}
_IF_TRUE = {True: True, False: None}
_SECRETS = {"AccountKey": "account_key", "SharedAccessSignature": "sas_key"}


_Word: TypeAlias = "str | tuple[str, Callable[[Any], Any] | Mapping[Any, Any]] | Mapping[str, _Word] | _Function"
"""What an option is in obstore: the name of a setting, which takes the same text or bool; a name and what makes its
value (None: no setting); the options in this one; or a function that returns settings. Values are of their kind; for
one without a counterpart, what makes one raises an ArithmeticError, LookupError, TypeError or ValueError."""
_Function: TypeAlias = Callable[[Any], dict[str, Any]]


def service_of(url: str, /) -> Service:
    """Which service a URL is of, by its scheme."""
    return _SERVICES[url.partition("://")[0].lower()]


def settings_of(service: Service, bucket: str, options: Mapping[str, Any], /) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in obstore's words: what its store takes, and what its HTTP client takes.

    Raises:
        ConfigError: an option or its value has no counterpart in obstore, or the URL names no container; it shows the
            option's name, never its value.
    """
    settings: dict[str, Any] = {}
    around = options_around(service)
    options = {**(without_own(around, options) if service == "s3" else around), **options}
    if service == "s3":
        settings["disable_bulk_delete"] = True  # for servers that know no bulk
        settings |= _translate(service, _WORDS[service], options)
        check_keys(options)
        settings = {**aws(settings.pop("profile", None), settings), **settings}
    if service == "gcs":
        settings = _translate(service, _WORDS[service], options)
        settings |= google(settings)
    if service == "azure":
        container, at, host = bucket.partition("@")
        if not container:
            raise ConfigError("url: the url must name a container: az://container/prefix")
        if at:
            settings["account_name"] = host.partition(".")[0]
        if not options and (text := os.environ.get("AZURE_STORAGE_CONNECTION_STRING")):
            options = {"connection_string": text}
        settings |= _translate(service, _WORDS[service], trimmed(options, "account_key"))
        settings |= azure(settings)
        if not re.fullmatch(r"[\w.-]*", settings.get("account_name") or ""):  # it could be more, and is asked for
            raise ConfigError("options: 'account_name', or the host of the account, names no server")
    _settle_endpoint(service, bucket, settings)
    if service == "gcs" and settings.pop("skip_signature", False):
        # The client signs writes all the same, unless it holds a key that says not to.
        base = settings.pop("base_url", "https://storage.googleapis.com")
        key = {"gcs_base_url": base, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        settings["service_account_key"] = json.dumps(key)
    client = {name: settings.pop(name) for name in settings.keys() & _CLIENT}
    return settings, client


def _settle_endpoint(service: Service, bucket: str, settings: dict[str, Any], /) -> None:
    """Allow HTTP where the endpoint wants it, and put the bucket before its host where the style wants that.

    Raises:
        ConfigError: the endpoint or the bucket makes no URL, with which the client would panic.
    """
    if bucket.startswith("arn:"):
        raise ConfigError("obstore knows no ARN as bucket: name the access point's alias, or take the engine 'fsspec'")
    if bucket in {".", ".."} or not re.fullmatch("[!-~]+", bucket):
        raise ConfigError("the url names a bucket that cannot be one")
    name, source = _ENDPOINTS[service]
    if name not in settings:
        return
    url = _server(str(settings[name]))
    if url is None:
        raise ConfigError(f"options: {source} is no http or https URL of a server")
    if url.scheme == "http":
        settings["allow_http"] = True
    if settings.get("virtual_hosted_style_request") and not url.netloc.startswith(f"{bucket}."):
        settings[name] = url._replace(netloc=f"{bucket}.{url.netloc}").geturl()


def _server(text: str, /) -> SplitResult | None:
    """The parts of the URL of a server; None: it is none."""
    try:
        url = urlsplit(text)
        valid = url.scheme in {"http", "https"} and url.hostname and url.port != 0 and not (url.query or url.fragment)
    except ValueError:  # of brackets or a port
        return None
    return url if valid and re.fullmatch("[!-~]+", text) else None


def _translate(
    service: Service, words: Mapping[str, _Word], options: Mapping[str, Any], within: str = "", /
) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    place = ".".join(["options", *within.split()])
    kinds = PLACES[service].get(place, {})
    for name, value in options.items():
        if value is None:  # how fsspec's are not given
            continue
        if name not in words:
            raise ConfigError(f"options: {within}{name!r} has no counterpart in obstore{hint(name, words)}")
        check_kinds({name: value}, kinds, place)
        try:
            settings |= _settings(service, words[name], value, f"{within}{name} ")
        except ConfigError:
            raise  # of an option in this one
        except (ArithmeticError, LookupError, TypeError, ValueError):
            refusal = ConfigError(f"options: {within}{name!r} has a value that obstore does not know")
        else:
            continue
        raise refusal  # outside: the text of its cause may hold the value
    return settings


def _settings(service: Service, word: _Word, value: Any, within: str, /) -> dict[str, Any]:
    match word:
        case str():
            if isinstance(value, str) and not value.isprintable():
                raise ValueError  # a line break, say: the client would panic
            return {word: value}
        case Mapping():
            if not isinstance(value, Mapping):
                raise TypeError
            return _translate(service, word, value, within)
        case (name, make):
            made = make[value] if isinstance(make, Mapping) else make(value)
            return {} if made is None else {name: made}
        case _:
            return word(value)


def _seconds(value: Any, /) -> timedelta:
    seconds = timedelta(seconds=float(value))
    if seconds < timedelta(0):
        raise ValueError
    return seconds


def _verify(verify: Any, /) -> dict[str, Any]:
    if isinstance(verify, bool):
        return {"allow_invalid_certificates": not verify}
    return {"root_certificate": certificates(os.fspath(verify), "options: client_kwargs 'verify'")}


def _google(access: Any, /) -> dict[str, Any]:
    """A word, a path, a raw token, or the content of a key file: as gcsfs takes it, or as text."""
    match access:
        case dict():
            return {"service_account_key": json.dumps(access)}
        case "anon":
            return {"skip_signature": True}
        case "google_default" | "cloud":
            return {}
        case str() if access not in {"cache", "browser"}:
            if access.lstrip().startswith("{"):
                return _google(dict(json.loads(access)))
            if os.path.isfile(access):
                return {"application_credentials": access}
            if not _TOKEN.fullmatch(access):
                raise ConfigError("options: 'token' is neither a token nor the path of a file that is there")
            check_no_key(access)
            return {"bearer_token": access}
        case _:
            raise ValueError


def _connection_string(text: Any, /) -> dict[str, Any]:
    if not str(text).isprintable():
        raise ValueError
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
    check_signature(parts.get("SharedAccessSignature"), "connection_string")
    return {"account_name": account, "endpoint": endpoint, **{_SECRETS[name]: parts[name] for name in parts}}


def _signature(token: Any, /) -> dict[str, Any]:
    if not str(token).isprintable():
        raise ValueError
    check_signature(token, "sas_token")
    return {"sas_key": token}


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
        "profile": "profile",
        "endpoint_url": "aws_endpoint_url_s3",
        "anon": ("skip_signature", _IF_TRUE),
        "requester_pays": ("request_payer", _IF_TRUE),
        "use_ssl": ("allow_http", {True: None, False: True}),
        "version_aware": ("", {False: None}),
        "cache_regions": ("", {False: None}),
        "client_kwargs": {
            "region_name": "region",
            "endpoint_url": "aws_endpoint_url_s3",
            "aws_access_key_id": "access_key_id",
            "aws_secret_access_key": "secret_access_key",
            "aws_session_token": "session_token",
            "verify": _verify,
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
            "user_agent": "user_agent",
            "request_checksum_calculation": ("checksum_algorithm", lambda when: _WHEN[when.lower()]),
            "response_checksum_validation": ("", lambda when: _WHEN[when.lower()] and None),
            **_without_effect("retries"),  # the store's own on either engine
        },
        "s3_additional_kwargs": {
            "ServerSideEncryption": "server_side_encryption",
            "SSEKMSKeyId": "sse_kms_key_id",
            "BucketKeyEnabled": "sse_bucket_key_enabled",
            "ChecksumAlgorithm": ("checksum_algorithm", {name: name for name in ("SHA256", "CRC64NVME")}),
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
        "sas_token": _signature,
        "client_id": "client_id",
        "client_secret": "client_secret",
        "tenant_id": "tenant_id",
        "anon": ("skip_signature", _IF_TRUE),
        "connection_string": _connection_string,
        "account_host": ("endpoint", "https://{}".format),
        "location_mode": ("", {"primary": None}),
        "version_aware": ("", {False: None}),
        "connection_timeout": ("connect_timeout", _seconds),
        "read_timeout": ("read_timeout", _seconds),
        **_without_effect("blocksize", "default_fill_cache", "default_cache_type", "max_concurrency"),
        **_without_effect("assume_container_exists"),
    },
}
