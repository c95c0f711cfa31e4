"""A document's JSON, whole: fetched, put, masked.

The facade's typed calls drop fields that this release does not know. A copy keeps them, so the command line copies
between the storage and a memory storage of its own, and reads and writes the JSON there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, Struct

from accountstore import (
    Account,
    AccountStore,
    DecodeError,
    ExtensionError,
    Location,
    MultiAccount,
    Secret,
    StorageConfig,
    StoreConfig,
)
from accountstore.codecs import JSON
from accountstore.validation import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("Shown", "fetch", "kind_at", "parse", "put", "tree")

Shown: TypeAlias = "Raw | str | list[Mapping[str, Shown]] | Mapping[str, Shown]"
"""A part of a document to show: its JSON, a mask, several accounts, or an object."""

_STAGE = "accountstore command line"
_MASK = str(Secret(""))


def kind_at(location: Location, /) -> type[Account | MultiAccount]:
    """The class of document that the location's file name promises.

    Raises:
        ExtensionError: neither.
    """
    try:
        return Account if kind_of(location.file_name) == "account" else MultiAccount
    except ExtensionError as error:
        error.location = location
        raise


def _with_stage(config: StoreConfig, /) -> StoreConfig:
    storages = {**config.storages, _STAGE: StorageConfig("memory://")}
    return StoreConfig(storages=storages, default=config.default_name(), max_bytes=config.max_bytes)


async def fetch(config: StoreConfig, location: Location, /) -> bytes:
    """The JSON of the document at a location; of a JSON storage, the file's own bytes."""
    async with AccountStore.open(_with_stage(config)) as store:
        await store.copy(location, Location(location.file_name, storage=_STAGE))
        files, root = await store.filesystem(_STAGE)
        return cast("bytes", files.cat_file(f"{root}{location.file_name}"))


async def put(config: StoreConfig, location: Location, data: bytes, /, *, mode: Literal["overwrite", "create"]) -> None:
    """Write the JSON of a document to a location."""
    async with AccountStore.open(_with_stage(config)) as store:
        files, root = await store.filesystem(_STAGE)
        files.pipe_file(f"{root}{location.file_name}", data)
        await store.copy(Location(location.file_name, storage=_STAGE), location, mode=mode)


def parse(data: bytes, kind: type[Account | MultiAccount], /) -> Account | MultiAccount:
    """The document in JSON that a user gives.

    Raises:
        DecodeError: it is not such a document, or a secret in it is the mask that `get` shows.
    """
    document = JSON.decode(data, kind)
    if _has_mask(document):
        raise DecodeError("a secret in it is masked: `accountstore get --json --reveal` shows secrets")
    return document


def _has_mask(part: object, /) -> bool:
    match part:
        case Secret():
            return part.reveal() == _MASK
        case Struct():
            return any(_has_mask(getattr(part, name)) for name in part.__struct_fields__)
        case tuple():
            return any(map(_has_mask, part))
        case _:
            return False


def tree(document: Struct, data: bytes | Raw, /, *, reveal: bool) -> dict[str, Shown]:
    """The fields of a document and its JSON, for showing.

    Without `reveal`, secrets are masked; so is what this release does not know, for it may be secret, and a
    `requestUrl` that is more than an address: some programs put a token there (SEED.md section 2.4).
    """
    names = dict(zip(document.__struct_encode_fields__, document.__struct_fields__, strict=True))
    tag = document.__struct_config__.tag_field
    shown: dict[str, Shown] = {}
    for name, raw in msgspec.json.decode(data, type=dict[str, Raw]).items():
        value = getattr(document, names[name]) if name in names else None
        match value:
            case Struct():
                shown[name] = tree(value, raw, reveal=reveal)
            case tuple():
                items = msgspec.json.decode(raw, type=list[Raw])
                shown[name] = [tree(part, item, reveal=reveal) for part, item in zip(value, items, strict=True)]
            case _ if reveal or name == tag or (name in names and _harmless(name, value)):
                shown[name] = raw
            case _:
                shown[name] = _MASK
    return shown


def _harmless(name: str, value: object, /) -> bool:
    if name == "requestUrl" and isinstance(value, str):
        try:
            url = urlsplit(value)
        except ValueError:
            return False
        return url.scheme in {"http", "https"} and bool(url.hostname) and not set("@?#") & set(value)
    return not isinstance(value, Secret)
