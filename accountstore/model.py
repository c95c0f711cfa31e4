"""The account documents: the seed's model as msgspec Structs (SEED.md section 2).

As JSON each is the seed's `value`: camelCase keys, None left out, credentials told apart by `discriminator`.
Constructing one checks nothing but that an expiry exists in UTC; `save` and `get` check all. Plain strings are taken
where a `Secret` is expected and become one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from accountstore.location import Location
from accountstore.secrets import Secret

_Text: TypeAlias = Annotated[str, Meta(min_length=1)]
_Port: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]


class SecurityOptions(StrEnum):
    """How the connection is secured (SEED.md section 3)."""

    NONE = "None"
    SSL_EXPLICIT = "SSLExplicit"
    SSL_IMPLICIT = "SSLImplicit"
    SSL_AUTO = "SSLAuto"
    AUTO = "Auto"


class ProtocolType(StrEnum):
    """The mail protocol (SEED.md section 3)."""

    IMAP = "IMAP"
    POP3 = "POP3"
    SMTP = "SMTP"
    EWS = "EWS"
    WEB_DAV = "WebDav"


class PasswordCredentials(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="discriminator",
    tag="EmailClientAccountPasswordCredentials",
):
    """Login and password."""

    login: _Text
    password: Secret

    if TYPE_CHECKING:

        def __init__(self, *, login: str, password: Secret | str) -> None: ...

    def __post_init__(self) -> None:
        password = cast("Any", self.password)  # which may be a plain string
        if type(password) is str:
            force_setattr(self, "password", Secret(password))


class OAuthCredentials(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="discriminator",
    tag="EmailClientAccountOauthCredentials",
):
    """Login and OAuth 2.0 refresh token, with the client that may use it.

    `client_id` may be missing and `request_url` may be any text, as in documents that the seed's own SDKs save
    (SEED.md section 2.4). `access_token` and `expires_at` (a time with a zone, kept as UTC) go beyond the seed: readers
    that do not know them ignore them.
    """

    login: _Text
    client_id: _Text | None = None
    client_secret: Secret
    refresh_token: Secret
    request_url: str | None = None
    access_token: Secret | None = None
    expires_at: _Moment | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            login: str,
            client_id: str | None = None,
            client_secret: Secret | str,
            refresh_token: Secret | str,
            request_url: str | None = None,
            access_token: Secret | str | None = None,
            expires_at: datetime | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("client_secret", "refresh_token", "access_token"):
            value = getattr(self, name)
            if type(value) is str:
                force_setattr(self, name, Secret(value))
        # Anything else is for the codec to refuse.
        if isinstance(self.expires_at, datetime) and self.expires_at.tzinfo not in {None, UTC}:
            try:
                force_setattr(self, "expires_at", self.expires_at.astimezone(UTC))
            except OverflowError:
                raise ValueError("Expected `datetime` in the years 1 to 9999 of UTC") from None


Credentials: TypeAlias = PasswordCredentials | OAuthCredentials


class Account(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One mail account: the document of a `*.account` file.

    `host` is a name, an address or what the seed's samples write there (`exchange@outlook.com`). `port` is 1 to
    2,147,483,647. `security_options` and `protocol_type` may be unknown. `cache_file` names a file with a message
    cache; it is kept, never followed.
    """

    host: _Text
    port: _Port
    security_options: SecurityOptions | None = None
    protocol_type: ProtocolType | None = None
    credentials: Credentials
    cache_file: Location | None = None


class MultiAccount(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Several receiving accounts and one sending account: the document of a `*.multi.account` file."""

    receive_accounts: tuple[Account, ...]
    send_account: Account | None = None

    if TYPE_CHECKING:

        def __init__(self, *, receive_accounts: Iterable[Account], send_account: Account | None = None) -> None: ...

    def __post_init__(self) -> None:
        if type(self.receive_accounts) is not tuple:
            force_setattr(self, "receive_accounts", tuple(self.receive_accounts))


Document: TypeAlias = Account | MultiAccount
