"""What a save keeps of the stored document: the fields that its client does not know, and would drop.

A client of the API that reads, changes and saves sends the fields of its own model and no others. Fields are taken as
they stand in the JSON, so that nothing of a value is lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from accountstore.gateway.wire import fields_of, scalar

Fields = dict[str, Any]
"""The fields of an object: raw JSON, or objects and lists of such below."""

_TOKENS = frozenset({"accessToken", "expiresAt"})
_GRANT = ("login", "clientId", "refreshToken")
_CLIENT_FIELDS: Mapping[str, frozenset[str]] = {
    "multi": frozenset({"receiveAccounts", "sendAccount"}),
    "account": frozenset({"host", "port", "securityOptions", "protocolType", "credentials", "cacheFile"}),
    "credentials": frozenset(
        {
            "discriminator",
            "login",
            "password",
            "clientId",
            "clientSecret",
            "refreshToken",
            "requestUrl",
        }
    ),
    "location": frozenset({"storage", "folderPath", "fileName"}),
}
"""The fields that the API's clients know: what they leave out of these is meant to go."""

_ITEMS = msgspec.json.Decoder(list[Raw])


Rename = Callable[[str], str]


def account_fields(data: bytes | Raw, where: str, rename: Rename, /) -> Fields:
    """The fields of an account, with those of the objects in it, by keys as `rename` has them. Raises `Problem`."""
    fields: Fields = {**fields_of(data, where, rename)}
    for name in ("credentials", "cacheFile"):
        if scalar(fields.get(name)) is not None:
            fields[name] = fields_of(fields[name], f"{where}.{name}", rename)
    return fields


def multi_fields(data: bytes | Raw, where: str, rename: Rename, /) -> Fields:
    """The fields of a multi account, as `account_fields`."""
    fields: Fields = {**fields_of(data, where, rename)}
    if isinstance(scalar(fields.get("receiveAccounts")), list):
        items = _ITEMS.decode(fields["receiveAccounts"])
        fields["receiveAccounts"] = [
            account_fields(item, f"{where}.receiveAccounts[{place}]", rename) for place, item in enumerate(items)
        ]
    if scalar(fields.get("sendAccount")) is not None:
        fields["sendAccount"] = account_fields(fields["sendAccount"], f"{where}.sendAccount", rename)
    return fields


def keep_account(new: Fields, old: Fields, /) -> Fields:
    """An account with the fields of the stored one that a client does not know.

    Access token and expiry stay as long as login, client and refresh token do: of another grant they are worthless.
    """
    kept = _kept("account", new, old)
    mine, theirs = new.get("credentials"), old.get("credentials")
    if isinstance(mine, dict) and isinstance(theirs, dict) and _same(mine, theirs, "discriminator"):
        without = frozenset() if _same(mine, theirs, *_GRANT) else _TOKENS
        kept["credentials"] = _kept("credentials", mine, theirs, without)
    mine, theirs = new.get("cacheFile"), old.get("cacheFile")
    if isinstance(mine, dict) and isinstance(theirs, dict):
        kept["cacheFile"] = _kept("location", mine, theirs)
    return kept


def keep_multi(new: Fields, old: Fields, /) -> Fields:
    """A multi account with the fields of the stored one that a client does not know.

    A receiving account is the stored one with its protocol, host and login, else the one in its place.
    """
    kept = _kept("multi", new, old)
    mine, theirs = new.get("receiveAccounts"), old.get("receiveAccounts")
    if isinstance(mine, list) and isinstance(theirs, list):
        kept["receiveAccounts"] = _keep_accounts(mine, theirs)
    mine, theirs = new.get("sendAccount"), old.get("sendAccount")
    if isinstance(mine, dict) and isinstance(theirs, dict):
        kept["sendAccount"] = keep_account(mine, theirs)
    return kept


def is_plain(fields: Fields, /) -> bool:
    """Whether a document has no field but those that clients know."""
    if "receiveAccounts" in fields:
        accounts = [*fields["receiveAccounts"], fields.get("sendAccount")]
        return fields.keys() <= _CLIENT_FIELDS["multi"] and all(
            is_plain(account) for account in accounts if isinstance(account, dict)
        )
    parts = (("credentials", "credentials"), ("cacheFile", "location"))
    return fields.keys() <= _CLIENT_FIELDS["account"] and all(
        fields[name].keys() <= _CLIENT_FIELDS[known] for name, known in parts if isinstance(fields.get(name), dict)
    )


def _keep_accounts(new: list[Fields], old: list[Fields], /) -> list[Fields]:
    left = dict(enumerate(old))
    partners: dict[int, Fields] = {}
    for place, account in enumerate(new):
        found = next((at for at, other in left.items() if _identity(other) == _identity(account)), None)
        if found is not None:
            partners[place] = left.pop(found)
    for place in range(len(new)):
        if place not in partners and place in left:
            partners[place] = left.pop(place)
    return [keep_account(item, partners[at]) if at in partners else item for at, item in enumerate(new)]


def _identity(account: Fields, /) -> tuple[Any, ...]:
    credentials = account.get("credentials")
    login = credentials.get("login") if isinstance(credentials, dict) else None
    return (*(_value(account.get(name)) for name in ("protocolType", "host")), _value(login))


def _kept(what: str, new: Fields, old: Fields, without: frozenset[str] = frozenset(), /) -> Fields:
    known = _CLIENT_FIELDS[what] | without
    return {**{name: value for name, value in old.items() if name not in known}, **new}


def _same(new: Fields, old: Fields, /, *names: str) -> bool:
    return all(_value(new.get(name)) == _value(old.get(name)) for name in names)


def _value(field: Any, /) -> Any:
    """A field's value where it is raw JSON; `repr` of what is no scalar, which never equals one."""
    value = scalar(field) if isinstance(field, Raw | None) else field
    return value if isinstance(value, str | int | float | None) else repr(value)


READERS: Mapping[str, Callable[[bytes | Raw, str, Rename], Fields]] = {"account": account_fields, "multi": multi_fields}
KEEPERS: Mapping[str, Callable[[Fields, Fields], Fields]] = {"account": keep_account, "multi": keep_multi}
