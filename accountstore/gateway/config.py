"""The gateway's configuration, from Python or from a TOML file of its own. Blocking functions.

    keys = ["a text of 43 random characters"]

    [clients.team-a]
    secrets = ["$argon2id$v=19$..."]
    folder = "tenants/team-a"

    [limits]
    in_flight = 512

`accountstore gateway add-client` writes such a file. The environment variable `ACCOUNTSTORE_GATEWAY_KEYS`, with keys
separated by commas, takes the place of `keys`; blanks around a key are no part of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from math import inf
from typing import Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict, force_setattr, replace

from accountstore import ConfigError, Location, LocationError, Secret
from accountstore.files import check_private, open_file, read_open, tables_of

Rights: TypeAlias = Literal["read", "write"]

CLIENT_ID = r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,100}"
"""What a client's id may be: four of the API's six clients send id and secret as they are, without escapes."""
ID_RULE = "it has letters, digits and -._~ only, at most 100, and is not . or .."
_LEAST_KEY = 32
_FILE = "accountstore-gateway.toml"
_FILE_VARIABLE = "ACCOUNTSTORE_GATEWAY"
_NO_NAME = r"(?as)unknown field `(?!\w{1,40}`(?: - at `|\Z))(?:.*`(?= - at `\$[^`]*`\Z)|.*`\Z)"
"""Where msgspec quotes a key that is rather a secret."""
_KEYS_VARIABLE = "ACCOUNTSTORE_GATEWAY_KEYS"


class Client(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One client of the gateway: what it proves itself by, what it reaches, and how much it may ask for.

    `secrets` are argon2 hashes; each of several is good, so that a secret can be replaced without a gap. Its tokens end
    with it. `folder` and `storage` narrow the store: a client without a storage and with the folder `""` reaches all
    storages. `rate` is in requests a second, with bursts of as many (at least one); `concurrency` in requests at once.
    """

    secrets: tuple[str, ...]
    folder: str
    storage: str | None = None
    rights: Rights = "write"
    rate: float | None = None
    concurrency: int | None = None

    def __repr__(self) -> str:
        return f"Client(folder={self.folder!r}, storage={self.storage!r}, rights={self.rights!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("folder", self.folder), ("storage", self.storage), ("rights", self.rights)]


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a gateway takes on.

    `in_flight` requests are worked on at once, and more are refused with 503. A body has at most `body_bytes` and comes
    within `body_seconds`; a request is answered within `request_seconds`, else with 504. A listing has at most
    `entries`.
    """

    in_flight: int = 256
    body_bytes: int = 1024 * 1024
    body_seconds: float = 10.0
    request_seconds: float = 25.0
    entries: int = 10_000


class GatewayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Clients and limits of a gateway.

    `keys` sign tokens and ETags, the first one new ones; a token of any of them is good. Replicas share them, and so do
    the workers of a service that says by `authorize` who may do what, for their ETags. To rotate, give a new one to all
    of them behind the old one, then put it first, and take the old one out `token_seconds` later. The store is looked
    at every `probe_seconds` for `/health/ready`. `metrics` serves `/metrics`, to anyone who asks.
    """

    keys: tuple[Secret, ...] = ()
    clients: dict[str, Client] = field(default_factory=dict[str, Client])
    token_seconds: int = 24 * 60 * 60
    limits: Limits = field(default_factory=Limits)
    probe_seconds: float = 10.0
    metrics: bool = False

    def __post_init__(self) -> None:
        force_setattr(self, "keys", tuple(map(Secret, self.keys)))

    def __repr__(self) -> str:
        return f"GatewayConfig({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        clients = cast("object", self.clients)  # in whose place anything may stand yet
        named = cast("Mapping[str, object]", clients) if isinstance(clients, Mapping) else {}
        shown = {name: client if isinstance(client, Client) else ... for name, client in named.items()}
        return [*(asdict(self) | {"clients": shown}).items()]

    def check(self, *, without_clients: bool = False) -> None:
        """Raise `ConfigError` unless it can be used; the message begins with the key. Clients need keys."""
        if not self.keys and not without_clients:
            raise ConfigError(f"keys: none; `accountstore gateway add-client` makes one, or set {_KEYS_VARIABLE}")
        if any(len(key.reveal()) < _LEAST_KEY for key in self.keys):
            raise ConfigError(f"keys: one has fewer than {_LEAST_KEY} characters")
        if any(re.search("[\ud800-\udfff]", key.reveal()) for key in self.keys):
            raise ConfigError(f"keys: one is not UTF-8; look at {_KEYS_VARIABLE}")
        for name, client in self.clients.items():
            _check_client(name, client)
        numbers = {
            **{f"limits.{name}": getattr(self.limits, name) for name in self.limits.__struct_fields__},
            "token_seconds": self.token_seconds,
            "probe_seconds": self.probe_seconds,
        }
        for name, number in numbers.items():
            if not 0 < number < inf:
                raise ConfigError(f"{name}: must be more than 0, and finite")


