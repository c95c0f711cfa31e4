"""The configuration file: where it lies, and a `StoreConfig` from its TOML. Blocking functions.

    default = "First Storage"

    [storages."First Storage"]
    url = "file:///srv/accounts"

    [storages.Archive]
    url = "sftp://backup.example.org/accounts"
    options = { username = "mail", password = "${SFTP_PASSWORD}" }
    codec = "msgpack"

`${NAME}` in any text of the file is replaced from the environment; `$${` is a literal `${`, which no URL has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from accountstore.config import Encryption, StorageConfig, StoreConfig, check_types, key_of, redacted
from accountstore.errors import ConfigError
from accountstore.files import read_file, tables_of
from accountstore.validation import did_you_mean

S = TypeVar("S", bound=Struct)

_FILE = "accountstore.toml"
_VARIABLE = "ACCOUNTSTORE_CONFIG"
_PATHS = ("token_file", "verify")
"""What a key service has in files."""


def find_config(config: StoreConfig | str | os.PathLike[str] | None = None, /) -> str | None:
    """The path of the configuration file that `load_config` reads; None where it reads none."""
    if isinstance(config, StoreConfig):
        return None
    if config is not None:
        if not os.fspath(config):
            raise ConfigError("the path of the configuration is empty")
        return os.fsdecode(config)
    if named := os.environ.get(_VARIABLE):
        return named
    if os.path.exists(_FILE):
        return _FILE
    from platformdirs import user_config_dir

    own = os.path.join(user_config_dir("accountstore", appauthor=False), _FILE)
    return own if os.path.exists(own) else None


def load_config(config: StoreConfig | str | os.PathLike[str] | None = None, /) -> StoreConfig:
    """The configuration given; or that of the file given, or named by the environment variable `ACCOUNTSTORE_CONFIG`,
    or `accountstore.toml` in the working directory, or in the user's configuration folder; or one storage `default` in
    the user's data folder.

    Raises:
        ConfigError: it cannot be read, understood or used; the message names the file, if there is one, and the key.
    """
    path = find_config(config)
    try:
        if path is not None:
            return config_at(path, _read_tree(path))
        if isinstance(config, StoreConfig):
            config.default_name()
            return config
    except ConfigError as error:
        # Raised below: the frames that it comes from hold the file's text, the environment's secrets and the URLs.
        where = "" if path is None else f"{redacted(path) if '://' in path else path}: "
        failure = ConfigError(f"{where}{error.message}")
    else:
        from platformdirs import user_data_dir

        folder = os.path.join(user_data_dir("accountstore", appauthor=False), "accounts")
        return StoreConfig(default="default", storages={"default": StorageConfig(folder)})
    raise failure


def check_text(text: str, /) -> None:
    """Refuse the text of a configuration file that `load_config` would refuse, whatever variables there are.

    Raises:
        ConfigError: as `load_config`; the message begins with the key.
    """
    _config_of(_expanded(tables_of(text), _any_value))


def config_at(path: str, tree: Mapping[str, Any], /) -> StoreConfig:
    """The configuration of the tree of a file at `path`, beside which its folders lie.

    Raises:
        ConfigError: it cannot be understood or used; the message begins with the key.
    """
    config = _config_of(_expanded({**tree}, _variable))
    folder = os.path.dirname(os.path.abspath(path))
    for name, storage in [*config.storages.items()]:
        if "://" not in storage.url and not storage.url.startswith("~"):
            storage = config.storages[name] = replace(storage, url=os.path.join(folder, storage.url))  # noqa: PLW2901
        if storage.encryption is not None:
            keys = [_beside(folder, source) for source in storage.encryption.sources()]
            config.storages[name] = replace(storage, encryption=replace(storage.encryption, keys=keys))
    return config


def _config_of(tree: dict[str, Any], /) -> StoreConfig:
    """The configuration of a file's tree, whole."""
    storages = tree.get("storages", {})
    if not isinstance(storages, dict):
        raise ConfigError("storages: must be a table")
    parsed: dict[str, StorageConfig] = {}
    for name, table in cast("dict[str, Any]", storages).items():
        if not isinstance(table, dict):
            raise ConfigError(f"{key_of('storages', name)}: must be a table with a url")
        parsed[name] = _read_storage(key_of("storages", name), cast("dict[str, Any]", table))
    config = _convert({**tree, "storages": parsed}, StoreConfig)
    config.default_name()
    return config


def _beside(folder: str, source: Any, /) -> Any:
    """A source of keys, whose paths are taken from the configuration's folder."""
    if isinstance(source, dict):
        table = cast("dict[str, Any]", source)
        return table | {name: _beside(folder, table[name]) for name in _PATHS if table.get(name)}
    if not isinstance(source, str) or source.startswith(("env:", "~")):
        return source
    return os.path.join(folder, source)


def _read_storage(where: str, table: dict[str, Any], /) -> StorageConfig:
    encryption = table.get("encryption")
    if isinstance(encryption, dict):
        table = {**table, "encryption": _convert(cast("dict[str, Any]", encryption), Encryption, f"{where}.encryption")}
    return _convert(table, StorageConfig, where)


def _read_tree(path: str, /) -> dict[str, Any]:
    if "://" in path:
        raise ConfigError("is a url where the path of a file is expected: a url belongs in a StorageConfig")
    try:
        return tables_of(read_file(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8: save it as such") from None
    except FileNotFoundError:
        raise ConfigError("does not exist: `accountstore storages add NAME URL` makes one") from None
    except IsADirectoryError:
        raise ConfigError(
            "is a folder, no file: a folder of documents is a storage's url there, or in Python a StorageConfig's"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})") from None


def _convert(table: Mapping[str, Any], kind: type[S], where: str = "", /) -> S:
    """The Struct of a table, whose key is `where`."""
    known = kind.__struct_fields__
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known)
            if kind is StorageConfig and hint.startswith("; known"):
                hint += f"; what the client below takes belongs in {where}.options"
            raise ConfigError((where and f"{where}: ") + f"unknown key {key!r}{hint}")
    return check_types(where, table, kind)


def _expanded(tree: dict[str, Any], variable: Callable[[str, re.Match[str]], str], /) -> dict[str, Any]:
    """The whole tree, as `_expand`."""
    try:
        expanded: dict[str, Any] = _expand(tree, variable)
    except RecursionError:
        raise ConfigError("is nested too deep") from None
    return expanded


def _expand(value: Any, variable: Callable[[str, re.Match[str]], str], /, *keys: str) -> Any:
    """A tree of the file with `${NAME}` and `$${` replaced by `variable` in all of its text, but for keys."""
    match value:
        case str():
            return re.sub(r"\$\$\{|\$\{([^}]*)\}", partial(variable, key_of(*keys)), value)
        case dict():
            return {name: _expand(part, variable, *keys, name) for name, part in cast("dict[str, Any]", value).items()}
        case list():
            return [_expand(part, variable, *keys) for part in value]
        case _:
            return value


def _any_value(where: str, found: re.Match[str], /) -> str:
    return "x"


def _variable(where: str, found: re.Match[str], /) -> str:
    name = found[1]
    if name is None:
        return "${"
    if name in os.environ:
        return os.environ[name]
    # What is no name is rather a part of a password.
    said = f"variable {name} is not set" if name.isidentifier() else "has no variable of what stands in ${...}"
    raise ConfigError(f"{where}: the environment {said}; a literal ${{ is written $${{")
