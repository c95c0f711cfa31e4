"""A sealed document: a JWE (RFC 7516) in its general JSON serialization, by a profile without choices.

    {"protected": "<{"enc":"A256GCM","acs":"1:account:First Storage:mail/email.account"}>",
     "recipients": [{"header": {"alg": "A256KW", "kid": "2026-11"}, "encrypted_key": "..."}],
     "iv": "...", "ciphertext": "...", "tag": "..."}

The content key and the IV are new for each write. `protected` is authenticated with the contents (the additional data
of RFC 7516 section 5.1); it is compact ASCII JSON. `acs`, the one private header, is the document's place, as one
string: version, kind, storage id, and folder and file name; none of them can have a colon. `alg` and `kid` are the
recipient's, so that a key can be wrapped anew without touching the contents.

Whatever else the RFC allows is refused: other algorithms, `zip`, `crit`, `aad`, a shared `unprotected` header, members
that are not known or stand twice, and base64url that is not what an encoder writes (section 2 of RFC 7515).
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from os import urandom
from typing import TYPE_CHECKING, TypeGuard

import msgspec
from msgspec import Struct

from accountstore.errors import (
    AlgorithmError,
    ConfigError,
    DecodeError,
    EnvelopeError,
    MovedError,
    SealError,
    TamperedError,
)
from accountstore.secrets import SecretBytes
from accountstore.strict import check_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Protocol

    class _Aead(Protocol):
        def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...
        def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...


ENCRYPTION = "A256GCM"
KEY_BYTES = 32
"""Bytes of a content key and of a key that wraps it."""
MAX_RECIPIENTS = 10
MAX_KEY_ID = 256
"""Characters of a key id."""
KEY_ID_RULE = f"must be text of 1 to {MAX_KEY_ID} printable characters"
_IV_BYTES = 12
_TAG_BYTES = 16
MAX_WRAPPED = 2048
"""Bytes of a wrapped key."""
_KEPT = 1024
"""How many headers are kept, which are the same each time."""
_FIXED = len('{"protected":"","recipients":[],"iv":"","ciphertext":"","tag":""}')
_FIXED_OF_RECIPIENT = len(',{"header":{"alg":"","kid":""},"encrypted_key":""}')
"""Characters of a sealed document beside those of its values."""
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/=\\", b"+/****")
_ALL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LAST = (_ALL, (), _ALL[::16], _ALL[::4])
"""What the last character may be, by the length modulo 4: its unused bits are 0."""


class WrappedKey(Struct, frozen=True, gc=False):
    """A content key as one recipient's key has wrapped it: algorithm, key id and bytes, which are no secret."""

    algorithm: str
    key_id: str
    data: bytes


class Envelope(Struct, frozen=True, eq=False, gc=False):
    """A sealed document, taken apart. `content` ends in the tag."""

    protected: str
    keys: tuple[WrappedKey, ...]
    iv: bytes
    content: bytes


