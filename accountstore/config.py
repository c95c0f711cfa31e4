"""Configuration: which storages there are, from Python or from a TOML file. Blocking functions.

    default = "First Storage"

    [storages."First Storage"]
    url = "file:///srv/accounts"

    [storages.Archive]
    url = "sftp://backup.example.org/accounts"
    options = { username = "mail", password = "${SFTP_PASSWORD}" }
    codec = "msgpack"

`${NAME}` in an option's value is replaced from the environment.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from msgspec import Struct, field

from accountstore.codecs import CODECS
from accountstore.errors import ConfigError, LocationError
from accountstore.validation import MAX_BYTES, check_storage, near_miss

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("StorageConfig", "StoreConfig", "load_config")

T = TypeVar("T")

_FILE = "accountstore.toml"
_VARIABLE = "ACCOUNTSTORE_CONFIG"


class StorageConfig(Struct, frozen=True):
    """One storage: an fsspec URL, fsspec's options for it, and the codec of its documents (`json` or `msgpack`).

    A URL without a scheme is a folder; `~` is the user's home. The options do not show in `repr`, nor does the user
    part of the URL.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    codec: str = "json"

    @property
    def scheme(self) -> str:
        """The URL's scheme; `file` where it has none."""
        scheme, mark, _ = self.url.partition("://")
        return scheme.lower() if mark else "file"

    @property
    def shown_url(self) -> str:
        """The URL without its user part and its query."""
        return re.split("[?#]", re.sub(r"(?<=://).*@", "", self.url), maxsplit=1)[0]

    def __repr__(self) -> str:
        return f"StorageConfig({self.shown_url!r}, options={sorted(self.options)}, codec={self.codec!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.shown_url), ("options", sorted(self.options)), ("codec", self.codec)]


class StoreConfig(Struct, frozen=True, kw_only=True):
    """All storages by name, and which of them a location without a storage name means.

    `default` may be left out where there is one storage. `max_bytes` bounds a document.
    """

    storages: dict[str, StorageConfig]
    default: str | None = None
    max_bytes: int = MAX_BYTES

    def default_name(self) -> str:
        """The default storage's name.

        Raises:
            ConfigError: the configuration as a whole does not hold together.
        """
        for name, storage in self.storages.items():
            try:
                check_storage(name)
            except LocationError as error:
                raise ConfigError(error.message) from None
            check_url(storage.url, name)
            if storage.codec not in CODECS:
                raise ConfigError(
                    f"storage {name!r}: unknown codec {storage.codec!r}{near_miss(storage.codec, CODECS)}"
                )
        if self.default is None and len(self.storages) == 1:
            return next(iter(self.storages))
        if not self.storages:
            raise ConfigError("no storage is configured")
        if self.default is None:
            raise ConfigError(f"default: say which storage is the default: {', '.join(sorted(self.storages))}")
        if self.default not in self.storages:
            raise ConfigError(
                f"default: no storage {self.default!r} is configured{near_miss(self.default, self.storages)}"
            )
        return self.default


def check_url(url: str, name: str, /) -> None:
    """Raise `ConfigError` for a URL that would be taken for a folder but was hardly meant so."""
    if not url or ("://" not in url and ":" in url.partition("/")[0]):
        raise _FaultError(f"storage {name!r}: the url must be scheme://... or a folder", "storages", name, "url")


def load_config(config: StoreConfig | str | os.PathLike[str] | None = None, /) -> StoreConfig:
    """The configuration given; or that of the file given, or named by the environment variable `ACCOUNTSTORE_CONFIG`,
    or `accountstore.toml` in the working directory, or in the user's configuration folder; or one storage `default` in
    the user's data folder.

    Raises:
        ConfigError: a file cannot be read or understood; the message has the line.
    """
    if isinstance(config, StoreConfig):
        return config
    if config is not None:
        return _load_file(os.fspath(config))
    if named := os.environ.get(_VARIABLE):
        return _load_file(named)
    if os.path.exists(_FILE):
        return _load_file(_FILE)
    from platformdirs import user_config_dir, user_data_dir

    own = os.path.join(user_config_dir("accountstore", appauthor=False), _FILE)
    if os.path.exists(own):
        return _load_file(own)
    folder = os.path.join(user_data_dir("accountstore", appauthor=False), "accounts")
    return StoreConfig(default="default", storages={"default": StorageConfig(folder)})


