"""The configuration file as the command line writes and shows it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from tomllib import loads
from typing import Any, cast

import anyio
from msgspec.structs import replace

from accountstore import AccountStore, ConfigError, StorageConfig, StoreConfig
from accountstore.config import key_of
from accountstore.config_file import check_text, config_at, find_config, load_config
from accountstore.files import locked, read_file, tables_of, written_beside
from accountstore.sealing.sources import may_be_keys

__all__ = ("add_storage", "check_opens", "file_to_write", "masked", "unset_variables")

_MASK = "**********"
_HARMLESS = frozenset(
    {
        *("default", "max_bytes", "codec", "engine", "timeout", "attempts", "conditions", "concurrency", "read_only"),
        *("account_name", "host", "port", "profile", "project", "region", "region_name", "username"),
    }
)
"""Keys whose text and numbers show: all others could be secret."""


def file_to_write(given: str | None, /) -> str:
    """The file that a storage is added to: the one that is read, else one in the user's configuration folder."""
    found = find_config(given)
    if found is not None and "://" in found:
        load_config(found)  # says what is wrong with it
    if found is not None:
        return found
    from platformdirs import user_config_dir

    return os.path.join(user_config_dir("accountstore", appauthor=False), "accountstore.toml")


def add_storage(path: str, name: str, table: Mapping[str, object], /, *, given: bool, default: bool) -> None:
    """Add a storage to a configuration file; its comments and its form stay. It is replaced in one step.

    A file that is not there is made; unless it was `given` by name, with the storage that served without one.

    Raises:
        ConfigError: there is such a storage, or it does not open; the file cannot be read, extended or written; it
            would not be valid.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = os.path.realpath(path)
    old = _read(path)
    if old is None and not given:
        served = load_config()
        first = {key: {"url": storage.url} for key, storage in served.storages.items()}
        old_text = tomlkit.dumps({"default": served.default_name(), "storages": first})
    else:
        old_text = (old or b"").decode("utf-8-sig")
    expected = _parse(path, old_text)
    storages = expected.setdefault("storages", {})
    if not isinstance(storages, dict) or name in storages:
        raise ConfigError(f"{path}: there is a storage {name!r} already, or `storages` is no table")
    defaults = {"default": name if default else expected.get("default", next(iter(storages), name))}
    storages[name] = table
    expected |= defaults
    try:
        document = tomlkit.parse(old_text)
        document.update(defaults)
        if "storages" not in document:
            document["storages"] = tomlkit.table(is_super_table=True)
        tables: Any = document["storages"]
        tables[name] = table
        text = tomlkit.dumps(document)
        extended = loads(text) == expected
    except (TOMLKitError, ValueError, RecursionError):
        extended, text = False, ""
    if not extended:
        raise ConfigError(f"{path}: cannot be extended as it is written: add the storage by hand")
    try:
        check_text(text)
        if not unset_variables(table):  # without them, nobody can tell
            check_opens(config_at(path, {"storages": {name: table}}), name)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None
    _replace(path, old, text.encode())


def unset_variables(table: Mapping[str, object], /) -> list[str]:
    """The variables in the texts of a table that the environment lacks."""
    named = dict.fromkeys(re.findall(r"\$\$\{|\$\{(\w+)\}", repr(table)))
    return [name for name in named if name and name not in os.environ]


def check_opens(config: StoreConfig, name: str, /) -> None:
    """Refuse a storage that no command can open. Nothing is reached or made.

    Raises:
        ConfigError: the message begins with the key.
    """
    storage = config.storages[name]
    if storage.scheme in {"file", "local"} and not storage.read_only:
        storage = replace(storage, url=_above(key_of("storages", name), storage.url))
    anyio.run(_open, StoreConfig(storages={name: storage}, max_bytes=config.max_bytes))


def _above(where: str, url: str, /) -> str:
    """The folder of a local storage, or the first above it that is there, in which it can be made."""
    folder = above = os.path.realpath(os.path.expanduser(re.sub("(?i)^(file|local)://", "", url)))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if above != folder and os.path.isdir(above) and not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{where}.url: there is no such folder, and none can be made in {above}")
    return above


async def _open(config: StoreConfig, /) -> None:
    async with AccountStore.open(config, read_only=True):
        pass


def _read(path: str, /) -> bytes | None:
    """What the file holds, if it is there."""
    if not os.path.lexists(path):
        return None
    try:
        data = read_file(path)
        data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8: save it as such") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    return data


def _parse(path: str, text: str, /) -> dict[str, Any]:
    try:
        return tables_of(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def _replace(path: str, old: bytes | None, new: bytes, /) -> None:
    """Put a new file in the place of the one that held `old`: of those who do at once, one at a time."""
    try:
        with locked(os.path.dirname(path)), written_beside(path, new) as temporary:
            if _read(path) != old:
                raise ConfigError(f"{path}: was changed meanwhile; it is as it was: run the command again")
            os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or type(error).__name__})") from None


def masked(tree: Mapping[str, Any], /) -> dict[str, Any]:
    """The tree of a configuration file with asterisks for whatever could be a secret.

    URLs show without user and query, options where they are known to be harmless or name a variable, keys by their file
    or variable.
    """
    shown = {key: _masked(key, value) for key, value in tree.items() if key != "storages"}
    storages: Any = tree.get("storages", {})
    if isinstance(storages, dict):
        tables = cast("dict[str, Any]", storages)
        shown["storages"] = {name: _masked_storage(table) for name, table in tables.items()}
    return shown


def _masked_storage(table: Any, /) -> Any:
    if not isinstance(table, dict):
        return _MASK
    shown: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", table).items():
        if key == "url" and isinstance(value, str):
            shown[key] = StorageConfig(value).redacted_url
        else:
            shown[key] = _masked(key, value)
            if key == "encryption" and isinstance(value, dict) and "keys" in value:
                shown[key]["keys"] = _masked_keys(cast("dict[str, Any]", value)["keys"])
    return shown


def _masked_keys(source: Any, /) -> Any:
    """Where the keys of a storage are: paths and variables show, and nothing that may be a key itself."""
    if isinstance(source, list):
        return [_masked_keys(one) for one in source]
    return source if isinstance(source, str) and not may_be_keys(source) else _masked("keys", source)


def _masked(name: str, value: Any, /) -> Any:
    match value:
        case dict():
            return {key: _masked(key, part) for key, part in cast("dict[str, Any]", value).items()}
        case str() if name == "endpoint_url":
            return StorageConfig(value).redacted_url
        case bool():
            return value
        case str() if name in _HARMLESS or re.fullmatch(r"\$\{\w+\}", value):
            return value
        case int() | float() if name in _HARMLESS:
            return value
        case _:
            return _MASK
