"""Codecs: documents to bytes and back, by msgspec.

What a codec encodes, it decodes to an equal document: both directions run the same checks. Errors name the field and
never quote a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from importlib import import_module
from math import isfinite
from types import ModuleType
from typing import Any, TypeVar, cast, final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from accountstore.errors import ConfigError, DecodeError, EncodeError
from accountstore.location import Location
from accountstore.model import (
    Account,
    Document,
    MultiAccount,
    NoCredentials,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
    masks_in,
)
from accountstore.secrets import Secret, reveal
from accountstore.strict import check_json, check_msgpack
from accountstore.validation import nearest

D = TypeVar("D", bound=Account | MultiAccount)

_OAUTH = OAuthCredentials.__struct_config__.tag
_KINDS = (Account, MultiAccount, PasswordCredentials, OAuthCredentials, NoCredentials, Location)
_NAMES = {name for kind in _KINDS for name in kind.__struct_encode_fields__}
"""The fields that an error names; another key may be anything."""
_UNLIKE_JSON = {
    bytes: "bytes",
    datetime: "a time",
    float: "infinity or NaN",
    dict: "a key that is no text",
}

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors and shells put before text in UTF-8."""


def without_mark(data: bytes, /) -> bytes:
    """JSON without the byte order mark that may stand before it."""
    # Not `removeprefix`, which makes plain bytes of SecretBytes.
    return data[len(BYTE_ORDER_MARK) :] if data.startswith(BYTE_ORDER_MARK) else data  # noqa: FURB188 -- as above


