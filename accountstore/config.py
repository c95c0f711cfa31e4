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
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from msgspec import Struct, field

from accountstore.codecs import CODECS
from accountstore.errors import ConfigError, LocationError
from accountstore.validation import MAX_BYTES, check_storage, near_miss

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("StorageConfig", "StoreConfig", "load_config")

T = TypeVar("T")

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
    def shown_url(self) -> str:
        """The URL without its user part and its query."""
        return _shown(self.url)

    @property
    def shown_place(self) -> str:
        """The shown URL of a storage elsewhere, with the endpoint that its options name; empty for one in here."""
        if self.scheme in {"file", "local", "memory"}:
            return ""
        client: object = self.options.get("client_kwargs")
        options = {**client, **self.options} if isinstance(client, dict) else self.options
        endpoint = next((options[name] for name in ("endpoint_url", "account_host") if options.get(name)), None)
        if endpoint is None:
            found = re.search(r"(?i)(?:^|;)BlobEndpoint=([^;]+)", str(options.get("connection_string", "")))
            endpoint = found[1] if found else None
        return self.shown_url + (f" at {_shown(str(endpoint))}" if endpoint else "")

    def __repr__(self) -> str:
        return f"StorageConfig({self.shown_url!r}, options={sorted(self.options)}, codec={self.codec!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.shown_url), ("options", sorted(self.options)), ("codec", self.codec)]


def _shown(url: str, /) -> str:
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
            ConfigError: the configuration as a whole does not hold together.
        """
        try:
            return _default_name(self)
        except _FaultError as error:
            raise ConfigError(error.message) from None


class _FaultError(ConfigError):
    """A fault under a path of keys, whose line is looked up for the message."""

    def __init__(self, message: str, /, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


def _default_name(config: StoreConfig, /) -> str:
    for name, storage in config.storages.items():
        keys = ("storages", name)
        try:
            check_storage(name)
        except LocationError as error:
            raise _FaultError(error.message, *keys) from None
        _check_url(storage.url, *keys, "url")
        _check_words(storage, *keys)
    if config.max_bytes < 1:
        raise _FaultError("max_bytes: must be at least 1", "max_bytes")
    if not config.storages:
        raise _FaultError("no storage is configured")
    if config.default is None:
        if len(config.storages) > 1:
            raise _FaultError(f"default: say which storage is the default: {', '.join(sorted(config.storages))}")
        return next(iter(config.storages))
    if config.default not in config.storages:
        fault = f"default: no storage {config.default!r} is configured{near_miss(config.default, config.storages)}"
        raise _FaultError(fault, "default")
    return config.default


def _check_words(storage: StorageConfig, /, *keys: str) -> None:
    """Refuse a word that is not known, and a number that cannot be meant."""
    for key, known in (("codec", CODECS), ("engine", _ENGINES), ("conditions", _CONDITIONS)):
        word: str = getattr(storage, key)
        if word not in known:
            raise _FaultError(f"storage {keys[1]!r}: unknown {key} {word!r}{near_miss(word, known)}", *keys, key)
    if not 0 < storage.timeout < inf:
        raise _FaultError(f"storage {keys[1]!r}: timeout: must be more than 0 seconds", *keys, "timeout")
    if storage.attempts < 1:
        raise _FaultError(f"storage {keys[1]!r}: attempts: must be at least 1", *keys, "attempts")


def _check_url(url: str, /, *keys: str) -> None:
    """Refuse a URL that would be taken for a folder but was hardly meant so."""
    scheme, mark, rest = url.partition("://")
    folder = rest if mark else url
    if not folder and scheme != "memory" and not mark:
        raise _FaultError(f"storage {keys[1]!r}: the url is empty", *keys)
    if not mark and ":" in url.partition("/")[0]:
        raise _FaultError(f"storage {keys[1]!r}: the url must be scheme://... or a folder", *keys)
    if mark and scheme.lower() in {"file", "local"} and folder[:1] not in {"/", "~"}:
        raise _FaultError(f"storage {keys[1]!r}: the url of a folder begins with {scheme}:///", *keys)


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
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from None
    try:
        tree = loads(text)
    except TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        config = _parse(tree, os.path.dirname(os.path.abspath(path)))
        _default_name(config)
    except _FaultError as error:
        raise ConfigError(f"{path}{_line(text, error.keys)}: {error.message}") from None
    return config


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
    url = storage.url
    _check_url(url, *keys, "url")
    if "://" not in url and not url.startswith("~"):
        url = os.path.join(folder, url)
    return msgspec.structs.replace(storage, url=url, options=_expand(storage.options, *keys, "options"))


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


def _line(text: str, keys: Sequence[str], /) -> str:
    """The line of the deepest of `keys` that a header or an assignment names, as `:12`."""
    deepest, found = 0, ""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        left, mark, right = line.strip().partition("=")
        if left.startswith("#") or not left.strip():
            continue
        if left.startswith("["):
            path = table = _words(line.rpartition("]")[0])
            right = ""
        elif mark:
            path = table + _words(left)
        else:
            continue
        depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, keys, strict=False)))
        if depth == len(path):
            # Keys of an inline table stand after the sign.
            inside = set(_words(right)) if "{" in right else set()
            depth += sum(1 for _ in takewhile(inside.__contains__, keys[depth:]))
        if depth > deepest:
            deepest, found = depth, f":{number}"
    return found


def _words(text: str, /) -> list[str]:
    return ["".join(quoted) for quoted in re.findall(r'"([^"]*)"|\'([^\']*)\'|([\w-]+)', text)]
