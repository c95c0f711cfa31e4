"""What the environment, and the files of the services' own tools, say of a storage: as its client on fsspec reads them.

obstore itself reads some of the environment. What is read here is passed on to it, or refused by its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from accountstore.aio.threads import ThreadPool
from accountstore.backends.base import ConfigError
from accountstore.backends.options import AWS_FILES, check_no_pipes
from accountstore.files import read_file

KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"

_GOOGLE_KEYS = frozenset({"skip_signature", "bearer_token", "service_account_key", "application_credentials"})
_AZURE_KEYS = frozenset({"account_key", "sas_key", "client_secret"})
_AZURE_VARIABLES = tuple(f"AZURE_STORAGE_{name}" for name in ("ACCOUNT_KEY", "SAS_TOKEN", "CLIENT_SECRET"))
_AWS_FILES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
_AWS_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_THREADS = 4
"""For finding AWS credentials: a program that is asked for them may hang."""
_FRESH = timedelta(minutes=10)
"""After this AWS credentials are asked for again: a file or a role may have new ones."""


def certificates(path: str, source: str, /) -> str:
    """The certificates in a file. Raises `ConfigError` with the option or variable that names it."""
    try:
        text = read_file(path).decode()
    except (OSError, ValueError):
        text = ""
    if "BEGIN CERTIFICATE" not in text:
        raise ConfigError(f"{source} names no file of certificates")
    return text


def google(given: Mapping[str, Any], /) -> dict[str, Any]:
    """What is to be added to the settings that the options of Google Cloud Storage give.

    Raises:
        ConfigError: the environment names a key file that is not there.
    """
    found: dict[str, Any] = {}
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator not in {"", "default"} and "base_url" not in given:
        found["base_url"] = emulator if emulator.startswith(("http://", "https://")) else f"http://{emulator}"
    if given.keys() & _GOOGLE_KEYS:
        return found
    if named := os.environ.get(KEY_FILE):
        if not os.path.isfile(named):
            raise ConfigError(f"{KEY_FILE} names a file that is not there")
        return found
    usual = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
    if os.path.isfile(path := os.path.join(usual, "application_default_credentials.json")):
        found["application_credentials"] = path
    elif found:
        found["skip_signature"] = True
    return found


def azure(given: Mapping[str, Any], /) -> dict[str, Any]:
    """What is to be added to the settings that the options of Azure give."""
    anonymous = os.environ.get("AZURE_STORAGE_ANON", "false").lower() not in {"false", "0", "f", ""}
    keys = given.keys() & _AZURE_KEYS or any(os.environ.get(name) for name in _AZURE_VARIABLES)
    return {"skip_signature": True} if anonymous and not keys and "skip_signature" not in given else {}


def aws(profile: str | None, given: Mapping[str, Any], /) -> dict[str, Any]:
    """What is to be added to the settings that the options of S3 give: region, endpoint, checksums, certificates, and
    what finds the credentials. botocore, which comes with s3fs, reads it; without it, obstore reads what it can.

    Raises:
        ConfigError: the profile is not there, a file cannot be read or is a pipe, or it takes botocore to read it.
    """
    check_no_pipes(AWS_FILES)
    unsigned = given.get("skip_signature") or "access_key_id" in given
    variables = {name for name, value in os.environ.items() if value and name.startswith(("AWS_", *_AWS_BUNDLES))}
    if unsigned and not variables and not profile:
        return {}
    try:
        found = _by_botocore(profile)
    except ImportError:
        named = "options: 'profile'" if profile else next(filter(_says_something, _AWS_FILES), "")
        if named and not unsigned:
            raise ConfigError(
                f"{named}: obstore alone does not read it; install: pip install 'accountstore[s3]'"
            ) from None
        found = {"aws_endpoint_url_s3": _of_environment(_AWS_ENDPOINTS)}
    except Exception as error:  # noqa: BLE001 -- botocore's, for a profile that is not there or a file like no other
        source = "options: 'profile'" if profile else "AWS_PROFILE, or the files of the AWS tools,"
        raise ConfigError(f"{source} cannot be used ({type(error).__name__})") from None
    else:
        if not unsigned:
            found["credential_provider"] = Credentials(profile)
    elsewhere = os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    if elsewhere and "aws_endpoint_url_s3" not in given and _of_environment(_AWS_ENDPOINTS):
        raise ConfigError("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: obstore does not know it: unset AWS_ENDPOINT_URL")
    bundle = found.pop("ca_bundle", None) or _of_environment(_AWS_BUNDLES)
    if bundle and given.keys().isdisjoint({"allow_invalid_certificates", "root_certificate"}):
        found["root_certificate"] = certificates(bundle, "AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE")
    return {name: value for name, value in found.items() if value}


def _says_something(name: str, /) -> bool:
    """Whether a variable names a profile, or a file that is there."""
    value = os.environ.get(name, "")
    return os.path.exists(os.path.expanduser(value)) if name.endswith("_FILE") else bool(value)


class Credentials:
    """What obstore calls for AWS credentials: those that botocore finds, in a thread of its own."""

    def __init__(self, profile: str | None, /) -> None:
        self._profile = profile
        self._threads = ThreadPool(_THREADS)

    async def __call__(self) -> dict[str, Any]:
        """The credentials. Raises `LookupError` where there are none, and what botocore raises."""
        return await self._threads.run(self._find)

    def _find(self) -> dict[str, Any]:
        found = _session(self._profile).get_credentials()
        if found is None:
            raise LookupError
        keys = found.get_frozen_credentials()
        until = datetime.now(UTC) + _FRESH
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": until,
        }


def _session(profile: str | None, /) -> Any:
    return import_module("botocore.session").Session(profile=profile)


def _by_botocore(profile: str | None, /) -> dict[str, Any]:
    session = _session(profile)
    scoped = session.get_scoped_config()
    endpoints = import_module("botocore.configprovider").ConfiguredEndpointProvider(
        full_config=session.full_config, scoped_config=scoped, client_name="s3"
    )
    # The default is not taken for a wish: older servers refuse a checksum.
    asked = "AWS_REQUEST_CHECKSUM_CALCULATION" in os.environ or "request_checksum_calculation" in scoped
    checksum = asked and session.get_config_variable("request_checksum_calculation") == "when_supported"
    return {
        "region": session.get_config_variable("region"),
        "aws_endpoint_url_s3": endpoints.provide(),
        "checksum_algorithm": "SHA256" if checksum else None,
        "ca_bundle": session.get_config_variable("ca_bundle"),
    }


def _of_environment(names: tuple[str, ...], /) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
