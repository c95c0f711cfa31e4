"""obstore's client for a bucket, made of the translated options. It connects when it is first used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from accountstore.backends.base import BackendError, ConfigError
from accountstore.backends.kinds import Service
from accountstore.backends.obstore.options import settings_of
from accountstore.backends.obstore.surroundings import KEY_FILE

_KINDS: Mapping[Service, Any] = {"s3": S3Store, "gcs": GCSStore, "azure": AzureStore}
_DESCRIPTORS = 8
"""That are to be free: obstore's threads take three, and certificates, a name and a connection one each."""
_SAID = {
    "SecretAccessKey": "options: 'secret' is missing",
    "AccessKeyId": "options: 'key' is missing",
    "encryption": "options: 's3_additional_kwargs' asks for an encryption that obstore does not know",
    "HeaderValue": "options: config_kwargs 'user_agent' has a value that obstore does not know",
    "Account must be specified": "options: 'account_name' is missing",
    "Access Key": "options: 'account_key' is no key",
    "SAS": "options: 'sas_token' is no token",
    "source url": "options: 'account_name', or the host of the account, names no server",
    "service account": f"options: 'token', or {KEY_FILE}, gives no key that obstore knows: it is of neither a service"
    " account nor an authorized user; the engine 'fsspec' knows others",
    "HTTP client": "client_kwargs 'verify', or AWS_CA_BUNDLE, names a file with a certificate that cannot be read",
}
"""What obstore says, which may hold the value, and what is said instead."""


def start() -> None:
    """Start obstore's threads, if they do not run yet. Where that fails, obstore never works again in this process.

    Raises:
        OSError: the process may open too few files now, and nothing was tried.
        BackendError: they cannot be started.
    """
    _require_descriptors()
    try:
        obstore.list_with_delimiter(MemoryStore())
    except BaseException as error:
        if not _is_panic(error):
            raise
    else:
        return
    raise BackendError("obstore's threads cannot be started, and in this process no more")


def _require_descriptors() -> None:
    """Raise `OSError` where few are free: obstore would panic, or say of a file that it is not there."""
    with ExitStack() as free:
        for _ in range(_DESCRIPTORS):
            free.enter_context(open(os.devnull, "rb"))


def _is_panic(error: BaseException, /) -> bool:
    """Whether an error is one of Rust, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


def open_store(service: Service, bucket: str, options: Mapping[str, Any], connect: timedelta, /) -> Any:
    """A client that repeats nothing and has no deadline but for connecting: both are the store's. It may read files.

    Raises:
        ConfigError: as `settings_of`; or obstore can make no client of the options.
        OSError: the process may open too few files now.
    """
    _require_descriptors()
    store, client = settings_of(service, bucket, options)
    try:
        return _KINDS[service](
            bucket.partition("@")[0],
            **store,
            client_options={"timeout": timedelta(days=1), "connect_timeout": connect, **client},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
        )
    except (BaseError, ValueError) as error:
        said = str(error)
    except BaseException as error:
        if not _is_panic(error):
            raise
        said = ""
    default = "options: obstore can make no client of them"
    raise ConfigError(next((text for word, text in _SAID.items() if word in said), default))
