"""Which storages a migration is between, whatever they are called: keyed marks of where they are.

A journal keeps to them, and so do the processes and workers that open stores of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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


def marks_of_storages(resolver: Resolver, job: Job, marks: Marks, /) -> dict[str, str]:
    """Keyed marks of where both ends are: the folder, the storage's URL, and those of its options that may say
    which place it is.

    A local folder's options, such as a file's mode, do not make it another one.
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
                f"the storage of {str(place)!r} is another one where the work is done than in this store: give as"
                " config= what the store was opened with, and the same to all workers"
            )


def _identity(storage: Storage, key: str, /) -> list[Any]:
    if is_folder(storage.url):
        return [join(storage.url.rstrip("/"), key)]
    return [_PASSWORD.sub(r"\1@", storage.url), key, _plain(storage.options)]


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