def _load_file(path: str, /) -> StoreConfig:
    try:
        return _read_file(path)
    except ConfigError as error:
        # Raised below: the frames that it comes from hold the file's text and the environment's secrets.
        failure = ConfigError(error.message)
    raise failure


def _read_file(path: str, /) -> StoreConfig:
    from tomllib import TOMLDecodeError, loads

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    try:
        tree = loads(text)
    except TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return _parse(tree, os.path.dirname(os.path.abspath(path)))
    except _FaultError as error:
        raise ConfigError(f"{path}{_line(text, *error.keys)}: {error.message}") from None


class _FaultError(ConfigError):
    """A fault under a path of keys, whose line is looked up for the message."""

    def __init__(self, message: str, /, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def _parse(tree: dict[str, Any], folder: str, /) -> StoreConfig:
    _check_keys(tree, StoreConfig)
    storages = tree.get("storages", {})
    if not isinstance(storages, dict):
        raise _FaultError("storages: must be a table", "storages")
    parsed: dict[str, StorageConfig] = {}
    for name, table in cast("dict[str, Any]", storages).items():
        if not isinstance(table, dict):
            raise _FaultError(f"storage {name!r}: must be a table with a url", "storages", name)
        parsed[name] = _parse_storage(cast("dict[str, Any]", table), name, folder)
    return _convert({**tree, "storages": parsed}, StoreConfig)


def _parse_storage(table: dict[str, Any], name: str, folder: str, /) -> StorageConfig:
    keys = ("storages", name)
    _check_keys(table, StorageConfig, *keys)
    storage = _convert(table, StorageConfig, *keys)
    if storage.codec not in CODECS:
        raise _FaultError(f"unknown codec {storage.codec!r}{near_miss(storage.codec, CODECS)}", *keys, "codec")
    url = storage.url
    check_url(url, name)
    if "://" not in url and not url.startswith("~"):
        url = os.path.join(folder, url)
    return StorageConfig(url, _expand(storage.options, *keys, "options"), storage.codec)


def _check_keys(table: Mapping[str, Any], kind: type[Struct], /, *keys: str) -> None:
    for key in table:
        if key not in kind.__struct_fields__:
            raise _FaultError(f"unknown key {key!r}{near_miss(key, kind.__struct_fields__)}", *keys, key)


def _convert(table: Mapping[str, Any], kind: type[T], /, *keys: str) -> T:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        key = where.rstrip("`").partition(".")[0].partition("[")[0]
        raise _FaultError(f"{key}: {reason}" if key else reason, *keys, *([key] if key else ())) from None


def _expand(value: Any, /, *keys: str) -> Any:
    match value:
        case str():
            return re.sub(r"\$\{([^}]*)\}", lambda found: _environment(found[1], *keys), value)
        case dict():
            return {name: _expand(part, *keys, name) for name, part in cast("dict[str, Any]", value).items()}
        case list():
            return [_expand(part, *keys) for part in value]
        case _:
            return value


def _environment(name: str, /, *keys: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise _FaultError(f"the environment variable {name} is not set", *keys) from None


def _line(text: str, /, *keys: str) -> str:
    """The line of a key, as `:12`: the deepest of `keys` that a header or an assignment names after those before it."""
    found, wanted = "", list(keys)
    for number, line in enumerate(text.splitlines(), 1):
        names = re.findall(r'"([^"]*)"|\'([^\']*)\'|([\w-]+)', line.partition("=")[0] if line[:1] != "[" else line)
        words = [a or b or c for a, b, c in names]
        if line.lstrip().startswith("["):
            wanted = list(keys)
        while words and wanted and words[0] == wanted[0]:
            found = f":{number}"
            del words[0], wanted[0]
        if not wanted:
            break
    return found
