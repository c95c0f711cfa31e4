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
from collections.abc import Mapping
from math import inf
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from accountstore.codecs import CODECS
from accountstore.errors import ConfigError, LocationError
from accountstore.validation import MAX_BYTES, check_storage_name, did_you_mean

S = TypeVar("S", bound=Struct)

_ENGINES = ("fsspec", "obstore")
_CONDITIONS = ("probe", "trust")
_FILE = "accountstore.toml"
_VARIABLE = "ACCOUNTSTORE_CONFIG"


class StorageConfig(Struct, frozen=True):
    """One storage: an fsspec URL, fsspec's options for it, and the codec of its documents (`json` or `msgpack`).

    A URL without a scheme is a folder; `~` is the user's home. The options do not show in `repr`, nor does the user
    part of the URL.

    `engine` is the client below: fsspec's own, or `obstore` (extra `fast`) for S3, Google Cloud Storage and Azure.
    `timeout` bounds an operation, in seconds; `attempts` says how often it is tried while it fails for a while, 1 for
    never again. `conditions` is `probe` where the store tries whether the server honours them before it relies on them,
    or `trust` where you vouch for it.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    codec: str = "json"
    engine: str = "fsspec"
    timeout: float = 30.0
    attempts: int = 4
    conditions: str = "probe"

    @property
    def scheme(self) -> str:
        """The URL's scheme; `file` where it has none."""
        scheme, mark, _ = self.url.partition("://")
        return scheme.lower() if mark else "file"

    @property
    def redacted_url(self) -> str:
        """The URL without its user part and its query."""
        return _redacted(self.url)

    @property
    def display_name(self) -> str:
        """How errors name a storage elsewhere: its redacted URL, and the endpoint among its options. Else empty."""
        if self.scheme in {"file", "local", "memory"}:
            return ""
        client: object = self.options.get("client_kwargs")
        options = {**client, **self.options} if isinstance(client, dict) else self.options
        endpoint = next((options[name] for name in ("endpoint_url", "account_host") if options.get(name)), None)
        if endpoint is None:
            found = re.search(r"(?i)(?:^|;)BlobEndpoint=([^;]+)", str(options.get("connection_string", "")))
            endpoint = found[1] if found else None
        return self.redacted_url + (f" at {_redacted(str(endpoint))}" if endpoint else "")

    def __repr__(self) -> str:
        return f"StorageConfig({self.redacted_url!r}, options={sorted(self.options)}, codec={self.codec!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.redacted_url), ("options", sorted(self.options)), ("codec", self.codec)]


def _redacted(url: str, /) -> str:
    return re.split("[?#]", re.sub(r"(?<=://).*@", "", url), maxsplit=1)[0]


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
            ConfigError: the configuration as a whole does not hold together; the message begins with the key.
        """
        for name, storage in self.storages.items():
            where = _key("storages", name)
            try:
                check_storage_name(name)
            except LocationError as error:
                raise ConfigError(f"{where}: {error.message}") from None
            _check_storage(where, storage)
        if self.max_bytes < 1:
            raise ConfigError("max_bytes: must be at least 1")
        if not self.storages:
            raise ConfigError("storages: no storage is configured")
        if self.default is None:
            if len(self.storages) > 1:
                raise ConfigError(f"default: say which storage is the default: {', '.join(sorted(self.storages))}")
            return next(iter(self.storages))
        if self.default not in self.storages:
            hint = did_you_mean(self.default, self.storages)
            raise ConfigError(f"default: no storage {self.default!r} is configured{hint}")
        return self.default


def _key(*names: str) -> str:
    """The path of a key as TOML writes it: `storages."First Storage".url`."""
    return ".".join(name if re.fullmatch(r"[\w-]+", name, re.ASCII) else f'"{name}"' for name in names)


def _check_storage(where: str, storage: StorageConfig, /) -> None:
    """Refuse a URL that would be taken for a folder but was hardly meant so, a word that is not known, and a number
    that cannot be meant.
    """
    scheme, mark, place = storage.url.partition("://")
    if not storage.url:
        raise ConfigError(f"{where}.url: the url is empty")
    if not mark and ":" in scheme.partition("/")[0]:
        raise ConfigError(f"{where}.url: the url must be scheme://... or a folder")
    if mark and storage.scheme in {"file", "local"} and place[:1] not in {"/", "~"}:
        raise ConfigError(f"{where}.url: the url of a folder begins with {scheme}:///")
    for key, known in (("codec", CODECS), ("engine", _ENGINES), ("conditions", _CONDITIONS)):
        word: str = getattr(storage, key)
        if word not in known:
            raise ConfigError(f"{where}.{key}: unknown {key} {word!r}{did_you_mean(word, known)}")
    if not 0 < storage.timeout < inf:
        raise ConfigError(f"{where}.timeout: must be more than 0 seconds")
    if storage.attempts < 1:
        raise ConfigError(f"{where}.attempts: must be at least 1")


def load_config(config: StoreConfig | str | os.PathLike[str] | None = None, /) -> StoreConfig:
    """The configuration given; or that of the file given, or named by the environment variable `ACCOUNTSTORE_CONFIG`,
    or `accountstore.toml` in the working directory, or in the user's configuration folder; or one storage `default` in
    the user's data folder.

    Raises:
        ConfigError: a file cannot be read or understood; the message names the file and the key.
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
        failure = ConfigError(f"{path}: {error.message}")
    raise failure


def _read_file(path: str, /) -> StoreConfig:
    from tomllib import TOMLDecodeError, loads

    try:
        with open(path, encoding="utf-8-sig") as file:
            tree = loads(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})") from None
    except TOMLDecodeError as error:
        raise ConfigError(str(error)) from None
    storages = tree.get("storages", {})
    if not isinstance(storages, dict):
        raise ConfigError("storages: must be a table")
    parsed: dict[str, StorageConfig] = {}
    for name, table in cast("dict[str, Any]", storages).items():
        if not isinstance(table, dict):
            raise ConfigError(f"{_key('storages', name)}: must be a table with a url")
        parsed[name] = _convert(cast("dict[str, Any]", table), StorageConfig, _key("storages", name))
    config = _convert({**tree, "storages": parsed}, StoreConfig)
    config.default_name()
    folder = os.path.dirname(os.path.abspath(path))
    for name, storage in parsed.items():
        url = storage.url if "://" in storage.url or storage.url.startswith("~") else os.path.join(folder, storage.url)
        config.storages[name] = replace(storage, url=url, options=_expand(storage.options, "storages", name, "options"))
    return config


def _convert(table: Mapping[str, Any], kind: type[S], where: str = "", /) -> S:
    """The Struct of a table, whose key is `where`."""
    known = kind.__struct_fields__
    for key in table:
        if key not in known:
            raise ConfigError((where and f"{where}: ") + f"unknown key {key!r}{did_you_mean(key, known)}")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$.")
        path = [where, re.split(r"[.[`]", at)[0]]
        raise ConfigError(": ".join(filter(None, (".".join(filter(None, path)), reason)))) from None


def _expand(value: Any, /, *keys: str) -> Any:
    match value:
        case str():
            try:
                return re.sub(r"\$\{([^}]*)\}", lambda found: os.environ[found[1]], value)
            except KeyError as error:
                raise ConfigError(f"{_key(*keys)}: the environment variable {error.args[0]} is not set") from None
        case dict():
            return {name: _expand(part, *keys, name) for name, part in cast("dict[str, Any]", value).items()}
        case list():
            return [_expand(part, *keys) for part in value]
        case _:
            return value