def _plain(value: object, /) -> str:
    """The text of a Secret or of a subclass of `str`, for an encoder."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError


@final
class Codec:
    """One wire format: encodes, decodes, and edits documents without losing fields that this release does not know."""

    __slots__ = ("_check", "_decoders", "_encoder", "_fields", "_items", "_null", "_patient", "_tree", "name")

    def __init__(self, name: str, module: ModuleType, check: Callable[[bytes], None], /) -> None:
        self.name: str = name
        self._check = check
        self._encoder = module.Encoder(enc_hook=reveal)
        self._patient = module.Encoder(enc_hook=_plain)
        self._decoders: dict[type, Any] = {kind: module.Decoder(kind) for kind in (Account, MultiAccount)}
        self._fields = module.Decoder(dict[str, Raw])
        self._items = module.Decoder(list[Raw])
        self._tree = module.Decoder()
        self._null: bytes = self._encoder.encode(None)

    def encode(self, document: Document, /) -> bytes:
        """The bytes of a document.

        Raises:
            EncodeError: the document is not one that `decode` would return equal; `field` says where.
        """
        try:
            data: bytes = self._encoder.encode(document)
            # What a document was encoded to needs no further check if it comes back equal, the usual case.
            if self._decoders[type(document)].decode(data) == document:
                return data
        except Exception:  # noqa: BLE001, S110 -- the same again, with a message that quotes no value
            pass
        return self.encode_tree(document, type(document))

    def encode_tree(self, tree: object, kind: type[Document], /) -> bytes:
        """The bytes of a document of this kind, whole: fields that this release does not know included.

        Raises:
            EncodeError: as `encode`; or a field cannot be written in this format.
        """
        try:
            data: bytes = self._patient.encode(tree)
            back: object = self.decode(data, kind)
        except DecodeError as error:
            failure = EncodeError(error.message, field=error.field)
        except Exception:  # noqa: BLE001 -- whatever the encoder meets in a caller's object; its text may quote a value
            failure = EncodeError("has a value that the format cannot carry")
        else:
            if back == tree or not isinstance(tree, kind):
                return data
            failure = EncodeError("has a value of a wrong type, which would not come back equal")
        raise failure

    def decode(self, data: bytes, kind: type[D], /) -> D:
        """The document in `data`.

        Raises:
            DecodeError: the bytes are not such a document; `field` says where.
        """
        try:
            document: D = self._decoders[kind].decode(data)
            # What this codec would write itself needs no further check, and is the usual case.
            if self._encoder.encode(document) != data:
                self._check(data)
                self._check_credentials(document, data)
        except msgspec.ValidationError as error:
            reason, field = _explain(str(error), self._tree_of(data))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            reason, field = f"is not valid {self.name}", "$"
            if data.startswith(BYTE_ORDER_MARK) and not data.startswith(2 * BYTE_ORDER_MARK) and self is JSON:
                return self.decode(without_mark(data), kind)
        else:
            return document
        # The check may know better what is wrong: bytes that are not UTF-8, a key that stands twice, too deep nesting.
        self._check(data)
        raise DecodeError(reason, field=field)

    def _tree_of(self, data: bytes, /) -> Any:
        """The whole of a document that may be none; None where it cannot be read."""
        try:
            return self._tree.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None

    def _check_credentials(self, document: Document, data: bytes, /) -> None:
        """Refuse an account without `credentials` that has fields which the model does not know, as it has a password
        that stands in another place than here.
        """
        parts: list[tuple[str, Account, bytes | Raw]] = []
        if isinstance(document, Account):
            parts.append(("$", document, data))
        else:
            fields: dict[str, Raw] = self._fields.decode(data)
            items = zip(document.receive_accounts, self._items.decode(fields["receiveAccounts"]), strict=True)
            parts += ((f"$.receiveAccounts[{place}]", *item) for place, item in enumerate(items))
            if document.send_account is not None:
                parts.append(("$.sendAccount", document.send_account, fields["sendAccount"]))
        for field, account, part in parts:
            if isinstance(account.credentials, NoCredentials):
                keys: Collection[str] = self._fields.decode(part)
                if "credentials" not in keys and not {*Account.__struct_encode_fields__}.issuperset(keys):
                    raise DecodeError(_missing("credentials", keys), field=field)

    def tree(self, data: bytes, /) -> dict[str, Any]:
        """The whole of a document that `decode` takes, as dictionaries, lists and scalars; when an access token ends, a
        known time, is text as in JSON.

        Raises:
            EncodeError: it has a number that Python does not have.
        """
        tree = self._tree_of(without_mark(data))
        if tree is None:
            raise EncodeError("has a number, which the other format cannot carry")
        for credentials in _credentials_in(tree):
            if credentials.get("discriminator") == _OAUTH and isinstance(end := credentials.get("expiresAt"), datetime):
                credentials["expiresAt"] = msgspec.to_builtins(end)
        return cast("dict[str, Any]", tree)

    def decode_tree(self, data: bytes, /) -> object:
        """As `tree`, for another codec.

        Raises:
            EncodeError: it has a value that no other format can carry; `field` says where.
        """
        tree = self.tree(data)
        if (found := _unlike_json(tree)) is not None:
            raise EncodeError(f"has {found[0]}, which the other format cannot carry", field=f"${found[1]}")
        return tree

    def unknown(self, data: bytes, name: str, /) -> object:
        """The value of a top-level field that the model does not have, in a document that `decode` takes. None: it is
        not there, or cannot be read.
        """
        fields: dict[str, Raw] = self._fields.decode(without_mark(data))
        return self._tree_of(fields[name]) if name in fields else None

    def merge(
        self,
        document: Document,
        original: bytes,
        /,
        *,
        set: Mapping[str, Any] | None = None,  # noqa: A002 -- as `update` of a dict names what it sets
        drop: Collection[str] = (),
    ) -> bytes:
        """The bytes of `document`, with the fields of `original` that this release does not know.

        In a multi account, an account keeps its unknown fields while it is unchanged, keeps its protocol, host and
        login, or keeps its place. `set` gives values to top-level fields that this release does not know; `drop` leaves
        such fields out.

        Raises:
            EncodeError: as `encode`.
            ValueError: `set` or `drop` names a field of the model.
        """
        kind = type(document)
        if kind not in self._decoders:
            raise EncodeError("is not an account document")
        if not {*(set or ()), *drop}.isdisjoint(kind.__struct_encode_fields__):
            raise ValueError("set and drop take only fields that the model does not have")
        self.encode(document)
        fields = self._overlay(document, without_mark(original)) | dict(set or ())
        for name in drop:
            fields.pop(name, None)
        return self.encode_tree(fields, kind)

    def _overlay(self, new: Struct, original: bytes | Raw, /) -> dict[str, Any]:
        """The fields of `new`, plus those of `original` that its class does not know, at every level."""
        fields: dict[str, Any] = self._fields.decode(self._encoder.encode(new))
        before: dict[str, Raw] = self._fields.decode(original)
        tag_field = new.__struct_config__.tag_field
        if tag_field is not None and self._tree.decode(before[tag_field]) != new.__struct_config__.tag:
            return fields
        known = {*new.__struct_encode_fields__, tag_field}
        for attribute, name in zip(new.__struct_fields__, new.__struct_encode_fields__, strict=True):
            value = getattr(new, attribute)
            if name not in before or bytes(before[name]) == self._null:
                continue
            if isinstance(value, Struct):
                fields[name] = self._overlay(value, before[name])
            elif isinstance(value, tuple):
                fields[name] = self._overlay_accounts(cast("tuple[Account, ...]", value), before[name])
        return fields | {name: value for name, value in before.items() if name not in known}

    def _overlay_accounts(self, new: tuple[Account, ...], original: Raw, /) -> list[Any]:
        raw: list[Raw] = self._items.decode(original)
        old: list[Account] = [self._decoders[Account].decode(item) for item in raw]
        partner: dict[int, int] = {}
        for likeness in _LIKENESSES:
            taken = set(partner.values())
            places: dict[object, list[int]] = {}
            for j in reversed(range(len(old))):
                if j not in taken:
                    places.setdefault(likeness(j, old[j]), []).append(j)
            for i, account in enumerate(new):
                if i not in partner and (free := places.get(likeness(i, account))):
                    partner[i] = free.pop()
        return [self._overlay(a, raw[partner[i]]) if i in partner else a for i, a in enumerate(new)]


def refuse_mask(document: Document, /) -> None:
    """Raise `EncodeError` for a document from outside that has the mask of `to_json` in the place of a secret."""
    for field in masks_in(document):
        raise EncodeError("is the mask that stands for a secret: send the secret itself", field=field)


def _credentials_in(tree: Any, /) -> Iterator[dict[str, Any]]:
    """The credentials of each account in the tree of a document."""
    many = tree.get("receiveAccounts")
    several = (tree.get("sendAccount"), *(many if isinstance(many, list) else ()))
    for account in (tree,) if "host" in tree else several:
        if isinstance(account, dict) and isinstance(credentials := account.get("credentials"), dict):
            yield credentials


def _unlike_json(tree: Any, /) -> tuple[str, str] | None:
    """What a tree has that JSON has not, and msgspec would write as something else, and where."""
    if tree is None or isinstance(tree, (str, int)) or (isinstance(tree, float) and isfinite(tree)):
        return None
    if not isinstance(tree, (dict, list)) or (isinstance(tree, dict) and not all(isinstance(key, str) for key in tree)):
        return _UNLIKE_JSON.get(type(tree), "an extension"), ""
    for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if (found := _unlike_json(part)) is not None:
            step = f"[{key}]" if isinstance(key, int) else f".{key}" if key in _NAMES else "[...]"
            return found[0], step + found[1]
    return None


_LIKENESSES: tuple[Callable[[int, Account], object], ...] = (
    lambda _, account: account,
    lambda _, account: (account.protocol_type, account.host, account.credentials.login),
    lambda place, _: place,
)


def _keys_at(tree: Any, field: str, /) -> list[str]:
    """The keys of what stands in a tree at a field such as `$.receiveAccounts[1].credentials`."""
    for name, place in re.findall(r"\.(\w+)|\[(\d+)\]", field):
        try:
            tree = tree[name or int(place)]
        except (LookupError, TypeError):
            return []
    return [key for key in tree if isinstance(key, str)] if isinstance(tree, dict) else []


def _missing(name: str, keys: Collection[str], /) -> str:
    """What is wrong with an object that has no field of this name; with the key that means the same, if it has one. Of
    a key that is merely like it nothing is quoted: it may be anything.
    """
    near = next((key for key in keys if re.sub("[_ -]", "", key).lower() == name.lower()), None)
    told = f"; it has `{near}`: keys are camelCase" if near else ""
    if not near and nearest(name, [key for key in keys if key not in _NAMES]):
        told = "; another field is nearly called so: is it misspelt?"
    return f"Object missing required field `{name}`{told}"


_WORDS: Mapping[str, Collection[str]] = {
    "protocolType": [*ProtocolType],
    "securityOptions": [*SecurityOptions],
    "discriminator": [
        str(kind.__struct_config__.tag) for kind in (PasswordCredentials, OAuthCredentials, NoCredentials)
    ],
}
"""The values that are known, by field."""

_WHERE = re.compile(r" - at (?:`key` in )?`(\$[^`]*)`\Z")
# msgspec's own messages that hold nothing but type and field names, and those of Location.
_HARMLESS = re.compile(r"Expected `|Object missing required field `|storage: |folder|file name: ")


def _explain(message: str, tree: Any, /) -> tuple[str, str]:
    """Msgspec's message without anything that could quote the document, and the field it is about."""
    where = _WHERE.search(message)
    reason = message[: where.start()] if where else message
    field = where[1] if where else "$"
    known = _WORDS.get(field.rpartition(".")[2])
    if missing := re.fullmatch("Object missing required field `(.+)`", reason):
        reason = _missing(missing[1], _keys_at(tree, field))
    elif reason.startswith("Object contains unknown field"):
        reason = "has more than a `login`: to a password or token belongs another `discriminator`"
    elif reason.startswith("Invalid ") and known:
        reason = f"is not one of the known values: {', '.join(known)}"
    elif not _HARMLESS.match(reason):
        reason = "is not valid"
    return reason, field


