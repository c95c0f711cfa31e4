"""What a configuration says, and what it must hold: the classes and their checks."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from math import inf
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict, force_setattr

from accountstore.backends.kinds import SCHEMES
from accountstore.errors import ConfigError, LocationError
from accountstore.validation import MAX_BYTES, check_storage_name, did_you_mean

S = TypeVar("S", bound=Struct)

CodecName: TypeAlias = Literal["json", "msgpack"]
Engine: TypeAlias = Literal["fsspec", "obstore"]
_Conditions: TypeAlias = Literal["probe", "trust"]
_WORDS: Mapping[str, Collection[str]] = {
    "codec": get_args(CodecName),
    "engine": get_args(Engine),
    "conditions": get_args(_Conditions),
}
_LOCAL = ("file", "local")
_BUCKET = r"(?:[^/@:?#]+|arn:aws[\w-]*:s3[^/@?#]*)(?:/[^?#]*)?"
_CONTAINER = r"[a-z0-9$-]{1,63}@[\w.-]+(?:(?::\d+)?(?:/[^@?#]*)?|/[^?#:]*@[^@?#]*)"
_SHOWN: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys((*SCHEMES["s3"], *SCHEMES["gcs"]), re.compile(rf"({_BUCKET})(?:[?#][^@]*)?", re.ASCII)),
    **dict.fromkeys(SCHEMES["azure"], re.compile(rf"({_BUCKET}|{_CONTAINER})(?:[?#][^@]*)?", re.ASCII)),
}
"""What a URL shows by its scheme where no user can be meant: a bucket, or Azure's container and account, and a prefix,
which may have an @. With a password there is a colon."""


class Encryption(Struct, frozen=True, kw_only=True):
    """How the documents of a storage are sealed (extra `crypto`).

    `keys` is the path of a JWK Set, which nobody but its owner may read; `env:NAME`, a variable that holds one; a table
    of a key service, such as `{provider = "transit", ...}` or `{provider = "aws-kms", ...}`; in Python also a
    `KeyProvider`. Of a list, the first seals and all of them open.

    `required` refuses plaintext; without it plaintext is read, and the next write seals it. `id` is the storage's id in
    the sealed documents, its name by default: two services that name a storage differently need the same. `seal` false,
    without `required`, is the way back: sealed documents are read, and the next write leaves them plain. Keys that a
    service has unwrapped are kept in memory for `cache_seconds`, at most `cache_keys` of them; 0 keeps none.
    """

    keys: Any
    required: bool = False
    id: str | None = None
    seal: bool = True
    cache_seconds: float = 300.0
    cache_keys: int = 1000

    def sources(self) -> list[Any]:
        """What `keys` lists."""
        keys: Any = self.keys
        return [*keys] if isinstance(keys, list) else [keys]

    def __repr__(self) -> str:
        return f"Encryption(..., required={self.required}, id={self.id!r}, seal={self.seal})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("required", self.required), ("id", self.id), ("seal", self.seal)]


class StorageConfig(Struct, frozen=True):
    """One storage: an fsspec URL, fsspec's options for it, and the codec of its documents (`json` or `msgpack`).

    A URL without a scheme is a folder; `~` is the user's home. Scheme and host of other URLs are followed by a path;
    user and password before the host are percent-encoded where they have such characters as `@`, `/` or `%`. The
    options do not show in `repr`, nor does the user part of the URL.

    `engine` is the client below: fsspec's own, or `obstore` (extra `fast`) for S3, Google Cloud Storage and Azure.
    `timeout` bounds an operation, in seconds; `attempts` says how often it is tried while it fails for a while, 1 for
    never again. `concurrency` says how many operations may be in flight at once; without it the backend's own default
    does. `conditions` is `probe` where the store tries whether the server honours them before it relies on them,
    or `trust` where you vouch for it. `encryption` seals the documents. `read_only` refuses every write and delete.
    """

    url: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    codec: CodecName = "json"
    engine: Engine = "fsspec"
    timeout: float = 30.0
    attempts: int = 4
    conditions: _Conditions = "probe"
    concurrency: int | None = None
    encryption: Encryption | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.url, str):
            scheme, mark, place = str.__str__(self.url).partition("://")
            force_setattr(self, "url", f"{scheme.lower()}{mark}{place}" if mark else scheme)

    @property
    def scheme(self) -> str:
        """The URL's scheme; `file` where it has none."""
        scheme, mark, _ = self.url.partition("://")
        return scheme if mark else "file"

    @property
    def redacted_url(self) -> str:
        """The URL without its user part and its query."""
        return redacted(str(self.url))

    @property
    def display_name(self) -> str:
        """How errors name a storage elsewhere: its redacted URL, and the endpoint among its options. Else empty."""
        if self.scheme in {*_LOCAL, "memory"}:
            return ""
        client: object = self.options.get("client_kwargs")
        options = {**client, **self.options} if isinstance(client, dict) else self.options
        endpoint = next((options[name] for name in ("endpoint_url", "account_host") if options.get(name)), None)
        if endpoint is None:
            found = re.search(r"(?i)(?:^|;)BlobEndpoint=([^;]+)", str(options.get("connection_string", "")))
            endpoint = found[1] if found else None
        if endpoint is None:
            return self.redacted_url
        at = str(endpoint)
        return f"{self.redacted_url} at {redacted(at if '://' in at else f'//{at}').removeprefix('//')}"

    def __repr__(self) -> str:
        (_, url), (_, options), (_, codec) = self.__rich_repr__()
        return f"StorageConfig({url!r}, options={options}, codec={codec!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        options, codec = cast("tuple[object, object]", (self.options, self.codec))  # which may be anything yet
        names = sorted(map(str, cast("Mapping[object, object]", options))) if isinstance(options, Mapping) else []
        return [("url", self.redacted_url), ("options", names), ("codec", codec if isinstance(codec, str) else None)]


