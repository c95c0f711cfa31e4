"""What a save keeps of the stored document: the fields that its client does not know, and would drop.

A client of the API that reads, changes and saves sends the fields of its own model and no others. Fields are taken as
they stand in the JSON, so that nothing of a value is lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from accountstore import Secret
from accountstore.gateway.problems import Problem
from accountstore.gateway.wire import check_object, fields_of, lower_first
from accountstore.lease import FIELD, key_of, leases_in

Fields = dict[str, Any]
"""The fields of an object: raw JSON, or objects and lists of such below."""

_TOKENS = frozenset({"accessToken", "expiresAt"})
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
_PARTS = {
    "receiveAccounts": "account",
    "sendAccount": "account",
    "credentials": "credentials",
    "cacheFile": "location",
}
_ITEMS = msgspec.json.Decoder(list[Raw])
_MOST_ACCOUNTS = 2500
"""More with credentials than a document has room for, unless its storage takes larger ones than usual."""


Rename = Callable[[str], str]


def account_fields(data: bytes | Raw, where: str, rename: Rename, /) -> Fields:
    """The fields of an account, with those of the objects in it, by keys as `rename` has them. Raises `Problem`."""
    fields: Fields = {**fields_of(data, where, rename)}
    for name in ("credentials", "cacheFile"):
        if _is_set(fields.get(name)):
            fields[name] = fields_of(fields[name], f"{where}.{name}", rename)
    return fields


def multi_fields(data: bytes | Raw, where: str, rename: Rename, /) -> Fields:
    """The fields of a multi account, as `account_fields`."""
    fields: Fields = {**fields_of(data, where, rename)}
    if bytes(fields.get("receiveAccounts", b"")).startswith(b"["):
        items = _ITEMS.decode(fields["receiveAccounts"])
        if len(items) > _MOST_ACCOUNTS:
            raise Problem(413, "tooMany", f"{where}.receiveAccounts: more than {_MOST_ACCOUNTS}")
        fields["receiveAccounts"] = [
            account_fields(item, f"{where}.receiveAccounts[{place}]", rename) for place, item in enumerate(items)
        ]
    if _is_set(fields.get("sendAccount")):
        fields["sendAccount"] = account_fields(fields["sendAccount"], f"{where}.sendAccount", rename)
    return fields


def with_leases_of(old: bytes | None, new: bytes, /) -> bytes:
    """The JSON of a document, with the leases of the stored one instead of its own. Raises `Problem`."""
    fields = fields_of(check_object(new), "$", str)
    stored = None if old is None else fields_of(old, "$", str).get(FIELD)
    if fields.pop(FIELD, None) == stored:
        return new
    return msgspec.json.encode(fields if stored is None else {**fields, FIELD: stored})


def spent_in(old: Fields, /) -> Mapping[str, Fields]:
    """The refresh tokens that were exchanged for those of a stored document, each with the credentials that have its
    successor; with none, where another grant stands in that place since.
    """
    leases = leases_in(_decoded(old.get(FIELD)))
    holders: dict[str, Fields] = {}
    for credentials in _credentials_in(old) if leases else ():
        if isinstance(token := _value(credentials.get("refreshToken")), str):
            holders[key_of(Secret(token))] = credentials
    return {entry.previous.reveal(): holders.get(key, {}) for key, entry in leases.items() if entry.previous}


def renewed(new: Any, what: str, spent: Mapping[str, Fields], /) -> Any:
    """A document with the stored tokens wherever a spent refresh token stands, which its client has read before that
    was exchanged. Of another client's id the access token is not taken.
    """
    if isinstance(new, list):
        return [renewed(item, what, spent) for item in new]
    if not isinstance(new, dict):
        return new
    stored = spent.get(_value(new.get("refreshToken"))) if what == "credentials" else None
    if not stored:
        return new | {name: renewed(new[name], _PARTS[name], spent) for name in _PARTS.keys() & new.keys()}
    taken = {"refreshToken"} | (_TOKENS if _same(new, stored, "clientId") else set())
    own = {name: value for name, value in new.items() if name not in _TOKENS}
    return own | {name: value for name, value in stored.items() if name in taken}


def keep_account(new: Fields, old: Fields, spent: Mapping[str, Fields], /) -> Fields:
    """An account with the fields of the stored one that a client does not know.

    What belongs to a login stays with it: fields of the credentials while discriminator and login are the same, access
    token and expiry while client and refresh token are too. Instead of a spent refresh token, whose successor is gone,
    it has the stored one. Fields of a cache file stay with that file.
    """
    kept = _kept("account", new, old)
    mine, theirs = new.get("credentials"), old.get("credentials")
    if isinstance(mine, dict) and isinstance(theirs, dict) and _same(mine, theirs, "discriminator", "login"):
        if _value(mine.get("refreshToken")) in spent and _same(mine, theirs, "clientId"):
            mine = {**mine, "refreshToken": theirs.get("refreshToken")}
        without = frozenset() if _same(mine, theirs, "clientId", "refreshToken") else _TOKENS
        kept["credentials"] = _kept("credentials", mine, theirs, without)
    mine, theirs = new.get("cacheFile"), old.get("cacheFile")
    if isinstance(mine, dict) and isinstance(theirs, dict) and _same(mine, theirs, *_CLIENT_FIELDS["location"]):
        kept["cacheFile"] = _kept("location", mine, theirs)
    return kept


def keep_multi(new: Fields, old: Fields, spent: Mapping[str, Fields], /) -> Fields:
    """A multi account with the fields of the stored one that a client does not know.

    An account in it, receiving or sending, is the stored one with its protocol, host and login, wherever that stands;
    of several with the same, the one with its port.
    """
    kept = _kept("multi", new, old)
    mine, theirs = new.get("receiveAccounts"), old.get("receiveAccounts")
    if isinstance(mine, list) and isinstance(theirs, list):
        kept["receiveAccounts"] = _keep_accounts(mine, theirs, spent)
    mine, theirs = new.get("sendAccount"), old.get("sendAccount")
    if isinstance(mine, dict) and isinstance(theirs, dict):
        kept["sendAccount"] = _keep_accounts([mine], [theirs], spent)[0]
    return kept


def is_plain(fields: Any, what: str, /) -> bool:
    """Whether an object has no field but those that clients know. What is no object, or raw JSON, has none."""
    if isinstance(fields, list):
        return all(is_plain(item, what) for item in fields)
    return not isinstance(fields, dict) or (
        fields.keys() <= _CLIENT_FIELDS[what] and all(is_plain(fields.get(name), _PARTS[name]) for name in _PARTS)
    )


def _keep_accounts(new: list[Fields], old: list[Fields], spent: Mapping[str, Fields], /) -> list[Fields]:
    mine, theirs = (list(map(_identity, accounts)) for accounts in (new, old))
    partners: dict[int, int] = {}
    for length in (4, 3):  # with the port, then without it
        free = _places(theirs, length, {*partners.values()})
        for identity, places in _places(mine, length, partners.keys()).items():
            if len(found := free.get(identity, ())) == len(places):  # else nobody can say which is which
                partners.update(zip(places, found, strict=True))
    return [keep_account(item, old[partners[at]], spent) if at in partners else item for at, item in enumerate(new)]


def _credentials_in(document: Fields, /) -> Iterator[Fields]:
    receive, send = document.get("receiveAccounts"), document.get("sendAccount")
    for account in (document, *(receive if isinstance(receive, list) else ()), send):
        if isinstance(account, dict) and isinstance(credentials := account.get("credentials"), dict):
            yield credentials


def _identity(account: Fields, /) -> tuple[Any, ...]:
    credentials = account.get("credentials")
    login = credentials.get("login") if isinstance(credentials, dict) else None
    return _value(login), *(_value(account.get(name)) for name in ("protocolType", "host", "port"))


def _places(
    identities: list[tuple[Any, ...]], length: int, without: Collection[int], /
) -> dict[tuple[Any, ...], list[int]]:
    """The places that have the same beginning of their identity."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for place, identity in enumerate(identities):
        if place not in without:
            found.setdefault(identity[:length], []).append(place)
    return found


