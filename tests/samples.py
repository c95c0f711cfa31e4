"""Documents and locations that many tests use."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import normalize

from hypothesis import strategies as st
from msgspec.structs import replace

from accountstore import (
    Account,
    AccountStoreError,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
)
from accountstore.backends.base import digest
from accountstore.codecs import JSON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from accountstore import AccountStore
    from accountstore.testing.faults import Operation

AT = Location("email.account", folder="mail/team-a")
MULTI_AT = Location("email.multi.account", folder="mail/team-a")
ELSEWHERE = Location("copy.account", folder="archive")

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
"""As short as one can be."""
VERSION = digest(JSON.encode(ACCOUNT))
"""Its version where that is a digest of the content."""
FULL = Account(
    host="smtp.example.org",
    port=465,
    security_options=SecurityOptions.SSL_AUTO,
    protocol_type=ProtocolType.SMTP,
    credentials=PasswordCredentials(login="me@example.org", password="pw"),
    cache_file=Location("me.cache", folder="caches", storage="First Storage"),
)
"""With every field."""
OAUTH = Account(
    host="imap.example.org",
    port=993,
    credentials=OAuthCredentials(login="me", client_id="id", client_secret="cs", refresh_token="rt"),
)
MULTI = MultiAccount(receive_accounts=[OAUTH, FULL], send_account=FULL)

RICH = b"""{"host":"h","port":1,"new":{"deep":[1,2.50]},"credentials":{"login":"l","password":"p","hint":"?",
"discriminator":"EmailClientAccountPasswordCredentials"}}"""
"""A document with fields that the model does not know."""
RICH_MULTI = b'{"receiveAccounts":[%s],"label":"team","sendAccount":%s}' % (RICH, RICH)


SEGMENTS = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:*?[]{}#\u2028\u2029"), min_size=1)
    .map(lambda text: normalize("NFC", text))
    .filter(lambda text: text not in {".", ".."} and len(text.encode()) <= 255)
    .filter(lambda text: not text.startswith(".accountstore-"))
)
FOLDERS = st.lists(SEGMENTS.filter(lambda text: not text.endswith(".account")), max_size=3).map("/".join)
LOCATIONS = st.builds(Location, SEGMENTS, folder=FOLDERS, storage=st.none() | SEGMENTS)
"""Names, folders and locations of any kind."""


def next_port(account: Account, /) -> Account:
    """A change for `update`."""
    return replace(account, port=account.port + 1)


async def ended(items: AsyncIterator[object], /) -> None:
    """Take all results, and raise the first error among them, which is about its location."""
    results = [item async for item in items]
    for result in results:
        match result:
            case (location, AccountStoreError() as error):
                assert error.location == location
                raise error
            case _:
                pass


async def copied(store: AccountStore, source: Location, target: Location, /) -> None:
    """Copy one document by `copy_many`, and raise its error, which is about one of both ends."""
    [(location, result)] = [each async for each in store.copy_many([(source, target)])]
    assert location == source
    if isinstance(result, AccountStoreError):
        assert result.location in {source, target}
        raise result


CALLS: Mapping[str, Callable[[AccountStore], Awaitable[object]]] = {
    "get": lambda store: store.get(AT),
    "get_multi": lambda store: store.get_multi(MULTI_AT),
    "read": lambda store: store.read(AT),
    "read_multi": lambda store: store.read_multi(MULTI_AT),
    "read_json": lambda store: store.read_json(AT),
    "save": lambda store: store.save(AT, OAUTH),
    "save_multi": lambda store: store.save_multi(MULTI_AT, MULTI),
    "save_json": lambda store: store.save_json(AT, JSON.encode(OAUTH)),
    "create": lambda store: store.save(ELSEWHERE, ACCOUNT, mode="create"),
    "create of JSON": lambda store: store.save_json(ELSEWHERE, JSON.encode(ACCOUNT), mode="create"),
    "swap": lambda store: store.save(AT, OAUTH, mode=VERSION),
    "swap of JSON": lambda store: store.save_json(AT, JSON.encode(OAUTH), mode=VERSION),
    "update": lambda store: store.update(AT, next_port),
    "update_multi": lambda store: store.update_multi(MULTI_AT, lambda multi: replace(multi, send_account=None)),
    "stat": lambda store: store.stat(AT),
    "exists": lambda store: store.exists(AT),
    "versions": lambda store: store.versions(AT),
    "delete": lambda store: store.delete(AT),
    "delete of a version": lambda store: store.delete(AT, version=VERSION),
    "copy": lambda store: store.copy(AT, ELSEWHERE),
    "move": lambda store: store.move(AT, ELSEWHERE),
    "list": lambda store: ended(store.list(recursive=True)),
    "get_many": lambda store: ended(store.get_many([AT])),
    "save_many": lambda store: ended(store.save_many([(AT, OAUTH)])),
    "copy_many": lambda store: copied(store, AT, ELSEWHERE),
    "create many": lambda store: ended(store.save_many([(ELSEWHERE, ACCOUNT)], mode="create")),
    "check": lambda store: store.check(),
    "filesystem": lambda store: store.filesystem(),
}
"""Every call that a store awaits, for one that holds ACCOUNT at AT, MULTI at MULTI_AT and nothing ELSEWHERE."""

FAILING: Sequence[tuple[str, Operation]] = [
    *((call, "read") for call in ("get", "read_json", "update", "copy")),
    *((call, "write") for call in ("save", "save_multi", "save_json", "create", "swap", "update", "copy")),
    *((call, "delete") for call in ("delete", "delete of a version", "move")),
    *((call, "stat") for call in ("stat", "exists")),
    *((call, "write_many") for call in ("save_many", "create many")),
    ("get_many", "read_many"),
    ("list", "scan"),
]
"""Calls, each with a request of its own that a test lets fail."""