def _check_client(name: str, client: Client, /) -> None:
    where = f"clients.{name}"
    if not re.fullmatch(CLIENT_ID, name):
        raise ConfigError(f"clients: an id is none: {ID_RULE}")
    try:
        Location("x.account", folder=client.folder, storage=client.storage)
    except LocationError as error:
        raise ConfigError(f"{where}: {error.message}") from None
    if not client.secrets:
        raise ConfigError(f"{where}.secrets: none")
    if not all(secret.startswith("$argon2") for secret in client.secrets):
        raise ConfigError(f"{where}.secrets: one is not an argon2 hash")
    for key, number in (("rate", client.rate), ("concurrency", client.concurrency)):
        if number is not None and not 0 < number < inf:
            raise ConfigError(f"{where}.{key}: must be more than 0, and finite")


def find_gateway_config(path: str | None = None, /) -> str:
    """The path of the configuration: the one given, or named by `ACCOUNTSTORE_GATEWAY`, or
    `accountstore-gateway.toml` in the working directory, or in the user's configuration folder.
    """
    named = path or os.environ.get(_FILE_VARIABLE)
    if named:
        return named
    if os.path.exists(_FILE):
        return _FILE
    from platformdirs import user_config_dir

    return os.path.join(user_config_dir("accountstore", appauthor=False), _FILE)


def load_gateway_config(path: str, /) -> GatewayConfig:
    """The configuration in a file, with the keys of the environment where it has some.

    Raises:
        ConfigError: it cannot be read, understood or used, or has keys that others than its owner can read; the message
            names the file and the key.
    """
    try:
        config = config_of(read_tables(path)[1])
    except ConfigError as error:
        failure = ConfigError(f"{path}: {error.message}")  # raised below, without the frames that held the keys
    else:
        return config
    raise failure


def read_tables(path: str, /) -> tuple[str, dict[str, Any]]:
    """The text of a configuration file and the tables in it.

    Raises:
        ConfigError: it cannot be read, others can write it, or it has keys, which sign tokens, and others can read it.
    """
    try:
        with open_file(path) as file:
            text = read_open(file).decode()
            tables = tables_of(text)
            check_private(file, readable="keys" not in tables)
            return text, tables
    except FileNotFoundError:
        raise ConfigError("there is no such file: `accountstore gateway add-client NAME` makes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})") from None


def config_of(tree: Mapping[str, Any], /) -> GatewayConfig:
    """The configuration in the tables of a file, with the keys of the environment where it has some, checked."""
    keys = tree.get("keys", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ConfigError("keys: must be a list of text")
    try:
        config = msgspec.convert({**tree, "keys": []}, GatewayConfig)
    except msgspec.ValidationError as error:
        found = re.fullmatch(r"Object contains unknown field `(\w{1,40})`", str(error))
        near = get_close_matches(found[1], GatewayConfig.__struct_fields__, 1) if found else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(re.sub(_NO_NAME, "an unknown field", str(error)) + hint) from None
    if given := os.environ.get(_KEYS_VARIABLE):
        keys = [key.strip() for key in given.split(",")]
        if not all(keys):
            raise ConfigError(f"{_KEYS_VARIABLE}: one key is empty")
    config = replace(config, keys=tuple(map(Secret, keys)))
    config.check()
    return config