def _kept(what: str, new: Fields, old: Fields, without: frozenset[str] = frozenset(), /) -> Fields:
    """Fields that a client knows are the new ones; of the others one in either case is the same, as it is stored."""
    known = _CLIENT_FIELDS[what] | without
    stored = {lower_first(name): name for name in sorted(old) if name not in known}
    return {
        **{name: value for name, value in old.items() if name not in known},
        **{name if name in known | _TOKENS else stored.get(name, name): value for name, value in new.items()},
    }


def _same(new: Fields, old: Fields, /, *names: str) -> bool:
    """Whether fields are the same. Empty text is none, as clients leave it out."""
    return all((_value(new.get(name)) or None) == (_value(old.get(name)) or None) for name in names)


def _value(field: Any, /) -> Any:
    """A field's value where it is raw JSON; the bytes of what is no scalar, which never equal one."""
    value = _decoded(field) if isinstance(field, Raw) else field
    return bytes(field) if isinstance(value, (dict, list)) else value


def _is_set(field: Raw | None, /) -> bool:
    return field is not None and bytes(field) != b"null"


def _decoded(field: Raw | None, /) -> Any:
    """A value of raw JSON; None where there is none, or for the store to refuse: a number that Python does not have, or
    what is nested too deep.
    """
    try:
        return None if field is None else msgspec.json.decode(field)
    except (msgspec.MsgspecError, RecursionError):
        return None


READERS: Mapping[str, Callable[[bytes | Raw, str, Rename], Fields]] = {"account": account_fields, "multi": multi_fields}
KEEPERS: Mapping[str, Callable[[Fields, Fields, Mapping[str, Fields]], Fields]] = {
    "account": keep_account,
    "multi": keep_multi,
}
