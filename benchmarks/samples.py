"""The seed's two samples (SEED.md section 8): as the library's documents, and as the plain Structs of other sides."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

import accountstore
from accountstore import Account, MultiAccount, OAuthCredentials, PasswordCredentials, ProtocolType, SecurityOptions

_SSL = SecurityOptions.SSL_AUTO
_PASSWORD = PasswordCredentials(login="example@gmail.com", password="password")
_OAUTH = OAuthCredentials(
    login="example@example.com", client_id="clientId", client_secret="clientSecret", refresh_token="refreshToken"
)
_EXCHANGE = replace(_OAUTH, login="example@outlook.com")
ACCOUNT = Account(
    host="smtp.example.com", port=465, security_options=_SSL, protocol_type=ProtocolType.SMTP, credentials=_OAUTH
)
_IMAP = Account(host="imap.gmail.com", port=993, security_options=_SSL, credentials=_PASSWORD)
_EWS = Account(host="exchange@outlook.com", port=443, protocol_type=ProtocolType.EWS, credentials=_EXCHANGE)
MULTI = MultiAccount(
    receive_accounts=(_IMAP, _EWS), send_account=replace(ACCOUNT, host="smtp.gmail.com", credentials=_PASSWORD)
)


class _Plain(msgspec.Struct, omit_defaults=True, rename="camel"):
    """What somebody who writes it by hand would have: no secrets, no limits."""


class PlainPassword(_Plain, tag_field="discriminator", tag="EmailClientAccountPasswordCredentials"):
    login: str
    password: str


class PlainOAuth(_Plain, kw_only=True, tag_field="discriminator", tag="EmailClientAccountOauthCredentials"):
    login: str
    client_id: str | None = None
    client_secret: str
    refresh_token: str
    request_url: str | None = None


class PlainAccount(_Plain, kw_only=True):
    host: str
    port: int
    security_options: str | None = None
    protocol_type: str | None = None
    credentials: PlainPassword | PlainOAuth


class PlainMultiAccount(_Plain):
    receive_accounts: list[PlainAccount]
    send_account: PlainAccount | None = None


class Sample(NamedTuple):
    """A document with its extension, and the ending of the names of the store's methods for its kind."""

    extension: str
    methods: str
    document: Account | MultiAccount
    plain_kind: type[Any]

    @property
    def json(self) -> bytes:
        """What a storage holds."""
        return msgspec.json.encode(self.document, enc_hook=accountstore.Secret.reveal)

    @property
    def plain(self) -> Any:
        """The plain Struct."""
        return msgspec.json.decode(self.json, type=self.plain_kind)


ONE = Sample(".account", "", ACCOUNT, PlainAccount)
SAMPLES = (ONE, Sample(".multi.account", "_multi", MULTI, PlainMultiAccount))
PLAIN_ACCOUNT: PlainAccount = ONE.plain

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(PlainAccount).decode