class _Header(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    alg: str
    kid: str


class _Recipient(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    header: _Header
    encrypted_key: str


class _Json(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    protected: str
    recipients: list[_Recipient]
    iv: str
    ciphertext: str
    tag: str


class _Contents(Struct, frozen=True, gc=False):
    iv: bytes
    ciphertext: bytes
    tag: bytes


class _Flat(Struct, frozen=True, forbid_unknown_fields=True):
    """The flattened serialization (section 7.2.2 of RFC 7516), which some tools write for one recipient."""

    protected: str
    header: _Header
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str


class _Protected(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    enc: str
    acs: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Json).decode
_decode_flat = msgspec.json.Decoder(_Flat).decode
_decode_base64 = msgspec.json.Decoder(bytes).decode  # several times as fast as the standard library's
_decode_protected = msgspec.json.Decoder(_Protected).decode


def is_key_id(key_id: object, /) -> TypeGuard[str]:
    """Whether a document can name a key so: what seals and what opens ask the same."""
    return isinstance(key_id, str) and 1 <= len(key_id) <= MAX_KEY_ID and key_id.isprintable()


def place_of(storage_id: str, key: str, /) -> str:
    """The place of a document, as the protected header has it."""
    kind = "multi" if key.endswith(".multi.account") else "account"
    return f"1:{kind}:{storage_id}:{key}"


@lru_cache(_KEPT)
def protected_of(place: str, /) -> str:
    """The protected header of a document at a place."""
    quoted = f'"{place}"' if place.isascii() and '"' not in place else json.dumps(place)
    return to_base64url(f'{{"enc":"{ENCRYPTION}","acs":{quoted}}}'.encode("ascii"))


def new_content_key() -> SecretBytes:
    """A content key, for one document and one write."""
    return SecretBytes(urandom(KEY_BYTES))


def seal(place: str, data: bytes, content_key: bytes, keys: Sequence[WrappedKey], /) -> bytes:
    """The sealed document: `data` encrypted by a content key that `keys` wrap."""
    protected = protected_of(place)
    iv = urandom(_IV_BYTES)
    content = aes_gcm(content_key).encrypt(iv, data, protected.encode("ascii"))
    return assemble(Envelope(protected, tuple(keys), iv, content))


def assemble(envelope: Envelope, /) -> bytes:
    """The bytes of a sealed document."""
    recipients = [
        b'{"header":%b,"encrypted_key":%b}' % (_header(key.algorithm, key.key_id), _base64url(key.data))
        for key in envelope.keys
    ]
    content = envelope.content
    contents = _base64url(_Contents(envelope.iv, content[:-_TAG_BYTES], content[-_TAG_BYTES:]))
    protected = envelope.protected.encode("ascii")
    return b'{"protected":"%b","recipients":[%b],%b' % (protected, b",".join(recipients), contents[1:])


@lru_cache(_KEPT)
def _header(algorithm: str, key_id: str, /) -> bytes:
    return _encode(_Header(algorithm, key_id))


def parse(data: bytes, algorithms: Collection[str], /) -> Envelope:
    """Take a sealed document apart, whose recipients have one of the algorithms.

    Raises:
        EnvelopeError: it is none of this profile.
        AlgorithmError: a recipient has another algorithm.
    """
    try:
        found = _members(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, DecodeError):
        raise EnvelopeError("the sealed document is malformed, or has members that the format does not have") from None
    if not 1 <= len(found.recipients) <= MAX_RECIPIENTS:
        raise EnvelopeError(f"the sealed document has {len(found.recipients)} recipients, not 1 to {MAX_RECIPIENTS}")
    keys: list[WrappedKey] = []
    for recipient in found.recipients:
        header = recipient.header
        if header.alg not in algorithms:
            raise AlgorithmError(f"a key is wrapped by an algorithm that is not one of {', '.join(sorted(algorithms))}")
        if not is_key_id(header.kid):
            raise EnvelopeError(f"kid: {KEY_ID_RULE}")
        keys.append(WrappedKey(header.alg, header.kid, from_base64url(recipient.encrypted_key, "encrypted_key")))
        if len(keys[-1].data) > MAX_WRAPPED:
            raise EnvelopeError("encrypted_key: is too long")
    iv, tag = from_base64url(found.iv, "iv"), from_base64url(found.tag, "tag")
    if (len(iv), len(tag)) != (_IV_BYTES, _TAG_BYTES):
        raise EnvelopeError(f"iv and tag: must be {_IV_BYTES} and {_TAG_BYTES} bytes")
    return Envelope(found.protected, tuple(keys), iv, from_base64url(found.ciphertext, "ciphertext") + tag)


def _members(data: bytes, /) -> _Json:
    try:
        found = _decode(data)
    except msgspec.ValidationError:
        flat = _decode_flat(data)
        check_json(data)
        recipients = [_Recipient(flat.header, flat.encrypted_key)]
        return _Json(flat.protected, recipients, flat.iv, flat.ciphertext, flat.tag)
    # A document that is as short as one of these values can be has no member twice.
    size = _FIXED + len(found.protected) + len(found.iv) + len(found.ciphertext) + len(found.tag) - 1
    for each in found.recipients:
        size += _FIXED_OF_RECIPIENT + len(each.header.alg) + len(each.header.kid) + len(each.encrypted_key)
    if len(data) != size:
        check_json(data)
    return found


def place_in(envelope: Envelope, place: str, /) -> str:
    """The place in a document's header; `place` is where it was found, the usual case. It is not authenticated yet.

    Raises `EnvelopeError`, `AlgorithmError`.
    """
    if envelope.protected == protected_of(place):
        return place
    raw = from_base64url(envelope.protected, "protected")
    try:
        found = _decode_protected(raw)
        check_json(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, DecodeError):
        raise EnvelopeError("protected: is malformed, or has headers that the format does not have") from None
    if found.enc != ENCRYPTION:
        raise AlgorithmError(f"protected: the contents are encrypted by another algorithm than {ENCRYPTION}")
    return found.acs


def open_content(envelope: Envelope, content_key: bytes, found: str, place: str, key_id: str, /) -> SecretBytes:
    """The contents, of a document that has the place `found` in its header and was found at `place`.

    Raises:
        TamperedError: contents or header are not those that were sealed.
        MovedError: it was sealed for another place.
    """
    try:
        data = aes_gcm(content_key).decrypt(envelope.iv, envelope.content, envelope.protected.encode("ascii"))
    except _aes_gcm()[1]:
        failure: SealError = TamperedError("contents or header are not what was sealed", key_id=key_id)
    else:
        if found == place:
            return SecretBytes(data)
        failure = moved(key_id)
        del data
    raise failure


def moved(key_id: str, /) -> MovedError:
    """What is wrong with a document that stands at another place than it was sealed for."""
    said = "it was sealed for another storage id, folder or file name, and moved here"
    return MovedError(f"{said}; of a storage that was renamed, `encryption.id` is the name before", key_id=key_id)


def aes_gcm(key: bytes, /) -> _Aead:
    """The cipher of the contents."""
    return _aes_gcm()[0](key)


@cache
def _aes_gcm() -> tuple[Callable[[bytes], _Aead], type[Exception]]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM, InvalidTag


def require_cryptography(extra: str = "crypto", /) -> None:
    """Raise `ConfigError` where the package is missing, which the extra has. Calls import nothing of it anew."""
    try:
        import cryptography.hazmat.primitives.ciphers.aead  # pyright: ignore[reportUnusedImport]
        import cryptography.hazmat.primitives.keywrap  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ConfigError(
            f"encryption needs the package cryptography; install it with: pip install 'accountstore[{extra}]'"
        ) from None


def to_base64url(data: bytes, /) -> str:
    """Base64url without padding."""
    return _base64url(bytes(data))[1:-1].decode("ascii")


def _base64url(value: bytes | _Contents, /) -> bytes:
    """JSON of bytes, or of several with names: the encoder writes them in base64."""
    return _encode(value).translate(_TO_URL, b"=")


def from_base64url(text: str, where: str, /) -> bytes:
    """The bytes of base64url as an encoder writes it: no padding, no stray character, no bits that are not used.

    Raises `EnvelopeError`.
    """
    try:
        if text[-1:] in _LAST[len(text) % 4]:
            return _decode_base64(b'"%b%b"' % (text.encode("ascii").translate(_FROM_URL), b"=" * (-len(text) % 4)))
    except (UnicodeError, msgspec.MsgspecError):
        pass
    raise EnvelopeError(f"{where}: is not base64url")
