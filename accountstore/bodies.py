"""Documents in the bodies of a service's requests and responses: from JSON and to it, its schema, and a masked view.

Take a request's bytes, and give them to `from_json`, whatever the framework. msgspec, and Litestar by it, decodes a
document as it stands, but takes a mask for a secret, drops a misspelt field, and takes the last of a key that is there
twice. It encodes one with `enc_hook=str` (Litestar: `type_encoders={Secret: str}`), by which secrets are masked. For
pydantic, and FastAPI by it, a document is no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar, cast, overload
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from accountstore.codecs import JSON, refuse_mask, without_mark
from accountstore.errors import DecodeError, EncodeError, UnknownFieldError
from accountstore.model import Account, Document, MultiAccount
from accountstore.secrets import Secret, SecretBytes, instead_of
from accountstore.validation import did_you_mean

D = TypeVar("D", bound=Account | MultiAccount)

_MASK = str(Secret(""))
_NO_DOCUMENT = "an Account or a MultiAccount is wanted: `from_json` makes one of JSON"


@overload
def from_json(data: bytes | str, /, *, unknown: Literal["refuse", "drop"] = "refuse") -> Account: ...
@overload
def from_json(data: bytes | str, kind: type[D], /, *, unknown: Literal["refuse", "drop"] = "refuse") -> D: ...
def from_json(data: bytes | str, kind: type[Any] = Account, /, *, unknown: Literal["refuse", "drop"] = "refuse") -> Any:
    """The account in a client's JSON, or the multi account with `MultiAccount` as `kind`: checked as `save` checks.

    A field that the model does not have is refused, or dropped; `AccountStore.save_json` is what keeps it. No error
    shows the JSON, nor a frame that held it.

    Raises:
        UnknownFieldError: there is such a field; `field` says which, where its name can be one.
        EncodeError: it is not the JSON of such a document, or a secret in it is the mask of `to_json`; `field` says
            where.
    """
    if kind not in {Account, MultiAccount}:
        raise TypeError("from_json makes an Account or a MultiAccount")
    if unknown not in {"refuse", "drop"}:
        raise ValueError("unknown must be 'refuse' or 'drop'")
    if not isinstance(cast("Any", data), (str, bytes, bytearray, memoryview)):
        data = b""  # which no frame is to show
        raise TypeError("from_json takes JSON, as bytes or str: of a dictionary, that is json.dumps(dictionary)")
    data = SecretBytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    failure: EncodeError | None = None
    try:
        document = JSON.decode(data, kind)
        if unknown == "refuse":
            _refuse_unknown(document, msgspec.json.decode(without_mark(data)))
        refuse_mask(document)
    except UnknownFieldError as error:
        failure = UnknownFieldError(error.message, field=error.field)
    except (DecodeError, EncodeError) as error:
        failure = EncodeError(error.message, field=error.field)
    else:
        return document
    raise failure


def to_json(document: Document, /, *, reveal: bool = False) -> bytes:
    """The JSON of a document: as `masked` has it, or whole and with its secrets in clear.

    Raises:
        EncodeError: with `reveal`, the document is not one that `from_json` would return; `field` says where.
        TypeError: it is no document, such as a dictionary, whose secrets nothing would mask.
    """
    if not isinstance(cast("object", document), Account | MultiAccount):
        document = instead_of(document)
        raise TypeError(_NO_DOCUMENT)
    return SecretBytes(JSON.encode(document)) if reveal else msgspec.json.encode(masked(document))


def masked(document: Document, /) -> dict[str, Any]:
    """A document as dictionaries, lists and JSON's scalars, with a mask for each secret.

    A `requestUrl` that is more than an address is masked too: some programs put a token there.

    Raises:
        TypeError: as `to_json`.
    """
    if not isinstance(cast("object", document), Account | MultiAccount):
        document = instead_of(document)
        raise TypeError(_NO_DOCUMENT)
    tree = cast("dict[str, Any]", msgspec.to_builtins(document, enc_hook=str, str_keys=True))
    if isinstance(document, MultiAccount):
        tree["receiveAccounts"] = [*tree["receiveAccounts"]]
    for account in (*tree.get("receiveAccounts", ()), tree.get("sendAccount", {}), tree):
        credentials = account.get("credentials", {})
        if "requestUrl" in credentials and not is_address(credentials["requestUrl"]):
            credentials["requestUrl"] = _MASK
    return tree


def json_schema(kind: type[Document] = Account, /) -> dict[str, Any]:
    """The JSON Schema (2020-12) of an account, or of a multi account with `MultiAccount` as `kind`.

    Secrets are text of the format `password`, for writing only.
    """
    return msgspec.json.schema(kind)


def is_address(text: str, /) -> bool:
    """Whether a `requestUrl` is no more than the address of a server's page, so that it may be shown."""
    try:
        url = urlsplit(text)
    except ValueError:
        return False
    return url.scheme in {"http", "https"} and bool(url.hostname) and not set("@?#") & set(text)


def unknown_fields(part: object, tree: Any, field: str = "$", /) -> Iterator[tuple[str, str]]:
    """Where the tree of a document has fields that the model does not have, each with a hint at those that it has."""
    if isinstance(part, tuple):
        for place, (item, below) in enumerate(zip(part, tree, strict=True)):
            yield from unknown_fields(item, below, f"{field}[{place}]")
    elif isinstance(part, Struct):
        names = dict(zip(part.__struct_encode_fields__, part.__struct_fields__, strict=True))
        known = {*names, part.__struct_config__.tag_field}
        for key in tree:
            if key not in known:
                # Other text than a name could be anything.
                named = f"{field}.{key}" if key.isidentifier() and len(key) <= 40 else field
                yield named, did_you_mean(key, names)
            if key in names:
                yield from unknown_fields(getattr(part, names[key]), tree[key], f"{field}.{key}")


def _refuse_unknown(document: Document, tree: Any, /) -> None:
    for field, hint in unknown_fields(document, tree):
        raise UnknownFieldError(f"is not a field here{hint}", field=field)
