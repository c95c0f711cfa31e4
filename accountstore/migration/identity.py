"""Which storages a migration is between, whatever they are called: keyed marks of where they are, and of what opens
what is there.

A journal keeps to them, and so do the processes and workers that open stores of their own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from accountstore.errors import ConfigError
from accountstore.migration.marks import Marks
from accountstore.migration.work import Job
from accountstore.scope import Resolver
from accountstore.storage import Storage
from accountstore.store import AccountStore, parts_of
from accountstore.validation import join

_NO_PLACE = re.compile(
    "key|secret|token|pass|credential|signature|sas|cert|time|retr|attempt|pool|cache|concurr|max|proxy|verify",
    re.IGNORECASE,
)
"""Names of options that say who asks, or how, not which place: they may change while a migration goes on."""
_PASSWORD = re.compile("(?<=://)([^/@:]*):[^/@]*@")
_NAMES_SERVER = re.compile('"[^"]*(?:endpoint|account_?name|base_url|host)[^"]*": ', re.IGNORECASE)
"""An option, as JSON, that names the server: what the environment has is no matter then."""
_S3 = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "FSSPEC_S3_ENDPOINT_URL")
_GCS = ("STORAGE_EMULATOR_HOST", "GOOGLE_BASE_URL", "FSSPEC_GCS_ENDPOINT_URL", "FSSPEC_GS_ENDPOINT_URL")
_AZURE = (
    *(f"AZURE_STORAGE_{name}" for name in ("ACCOUNT_NAME", "CONNECTION_STRING", "ENDPOINT", "USE_EMULATOR")),
    *("AZURE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL", "FSSPEC_ABFS_ACCOUNT_NAME", "FSSPEC_AZ_ACCOUNT_NAME"),
)
_VARIABLES: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("gs", "gcs"), _GCS),
    **dict.fromkeys(("az", "abfs", "abfss"), _AZURE),
}
"""By the scheme of a URL, what names its server in the environment."""


def marks_of_storages(resolver: Resolver, job: Job, marks: Marks, /) -> dict[str, str]:
    """Keyed marks of where both ends are: the folder, the storage's URL, and what of its options, or else of the
    environment, may say which place it is; and of the codec and the encryption's id, by which documents there open.

    A local folder's options, such as a file's mode, do not make it another one; nor do other keys.
    """
    found: dict[str, str] = {}
    for end, place in (("source", job.source), ("target", job.target)):
        storage, key = resolver.folder(place.folder, place.storage)
        name = f"{end}_storage"
        found[name] = marks.of_text(name, json.dumps(_identity(storage, key), sort_keys=True))
    return found


def check_storages(store: AccountStore, job: Job, marks: Marks, told: Mapping[str, str], /) -> None:
    """Refuse another configuration than that of the store which a migration was asked of. Raises `ConfigError`."""
    resolver, _ = parts_of(store)
    found = marks_of_storages(resolver, job, marks)
    for name, place in (("source_storage", job.source), ("target_storage", job.target)):
        if found[name] != told[name]:
            raise ConfigError(
                f"the storage of {str(place)!r} is another one where the work is done than in this store, or has"
                " another codec or encryption id: give as config= what the store was opened with, and the same to all"
                " workers; nor may the environment name another server there"
            )


def _identity(storage: Storage, key: str, /) -> list[Any]:
    opens = [storage.codec.name, "" if storage.sealer is None else storage.sealer.storage_id]
    if is_folder(storage.url):
        return [join(storage.url.rstrip("/"), key), *opens]
    return [url_of(storage), key, *server_of(storage), *opens]


def url_of(storage: Storage, /) -> str:
    """A storage's URL without a password."""
    return _PASSWORD.sub(r"\1@", storage.url)


def server_of(storage: Storage, /) -> list[Any]:
    """What tells servers of one URL apart: the options that may; and where none of them names it, the environment."""
    options = _plain(storage.options)
    scheme = storage.url.partition("://")[0]
    if _NAMES_SERVER.search(json.dumps(options)):
        return [options]
    told = {name: _plain(_PASSWORD.sub(r"\1@", os.environ.get(name, ""))) for name in _VARIABLES.get(scheme, ())}
    named = {name: value for name, value in told.items() if value}
    return [options, named] if named else [options]


def is_folder(url: str, /) -> bool:
    """Whether a storage's URL is the path of a local folder."""
    return "://" not in url


def _plain(value: object, /) -> Any:
    """An option as it is, without what names no place; of an object its class."""
    if isinstance(value, Mapping):
        options = cast("Mapping[object, object]", value).items()
        plain = {str(name): _plain(each) for name, each in options if not _NO_PLACE.search(str(name))}
        return {name: each for name, each in plain.items() if each != {}}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in cast("list[object]", value)]
    if isinstance(value, str) and ";" in value and "=" in value:  # a connection string
        return _plain({name: text for name, _, text in (part.partition("=") for part in value.split(";"))})
    return value if isinstance(value, (str, int, float, bool)) or value is None else type(value).__name__