def redacted(url: str, /) -> str:
    """A URL without its user part and its query, whatever characters are in them. A bucket's has none."""
    scheme, mark, rest = url.partition("://")
    if not mark and ":" not in url.partition("/")[0] and not url.startswith("//"):
        return url  # a folder, which may have an @ in its name
    if (place := _SHOWN.get(scheme.lower())) and (found := place.fullmatch(rest)):
        return f"{scheme}://{found[1]}"
    before, at, shown = (rest if mark else url).rpartition("@")
    if at and re.search("[?#]", before):
        shown = "..."  # the @ may be in a password or in a query
    return (scheme + mark if mark else "") + re.split("[?#]", shown, maxsplit=1)[0]


class StoreConfig(Struct, frozen=True, kw_only=True):
    """All storages by name, and which of them a location without a storage name means.

    `default` may be left out where there is one storage. `max_bytes` bounds a document.
    """

    storages: dict[str, StorageConfig]
    default: str | None = None
    max_bytes: int = MAX_BYTES

    def __repr__(self) -> str:
        return f"StoreConfig({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        storages = cast("object", self.storages)  # in whose place anything may stand yet
        named = cast("Mapping[str, object]", storages) if isinstance(storages, Mapping) else {}
        shown = {name: storage if isinstance(storage, StorageConfig) else ... for name, storage in named.items()}
        return [*(asdict(self) | {"storages": shown}).items()]

    def default_name(self) -> str:
        """The default storage's name.

        Raises:
            ConfigError: the configuration as a whole does not hold together; the message begins with the key.
        """
        if not isinstance(self.storages, Mapping):
            raise ConfigError("storages: must be a dict of StorageConfig by their names")
        check_types("", asdict(self) | {"storages": {}}, StoreConfig)
        for name, storage in self.storages.items():
            _check_storage(name, storage)
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
            raise ConfigError(f"default: no storage of that name is configured{hint}")
        return self.default


def key_of(*names: object) -> str:
    """The path of a key as TOML writes it: `storages."First Storage".url`."""
    return ".".join(name if re.fullmatch(r"[\w-]+", name, re.ASCII) else f'"{name}"' for name in map(str, names))