class _Marks(Struct, frozen=True, rename="camel"):
    """What tells a sealed document from a plain one."""

    protected: Raw | UnsetType = UNSET
    ciphertext: Raw | UnsetType = UNSET
    host: Raw | UnsetType = UNSET
    receive_accounts: Raw | UnsetType = UNSET


_decode_marks = msgspec.json.Decoder(_Marks).decode


def is_sealed(data: bytes, /) -> bool:
    """Whether bytes are a sealed document (`accountstore.sealing`), be it a broken one: it has `protected` and
    `ciphertext`, and neither `host` nor `receiveAccounts`, of which each plain document has one and no sealed one any.
    """
    data = without_mark(data)
    try:
        marks = _decode_marks(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return data.startswith(b'{"protected":"')  # such as one that is cut off
    has_both = marks.protected is not UNSET and marks.ciphertext is not UNSET
    return has_both and marks.host is UNSET and marks.receive_accounts is UNSET


JSON = Codec("JSON", msgspec.json, check_json)
MSGPACK = Codec("MessagePack", msgspec.msgpack, check_msgpack)

CODECS: Mapping[str, Codec] = {"json": JSON, "msgpack": MSGPACK}
"""The codecs by their names in the configuration."""


def find_codec(name: str, /) -> Codec:
    """The codec of a name in the configuration. Raises `ConfigError` where its package is not installed."""
    if name == "msgpack":
        try:
            import_module(name)
        except ImportError:
            hint = "install it with: pip install 'accountstore[msgpack]'"
            raise ConfigError(f"the codec 'msgpack' needs the package msgpack; {hint}") from None
    return CODECS[name]
