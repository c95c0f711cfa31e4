"""Documents and locations that many tests use."""

from __future__ import annotations

from msgspec.structs import replace

from accountstore import (
    Account,
    Location,
    MultiAccount,
    OAuthCredentials,
    PasswordCredentials,
    ProtocolType,
    SecurityOptions,
)

AT = Location("email.account", folder="mail/team-a")
MULTI_AT = Location("email.multi.account", folder="mail/team-a")
ELSEWHERE = Location("copy.account", folder="archive")

ACCOUNT = Account(host="imap.example.org", port=993, credentials=PasswordCredentials(login="me", password="pw"))
"""As short as one can be."""
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


def next_port(account: Account, /) -> Account:
    """A change for `update`."""
    return replace(account, port=account.port + 1)