def _check_storage(name: str, storage: StorageConfig, /) -> None:
    """Refuse what is not of its type, a URL that cannot be meant, and a number that cannot."""
    where = key_of("storages", name)
    try:
        check_storage_name(name)
    except (LocationError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(storage, StorageConfig):
        raise ConfigError(f"{where}: must be a StorageConfig, such as StorageConfig(url)")
    check_types(where, asdict(storage) | {"options": {}, "encryption": None}, StorageConfig)
    if storage.encryption is not None:
        _check_encryption(f"{where}.encryption", storage.encryption)
    if not isinstance(storage.options, Mapping):
        raise ConfigError(f"{where}.options: must be a dict of the options by their names")
    _check_url(f"{where}.url", storage)
    if not 0 < storage.timeout < inf:
        raise ConfigError(f"{where}.timeout: must be more than 0 seconds, and finite")
    for key, number in (("attempts", storage.attempts), ("concurrency", storage.concurrency)):
        if number is not None and number < 1:
            raise ConfigError(f"{where}.{key}: must be at least 1")


def _check_encryption(where: str, encryption: Encryption, /) -> None:
    """Refuse what cannot seal, or contradicts itself. The keys themselves are read at opening."""
    if not isinstance(encryption, Encryption):
        raise ConfigError(f"{where}: must be an Encryption, such as Encryption(keys=PATH)")
    check_types(where, asdict(encryption) | {"keys": None}, Encryption)
    if not encryption.sources():
        raise ConfigError(f"{where}.keys: there is none")
    for source in encryption.sources():
        named = isinstance(source, dict) and isinstance(cast("dict[str, object]", source).get("provider"), str)
        if not source or not (named or isinstance(source, str) or hasattr(source, "unwrap")):
            raise ConfigError(f"{where}.keys: must be a file, env:NAME, or a table with a provider")
    if encryption.id is not None:
        try:
            check_storage_name(encryption.id)
        except LocationError as error:
            raise ConfigError(f"{where}.id: {error.message}") from None
    if encryption.required and not encryption.seal:
        raise ConfigError(f"{where}.seal: what is required cannot be switched off")
    for key, number in (("cache_seconds", encryption.cache_seconds), ("cache_keys", encryption.cache_keys)):
        if not 0 <= number < inf:
            raise ConfigError(f"{where}.{key}: must be 0 or more, and finite")


def _check_url(where: str, storage: StorageConfig, /) -> None:
    """Refuse a URL that would be taken for a folder but was hardly meant so."""
    scheme, mark, place = storage.url.partition("://")
    if not storage.url:
        raise ConfigError(f"{where}: the url is empty")
    if "\0" in storage.url:
        raise ConfigError(f"{where}: the url has a NUL character")
    if not mark and ":" in scheme.partition("/")[0]:
        raise ConfigError(f"{where}: the url must be scheme://... or a folder")
    if found := re.search(r"\$\{\w*}?", storage.redacted_url):
        raise ConfigError(
            f"{where}: has {found[0]}, and no url has that: a configuration file takes ${{NAME}} for a variable"
        )
    if mark and scheme in _LOCAL and place[:1] not in {"/", "~"}:
        raise ConfigError(f"{where}: the url of a folder begins with {scheme}:///")
    folder = place if scheme in _LOCAL else storage.url
    if folder.startswith("~") and os.path.expanduser(folder).startswith("~"):
        raise ConfigError(f"{where}: no user {folder.partition('/')[0][1:]!r} is known here; a folder is ./~...")


def check_types(where: str, table: Mapping[str, Any], kind: type[S], /) -> S:
    """The Struct of a table that has no other keys, whose key is `where`. Refuses a word that is not known, and does
    not show it: it may be a variable's value.
    """
    for key, known in _WORDS.items():
        word = table.get(key)
        if isinstance(word, str) and word not in known:
            raise ConfigError(f"{where}.{key}: unknown {key}{did_you_mean(word, known)}")
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        reason, _, at = str(error).partition(" - at `$.")
        path = [where, re.split(r"[.[`]", at)[0]]
        raise ConfigError(": ".join(filter(None, (".".join(filter(None, path)), reason)))) from None
